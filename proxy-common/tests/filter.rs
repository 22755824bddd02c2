//! The filters spread ends over their tables, and look at nothing but what all packets of a flow share.

use std::collections::BTreeSet;

use proxy_common::{
    Direction, Family, FilterPlace, FlowFilterPlace, FlowKey, FrontendFilterPlace, Port, Protocol, ServiceKey, V4, V6,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// There are almost as many different places as random ones would be.
fn assert_spread<const ROWS: usize>(places: &[FilterPlace<ROWS>]) {
    for place in places {
        let row = usize::try_from(place.row()).expect("an index");
        assert!(row < ROWS && place.column() < FilterPlace::<ROWS>::COLUMNS, "{place:?}");
    }
    let different: BTreeSet<_> = places.iter().collect();
    // Each of n takes one of m places: m (1 - e^(-n/m)) are taken.
    let all = f64::from(u32::try_from(ROWS * FilterPlace::<ROWS>::COLUMNS).expect("not many"));
    let count = |number: usize| f64::from(u32::try_from(number).expect("not many"));
    let expected = all * (1.0 - (-count(places.len()) / all).exp());
    assert!(count(different.len()) > expected * 0.98, "{} places, expected {expected}", different.len());
}

/// Ends as clusters have them: consecutive addresses, few ports.
fn ends<A: Copy>(address: impl Fn([u8; 4]) -> A) -> Vec<(A, Port)> {
    let addresses = (0..4096_u32).map(|number| address((0x0a60_0000 + number).to_be_bytes()));
    let ports = [80_u16, 443, 8080].map(Port::new);
    addresses.flat_map(|address| ports.map(|port| (address, port))).collect()
}

fn spread<F: Family>(address: impl Fn([u8; 4]) -> F::Address) {
    let ends = ends(address);
    let nobody = (F::UNSPECIFIED, Port::new(0));
    let keys = ends.iter().flat_map(|end| {
        PROTOCOLS.into_iter().flat_map(|protocol| {
            [
                FlowKey::new(nobody, *end, protocol, Direction::Original),
                FlowKey::new(*end, nobody, protocol, Direction::Reply),
            ]
        })
    });
    assert_spread(&keys.map(|key| FlowFilterPlace::of::<F>(&key)).collect::<Vec<_>>());
    let keys = ends.iter().flat_map(|end| PROTOCOLS.map(|protocol| ServiceKey::new(end.0, end.1, protocol)));
    // As a node has them beside those: nodePorts, at no address.
    let ports = (30_000..32_768).map(|port| ServiceKey::new(F::UNSPECIFIED, Port::new(port), Protocol::Tcp));
    assert_spread(&keys.chain(ports).map(|key| FrontendFilterPlace::of::<F>(&key)).collect::<Vec<_>>());
}

#[test]
fn ends_are_spread_over_the_table() {
    spread::<V4>(|address| address);
    spread::<V6>(|[a, b, c, d]| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]);
}

#[test]
fn the_other_end_does_not_count() {
    let (one, two, end) =
        (([10, 0, 0, 1], Port::new(1)), ([10, 0, 0, 2], Port::new(2)), ([10, 96, 0, 1], Port::new(80)));
    for client in [one, two] {
        let original = FlowKey::new(client, end, Protocol::Tcp, Direction::Original);
        let reply = FlowKey::new(end, client, Protocol::Tcp, Direction::Reply);
        let first = FlowKey::new(one, end, Protocol::Tcp, Direction::Original);
        assert_eq!(FlowFilterPlace::of::<V4>(&original), FlowFilterPlace::of::<V4>(&first));
        assert_ne!(FlowFilterPlace::of::<V4>(&reply), FlowFilterPlace::of::<V4>(&original));
    }
}
