//! What guests for WASI 0.3 share: text to the standard streams.

use wasip3::cli::types::ErrorCode;
use wasip3::wit_bindgen::rt::async_support::{FutureReader, StreamReader};

/// Writes all of `bytes` where `start` sends the stream it is given.
pub async fn write(
    start: impl FnOnce(StreamReader<u8>) -> FutureReader<Result<(), ErrorCode>>,
    bytes: &[u8],
) -> Result<(), ErrorCode> {
    let (mut writer, reader) = wasip3::wit_stream::new();
    let written = start(reader);
    let rest = writer.write_all(bytes.to_vec()).await;
    drop(writer);
    // What is left was not taken; the reason comes with the end.
    let ended = written.await;
    if rest.is_empty() { ended } else { Err(ended.err().unwrap_or(ErrorCode::Io)) }
}

/// Prints a line on stdout.
pub async fn say(line: &str) {
    let line = format!("{line}\n");
    write(wasip3::cli::stdout::write_via_stream, line.as_bytes())
        .await
        .expect("stdout");
}
