//! Which texts are addresses, prefixes, ports and protocols.

use proxy_common::{Port, Protocol};

use crate::model::{
    AddressClass, Reason,
    address::{address, endpoint_address, frontend_address, port, prefix, protocol},
    testing::ip,
};

#[test]
fn addresses_are_read_as_the_api_server_reads_them() {
    for (text, expected) in [
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"),
        // Leading zeros are decimal, as before Go 1.17.
        ("010.000.00.01", "10.0.0.1"),
        // A v4-mapped address is IPv4.
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ] {
        assert_eq!(address(text), Ok(ip(expected)), "{text}");
    }
}

#[test]
fn what_is_no_address_is_quoted() {
    for text in [
        "10.0.0",
        "10.0.0.0.1",
        "10.0.0.256",
        "10.0.0.1 ",
        "10..0.1",
        "1.2.3.4/32",
        "fe80::1%eth0",
        "web",
        "١٠.0.0.1",
        "0x0a.0.0.1",
        "+1.2.3.4",
        "999999999999.1.1.1",
    ] {
        assert_eq!(address(text), Err(Reason::NotAnAddress(text.into())), "{text}");
    }
    assert_eq!(address(""), Err(Reason::Missing));
}

#[test]
fn a_long_text_is_quoted_in_part() {
    let text = "ü".repeat(10_000);
    let Err(Reason::NotAnAddress(quoted)) = address(&text) else { panic!("that is no address") };
    assert_eq!(quoted, format!("{}…", "ü".repeat(64)));
}

#[test]
fn some_addresses_cannot_be_frontends_or_endpoints() {
    use AddressClass::{Broadcast, Loopback, Multicast, Unspecified};
    for (text, class) in [
        ("0.0.0.0", Unspecified),
        ("::", Unspecified),
        ("224.0.0.1", Multicast),
        ("ff02::1", Multicast),
        ("255.255.255.255", Broadcast),
        ("127.0.0.1", Loopback),
        ("::1", Loopback),
    ] {
        let address = ip(text);
        assert_eq!(frontend_address(text), Err(Reason::UnusableAddress { address, class }), "{text}");
        let endpoint = if class == Loopback { Ok(address) } else { Err(Reason::UnusableAddress { address, class }) };
        assert_eq!(endpoint_address(text), endpoint, "{text}");
    }
    assert_eq!(frontend_address("169.254.20.10"), Ok(ip("169.254.20.10")), "link-local addresses are used for DNS");
}

#[test]
fn prefixes_lose_their_host_bits_and_blanks() {
    for (text, expected) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 10.1.2.3/8\n", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00:1::1/32", "fd00:1::/32"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(prefix(text).map(|prefix| prefix.to_string()), Ok(expected.into()), "{text}");
    }
    for text in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "/8", "10.0.0.0/-1", "10.0.0.0/8/8", "", "web/8"] {
        assert_eq!(prefix(text), Err(Reason::NotAPrefix(text.into())), "{text}");
    }
}

#[test]
fn ports_are_numbers_from_1_to_65535() {
    assert_eq!(port(1), Ok(Port::new(1)));
    assert_eq!(port(65_535), Ok(Port::new(65_535)));
    for number in [0, -1, 65_536, i32::MIN, i32::MAX] {
        assert_eq!(port(number), Err(Reason::NotAPort(number)));
    }
}

#[test]
fn protocols_are_spelled_in_capitals_and_tcp_by_default() {
    assert_eq!(protocol(None), Ok(Protocol::Tcp));
    assert_eq!(protocol(Some("UDP")), Ok(Protocol::Udp));
    assert_eq!(protocol(Some("SCTP")), Ok(Protocol::Sctp));
    assert_eq!(protocol(Some("tcp")), Err(Reason::UnknownProtocol("tcp".into())));
}
