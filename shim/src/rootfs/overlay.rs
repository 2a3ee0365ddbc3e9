//! The options of an overlay, made short enough: `mount(2)` takes one page and cuts off the rest
//! without a word, and an image of many layers names a long path for each of them. Relative to a
//! directory that all of them are in, the paths are short.

use std::path::{Path, PathBuf};

/// How many bytes of options `mount(2)` reads.
pub(super) const LIMIT: usize = 4095;

/// The options whose values are directories; the first one's is a list.
const DIRECTORIES: [&str; 3] = ["lowerdir", "upperdir", "workdir"];

/// A directory, and options that mean the same as `options` when it is the working directory. `None`
/// where that is not to be had: for other file systems, relative directories, and escaped characters.
pub(super) fn relative(options: &str) -> Option<(PathBuf, String)> {
    if options.contains('\\') {
        return None;
    }
    let mut base: Option<&Path> = None;
    for directory in options.split(',').filter_map(directories).flatten() {
        // No name may become empty: what all have in common is a parent.
        let parent = Path::new(directory).parent().filter(|p| p.is_absolute())?;
        base = Some(base.map_or(parent, |base| common(base, parent)));
    }
    let base = base?;
    let shorten = |option: &str| -> Option<String> {
        let Some(directories) = directories(option) else {
            return Some(option.to_owned());
        };
        let (name, _) = option.split_once('=')?;
        let names: Vec<_> = directories
            .map(|directory| Path::new(directory).strip_prefix(base).ok()?.to_str())
            .collect::<Option<_>>()?;
        Some(format!("{name}={}", names.join(":")))
    };
    let short: Vec<_> = options.split(',').map(shorten).collect::<Option<_>>()?;
    Some((base.to_owned(), short.join(",")))
}

/// The directories of an option, if that is what it is about.
fn directories(option: &str) -> Option<impl Iterator<Item = &str>> {
    let (name, value) = option.split_once('=')?;
    let separator = if name == DIRECTORIES[0] { ':' } else { '\0' };
    DIRECTORIES.contains(&name).then(|| value.split(separator))
}

/// The longest path that both are in.
fn common<'a>(one: &'a Path, other: &Path) -> &'a Path {
    one.ancestors()
        .find(|ancestor| other.starts_with(ancestor))
        .unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short(options: &str) -> Option<(String, String)> {
        let (base, options) = relative(options)?;
        Some((base.to_str().unwrap().to_owned(), options))
    }

    #[test]
    fn directories_are_named_from_the_one_all_are_in() {
        assert_eq!(
            short("index=off,workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/10/fs:/s/2/fs,xino=on"),
            Some((
                "/s".into(),
                "index=off,workdir=9/work,upperdir=9/fs,lowerdir=10/fs:2/fs,xino=on".into()
            ))
        );
    }

    #[test]
    fn a_directory_that_the_others_are_in_keeps_a_name() {
        assert_eq!(
            short("lowerdir=/s/a:/s/a/b"),
            Some(("/s".into(), "lowerdir=a:a/b".into()))
        );
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        for options in [
            "size=1m,mode=755",
            "lowerdir=a:b",
            "lowerdir=/s/a::/s/b",
            "lowerdir=/s/a\\:b:/s/c",
            "lowerdir=/",
        ] {
            assert_eq!(short(options), None, "{options}");
        }
    }

    proptest! {
        #[test]
        fn joined_again_it_is_what_it_was(
            directories in prop::collection::vec("(/[ab]{1,2}){1,4}", 3..9),
            volatile in any::<bool>(),
        ) {
            let [upper, work, lower @ ..] = directories.as_slice() else { unreachable!() };
            let tail = if volatile { ",volatile" } else { "" };
            let options =
                format!("upperdir={upper},workdir={work},lowerdir={}{tail}", lower.join(":"));
            let (base, short) = relative(&options).unwrap();
            let whole = short
                .split(',')
                .map(|option| match option.split_once('=') {
                    None => option.to_owned(),
                    Some((name, value)) => {
                        let joined: Vec<_> = value
                            .split(':')
                            .map(|name| base.join(name).to_str().unwrap().to_owned())
                            .collect();
                        format!("{name}={}", joined.join(":"))
                    }
                })
                .collect::<Vec<_>>()
                .join(",");
            prop_assert_eq!(whole, options.clone());
            prop_assert!(short.len() <= options.len());
        }
    }
}
