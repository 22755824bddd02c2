//! Full tables: the newest Service goes without, is reported, and comes back when there is room.

use super::support::{TestNode, served};
use crate::{
    model::{
        EndpointSlice, Service, Update,
        testing::{service, slice, without_service},
    },
    plan::{Capacities, Refused, State, Tables, memory::MemoryTables},
};

const ROOMY: Capacities = Capacities { services: 100, slots: 100, backends: 100, source_ranges: 100, names: 100 };

/// Service number `n`, the lower the older, with this many endpoints.
fn objects(n: u8, endpoints: u8) -> [Update; 2] {
    [numbered(n).into(), endpoints_of(n, endpoints).into()]
}

fn numbered(n: u8) -> Service {
    service(&format!("s{n}"), &[&format!("10.0.0.{n}")]).with_port("http", 80).created_at(i64::from(n))
}

fn endpoints_of(n: u8, count: u8) -> EndpointSlice {
    let addresses: Vec<String> = (1..=count).map(|endpoint| format!("10.1.{n}.{endpoint}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    slice(&format!("s{n}-a"), &format!("s{n}"), &addresses).with_port("http", 8080)
}

/// The Services that have their frontend and all their backends.
fn served_ones(node: &TestNode) -> Vec<u8> {
    let view = node.view();
    let is_whole = |&n: &u8| {
        let frontend = format!("10.0.0.{n}:80/TCP");
        let endpoints: usize = node.index.slices(&numbered(n).name).iter().map(|slice| slice.endpoints.len()).sum();
        view.services.get(&frontend).is_some_and(|served| served.cluster.len() == endpoints)
    };
    node.assert_nothing_leaks();
    (1..100).filter(is_whole).collect()
}

fn problems(node: &TestNode) -> Vec<String> {
    node.state.problems().iter().map(ToString::to_string).collect()
}

fn no_room(service: u8, table: &str) -> String {
    format!("Service default/s{service}: no room in table {table}")
}

#[test]
fn of_services_that_come_together_the_newest_is_refused() {
    for (capacities, table) in [
        (Capacities { services: 2, ..ROOMY }, "services_v4"),
        (Capacities { slots: 5, ..ROOMY }, "slots_v4"),
        (Capacities { backends: 6, ..ROOMY }, "backends_v4"),
        (Capacities { names: 2, ..ROOMY }, "names"),
    ] {
        let mut node = TestNode::with_capacities(capacities);
        node.apply([objects(3, 2), objects(1, 2), objects(2, 2)].concat());
        assert_eq!(served_ones(&node), [1, 2], "{table}");
        assert_eq!(problems(&node), [no_room(3, table)]);

        node.apply([without_service("s1")]);
        node.settle();
        assert_eq!(served_ones(&node), [2, 3], "{table}");
        assert_eq!(problems(&node), [""; 0]);
    }
}

#[test]
fn an_older_service_displaces_newer_ones() {
    for (capacities, table) in [
        (Capacities { services: 2, ..ROOMY }, "services_v4"),
        (Capacities { slots: 5, ..ROOMY }, "slots_v4"),
        (Capacities { backends: 6, ..ROOMY }, "backends_v4"),
        (Capacities { names: 2, ..ROOMY }, "names"),
    ] {
        let mut node = TestNode::with_capacities(capacities);
        node.apply([objects(2, 2), objects(3, 2)].concat());
        node.apply(objects(1, 2));
        node.settle();
        assert_eq!(served_ones(&node), [1, 2], "{table}");
        assert_eq!(problems(&node), [no_room(3, table)]);
    }
}

#[test]
fn an_older_service_that_grows_displaces_the_newest() {
    let mut node = TestNode::with_capacities(Capacities { slots: 20, ..ROOMY });
    node.apply([objects(1, 4), objects(2, 4), objects(3, 4), objects(4, 4)].concat());
    assert_eq!(served_ones(&node), [1, 2, 3, 4]);
    node.apply([endpoints_of(1, 8).into()]);
    node.settle();
    assert_eq!(served_ones(&node), [1, 2, 3, 4], "there is room for all, once the old range is free");
    node.apply([endpoints_of(1, 9).into()]);
    node.settle();
    assert_eq!(served_ones(&node), [1, 2, 3]);
    assert_eq!(problems(&node), [no_room(4, "slots_v4")]);
}

#[test]
fn a_small_service_fits_where_a_large_one_does_not() {
    let mut node = TestNode::with_capacities(Capacities { slots: 10, ..ROOMY });
    node.apply([objects(1, 4), objects(2, 8), objects(3, 4)].concat());
    assert_eq!(served_ones(&node), [1, 3]);
    assert_eq!(problems(&node), [no_room(2, "slots_v4")]);
}

#[test]
fn a_service_that_needs_more_than_there_is_leaves_the_others_alone() {
    let mut node = TestNode::with_capacities(Capacities { slots: 10, ..ROOMY });
    node.apply([objects(2, 4), objects(3, 4)].concat());
    let before = node.snapshot();
    let changes = node.apply(objects(1, 50));
    assert!(changes.is_empty(), "no Service goes for one that would not fit anyway");
    assert_eq!(node.snapshot(), before);
    assert_eq!(problems(&node), [no_room(1, "slots_v4")]);
    node.apply([endpoints_of(1, 1).into()]);
    assert_eq!(served_ones(&node), [1, 2, 3]);
}

#[test]
fn the_newest_service_goes_itself_when_it_outgrows_the_table() {
    let mut node = TestNode::with_capacities(Capacities { slots: 10, ..ROOMY });
    node.apply([objects(1, 4), objects(2, 2)].concat());
    node.apply([endpoints_of(2, 9).into()]);
    node.settle();
    assert_eq!(served_ones(&node), [1]);
    assert!(!node.view().services.contains_key("10.0.0.2:80/TCP"), "it is not served by endpoints of the past");
}

#[test]
fn a_service_that_needs_old_and_new_range_at_once_makes_do_without() {
    let mut node = TestNode::with_capacities(Capacities { slots: 10, ..ROOMY });
    node.apply(objects(1, 6));
    node.apply([endpoints_of(1, 7).into()]);
    node.settle();
    assert_eq!(served_ones(&node), [1]);
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn room_that_the_same_update_makes_is_waited_for() {
    let mut node = TestNode::with_capacities(Capacities { services: 2, ..ROOMY });
    node.apply([objects(1, 1), objects(2, 1)].concat());
    node.apply([without_service("s2")].into_iter().chain(objects(3, 1)));
    assert!(node.state.retry_is_due());
    node.settle();
    assert_eq!(served_ones(&node), [1, 3]);
}

#[test]
fn a_family_that_a_service_gives_up_makes_room() {
    let dual = |addresses: &[&str]| service("s1", addresses).with_port("http", 80).created_at(1);
    let v6 = service("s2", &["fd00::2"]).with_port("http", 80).created_at(2);
    let mut node = TestNode::with_capacities(Capacities { services: 1, ..ROOMY });
    node.apply([dual(&["10.0.0.1", "fd00::1"]).into(), v6.into()]);
    assert_eq!(problems(&node), [no_room(2, "services_v6")]);
    node.apply([dual(&["10.0.0.1"]).into()]);
    node.settle();
    assert_eq!(problems(&node), [""; 0]);
    assert!(node.view().services.contains_key("[fd00::2]:80/TCP"));
}

#[test]
fn a_refused_service_that_is_deleted_is_forgotten() {
    let mut node = TestNode::with_capacities(Capacities { services: 1, ..ROOMY });
    node.apply([objects(1, 1), objects(2, 1)].concat());
    assert_eq!(problems(&node), [no_room(2, "services_v4")]);
    node.apply([without_service("s2")]);
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn a_refused_service_gives_its_frontend_to_a_rival() {
    let rival = service("rival", &["10.0.0.1"]).with_port("http", 80).created_at(9);
    let mut node = TestNode::with_capacities(Capacities { slots: 10, ..ROOMY });
    node.apply(objects(1, 50).into_iter().chain([rival.into()]));
    assert_eq!(node.view().services["10.0.0.1:80/TCP"], served("default/rival:http/TCP", &[]));
}

/// A table with less room than the plan thinks.
#[test]
fn frontends_that_the_table_refuses_are_tried_again_when_there_is_room() {
    let mut node = TestNode::new();
    node.tables = MemoryTables::new(2);
    node.apply([objects(1, 1), objects(2, 1), objects(3, 1)].concat());
    assert_eq!(problems(&node), [no_room(3, "services_v4")]);
    assert!(!node.state.retry_is_due(), "nothing has become free");
    assert_eq!(node.view().services.len(), 2);

    node.apply([without_service("s1")]);
    node.settle();
    assert_eq!(served_ones(&node), [2, 3]);
    assert_eq!(problems(&node), [""; 0]);
}

#[test]
fn a_frontend_that_was_refused_and_is_gone_is_nothing_to_remove() {
    let mut node = TestNode::new();
    node.tables = MemoryTables::new(1);
    node.apply([objects(1, 1), objects(2, 1)].concat());
    node.apply([without_service("s2")]);
    assert_eq!(served_ones(&node), [1]);
}

#[test]
fn what_was_adopted_gives_way_to_what_is_older() {
    let mut node = TestNode::with_capacities(Capacities { slots: 5, ..ROOMY });
    node.apply([objects(2, 2), objects(3, 2)].concat());
    for update in objects(1, 2) {
        let _ = node.index.update(update);
    }
    node.restart();
    node.settle();
    assert_eq!(served_ones(&node), [1, 2]);
}

#[test]
fn refusals_of_unknown_frontends_are_ignored() {
    let mut state = State::new(ROOMY);
    let mut node = TestNode::new();
    node.apply(objects(1, 1));
    let refused = Refused { v4: node.snapshot().v4.services.keys().copied().collect(), v6: Vec::new() };
    state.applied(&refused);
    assert_eq!(state.problems(), []);
    assert_eq!(node.tables.snapshot().map(|snapshot| snapshot.v4.services.len()), Ok(1));
}
