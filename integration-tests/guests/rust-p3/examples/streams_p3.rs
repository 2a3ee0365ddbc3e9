//! Streams, time, sockets and the end of a program, asynchronously.
//!
//! - `cat`: stdin to stdout
//! - `both`: says `waiting`, then reads stdin and sleeps at once; tells what came
//! - `sleep`: says `sleeping`, and sleeps for an hour
//! - `spin`: says `spinning`, and does for ever
//! - `exit CODE`, `fail`
//! - `grow`: takes memory for ever
//! - `trap`
//! - `connect IP PORT TEXT`: sends a text by TCP and prints the answer
//! - `resolve NAME`: prints the addresses of a name, sorted
//! - `tell`: arguments, a variable, the working directory, which streams are terminals

use std::hint::black_box;

use futures::future::{Either, join, select};
use guests_p3::{say, write};
use wasip3::cli::environment::{get_arguments, get_environment, get_initial_cwd};
use wasip3::cli::{exit, stdin, stdout, terminal_stdin, terminal_stdout};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket,
};
use wasip3::wit_bindgen::StreamResult;

wasip3::cli::command::export!(Streams);

struct Streams;

const HOUR: u64 = 3_600_000_000_000;

impl wasip3::exports::cli::run::Guest for Streams {
    async fn run() -> Result<(), ()> {
        let args = get_arguments();
        let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        match *args {
            ["cat"] => cat().await,
            ["both"] => both().await,
            ["sleep"] => {
                say("sleeping").await;
                wait_for(HOUR).await;
            }
            ["spin"] => {
                say("spinning").await;
                loop {
                    black_box(());
                }
            }
            ["exit", code] => exit::exit_with_code(code.parse().expect("a number")),
            ["fail"] => return Err(()),
            ["grow"] => grow(),
            ["trap"] => panic!("as it was asked to"),
            ["connect", ip, port, text] => connect(ip, port, text).await,
            ["resolve", name] => resolve(name).await,
            ["tell", ..] => tell(&args).await,
            _ => panic!("no such order: {args:?}"),
        }
        Ok(())
    }
}

async fn cat() {
    let (mut input, ended) = stdin::read_via_stream();
    let (mut writer, reader) = wasip3::wit_stream::new();
    let written = stdout::write_via_stream(reader);
    let copy = async {
        loop {
            let (result, bytes) = input.read(Vec::with_capacity(16 << 10)).await;
            match result {
                StreamResult::Complete(_) => {
                    let rest = writer.write_all(bytes).await;
                    assert!(rest.is_empty(), "stdout is gone");
                }
                StreamResult::Dropped => break,
                StreamResult::Cancelled => unreachable!("nobody does"),
            }
        }
        drop(writer);
        ended.await.expect("stdin");
    };
    let ((), written) = join(copy, written.into_future()).await;
    written.expect("stdout");
}

async fn both() {
    say("waiting").await;
    let (mut input, _ended) = stdin::read_via_stream();
    let reading = std::pin::pin!(input.read(Vec::with_capacity(100)));
    let sleeping = std::pin::pin!(wait_for(HOUR));
    match select(reading, sleeping).await {
        Either::Left(((_, bytes), _)) => {
            say(&format!("read {}", String::from_utf8_lossy(&bytes).trim())).await;
        }
        Either::Right(_) => say("slept").await,
    }
}

fn grow() {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(black_box(vec![1; 1 << 20]));
    }
}

async fn connect(ip: &str, port: &str, text: &str) {
    let address: std::net::Ipv4Addr = ip.parse().expect("an address");
    let [a, b, c, d] = address.octets();
    let remote = IpSocketAddress::Ipv4(Ipv4SocketAddress {
        address: (a, b, c, d),
        port: port.parse().expect("a port"),
    });
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).expect("a socket");
    if let Err(error) = socket.connect(remote).await {
        return say(&format!("error: {error:?}")).await;
    }
    let (mut writer, reader) = wasip3::wit_stream::new();
    let sent = socket.send(reader);
    let (answer, _received) = socket.receive();
    let sending = async {
        let rest = writer.write_all(text.as_bytes().to_vec()).await;
        assert!(rest.is_empty(), "the other side reads");
        drop(writer);
        sent.await.expect("it is sent");
    };
    let ((), answer) = join(sending, answer.collect()).await;
    say(&format!("answer {}", String::from_utf8_lossy(&answer))).await;
}

async fn resolve(name: &str) {
    match resolve_addresses(name.to_owned()).await {
        Ok(addresses) => {
            let text = |address: &IpAddress| match *address {
                IpAddress::Ipv4((a, b, c, d)) => std::net::Ipv4Addr::new(a, b, c, d).to_string(),
                IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => {
                    std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h).to_string()
                }
            };
            let mut addresses: Vec<String> = addresses.iter().map(text).collect();
            addresses.sort();
            say(&addresses.join(" ")).await;
        }
        Err(error) => say(&format!("error: {error:?}")).await,
    }
}

async fn tell(args: &[&str]) {
    let colour = get_environment().into_iter().find(|(name, _)| name == "COLOUR");
    let line = format!(
        "{args:?} {colour:?} {:?} {} {}\n",
        get_initial_cwd(),
        terminal_stdin::get_terminal_stdin().is_some(),
        terminal_stdout::get_terminal_stdout().is_some(),
    );
    write(wasip3::cli::stderr::write_via_stream, line.as_bytes())
        .await
        .expect("stderr");
}
