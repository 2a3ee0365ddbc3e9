//! `flood BYTES [stderr]`: writes that many bytes to stdout, or to stderr.
//!
//! They are printable, without a newline (a terminal would change it) and without a short period, so
//! that a piece that is lost or doubled shows. `integration-tests/src/flood.rs` makes the same ones.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut left: usize = args
        .next()
        .and_then(|count| count.parse().ok())
        .expect("usage: flood BYTES [stderr]");
    let mut sink: Box<dyn Write> = if args.next().is_some() {
        Box::new(io::stderr())
    } else {
        Box::new(io::stdout())
    };
    let mut state = 1_u64;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let count = left.min(buffer.len());
        for byte in &mut buffer[..count] {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = b'@' + (state >> 59) as u8;
        }
        sink.write_all(&buffer[..count])?;
        left -= count;
    }
    sink.flush()
}
