//! Copies stdin to stdout as it comes; at its end prints `eof` on stderr.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = io::stdin().read(&mut buffer)?;
        if count == 0 {
            break;
        }
        io::stdout().write_all(&buffer[..count])?;
        // Not held back until a newline: the test waits for what it has sent.
        io::stdout().flush()?;
    }
    eprintln!("eof");
    Ok(())
}
