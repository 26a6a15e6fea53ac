//! Where a request comes from: the peer of its connection or, behind a proxy that is trusted, who that one says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap, HeaderName};

/// What proxies add the address to that they were called from, each at its end.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address at the other end of a connection. With each request, where credentials are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Who is counted as one: an IPv4 address, or the 64 bits that an IPv6 network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin(IpAddr);

impl Origin {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
            address => address,
        })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// Networks whose proxies are believed.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxies(Vec<(IpAddr, u8)>);

impl Proxies {
    /// Reads addresses and networks.
    ///
    /// # Errors
    /// The first that is neither.
    pub(super) fn read(texts: &[String]) -> Result<Self, String> {
        let read = |text: &String| network(text).ok_or_else(|| text.clone());
        texts.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Who asks.
    pub(super) fn origin(&self, extensions: &Extensions, headers: &HeaderMap) -> Origin {
        // Only where no connection is, in tests.
        let peer = extensions
            .get::<Peer>()
            .map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| peer.0.to_canonical());
        if !self.has(peer) {
            return Origin::of(peer);
        }
        let mut origin = peer;
        let said = headers.get_all(FORWARDED_FOR).iter();
        let said: Vec<&str> = said
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        // What stands further left was said by whoever is found, and may be invented.
        for text in said.into_iter().rev() {
            let Some(address) = address(text.trim()) else {
                break;
            };
            origin = address;
            if !self.has(address) {
                break;
            }
        }
        Origin::of(origin)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (u32::from(*network) ^ u32::from(address)).leading_zeros() >= u32::from(*bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (u128::from(*network) ^ u128::from(address)).leading_zeros() >= u32::from(*bits)
            }
            _ => false,
        })
    }
}

/// With or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = bare.parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(proxies: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let proxies: Vec<String> = proxies.iter().map(|&text| text.to_owned()).collect();
        let mut extensions = Extensions::new();
        extensions.insert(Peer(peer.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        let proxies = Proxies::read(&proxies).unwrap();
        proxies.origin(&extensions, &headers).to_string()
    }

    #[test]
    fn an_address_is_its_connections_unless_a_trusted_proxy_says_another() {
        let own = ["10.0.0.0/8", "::1"];
        for (proxies, peer, forwarded, expected) in [
            (&[][..], "192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            (&[], "::ffff:192.0.2.1", &[], "192.0.2.1"),
            (&[], "2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::/64"),
            (&own, "192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            (&own, "10.1.2.3", &["198.51.100.7"], "198.51.100.7"),
            (&own, "::ffff:10.1.2.3", &["198.51.100.7:4711"], "198.51.100.7"),
            (&own, "::1", &["[2001:db8::9]:80"], "2001:db8::/64"),
            // Whoever is behind the proxies may have said the first ones.
            (
                &own,
                "10.1.2.3",
                &["203.0.113.9, 198.51.100.7", "10.9.9.9"],
                "198.51.100.7",
            ),
            (&own, "10.1.2.3", &["203.0.113.9, nonsense"], "10.1.2.3"),
            (&own, "10.1.2.3", &["nonsense, 10.4.4.4"], "10.4.4.4"),
            (&own, "10.1.2.3", &[], "10.1.2.3"),
            (&["0.0.0.0/0"], "10.1.2.3", &["198.51.100.7"], "198.51.100.7"),
        ] {
            assert_eq!(origin(proxies, peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "example.com",
            "::1/129",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert_eq!(Proxies::read(&[text.to_owned()]).unwrap_err(), text);
        }
    }
}
