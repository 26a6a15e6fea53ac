//! Which addresses are of the public Internet.
//!
//! Source: the IANA registries of special-purpose addresses,
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry> (as of 2025-10-09), and of the IPv6 address space. Ranges that
//! are there for protocols are refused also where the registry calls them globally reachable: no web server is in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// IPv4 ranges that are not public: the network's address and the length of its prefix.
const SPECIAL_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // "this network", RFC 791
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private use, RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carrier-grade NAT, RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback, RFC 1122
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, and the clouds' metadata services, RFC 3927
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private use, RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments, RFC 6890
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation, RFC 5737
    (Ipv4Addr::new(192, 31, 196, 0), 24), // AS112, RFC 7535
    (Ipv4Addr::new(192, 52, 193, 0), 24), // AMT, RFC 7450
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 and 6a44 relays, RFC 7526, RFC 6751
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private use, RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarking, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation, RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation, RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 3),     // multicast, RFC 5771; reserved, RFC 1112; broadcast, RFC 919
];

/// All of IPv6 that is given to the public, RFC 4291: so ::/8 with its wrapped IPv4 addresses, fc00::/7, fe80::/10, fec0::/10
/// and ff00::/8 are not.
const UNICAST_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is not public in it.
const SPECIAL_V6: [(Ipv6Addr, u8); 5] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, benchmarking, ORCHID, RFC 2928
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation, RFC 3849
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which leads to the IPv4 address in it, RFC 3056, RFC 7526
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112, RFC 7534
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation, RFC 9637
];

/// NAT64, RFC 6052: leads to the IPv4 address in its last 32 bits. Its sibling for local use, 64:ff9b:1::/48, is not public.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// An IPv4 address in the clothes of IPv6, RFC 4291.
const MAPPED: (Ipv6Addr, u8) = (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

const fn is_in_v4(address: Ipv4Addr, (network, length): (Ipv4Addr, u8)) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0
}

const fn is_in_v6(address: Ipv6Addr, (network, length): (Ipv6Addr, u8)) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0
}

/// Where an address really leads: the IPv4 address that some IPv6 addresses stand for.
pub(super) fn meant(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if is_in_v6(v6, MAPPED) || is_in_v6(v6, NAT64) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

/// The same for a range.
pub(super) fn range_meant(range: IpNet) -> IpNet {
    match (meant(range.network()), range.prefix_len().checked_sub(96)) {
        (IpAddr::V4(network), Some(length)) if matches!(range, IpNet::V6(_)) => {
            Ipv4Net::new(network, length).map_or(range, IpNet::V4)
        }
        _ => range,
    }
}

/// Whether an address, such as [`meant`] makes it, is one of the public Internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !SPECIAL_V4.iter().any(|range| is_in_v4(v4, *range)),
        IpAddr::V6(v6) => is_in_v6(v6, UNICAST_V6) && !SPECIAL_V6.iter().any(|range| is_in_v6(v6, *range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first and the last address of a range, and those before and behind it.
    fn edges(address: u128, length: u32) -> ([u128; 2], [u128; 2]) {
        let size = 1_u128 << length;
        (
            [address, address + size - 1],
            [address.wrapping_sub(1), address + size],
        )
    }

    #[test]
    fn each_range_ends_where_the_registry_says() {
        let is_public_v4 = |bits: u128| is_public(Ipv4Addr::from_bits(u32::try_from(bits).unwrap()).into());
        for (network, length) in SPECIAL_V4 {
            let (inside, outside) = edges(u128::from(network.to_bits()), u32::from(32 - length));
            for bits in inside {
                assert!(!is_public_v4(bits), "{network}/{length}");
            }
            for bits in outside {
                // Next to 0/8, to 224/3 and to each other there is nothing, or nothing public.
                let is_last = u32::try_from(bits).is_err();
                assert!(is_last || is_public_v4(bits), "{network}/{length}");
            }
        }
        for (network, length) in SPECIAL_V6 {
            let (inside, outside) = edges(network.to_bits(), u32::from(128 - length));
            for bits in inside {
                assert!(!is_public(Ipv6Addr::from_bits(bits).into()), "{network}/{length}");
            }
            for bits in outside {
                let address = Ipv6Addr::from_bits(bits);
                // 2001::/23 follows nothing that is refused; 3fff::/20 is followed by the rest of 2000::/3.
                assert!(is_public(address.into()), "{address} beside {network}/{length}");
            }
        }
    }

    #[test]
    fn wrapped_addresses_are_judged_by_what_they_wrap() {
        for (address, led_to) in [
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("64:ff9b::8.8.8.8", "8.8.8.8"),
            ("64:ff9b:1::8.8.8.8", "64:ff9b:1::808:808"),
            ("::8.8.8.8", "::8.8.8.8"),
            ("2002:a00:1::1", "2002:a00:1::1"),
        ] {
            let led_to: IpAddr = led_to.parse().unwrap();
            assert_eq!(meant(address.parse().unwrap()), led_to, "{address}");
        }
        for (range, led_to) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("64:ff9b::/96", "0.0.0.0/0"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("fd00::/8", "fd00::/8"),
        ] {
            let led_to: IpNet = led_to.parse().unwrap();
            assert_eq!(range_meant(range.parse().unwrap()), led_to, "{range}");
        }
    }
}
