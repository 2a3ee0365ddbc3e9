//! How wasmtime-wasi is asked about paths of WASI 0.1, and asked again.

/// Asks wasmtime-wasi with what the guest said, then with the detour, if there is one. What it answers
/// last; an error with the place it was asked about.
macro_rules! ask {
    ($host:ident, $memory:ident, $given:ident, $path:ident, $last:expr,
        |$from:ident, $fd:ident, $to:ident| $question:expr) => {{
        let first = {
            let ($from, $fd, $to) = (&mut *$memory, $given, $path);
            $question.await
        };
        match first {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let errno = error.downcast().map_err(Error::trap)?;
                let path = $memory.as_cow_str($path)?.into_owned();
                let detour = match errno {
                    Errno::Perm => $host.detour($given, &path, $last).await?,
                    _ => None,
                };
                match detour {
                    None => Err((errno, $given, path)),
                    Some(Detour { fd, path }) => {
                        let mut scratch = Scratch::new(&path, "");
                        $host.wasi.set_hostcall_fuel(scratch.len());
                        let second = {
                            let ($fd, $to) = (fd, scratch.first());
                            let $from = &mut scratch.memory();
                            $question.await
                        };
                        match second {
                            Ok(answer) => Ok(answer),
                            Err(error) => Err((error.downcast().map_err(Error::trap)?, fd, path)),
                        }
                    }
                }
            }
        }
    }};
}

/// What changes something, which may be on a read-only file system.
macro_rules! change {
    ($host:ident, $memory:ident, $given:ident, $path:ident, $last:expr,
        |$from:ident, $fd:ident, $to:ident| $question:expr) => {
        match ask!($host, $memory, $given, $path, $last, |$from, $fd, $to| {
            $question
        }) {
            Ok(answer) => Ok(answer),
            Err((errno, fd, path)) => Err($host.explain(errno, &[(fd, &path)]).await),
        }
    };
}

/// What changes two names.
macro_rules! change_both {
    ($host:ident, $memory:ident, $a:expr, $b:expr,
        |$from:ident, $old:ident, $new:ident| $question:expr) => {{
        let first = {
            let ($from, $old, $new) = (&mut *$memory, $a, $b);
            $question.await
        };
        let Err(error) = first else {
            return Ok(());
        };
        let errno: Errno = error.downcast().map_err(Error::trap)?;
        let old = $memory.as_cow_str($a.1)?.into_owned();
        let new = $memory.as_cow_str($b.1)?.into_owned();
        let (from, to) = match errno {
            Errno::Perm => (
                $host.detour($a.0, &old, Last::Name).await?,
                $host.detour($b.0, &new, Last::Name).await?,
            ),
            _ => (None, None),
        };
        if from.is_none() && to.is_none() {
            return Err($host.explain(errno, &[($a.0, &old), ($b.0, &new)]).await);
        }
        let from = from.unwrap_or(Detour {
            fd: $a.0,
            path: old,
        });
        let to = to.unwrap_or(Detour {
            fd: $b.0,
            path: new,
        });
        let mut scratch = Scratch::new(&from.path, &to.path);
        $host.wasi.set_hostcall_fuel(scratch.len());
        let second = {
            let ($old, $new) = ((from.fd, scratch.first()), (to.fd, scratch.second()));
            let $from = &mut scratch.memory();
            $question.await
        };
        let Err(error) = second else {
            return Ok(());
        };
        let errno = error.downcast().map_err(Error::trap)?;
        Err($host
            .explain(errno, &[(from.fd, &from.path), (to.fd, &to.path)])
            .await)
    }};
}
