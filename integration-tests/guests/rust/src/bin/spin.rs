//! Prints `spinning`, then uses the CPU forever without a call to the host.

use std::hint::black_box;
use std::io::{self, Write};

fn main() -> io::Result<()> {
    println!("spinning");
    io::stdout().flush()?;
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
