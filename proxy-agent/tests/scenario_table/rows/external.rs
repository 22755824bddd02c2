//! External IPs, load balancers' addresses and nodePorts under both external policies.

use serde_json::json;

use super::{
    super::{
        cast::{
            A, B, BALANCER, C, CLUSTER_IP,
            Client::{From, Node, OtherNode, Outside, Pod, Sandboxed},
            D, EXTERNAL_IP, NODE_PORT, To,
        },
        objects::{Object, Service, other, port, slice, web},
        row::{Row, Setting, dropped, passes, reaches, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

pub fn rows() -> Vec<Row> {
    let mut rows = policy_cluster();
    rows.extend(policy_local());
    rows.extend(origins());
    rows.extend(balancers());
    rows.extend(shared());
    rows
}

/// The frontends for the outside, each with a sentence about it under two policies.
const FRONTENDS: [(To, &str, &str, &str); 3] = [
    (
        EXTERNAL_IP,
        "an external IP leads everybody to every endpoint, masqueraded",
        "under policy Local an external IP keeps clients outside and their addresses on this node",
        "under policy Local an external IP drops where no endpoint is here",
    ),
    (
        BALANCER,
        "a load balancer's address leads everybody to every endpoint, masqueraded",
        "under policy Local a load balancer's address keeps clients outside and their addresses on this node",
        "under policy Local a load balancer's address drops where no endpoint is here",
    ),
    (
        NODE_PORT,
        "a nodePort leads everybody to every endpoint, masqueraded",
        "under policy Local a nodePort keeps clients outside and their addresses on this node",
        "under policy Local a nodePort drops where no endpoint is here",
    ),
];

/// A Service with all three.
fn exposed() -> Service {
    web().balancer().external_ip()
}

fn local(pods: impl IntoIterator<Item = super::super::cast::Pod>) -> [Object; 2] {
    objects![exposed().external_local(), slice(pods)]
}

fn policy_cluster() -> Vec<Row> {
    let mut rows: Vec<Row> = FRONTENDS
        .iter()
        .map(|&(to, name, ..)| {
            row(name, [ExternalCluster]).given(objects![exposed(), slice([A, B, C, D])]).expect(
                EVERYONE,
                to,
                reaches([A, B, C, D]).masqueraded(),
            )
        })
        .collect();
    rows.extend([
        row("under policy Cluster pods are masqueraded too", [ExternalCluster])
            .with(Setting::ClusterCidr)
            .given(objects![exposed(), slice([A, C])])
            .expect([Sandboxed, From(B), From(D)], EXTERNAL_IP, reaches([A, C]).masqueraded())
            .expect([Sandboxed, From(B), From(D)], NODE_PORT, reaches([A, C]).masqueraded()),
        row("a Service of type ClusterIP may have external IPs", [ExternalCluster])
            .given(objects![web().external_ip(), slice([A, C])])
            .expect(SOME, EXTERNAL_IP, reaches([A, C]).masqueraded())
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("a Service may have several external IPs", [ExternalCluster])
            .given(objects![web().external_ip().external_ip_of(1), slice([A])])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .expect(SOME, EXTERNAL_IP.of(1), reaches([A]).masqueraded()),
        row("other ports of an external IP are left alone", [Bystanders])
            .given(objects![exposed(), slice([A])])
            .expect(EVERYONE, EXTERNAL_IP.port(81), passes())
            .expect(EVERYONE, BALANCER.port(81), passes()),
    ]);
    rows
}

fn policy_local() -> Vec<Row> {
    let mut rows: Vec<Row> = FRONTENDS
        .iter()
        .flat_map(|&(to, _, kept, nothing)| {
            [
                row(kept, [ExternalLocal]).given(local([A, B, C, D])).expect([Outside, OtherNode], to, reaches([A, B])),
                row(nothing, [ExternalLocal, NothingLocal]).given(local([C, D])).expect(
                    [Outside, OtherNode],
                    to,
                    dropped(),
                ),
            ]
        })
        .collect();
    rows.extend([
        row("external policy Local does not concern the clusterIP", [ExternalLocal, ClusterIp])
            .given(local([A, C]))
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C])),
        row("both policies may be Local", [ExternalLocal, InternalLocal])
            .given(objects![exposed().external_local().internal_local(), slice([A, C])])
            .expect([Outside], BALANCER, reaches([A]))
            .expect([Outside, Sandboxed], CLUSTER_IP, reaches([A])),
        row(
            "under external policy Local masqueradeAll does not concern clients outside",
            [ExternalLocal, MasqueradeAll],
        )
        .with(Setting::MasqueradeAll)
        .given(local([A, C]))
        .expect([Outside], BALANCER, reaches([A]))
        .expect([Outside], NODE_PORT, reaches([A])),
    ]);
    rows
}

