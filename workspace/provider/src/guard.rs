//! Which addresses a URL from outside may lead to: public ones, and ranges that the operator allows.
//!
//! Checked where it counts: when the connection is made, on the very addresses that are then used. A name that resolves to
//! something else the second time (DNS rebinding) gains nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Refuses addresses that are not public.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    allowed: Arc<[IpNet]>,
}

/// The address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address is not public; `allowed_cidrs` under [provider] can allow its range")
    }
}

impl std::error::Error for NotPublic {}

impl Guard {
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        Self {
            allowed: allowed.into(),
        }
    }

    pub(crate) fn check(&self, address: IpAddr) -> Result<(), NotPublic> {
        // Allowed ranges are written in the address's own family: `::ffff:10.0.0.1` is 10.0.0.1.
        let address = address.to_canonical();
        if is_public(address) || self.allowed.iter().any(|range| range.contains(&address)) {
            Ok(())
        } else {
            Err(NotPublic)
        }
    }

    /// The public ones of a name's addresses; an error when there are some, and none is public.
    pub(crate) fn public(
        &self,
        found: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, NotPublic> {
        let mut any = false;
        let public: Vec<SocketAddr> = found
            .inspect(|_| any = true)
            .filter(|address| self.check(address.ip()).is_ok())
            .collect();
        if any && public.is_empty() {
            return Err(NotPublic);
        }
        Ok(public)
    }

    /// Checks a host that is an address itself; the connector does not resolve those.
    pub(crate) fn check_host(&self, url: &url::Url) -> Result<(), NotPublic> {
        match url.host() {
            Some(url::Host::Ipv4(address)) => self.check(address.into()),
            Some(url::Host::Ipv6(address)) => self.check(address.into()),
            Some(url::Host::Domain(_)) | None => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(guard.public(found)?.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// The IANA registry of special-purpose IPv4 addresses (RFC 6890 and its updates), all that is not globally reachable.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0                                    // "this network"
        || address.is_private()                             // 10/8, 172.16/12, 192.168/16
        || (a == 100 && (64..128).contains(&b))             // carrier-grade NAT
        || address.is_loopback()
        || address.is_link_local()                          // and the clouds' metadata services
        || (a == 192 && b == 0 && c == 0)                   // protocol assignments
        || address.is_documentation()
        || (a == 192 && b == 88 && c == 99)                 // 6to4 relays
        || (a == 198 && (18..20).contains(&b))              // benchmarking
        || a >= 224; // multicast, reserved, broadcast
    !special
}

/// Only 2000::/3 is assigned to the public; inside it special ranges, and those that wrap an IPv4 address, are judged.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    // ::a.b.c.d (compatible), ::ffff:a.b.c.d (mapped), ::ffff:0:a.b.c.d (translated): never public as they stand, since a
    // kernel may treat them as the IPv4 address. `to_canonical` has turned mapped ones into IPv4 before.
    // 64:ff9b::/96 (NAT64) leads to the IPv4 address in it; 64:ff9b:1::/48 is for local use.
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(v4(s[6], s[7]));
    }
    if s[0] & 0xe000 != 0x2000 {
        return false;
    }
    // 6to4: the IPv4 address of the relay's user.
    if s[0] == 0x2002 {
        return is_public_v4(v4(s[1], s[2]));
    }
    // Under 2001::/23 protocol assignments (Teredo, ORCHID, benchmarking); 2001:db8::/32 and 3fff::/20 are documentation.
    let special = (s[0] == 0x2001 && (s[1] < 0x0200 || s[1] == 0x0db8)) || (s[0] == 0x3fff && s[1] < 0x1000);
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        let guard = Guard::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::10.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:0a00:0001::1",
            "2002:7f00:0001::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert_eq!(guard.check(address.parse().unwrap()), Err(NotPublic), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(guard.check(address.parse().unwrap()), Ok(()), "{address}");
        }
    }

    #[test]
    fn allowed_ranges_pass_in_either_spelling() {
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (address, passes) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd00::1", true),
            ("::1", false),
        ] {
            assert_eq!(guard.check(address.parse().unwrap()).is_ok(), passes, "{address}");
        }
    }

    #[test]
    fn literal_hosts_are_checked_in_every_spelling() {
        let guard = Guard::default();
        for url in [
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
        ] {
            let url = url::Url::parse(url).unwrap();
            assert_eq!(guard.check_host(&url), Err(NotPublic), "{url}");
        }
    }
}
