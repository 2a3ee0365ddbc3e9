//! `connect ADDRESS`: connects by TCP, prints all that comes, and ends; `connect udp ADDRESS` sends a datagram.

use std::io::{self, Read};
use std::net::{TcpStream, UdpSocket};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args[0].as_str() {
        "udp" => UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| socket.send_to(b"hello", &args[1]))
            .map(drop),
        address => receive(address),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:?}", error.kind());
            ExitCode::FAILURE
        }
    }
}

fn receive(address: &str) -> io::Result<()> {
    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    print!("{text}");
    Ok(())
}
