//! The address of a client, behind proxies too.
use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The address at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The address that the outermost trusted proxy saw. Each proxy appends the address of its peer to X-Forwarded-For, so the
/// entries count from the right: what stands further left was written by the client. The address of the peer, if there are
/// no proxies or if the header does not have so many addresses.
pub fn of_client(peer: IpAddr, headers: &HeaderMap, trusted_proxies: usize) -> IpAddr {
    let mut forwarded = headers
        .get_all(X_FORWARDED_FOR)
        .into_iter()
        .rev()
        .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    let entry = trusted_proxies
        .checked_sub(1)
        .and_then(|skipped| forwarded.nth(skipped));
    entry.and_then(parse).unwrap_or(peer)
}

/// Some proxies add the port.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let without_port = || entry.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    entry.parse().ok().or_else(without_port)
}

/// The network that counts as one client: an IPv4 address, or an IPv6 /64, within which a client chooses its address. An
/// IPv4 address is in 0::/32 here, where IPv6 has no networks.
pub fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => first_half(address),
    }
}

fn first_half(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, ..] = address.segments().map(u64::from);
    a << 48 | b << 32 | c << 16 | d
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PEER: &str = "192.0.2.1";

    fn client(forwarded: &[&str], trusted_proxies: usize) -> String {
        let values = forwarded.iter().map(|value| HeaderValue::from_str(value).unwrap());
        let headers = values.map(|value| (X_FORWARDED_FOR.parse().unwrap(), value)).collect();
        of_client(PEER.parse().unwrap(), &headers, trusted_proxies).to_string()
    }

    #[test]
    fn entries_count_from_the_right() {
        let forwarded = &["203.0.113.1, 203.0.113.2", "203.0.113.3 ,203.0.113.4"];
        for (proxies, address) in [
            (0, PEER),
            (1, "203.0.113.4"),
            (2, "203.0.113.3"),
            (3, "203.0.113.2"),
            (4, "203.0.113.1"),
            (5, PEER),
        ] {
            assert_eq!(client(forwarded, proxies), address, "{proxies}");
        }
    }

    #[test]
    fn what_a_client_writes_itself_does_not_count() {
        // One proxy has appended the last entry.
        for spoofed in ["198.51.100.7", "198.51.100.7, 198.51.100.8", "", "unknown", ",,,"] {
            assert_eq!(client(&[spoofed, "203.0.113.9"], 1), "203.0.113.9");
            assert_eq!(client(&[&format!("{spoofed},203.0.113.9")], 1), "203.0.113.9");
            assert_eq!(client(&[spoofed], 0), PEER);
        }
    }

    #[test]
    fn an_entry_may_have_a_port_and_garbage_means_the_peer() {
        for (entry, address) in [
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("unknown", PEER),
            ("_hidden", PEER),
            ("", PEER),
            ("203.0.113.9 203.0.113.10", PEER),
        ] {
            assert_eq!(client(&[entry], 1), address, "{entry}");
        }
        assert_eq!(client(&[], 1), PEER);
    }

    #[test]
    fn a_network_is_one_client() {
        let network = |address: &str| network(address.parse().unwrap());
        assert_eq!(network("203.0.113.9"), network("::ffff:203.0.113.9"));
        assert_ne!(network("203.0.113.9"), network("203.0.113.10"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }
}
