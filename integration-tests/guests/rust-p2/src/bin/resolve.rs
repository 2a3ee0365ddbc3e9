//! `resolve HOST`: prints each address of HOST, one a line. `resolve HOST again`: for ever.

use std::net::ToSocketAddrs;
use std::process::ExitCode;

fn main() -> ExitCode {
    let host = std::env::args().nth(1).expect("usage: resolve HOST [again]");
    loop {
        let code = resolve(&host);
        if std::env::args().nth(2).is_none() {
            return code;
        }
    }
}

fn resolve(host: &str) -> ExitCode {
    match (host, 0).to_socket_addrs() {
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
