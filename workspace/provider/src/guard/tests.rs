//! What may be called and what may not.

use super::*;

fn guard(allowed: &[&str], refused: &[&str]) -> Guard {
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Guard::new(
        ranges(allowed),
        ranges(refused),
        Lookup::default(),
        Duration::from_secs(5),
    )
}

fn passes(guard: &Guard, address: &str) -> bool {
    guard.check(address.parse().unwrap()).is_ok()
}

#[test]
fn only_public_addresses_pass() {
    let guard = guard(&[], &[]);
    for address in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
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
        "::ffff:0:8.8.8.8",
        "64:ff9b::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:0a00:0001::1",
        "2002:0808:0808::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ] {
        assert!(!passes(&guard, address), "{address}");
    }
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00:1450::1",
    ] {
        assert!(passes(&guard, address), "{address}");
    }
}

#[test]
fn allowed_ranges_pass_in_every_spelling_and_refused_ones_never() {
    let guard = guard(
        &["10.1.0.0/16", "fd00::/8", "::ffff:127.0.0.0/104"],
        &["10.1.9.0/24", "8.8.0.0/16", "2606:4700::/32"],
    );
    for (address, expected) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("64:ff9b::10.1.2.3", true),
        ("10.2.0.1", false),
        ("127.0.0.1", true),
        ("fd00::1", true),
        ("::1", false),
        ("10.1.9.1", false),
        ("8.8.8.8", false),
        ("64:ff9b::8.8.8.8", false),
        ("::ffff:8.8.8.8", false),
        ("2606:4700::1111", false),
        ("8.9.8.8", true),
    ] {
        assert_eq!(passes(&guard, address), expected, "{address}");
    }
}

#[test]
fn hosts_that_are_addresses_are_checked_in_every_spelling() {
    let guard = guard(&[], &[]);
    for url in [
        "http://127.1/",
        "http://127.0.0.1./",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7F.0x0.0x0.0x1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://0/",
        "http://%31%32%37.0.0.1/",
        "http://127\u{3002}0\u{ff0e}0\u{ff61}1/",
        "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        "http://\u{2460}\u{2461}\u{2466}.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http:169.254.169.254/",
        "https:\\\\169.254.169.254\\latest",
    ] {
        let parsed = url::Url::parse(url).unwrap();
        assert_eq!(guard.check_url(&parsed), Err(Forbidden::Address), "{url}");
    }
    // What is no address for us is none for anybody.
    for url in [
        "http://[fe80::1%25eth0]/",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://[::1",
    ] {
        assert!(url::Url::parse(url).is_err(), "{url}");
    }
}

#[test]
fn other_protocols_ports_and_users_are_refused() {
    let guard = guard(&["127.0.0.0/8"], &[]);
    for (url, expected) in [
        ("http://example.com/", Ok(())),
        ("https://example.com:8443/", Ok(())),
        ("http://127.0.0.1:3000/", Ok(())),
        ("http://example.com:25/", Err(Forbidden::Port)),
        ("https://example.com:22/", Err(Forbidden::Port)),
        ("http://127.0.0.1:6667/", Err(Forbidden::Port)),
        ("http://user@example.com/", Err(Forbidden::User)),
        ("http://user:pass@127.0.0.1/", Err(Forbidden::User)),
        ("http://:pass@example.com/", Err(Forbidden::User)),
        ("data:text/plain,hello", Err(Forbidden::Address)),
    ] {
        assert_eq!(guard.check_url(&url::Url::parse(url).unwrap()), expected, "{url}");
    }
    assert!(PORTS_OF_OTHERS.is_sorted());
}
