//! What one Service asks for: frontends, and the union of its slices.

use proxy_common::{Port, Protocol, ServiceFlags, ServiceKey};

use crate::{
    model::{
        Affinity, Conditions, EndpointSlice, NodeFacts, Service, ServiceType, TrafficPolicy,
        testing::{NODE, NOT_READY, TERMINATING, ZONE, endpoint, ip, service, slice},
    },
    plan::{
        desired::{DesiredFamily, DesiredPort, Frontend, Target, desired},
        endpoints::Place,
    },
};

const PLACE: Place<'_> = Place { node: NODE, zone: Some(ZONE) };

fn target<A>(address: A, port: u16) -> Target<A> {
    let port = Port::new(port);
    Target { address, port, on_this_node: false, in_cluster_list: true, in_local_list: false }
}

fn frontend<A: Copy>(address: A, port: u16) -> Frontend<A> {
    let key = ServiceKey::new(address, Port::new(port), Protocol::Tcp);
    Frontend { key, flags: ServiceFlags::NONE, affinity_timeout: 0 }
}

const fn nothing<A>() -> DesiredFamily<A> {
    DesiredFamily { frontends: Vec::new(), targets: Vec::new(), source_ranges: Vec::new() }
}

fn family<A>(frontends: Vec<Frontend<A>>, targets: Vec<Target<A>>) -> DesiredFamily<A> {
    DesiredFamily { frontends, targets, source_ranges: Vec::new() }
}

/// What the node should hold, of whose network nothing is known.
fn ports(service: &Service, slices: &[EndpointSlice]) -> Vec<DesiredPort> {
    desired(service, slices, PLACE, &NodeFacts::default())
}

fn web() -> Service {
    service("web", &["10.0.0.1"]).with_port("http", 80)
}

fn web_a() -> EndpointSlice {
    slice("web-a", "web", &[]).with_port("http", 8080)
}

/// The IPv4 targets of the only port.
fn targets(service: &Service, slices: &[EndpointSlice]) -> Vec<Target<[u8; 4]>> {
    let [port] = ports(service, slices).try_into().expect("one port");
    port.v4.targets
}

#[test]
fn a_service_of_two_families_with_two_ports() {
    let service = service("web", &["10.0.0.1", "fd00::1"]).with_port("http", 80).with_port("admin", 81);
    let slices = [
        slice("web-a", "web", &["10.1.0.1"]).with_port("http", 8080).with_port("admin", 8081),
        slice("web-b", "web", &["fd01::1"]).with_port("http", 8080),
    ];
    let (v6, endpoint_v6) = ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], ip("fd01::1"));
    let std::net::IpAddr::V6(endpoint_v6) = endpoint_v6 else { panic!("the test wrote an IPv6 address") };
    let expected = [
        DesiredPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            v4: family(vec![frontend([10, 0, 0, 1], 80)], vec![target([10, 1, 0, 1], 8080)]),
            v6: family(vec![frontend(v6, 80)], vec![target(endpoint_v6.octets(), 8080)]),
        },
        DesiredPort {
            name: "admin".into(),
            protocol: Protocol::Tcp,
            v4: family(vec![frontend([10, 0, 0, 1], 81)], vec![target([10, 1, 0, 1], 8081)]),
            v6: family(vec![frontend(v6, 81)], Vec::new()),
        },
    ];
    assert_eq!(ports(&service, &slices), expected);
}

#[test]
fn slices_of_a_family_that_the_service_does_not_serve_are_ignored() {
    let slices = [slice("web-b", "web", &["fd01::1"]).with_port("http", 8080)];
    let [port] = ports(&web(), &slices).try_into().expect("one port");
    assert_eq!((port.v4.targets, port.v6), (Vec::new(), nothing()));
}

#[test]
fn ports_are_joined_by_name_and_protocol() {
    let service = service("dns", &["10.0.0.1"])
        .with_protocol_port("dns", 53, Protocol::Udp)
        .with_protocol_port("dns", 53, Protocol::Tcp)
        .with_protocol_port("", 54, Protocol::Tcp)
        .with_protocol_port("metrics", 9153, Protocol::Tcp);
    let slices = [slice("dns-a", "dns", &["10.1.0.1"])
        .with_protocol_port("dns", 5353, Protocol::Udp)
        .with_protocol_port("dns", 5354, Protocol::Tcp)
        .with_protocol_port("", 5355, Protocol::Tcp)
        .with_protocol_port("metrics", 9153, Protocol::Udp)];
    let ports: Vec<Vec<u16>> = ports(&service, &slices)
        .iter()
        .map(|port| port.v4.targets.iter().map(|target| target.port.get()).collect())
        .collect();
    assert_eq!(ports, [vec![5353], vec![5354], vec![5355], vec![]]);
}

#[test]
fn slices_are_a_union_in_which_each_endpoint_counts_once() {
    let slices = [
        slice("web-a", "web", &["10.1.0.3", "10.1.0.1"]).with_port("http", 8080),
        slice("web-b", "web", &["10.1.0.2", "10.1.0.1"]).with_port("http", 8080),
    ];
    let expected = [target([10, 1, 0, 1], 8080), target([10, 1, 0, 2], 8080), target([10, 1, 0, 3], 8080)];
    assert_eq!(targets(&web(), &slices), expected);
}

