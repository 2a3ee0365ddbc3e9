//! How wasmtime-wasi is asked about paths of WASI 0.3, and asked again.

/// Asks wasmtime-wasi with what the guest said, then with the detour, if there is one. What it answers
/// last, and the place it was asked about.
macro_rules! ask {
    ($store:ident, $given:ident, $path:ident, $last:expr,
        |$files:ident, $fd:ident, $to:ident| $question:expr) => {{
        let $files = &upstream($store);
        let first = {
            let ($fd, $to) = (borrow(&$given), $path.clone());
            $question.await
        };
        match first {
            Ok(answer) => Ok(answer),
            Err(error) => match detour($store, &$given, &$path, $last, &error).await? {
                None => Err((error, place($store, &$given, &$path))),
                Some(($fd, $to)) => {
                    let place = place($store, &$fd, &$to);
                    $question.await.map_err(|error| (error, place))
                }
            },
        }
    }};
}

/// What changes something, which may be on a read-only file system.
macro_rules! change {
    ($($question:tt)*) => {
        match ask!($($question)*) {
            Ok(answer) => Ok(answer),
            Err((error, place)) => Err(explain(error, vec![place]).await),
        }
    };
}

/// What changes two names.
macro_rules! change_both {
    ($store:ident, $from:expr, $to:expr, $name:ident($($before:expr),*)) => {{
        let (from, to): (Way, Way) = ($from, $to);
        let upstream = &upstream($store);
        let first = WasiFilesystem::$name(
            upstream, borrow(&from.0), $($before,)* from.1.clone(), borrow(&to.0), to.1.clone(),
        );
        let Err(error) = first.await else {
            return Ok(());
        };
        let old = detour($store, &from.0, &from.1, Last::Name, &error).await?;
        let new = detour($store, &to.0, &to.1, Last::Name, &error).await?;
        let again = old.is_some() || new.is_some();
        let (old, new) = (old.unwrap_or(from), new.unwrap_or(to));
        let places = vec![place($store, &old.0, &old.1), place($store, &new.0, &new.1)];
        if !again {
            return Err(explain(error, places).await);
        }
        match WasiFilesystem::$name(upstream, old.0, $($before,)* old.1, new.0, new.1).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(error, places).await),
        }
    }};
}
