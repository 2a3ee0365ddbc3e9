//! `paths`, over the asynchronous functions of WASI 0.3 and nothing else.

use std::collections::BTreeSet;

use guests_p3::say;
use wasip3::cli::environment::get_arguments;
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

wasip3::cli::command::export!(Paths);

struct Paths;

impl wasip3::exports::cli::run::Guest for Paths {
    async fn run() -> Result<(), ()> {
        let files = Files(get_directories());
        for step in get_arguments().iter().skip(1) {
            let words: Vec<&str> = step.split(' ').collect();
            say(&files.take(&words).await).await;
        }
        Ok(())
    }
}

struct Files(Vec<(Descriptor, String)>);

impl Files {
    async fn take(&self, words: &[&str]) -> String {
        let done = match *words {
            ["times", times, ref step @ ..] => {
                let mut answers = BTreeSet::new();
                for _ in 0..times.parse().expect("a number") {
                    answers.insert(self.step(step).await.unwrap_or_else(text));
                }
                Ok(answers.into_iter().collect::<Vec<_>>().join("|"))
            }
            _ => self.step(words).await,
        };
        done.unwrap_or_else(text)
    }

    async fn step(&self, words: &[&str]) -> Result<String, ErrorCode> {
        match *words {
            ["read", path] => self.read(path).await,
            ["write", path, text] => self.write(path, text).await,
            ["append", path, text] => {
                let file = self
                    .open(path, OpenFlags::CREATE, DescriptorFlags::WRITE)
                    .await?;
                put(text, |data| file.append_via_stream(data)).await
            }
            ["new", path] => {
                let how = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
                ok(self.open(path, how, DescriptorFlags::WRITE).await.map(drop))
            }
            ["list", path] => self.list(path).await,
            ["stat", path] => self.kind(path, PathFlags::SYMLINK_FOLLOW).await,
            ["lstat", path] => self.kind(path, PathFlags::empty()).await,
            ["readlink", path] => {
                let (directory, path) = self.find(path)?;
                directory.readlink_at(path).await
            }
            _ => ok(self.change(words).await),
        }
    }

    async fn change(&self, words: &[&str]) -> Result<(), ErrorCode> {
        match *words {
            ["mkdir", path] => {
                let (directory, path) = self.find(path)?;
                directory.create_directory_at(path).await
            }
            ["rmdir", path] => {
                let (directory, path) = self.find(path)?;
                directory.remove_directory_at(path).await
            }
            ["unlink", path] => {
                let (directory, path) = self.find(path)?;
                directory.unlink_file_at(path).await
            }
            ["symlink", target, path] => {
                let (directory, path) = self.find(path)?;
                directory.symlink_at(target.to_owned(), path).await
            }
            ["rename", old, new] => {
                let ((from, old), (to, new)) = (self.find(old)?, self.find(new)?);
                from.rename_at(old, to, new).await
            }
            ["link", old, new] => {
                let ((from, old), (to, new)) = (self.find(old)?, self.find(new)?);
                from.link_at(PathFlags::empty(), old, to, new).await
            }
            _ => panic!("no step: {words:?}"),
        }
    }

    /// The directory with the longest name that a path begins with, and the rest of it.
    fn find(&self, path: &str) -> Result<(&Descriptor, String), ErrorCode> {
        let inside = |name: &str| {
            let rest = path.strip_prefix(name.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        };
        let found = self
            .0
            .iter()
            .filter_map(|(directory, name)| Some((name.len(), directory, inside(name)?)))
            .max_by_key(|(length, ..)| *length);
        let (_, directory, rest) = found.ok_or(ErrorCode::NoEntry)?;
        let rest = rest.trim_start_matches('/');
        Ok((directory, if rest.is_empty() { "." } else { rest }.to_owned()))
    }

    async fn open(
        &self,
        path: &str,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> Result<Descriptor, ErrorCode> {
        let (directory, path) = self.find(path)?;
        directory
            .open_at(PathFlags::SYMLINK_FOLLOW, path, how, flags)
            .await
    }

    async fn read(&self, path: &str) -> Result<String, ErrorCode> {
        let file = self
            .open(path, OpenFlags::empty(), DescriptorFlags::READ)
            .await?;
        let (stream, end) = file.read_via_stream(0);
        let bytes = stream.collect().await;
        end.await?;
        Ok(String::from_utf8(bytes).expect("text"))
    }

    async fn write(&self, path: &str, text: &str) -> Result<String, ErrorCode> {
        let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let file = self.open(path, how, DescriptorFlags::WRITE).await?;
        put(text, |data| file.write_via_stream(data, 0)).await
    }

    async fn list(&self, path: &str) -> Result<String, ErrorCode> {
        let directory = self
            .open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ)
            .await?;
        let (stream, end) = directory.read_directory();
        let entries = stream.collect().await;
        end.await?;
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        Ok(names.join(","))
    }

    async fn kind(&self, path: &str, follow: PathFlags) -> Result<String, ErrorCode> {
        let (directory, path) = self.find(path)?;
        let stat = directory.stat_at(follow, path).await?;
        Ok(match stat.type_ {
            DescriptorType::Directory => "dir".to_owned(),
            DescriptorType::SymbolicLink => "link".to_owned(),
            DescriptorType::RegularFile => format!("file {}", stat.size),
            _ => "other".to_owned(),
        })
    }
}

fn ok(done: Result<(), ErrorCode>) -> Result<String, ErrorCode> {
    done.map(|()| "ok".to_owned())
}

async fn put<End>(
    text: &str,
    start: impl FnOnce(wasip3::wit_bindgen::rt::async_support::StreamReader<u8>) -> End,
) -> Result<String, ErrorCode>
where
    End: IntoFuture<Output = Result<(), ErrorCode>>,
{
    let (mut writer, reader) = wasip3::wit_stream::new();
    let end = start(reader);
    let rest = writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    end.await?;
    assert!(rest.is_empty(), "without an error all is written");
    Ok("ok".to_owned())
}

/// The words that the standard library has for an error.
fn text(error: ErrorCode) -> String {
    let text = match error {
        ErrorCode::NoEntry => "No such file or directory",
        ErrorCode::NotDirectory => "Not a directory",
        ErrorCode::IsDirectory => "Is a directory",
        ErrorCode::Loop => "Symbolic link loop",
        ErrorCode::Exist => "File exists",
        ErrorCode::NotEmpty => "Directory not empty",
        ErrorCode::NotPermitted => "Operation not permitted",
        ErrorCode::ReadOnly => "Read-only file system",
        ErrorCode::CrossDevice => "Cross-device link",
        ErrorCode::InvalidSeek => "Invalid seek",
        ErrorCode::Io => "I/O error",
        ErrorCode::InsufficientMemory => "Cannot allocate memory",
        error => return format!("{error:?}"),
    };
    text.to_owned()
}