fn origins() -> Vec<Row> {
    vec![
        row("under external policy Local pods reach all endpoints with their own address", [ExternalLocalPods])
            .with(Setting::ClusterCidr)
            .given(local([A, C]))
            .expect([Sandboxed, Pod, From(D)], EXTERNAL_IP, reaches([A, C]))
            .expect([Sandboxed, Pod, From(D)], BALANCER, reaches([A, C]))
            .expect([Sandboxed, Pod, From(D)], NODE_PORT, reaches([A, C]))
            .expect([Outside], BALANCER, reaches([A])),
        row("pods reach endpoints elsewhere where clients outside are dropped", [ExternalLocalPods, NothingLocal])
            .with(Setting::ClusterCidr)
            .given(local([C, D]))
            .expect([Sandboxed, Pod], BALANCER, reaches([C, D]))
            .expect([Outside, OtherNode], BALANCER, dropped()),
        row("by devices, pods of this node only are pods", [ExternalLocalPods])
            .with(Setting::PodDevices)
            .given(local([A, C]))
            .expect([Sandboxed, Pod, From(B)], BALANCER, reaches([A, C]))
            .expect([From(D), Outside], BALANCER, reaches([A])),
        row("by the Node's prefix, pods of this node only are pods", [ExternalLocalPods])
            .with(Setting::NodeCidr)
            .given(local([A, C]))
            .expect([Sandboxed, Pod, From(B)], NODE_PORT, reaches([A, C]))
            .expect([From(D), Outside], NODE_PORT, reaches([A])),
        row("under external policy Local the node reaches all endpoints", [ExternalLocalNode])
            .given(local([A, C]))
            .expect([Node], EXTERNAL_IP, reaches([A, C]))
            .expect([Node], BALANCER, reaches([A, C]))
            .expect([Node], NODE_PORT, reaches([A, C])),
        row("the node reaches endpoints elsewhere where clients outside are dropped", [ExternalLocalNode])
            .given(local([C]))
            .expect([Node], BALANCER, reaches([C]))
            .expect([Node], NODE_PORT, reaches([C]))
            .expect([Outside], NODE_PORT, dropped()),
        row("without a detector pods are held to endpoints of this node", [PodsWithoutDetector])
            .given(local([A, C]))
            .expect([Sandboxed, Pod, From(D)], BALANCER, reaches([A]))
            .expect([Sandboxed, Pod, From(D)], NODE_PORT, reaches([A])),
        row("without a detector pods are dropped where no endpoint is here", [PodsWithoutDetector, NothingLocal])
            .given(local([C]))
            .expect([Sandboxed, Pod], EXTERNAL_IP, dropped())
            .expect([Sandboxed, Pod], NODE_PORT, dropped()),
        row("an endpoint that reaches itself is masqueraded under external policy Local", [Hairpin, ExternalLocal])
            .given(local([A, C]))
            .expect([From(A)], BALANCER, reaches([A]).masqueraded_if_itself())
            .expect([From(A)], NODE_PORT, reaches([A]).masqueraded_if_itself()),
    ]
}

fn balancers() -> Vec<Row> {
    vec![
        row("a load balancer that is a proxy itself is left alone", [IpModeProxy])
            .given(objects![web().balancer_of(0, "Proxy"), slice([A])])
            .expect(EVERYONE, BALANCER, passes())
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded()),
        row("ipMode VIP is served", [IpModeProxy]).given(objects![web().balancer_of(0, "VIP"), slice([A])]).expect(
            SOME,
            BALANCER,
            reaches([A]).masqueraded(),
        ),
        row("one Service may have addresses of both modes", [IpModeProxy])
            .given(objects![web().balancer_of(0, "Proxy").balancer_of(1, "VIP"), slice([A])])
            .expect(SOME, BALANCER, passes())
            .expect(SOME, BALANCER.of(1), reaches([A]).masqueraded()),
        row("a load balancer known by a host name only is left alone", [Bystanders])
            .given(objects![
                web().balancer().patch(json!({ "status": { "loadBalancer": { "ingress": [{ "hostname": "x" }] } } })),
                slice([A]),
            ])
            .expect(SOME, BALANCER, passes())
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded()),
        row("a load balancer without nodePorts works", [NoNodePorts])
            .given(objects![web().balancer().without_node_ports().external_ip(), slice([A, C])])
            .expect(EVERYONE, BALANCER, reaches([A, C]).masqueraded())
            .expect(SOME, EXTERNAL_IP, reaches([A, C]).masqueraded())
            .expect(SOME, NODE_PORT, passes()),
        row("a load balancer's address counts for type LoadBalancer only", [TypeChanges, Bystanders])
            .given(objects![web().balancer().spec(json!({ "type": "NodePort" })), slice([A])])
            .expect(SOME, BALANCER, passes())
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded()),
    ]
}

fn shared() -> Vec<Row> {
    vec![
        row("Services may share an external IP with different ports", [SharedAddress])
            .given(objects![
                web().external_ip(),
                slice([A]),
                other().external_ip_of(0).ports([port("main", 81)]),
                slice([C]).of_other(),
            ])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .expect(SOME, EXTERNAL_IP.port(81), reaches([C]).masqueraded()),
        row("Services may share a load balancer's address with different ports", [SharedAddress])
            .given(objects![
                web().balancer(),
                slice([A]),
                other().balancer_of(0, "VIP").ports([port("main", 81)]),
                slice([C]).of_other(),
            ])
            .expect(SOME, BALANCER, reaches([A]).masqueraded())
            .expect(SOME, BALANCER.port(81), reaches([C]).masqueraded()),
        row("of two Services that claim an address and port, the oldest wins", [OldestWins])
            .given(objects![
                web().external_ip().created(2023),
                slice([A]),
                other().external_ip_of(0),
                slice([C]).of_other(),
            ])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .expect(SOME, CLUSTER_IP.of(1), reaches([C]))
            .told("belongs to the older Service"),
        row("the oldest wins, whichever comes first", [OldestWins])
            .given(objects![web().external_ip(), slice([A])])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .given(objects![other().external_ip_of(0).created(2022), slice([C]).of_other()])
            .expect(SOME, EXTERNAL_IP, reaches([C]).masqueraded())
            .told("belongs to the older Service"),
        row("when the oldest goes, the next one takes over", [OldestWins])
            .given(objects![
                web().external_ip().created(2023),
                slice([A]),
                other().external_ip_of(0),
                slice([C]).of_other(),
            ])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .without(objects![web()])
            .expect(SOME, EXTERNAL_IP, reaches([C]).masqueraded()),
    ]
}
