//! `resolve HOST`: prints each address of HOST, one a line.

use std::net::ToSocketAddrs;
use std::process::ExitCode;

fn main() -> ExitCode {
    let host = std::env::args().nth(1).expect("usage: resolve HOST");
    match (host.as_str(), 0).to_socket_addrs() {
        Ok(addresses) => {
            for address in addresses {
                println!("{}", address.ip());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
