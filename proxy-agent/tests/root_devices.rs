//! Devices as rtnetlink reports them, in namespaces of their own. Needs root.

mod support;

use std::time::{Duration, Instant};

use proxy_agent::dataplane::devices::{Devices, LinkLayer, PodDevices, Selection, Watcher};
use support::{Netns, patience, prompt};

fn index(devices: &Devices, name: &str) -> Option<u32> {
    devices.iter().find(|(_, device)| device.name == name).map(|(&index, _)| index)
}

/// Waits until the watcher's devices are as wanted, and returns how long that took.
async fn until(watcher: &mut Watcher, what: &str, wanted: impl Fn(&Devices) -> bool) -> Duration {
    let start = Instant::now();
    while !wanted(watcher.devices()) {
        let changed = tokio::time::timeout(patience(), watcher.changed()).await;
        changed.unwrap_or_else(|_| panic!("not reported: {what}")).expect("the watcher works");
    }
    start.elapsed()
}

#[test]
fn existing_devices_are_listed_with_kind_master_and_link_layer() {
    let (namespace, other) = (Netns::new(), Netns::new());
    namespace.ip("link add br0 type bridge");
    namespace.veth("veth1", &other, "eth0");
    namespace.ip("link set veth1 master br0");
    namespace.ip("tuntap add dev tun0 mode tun");
    let devices = namespace.block_on(async || Watcher::start().await.expect("starts").devices().clone());

    let device = |name: &str| &devices[&index(&devices, name).unwrap_or_else(|| panic!("{name} is listed"))];
    assert_eq!(device("lo").link_layer, LinkLayer::Loopback);
    assert_eq!(device("br0").kind.as_deref(), Some("bridge"));
    assert_eq!(device("veth1").kind.as_deref(), Some("veth"));
    assert_eq!(device("veth1").master, index(&devices, "br0"));
    assert_eq!(device("veth1").link_layer, LinkLayer::Ethernet);
    assert_eq!((device("tun0").kind.as_deref(), device("tun0").link_layer), (Some("tun"), LinkLayer::Ip));

    let selected = Selection::Automatic.select(&devices);
    let expected = ["veth1", "tun0"].map(|name| index(&devices, name).expect("is listed"));
    assert_eq!(selected, expected.into());
}

#[test]
fn devices_that_come_later_change_and_go_are_reported_promptly() {
    let (namespace, other) = (Netns::new(), Netns::new());
    namespace.ip("link add br0 type bridge");
    let times = namespace.block_on(async || {
        let mut watcher = Watcher::start().await.expect("starts");
        let mut times = Vec::new();
        namespace.veth("veth1", &other, "eth0");
        times.push(until(&mut watcher, "a new device", |devices| index(devices, "veth1").is_some()).await);

        namespace.ip("link set veth1 master br0");
        let bridge = index(watcher.devices(), "br0");
        let enslaved =
            |devices: &Devices| devices.values().any(|device| device.master.is_some() && device.master == bridge);
        times.push(until(&mut watcher, "a new port", enslaved).await);
        assert_eq!(PodDevices::Bridge("br0".to_owned()).select(watcher.devices()).len(), 2);

        namespace.ip("link set veth1 nomaster");
        times.push(until(&mut watcher, "a port leaves", |devices| !enslaved(devices)).await);
        assert!(index(watcher.devices(), "veth1").is_some(), "it left the bridge, not the namespace");

        namespace.ip("link set veth1 down");
        namespace.ip("link set veth1 name cali1");
        times.push(until(&mut watcher, "a new name", |devices| index(devices, "cali1").is_some()).await);
        assert_eq!(index(watcher.devices(), "veth1"), None);

        namespace.ip("link del cali1");
        times.push(until(&mut watcher, "a device goes", |devices| index(devices, "cali1").is_none()).await);
        times
    });
    assert!(times.iter().all(|time| *time < prompt()), "{times:?}");
}

#[test]
fn a_device_that_moves_to_another_namespace_is_gone() {
    let (namespace, other) = (Netns::new(), Netns::new());
    namespace.veth("veth1", &other, "eth0");
    namespace.block_on(async || {
        let mut watcher = Watcher::start().await.expect("starts");
        assert!(index(watcher.devices(), "veth1").is_some());
        namespace.ip(&format!("link set veth1 netns {}", other.name()));
        until(&mut watcher, "a device moves away", |devices| index(devices, "veth1").is_none()).await;
    });
}

#[test]
fn many_devices_at_once_are_all_seen() {
    let namespace = Netns::new();
    namespace.block_on(async || {
        let mut watcher = Watcher::start().await.expect("starts");
        for number in 0..50 {
            namespace.ip(&format!("link add a{number} type veth peer name b{number}"));
        }
        until(&mut watcher, "100 devices", |devices| devices.len() == 101).await;
    });
}
