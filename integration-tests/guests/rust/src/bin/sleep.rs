//! Prints `sleeping`, then sleeps for an hour: blocked in the host on a clock.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

#[expect(
    clippy::disallowed_methods,
    reason = "to be blocked on a clock is what it is for"
)]
fn main() -> io::Result<()> {
    println!("sleeping");
    io::stdout().flush()?;
    thread::sleep(Duration::from_secs(3600));
    Ok(())
}
