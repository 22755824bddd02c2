//! The filter spreads ends over its table, and looks at nothing but what all packets of a flow share.

use std::collections::BTreeSet;

use proxy_common::{Direction, Family, FlowFilterPlace, FlowKey, Port, Protocol, V4, V6};

fn place(place: FlowFilterPlace) -> (usize, usize) {
    let row = usize::try_from(place.row()).expect("an index");
    assert!(row < FlowFilterPlace::ROWS && place.column() < FlowFilterPlace::COLUMNS);
    (row, place.column())
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
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().flat_map(|protocol| {
            [
                FlowKey::new(nobody, *end, protocol, Direction::Original),
                FlowKey::new(*end, nobody, protocol, Direction::Reply),
            ]
        })
    });
    let keys: Vec<_> = keys.collect();
    let places: BTreeSet<_> = keys.iter().map(|key| place(FlowFilterPlace::of::<F>(key))).collect();
    let all = FlowFilterPlace::ROWS * FlowFilterPlace::COLUMNS;
    // As many different places as random ones would be, but for a few: n - n²/2m.
    let expected = keys.len() - keys.len() * keys.len() / (2 * all);
    assert!(places.len() > expected * 98 / 100, "{} of {} places, expected {expected}", places.len(), keys.len());
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
