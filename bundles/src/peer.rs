//! Others on the network, as an annotation names them.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Whom a container may talk to: addresses, and a port of theirs.
///
/// Written `NETWORK`, `NETWORK:PORT` or `:PORT`, where a network is an address with or without a prefix
/// length. One of IPv6 has brackets if a port follows: `[fd00::/8]:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Their addresses.
    pub addresses: IpNet,
    /// Their port; any if `None`.
    pub port: Option<u16>,
}

impl Peer {
    /// Reads a list with commas. One that is `none` is empty.
    ///
    /// # Errors
    ///
    /// What is wrong with which of them.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        if text == "none" {
            return Ok(Vec::new());
        }
        let mut peers = Vec::new();
        for part in text.split(',').map(str::trim) {
            if let Some(port) = part.strip_prefix(':') {
                let port = Some(port_number(port)?);
                for any in ["0.0.0.0", "::"] {
                    peers.push(Self {
                        addresses: network(&format!("{any}/0"))?,
                        port,
                    });
                }
            } else {
                peers.push(part.parse()?);
            }
        }
        Ok(peers)
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addresses, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let closed = rest.split_once(']');
                let (inside, after) = closed.ok_or_else(|| format!("{text:?} has no ]"))?;
                match after.strip_prefix(':') {
                    Some(port) => (inside, Some(port)),
                    None if after.is_empty() => (inside, None),
                    None => return Err(format!("{text:?} has {after:?} after ]")),
                }
            }
            // More than one colon is an IPv6 address.
            None => match text.split_once(':') {
                Some((addresses, port)) if !port.contains(':') => (addresses, Some(port)),
                _ => (text, None),
            },
        };
        Ok(Self {
            addresses: network(addresses)?,
            port: port.map(port_number).transpose()?,
        })
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => text
            .parse()
            .map_err(|_| format!("{text:?} is no address and no network such as 10.0.0.0/8")),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is no port")),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_ports_in_every_form() {
        for (text, addresses, port) in [
            ("10.0.0.0/8", "10.0.0.0/8", None),
            ("10.0.0.5", "10.0.0.5/32", None),
            ("10.0.0.5:5432", "10.0.0.5/32", Some(5432)),
            ("10.0.0.0/8:443", "10.0.0.0/8", Some(443)),
            ("fd00::/8", "fd00::/8", None),
            ("[fd00::/8]", "fd00::/8", None),
            ("[::1]:80", "::1/128", Some(80)),
        ] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!(peer.addresses.to_string(), addresses, "{text}");
            assert_eq!(peer.port, port, "{text}");
        }
    }

    #[test]
    fn a_list_may_be_empty_and_a_port_is_everybodys() {
        assert_eq!(Peer::list("none").unwrap(), []);
        let both = Peer::list("10.0.0.0/8, :53").unwrap();
        let both: Vec<_> = both.iter().map(|peer| peer.addresses.to_string()).collect();
        assert_eq!(both, ["10.0.0.0/8", "0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("", "\"\" is no address"),
            ("example.com", "\"example.com\" is no address"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is no address"),
            ("10.0.0.1:0", "\"0\" is no port"),
            ("10.0.0.1:http", "\"http\" is no port"),
            (":65536", "\"65536\" is no port"),
            ("[::1", "\"[::1\" has no ]"),
            ("[::1]80", "has \"80\" after ]"),
            ("10.0.0.1,", "\"\" is no address"),
            ("none,10.0.0.1", "\"none\" is no address"),
        ] {
            let error = Peer::list(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
