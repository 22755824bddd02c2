//! Which devices of a node get programs.

use super::*;

/// A device by name, kind (empty for none) and the name of its master.
fn node(list: &[(&str, &str, Option<&str>)]) -> Devices {
    let index = |name: &str| {
        let position = list.iter().position(|(other, ..)| *other == name).expect("the master is in the list");
        u32::try_from(position + 1).expect("few devices")
    };
    list.iter()
        .map(|&(name, kind, master)| {
            let link_layer = match (name, kind) {
                ("lo", _) => LinkLayer::Loopback,
                (_, "wireguard" | "tun" | "ipip") => LinkLayer::Ip,
                _ => LinkLayer::Ethernet,
            };
            let kind = (!kind.is_empty()).then(|| kind.to_owned());
            let leads_elsewhere = ["cali", "vxlan"].iter().any(|prefix| name.starts_with(prefix));
            let master = master.map(index);
            (index(name), Device { name: name.to_owned(), link_layer, kind, master, leads_elsewhere })
        })
        .collect()
}

fn names(indexes: &BTreeSet<u32>, devices: &Devices) -> Vec<String> {
    indexes.iter().map(|index| devices[index].name.clone()).collect()
}

fn automatic(list: &[(&str, &str, Option<&str>)]) -> Vec<String> {
    let devices = node(list);
    names(&Selection::Automatic.select(&devices), &devices)
}

#[test]
fn a_node_with_a_bridge_has_programs_on_uplink_and_ports() {
    let list = [
        ("lo", "", None),
        ("eth0", "", None),
        ("cni0", "bridge", None),
        ("veth1", "veth", Some("cni0")),
        ("veth2", "veth", Some("cni0")),
        ("docker0", "bridge", None),
        ("flannel.1", "vxlan", None),
        ("tunl0", "ipip", None),
        ("kube-ipvs0", "dummy", None),
    ];
    assert_eq!(automatic(&list), ["eth0", "veth1", "veth2"]);
}

#[test]
fn a_bridge_of_tunnels_has_them_itself() {
    let list = [("br0", "bridge", None), ("vxlan1", "vxlan", Some("br0"))];
    assert_eq!(automatic(&list), ["br0"]);
}

#[test]
fn an_uplink_that_is_a_port_has_them() {
    let list = [("br0", "bridge", None), ("eth0", "", Some("br0")), ("tap0", "tun", Some("br0"))];
    assert_eq!(automatic(&list), ["eth0", "tap0"]);
}

#[test]
fn the_master_of_a_bond_or_team_has_them_and_its_vlans() {
    let list = [
        ("eth0", "", Some("bond0")),
        ("eth1", "", Some("bond0")),
        ("bond0", "bond", None),
        ("bond0.100", "vlan", None),
        ("eth2", "", Some("team0")),
        ("team0", "team", None),
    ];
    assert_eq!(automatic(&list), ["bond0", "bond0.100", "team0"]);
}

#[test]
fn devices_without_a_link_layer_header_have_them() {
    let list = [("wg0", "wireguard", None), ("tun0", "tun", None), ("sit0", "sit", None)];
    assert_eq!(automatic(&list), ["wg0", "tun0"]);
}

#[test]
fn members_of_a_vrf_have_them() {
    assert_eq!(automatic(&[("eth0", "", Some("vrf1")), ("vrf1", "vrf", None)]), ["eth0"]);
}

#[test]
fn names_and_patterns_replace_the_automatic_choice() {
    let devices = node(&[("lo", "", None), ("eth0", "", None), ("eth1", "", None), ("flannel.1", "vxlan", None)]);
    let select = |list: &[&str]| names(&Selection::parse(list).expect("valid").select(&devices), &devices);
    assert_eq!(select(&["eth1", "flannel.1"]), ["eth1", "flannel.1"]);
    assert_eq!(select(&["eth*"]), ["eth0", "eth1"]);
    assert_eq!(select(&["eth?", "missing*"]), ["eth0", "eth1"]);
    assert_eq!(select(&["*"]), ["eth0", "eth1", "flannel.1"], "never the loopback device");
}

#[test]
fn a_named_device_must_exist_but_a_pattern_need_not_match() {
    let check = |list: &[&str]| Selection::parse(list).expect("valid").check(|name| name == "eth0");
    check(&["eth0", "wl*"]).expect("eth0 exists");
    let error = check(&["eth0", "eth7"]).expect_err("there is no eth7");
    assert_eq!(
        error.to_string(),
        "--devices eth7: there is no such device (for those that appear later, give a pattern such as eth7*)"
    );
}

#[test]
fn impossible_names_are_refused() {
    for name in ["", "a/b", "with blank", "longer-than-15-bytes", "eth0:1"] {
        assert_eq!(Selection::parse(&[name]), Err(SelectionError::Invalid { name: name.to_owned() }));
    }
}

#[test]
fn pods_live_behind_a_bridge_and_its_ports() {
    let devices = node(&[("eth0", "", None), ("cni0", "bridge", None), ("veth1", "veth", Some("cni0"))]);
    let bridge = |name: &str| names(&PodDevices::Bridge(name.to_owned()).select(&devices), &devices);
    assert_eq!(bridge("cni0"), ["cni0", "veth1"]);
    assert!(bridge("cni1").is_empty(), "not there yet");
}

#[test]
fn pods_live_behind_devices_with_a_prefix() {
    let devices = node(&[("eth0", "", None), ("cali1", "veth", None), ("cali2", "veth", None)]);
    assert_eq!(names(&PodDevices::Prefix("cali".to_owned()).select(&devices), &devices), ["cali1", "cali2"]);
    assert!(PodDevices::None.select(&devices).is_empty());
}

/// What is linked to another network namespace without being one end of two, such as a tunnel, has no other end.
#[test]
fn peers_are_ends_of_virtual_ethernet_in_other_network_namespaces() {
    let devices = node(&[
        ("lo", "", None),
        ("eth0", "", None),
        ("cali1", "veth", None),
        ("veth2", "veth", None),
        ("vxlan3", "vxlan", None),
        ("cali4", "veth", None),
    ]);
    assert_eq!(names(&Peers::VirtualEthernet.select(&devices), &devices), ["cali1", "cali4"]);
    assert!(Peers::Nobody.select(&devices).is_empty());
}
