//! `accept [ADDRESS]`: listens on ADDRESS (127.0.0.1 and a free port if none), prints `listening on ADDRESS`,
//! accepts one connection, sends its first line back and ends.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;

fn main() -> io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    io::stdout().flush()?;
    let (mut connection, _peer) = listener.accept()?;
    let mut line = String::new();
    BufReader::new(&connection).read_line(&mut line)?;
    connection.write_all(line.as_bytes())
}
