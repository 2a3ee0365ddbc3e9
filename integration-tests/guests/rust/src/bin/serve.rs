//! `serve FD COUNT [poll]`: accepts COUNT connections of the listening socket FD, sends the lines of each back
//! in capitals until it closes, and ends. With `poll` nothing blocks: it asks again until there is something.

use std::env::args;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::FromRawFd;

fn main() -> io::Result<()> {
    let number = |index| args().nth(index).and_then(|text| text.parse::<i32>().ok());
    let fd = number(1).expect("usage: serve FD COUNT [poll]");
    let count = number(2).expect("usage: serve FD COUNT [poll]");
    // SAFETY: the runtime opened it for us, and nothing else uses it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let poll = args().nth(3).is_some();
    if !poll {
        listener.set_nonblocking(false)?;
    }
    println!("serving {}", std::env::var("LISTEN_FDS").unwrap_or_default());
    io::stdout().flush()?;
    for _ in 0..count {
        let connection = loop {
            match listener.accept() {
                Ok((connection, _)) => break connection,
                Err(error) if poll && error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        let mut lines = BufReader::new(&connection);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            (&connection).write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
    }
    Ok(())
}