#[test]
fn a_named_target_port_has_a_number_for_each_slice() {
    let slices = [
        slice("web-a", "web", &["10.1.0.1"]).with_port("http", 8080),
        slice("web-b", "web", &["10.1.0.2", "10.1.0.1"]).with_port("http", 9090),
    ];
    let expected = [target([10, 1, 0, 1], 8080), target([10, 1, 0, 1], 9090), target([10, 1, 0, 2], 9090)];
    assert_eq!(targets(&web(), &slices), expected);
}

#[test]
fn of_two_states_of_an_endpoint_the_more_usable_counts() {
    let states = [NOT_READY, TERMINATING, Conditions::READY];
    for (less, more) in [(0, 1), (0, 2), (1, 2)] {
        for (first, second) in [(less, more), (more, less)] {
            let slices = [
                web_a().with(endpoint("10.1.0.1").that_is(states[first])),
                EndpointSlice {
                    name: crate::model::testing::name("web-b"),
                    ..web_a().with(endpoint("10.1.0.1").that_is(states[second]))
                },
            ];
            assert_eq!(targets(&web(), &slices), [target([10, 1, 0, 1], 8080)], "{first} and {second}");
        }
    }
}

#[test]
fn an_endpoint_is_local_if_one_of_its_slices_says_so() {
    let slices = [
        web_a().with(endpoint("10.1.0.1")),
        slice("web-b", "web", &[]).with_port("http", 8080).with(endpoint("10.1.0.1").on(NODE)),
    ];
    let expected = Target { on_this_node: true, ..target([10, 1, 0, 1], 8080) };
    assert_eq!(targets(&web(), &slices), [expected]);
}

#[test]
fn endpoints_that_take_no_connections_are_kept_as_backends() {
    let slices = [web_a()
        .with(endpoint("10.1.0.1"))
        .with(endpoint("10.1.0.2").that_is(TERMINATING))
        .with(endpoint("10.1.0.3").that_is(NOT_READY))];
    let unused = |address| Target { in_cluster_list: false, ..target(address, 8080) };
    let expected = [target([10, 1, 0, 1], 8080), unused([10, 1, 0, 2]), unused([10, 1, 0, 3])];
    assert_eq!(targets(&web(), &slices), expected);
}

#[test]
fn the_local_list_is_there_if_a_policy_that_applies_is_local() {
    use TrafficPolicy::{Cluster, Local};
    let slices = [web_a().with(endpoint("10.1.0.1").on(NODE)).with(endpoint("10.1.0.2").on("node-2"))];
    for (service_type, external_ips, internal, external, expected) in [
        (ServiceType::ClusterIp, &[][..], Cluster, Cluster, false),
        (ServiceType::ClusterIp, &[], Local, Cluster, true),
        (ServiceType::ClusterIp, &[], Cluster, Local, false),
        (ServiceType::ClusterIp, &["192.0.2.1"], Cluster, Local, true),
        (ServiceType::NodePort, &[], Cluster, Local, true),
        (ServiceType::LoadBalancer, &[], Cluster, Local, true),
        (ServiceType::LoadBalancer, &[], Local, Local, true),
        (ServiceType::LoadBalancer, &[], Cluster, Cluster, false),
    ] {
        let service = Service {
            service_type,
            external_ips: external_ips.iter().map(|text| ip(text)).collect(),
            internal_traffic_policy: internal,
            external_traffic_policy: external,
            ..web().at_node_port(30_080)
        };
        let lists: Vec<(bool, bool)> =
            targets(&service, &slices).iter().map(|target| (target.in_cluster_list, target.in_local_list)).collect();
        assert_eq!(lists, [(true, expected), (true, false)], "{service_type:?} {internal:?} {external:?}");
    }
}

#[test]
fn frontends_say_which_policy_and_affinity_apply() {
    let frontend = |internal_traffic_policy, affinity| {
        let service = Service { internal_traffic_policy, affinity, ..web() };
        let [port] = ports(&service, &[]).try_into().expect("one port");
        let [frontend] = port.v4.frontends.try_into().expect("one frontend");
        (frontend.flags, frontend.affinity_timeout)
    };
    let sticky = Affinity::ClientIp { timeout: 60 };
    let (local, affinity) = (ServiceFlags::LOCAL, ServiceFlags::AFFINITY);
    assert_eq!(frontend(TrafficPolicy::Cluster, Affinity::None), (ServiceFlags::NONE, 0));
    assert_eq!(frontend(TrafficPolicy::Local, Affinity::None), (local, 0));
    assert_eq!(frontend(TrafficPolicy::Cluster, sticky), (affinity, 60));
    assert_eq!(frontend(TrafficPolicy::Local, sticky), (local.with(affinity), 60));
}

#[test]
fn of_two_ports_with_one_frontend_the_first_has_it() {
    let service = service("web", &["10.0.0.1"]).with_port("http", 80).with_port("also-http", 80);
    let ports = ports(&service, &[]);
    assert_eq!(ports.iter().map(|port| port.v4.frontends.len()).collect::<Vec<_>>(), [1, 0]);
}
