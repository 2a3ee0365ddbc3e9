//! A server that keeps its connections: says `listening PORT`, `has N` with each that comes, and `has N` when it
//! has closed the oldest for a byte of stdin.

use std::cell::RefCell;
use std::collections::VecDeque;

use futures::future::join;
use guests_p3::say;
use wasip3::cli::stdin;
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};

wasip3::cli::command::export!(Listener);

struct Listener;

impl wasip3::exports::cli::run::Guest for Listener {
    async fn run() -> Result<(), ()> {
        let socket = TcpSocket::create(IpAddressFamily::Ipv4).expect("a socket");
        let local = IpSocketAddress::Ipv4(Ipv4SocketAddress {
            address: (127, 0, 0, 1),
            port: 0,
        });
        socket.bind(local).expect("an address");
        let mut connections = socket.listen().expect("a listener");
        let port = match socket.get_local_address().expect("an address") {
            IpSocketAddress::Ipv4(address) => address.port,
            IpSocketAddress::Ipv6(address) => address.port,
        };
        say(&format!("listening {port}")).await;
        let kept = RefCell::new(VecDeque::new());
        let accept = async {
            while let Some(connection) = connections.next().await {
                kept.borrow_mut().push_back(connection);
                let has = kept.borrow().len();
                say(&format!("has {has}")).await;
            }
        };
        let close = async {
            let (mut orders, _ended) = stdin::read_via_stream();
            while orders.next().await.is_some() {
                let oldest = kept.borrow_mut().pop_front();
                drop(oldest);
                let has = kept.borrow().len();
                say(&format!("has {has}")).await;
            }
        };
        join(accept, close).await;
        Ok(())
    }
}
