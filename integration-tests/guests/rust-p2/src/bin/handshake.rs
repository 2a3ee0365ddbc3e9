//! `handshake ADDRESS NAME TEXT`: connects by TCP, then speaks TLS with the server of that name: sends a text,
//! and prints all that comes.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:handshake;
            world handshake { import wasi:tls/types@0.2.0-draft; }
            package wasi:io@0.2.0 {
                interface error { resource error { to-debug-string: func() -> string; } }
                interface poll { resource pollable { block: func(); } }
                interface streams {
                    use error.{error};
                    variant stream-error { last-operation-failed(error), closed }
                    resource input-stream {
                        blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
                    }
                    resource output-stream {
                        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                    }
                }
            }
            package wasi:tls@0.2.0-draft {
                interface types {
                    use wasi:io/streams@0.2.0.{input-stream, output-stream};
                    use wasi:io/poll@0.2.0.{pollable};
                    use wasi:io/error@0.2.0.{error as io-error};
                    resource client-handshake {
                        constructor(server-name: string, input: input-stream, output: output-stream);
                        finish: static func(this: client-handshake) -> future-client-streams;
                    }
                    resource client-connection { close-output: func(); }
                    resource future-client-streams {
                        subscribe: func() -> pollable;
                        get: func() -> option<result<result<
                            tuple<client-connection, input-stream, output-stream>, io-error>>>;
                    }
                }
            }
        ",
        with: {
            "wasi:io/error@0.2.0": wasip2::io::error,
            "wasi:io/poll@0.2.0": wasip2::io::poll,
            "wasi:io/streams@0.2.0": wasip2::io::streams,
        },
        generate_all,
    });
}

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;

use bindings::wasi::tls::types::ClientHandshake;
use wasip2::io::streams::StreamError;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Ok(SocketAddr::V4(address)) = args[0].parse() else {
        panic!("no IPv4 address: {}", args[0]);
    };
    let [a, b, c, d] = address.ip().octets();
    let remote = IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    });
    let socket = create_tcp_socket(IpAddressFamily::Ipv4).expect("a socket");
    let network = instance_network();
    socket.start_connect(&network, remote).expect("it connects");
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().expect("it is connected");
    let handshake = ClientHandshake::new(&args[1], input, output);
    let streams = ClientHandshake::finish(handshake);
    streams.subscribe().block();
    let done = streams.get().expect("it is ready").expect("asked once");
    let (connection, input, output) = match done {
        Ok(streams) => streams,
        Err(error) => {
            eprintln!("error: {}", error.to_debug_string());
            return ExitCode::FAILURE;
        }
    };
    output
        .blocking_write_and_flush(args[2].as_bytes())
        .expect("a short text");
    connection.close_output();
    loop {
        match input.blocking_read(4096) {
            Ok(piece) => stdout().write_all(&piece).expect("stdout"),
            Err(StreamError::Closed) => return ExitCode::SUCCESS,
            Err(StreamError::LastOperationFailed(error)) => {
                eprintln!("error: {}", error.to_debug_string());
                return ExitCode::FAILURE;
            }
        }
    }
}
