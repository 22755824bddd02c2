//! Services, and what their clients see.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{
    client::Place,
    manifests,
    peer::{Sight, Task},
    stage::{Family, NODE, Pod, Stage},
};

/// Port of every Service.
const PORT: u16 = 80;

/// One of the Services here. Each has its clusterIPs and a nodePort.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    name: &'static str,
    number: u8,
    policy: &'static str,
}

/// Policy Cluster.
pub const WEB: Service = Service { name: "web", number: 10, policy: "Cluster" };
/// Policy Local.
pub const HERE: Service = Service { name: "here", number: 11, policy: "Local" };
/// Its only endpoint is the sandboxed pod, which is also a client.
pub const SELF: Service = Service { name: "self", number: 12, policy: "Cluster" };

impl Service {
    pub fn cluster_ip(self, family: Family) -> SocketAddr {
        let ip = match family {
            Family::V4 => IpAddr::from([10, 96, 0, self.number]),
            Family::V6 => address(&format!("fd96::{:x}", self.number)),
        };
        SocketAddr::new(ip, PORT)
    }

    pub fn node_port(self, family: Family) -> SocketAddr {
        SocketAddr::new(node_ip(family), 30_000 + u16::from(self.number))
    }

    /// Writes the Service with these endpoints.
    pub fn write(self, stage: &Stage, endpoints: &[(SocketAddr, &str)]) {
        let port = |name, protocol| {
            let node_port = self.node_port(Family::V4).port();
            json!({ "name": name, "port": PORT, "nodePort": node_port, "protocol": protocol })
        };
        let ports = [port("main", "TCP"), port("main-udp", "UDP")];
        let spec: Value = json!({ "type": "NodePort", "externalTrafficPolicy": self.policy, "ports": ports });
        let ips = Family::ALL.map(|family| self.cluster_ip(family).ip());
        let mut objects = vec![manifests::service(self.name, &ips, PORT, &spec)];
        for is_v4 in [true, false] {
            let of_family: Vec<_> =
                endpoints.iter().filter(|(address, _)| address.is_ipv4() == is_v4).copied().collect();
            objects.push(manifests::slice(self.name, &of_family));
        }
        stage.write(self.name, &objects);
    }

    /// Writes the Service with a pod of this node as its endpoint.
    pub fn write_for(self, stage: &Stage, pod: &Pod) {
        self.write(stage, &Family::ALL.map(|family| (pod.endpoint(family), NODE)));
    }
}

/// The node's address on the link to the client outside.
pub fn node_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => address("192.0.2.1"),
        Family::V6 => address("2001:db8::1"),
    }
}

pub fn outside_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => address("192.0.2.2"),
        Family::V6 => address("2001:db8::2"),
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("a well-formed address")
}

/// Asserts that a client is answered by `to`, over TCP and UDP, and is seen as `source` there.
#[track_caller]
pub fn assert_seen(place: &Place<'_>, to: SocketAddr, source: IpAddr, what: &str) {
    for task in [Task::Tcp { to, count: 1 }, Task::UdpSockets { to, count: 1 }] {
        let sights = place.run(&task);
        let [Sight::Answer { seen, from, .. }] = &sights[..] else { panic!("{what}: {task:?}: {sights:?}") };
        assert_eq!((seen.ip(), *from), (source, to), "{what}: {task:?}");
    }
}
