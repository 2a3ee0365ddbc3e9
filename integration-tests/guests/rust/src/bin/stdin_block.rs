//! Prints `reading`, then blocks in the host on stdin; says `read N` when anything came or stdin ended.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    println!("reading");
    io::stdout().flush()?;
    let count = io::stdin().read(&mut [0; 1024])?;
    println!("read {count}");
    Ok(())
}
