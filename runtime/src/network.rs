//! Whom a guest may talk to.
//!
//! The network itself is the one of the namespace that the guest's thread is in. A [`Network`] narrows
//! it: every address that a socket or an outgoing HTTP request is to reach, or that reaches a socket, is
//! asked for here, after names were looked up.

use std::net::SocketAddr;

use ipnet::IpNet;
use wasmtime_wasi::sockets::SocketAddrUse;

/// Whom a guest may talk to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// Nobody: no sockets, no names, no HTTP.
    #[default]
    Off,
    /// Everybody that the thread's network namespace reaches.
    All,
    /// Only these. Names are looked up, by the servers of the container's `resolv.conf`, whoever they
    /// are.
    Only(Vec<Peer>),
}

/// Others on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Their addresses.
    pub addresses: IpNet,
    /// The only port of theirs that the guest may send to; any if `None`. What comes from them is taken
    /// from any port.
    pub port: Option<u16>,
}

impl Network {
    /// Whether there is a network at all.
    pub(crate) fn is_on(&self) -> bool {
        *self != Self::Off
    }

    /// Whether the guest may send to `address`.
    pub(crate) fn reaches(&self, address: SocketAddr) -> bool {
        self.lists(address, |port| {
            port.is_none_or(|port| port == address.port())
        })
    }

    /// Whether what comes from `address` may get to the guest.
    pub(crate) fn hears(&self, address: SocketAddr) -> bool {
        self.lists(address, |_| true)
    }

    /// The answer to wasmtime-wasi, which asks before each of these uses. An address of our own is
    /// nobody's: to bind is to choose a name, and who comes is asked for again.
    pub(crate) fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => self.reaches(address),
            SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => self.hears(address),
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::UdpBind => {
                self.is_on()
            }
        }
    }

    fn lists(&self, address: SocketAddr, port: impl Fn(Option<u16>) -> bool) -> bool {
        match self {
            Self::Off => false,
            Self::All => true,
            Self::Only(peers) => {
                // An IPv4 address may come as an IPv6 one.
                let ip = address.ip().to_canonical();
                peers
                    .iter()
                    .any(|peer| peer.addresses.contains(&ip) && port(peer.port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(peers: &[(&str, Option<u16>)]) -> Network {
        let peers = peers.iter().map(|(addresses, port)| Peer {
            addresses: addresses.parse().unwrap(),
            port: *port,
        });
        Network::Only(peers.collect())
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn off_is_off_and_all_is_all() {
        let any = address("10.0.0.1:80");
        for usage in [
            SocketAddrUse::TcpBind,
            SocketAddrUse::TcpListen,
            SocketAddrUse::TcpAccept,
            SocketAddrUse::TcpConnect,
            SocketAddrUse::UdpBind,
            SocketAddrUse::UdpSend,
            SocketAddrUse::UdpReceive,
        ] {
            assert!(!Network::Off.allows(any, usage));
            assert!(Network::All.allows(any, usage));
        }
    }

    #[test]
    fn only_those_that_are_listed_are_reached() {
        let network = only(&[("10.1.0.0/16", None), ("fd00::/8", Some(443))]);
        for (to, reached) in [
            ("10.1.2.3:80", true),
            ("[::ffff:10.1.2.3]:80", true),
            ("10.2.0.1:80", false),
            ("[fd00::1]:443", true),
            ("[fd00::1]:80", false),
            ("[fe80::1]:443", false),
        ] {
            assert_eq!(network.reaches(address(to)), reached, "{to}");
        }
    }

    #[test]
    fn a_port_is_where_to_and_not_where_from() {
        let network = only(&[("10.0.0.5/32", Some(5432))]);
        assert!(network.allows(address("10.0.0.5:5432"), SocketAddrUse::TcpConnect));
        assert!(!network.allows(address("10.0.0.5:5433"), SocketAddrUse::TcpConnect));
        assert!(network.allows(address("10.0.0.5:40000"), SocketAddrUse::TcpAccept));
        assert!(!network.allows(address("10.0.0.6:5432"), SocketAddrUse::TcpAccept));
        assert!(network.allows(address("0.0.0.0:0"), SocketAddrUse::TcpBind));
    }
}
