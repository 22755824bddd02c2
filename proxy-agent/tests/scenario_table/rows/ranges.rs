//! `loadBalancerSourceRanges`.

use super::{
    super::{
        cast::{
            A, B, BALANCER, C, CLUSTER_IP,
            Client::{Crowd, Node, OtherNode, Outside, Pod, Sandboxed},
            EXTERNAL_IP,
            Family::{V4, V6},
            NODE_PORT,
        },
        objects::{other, slice, web},
        row::{Row, dropped, reaches, refused, row, shut_out},
        rules::*,
    },
    EVERYONE,
};
use crate::objects;

/// The clients outside.
const CLIENTS: &[&str] = &["192.0.2.0/24", "2001:db8:2::/64"];
/// One of them.
const CLIENT: &[&str] = &["192.0.2.2/32", "2001:db8:2::2/128"];
/// All pods.
const PODS: &[&str] = &["10.1.0.0/16", "fd01::/16"];
/// The address that the node has towards load balancers.
const THE_NODE: &[&str] = &["192.0.4.1/32", "2001:db8:4::1/128"];
/// Everybody.
const ALL: &[&str] = &["0.0.0.0/0", "::/0"];

pub fn rows() -> Vec<Row> {
    let mut rows = guarded();
    rows.extend(elsewhere());
    rows.extend(off());
    rows.extend(order());
    rows.extend(changes());
    rows
}

fn guarded() -> Vec<Row> {
    vec![
        row("ranges let some clients in and drop the others", [SourceRanges])
            .given(objects![web().balancer().ranges(CLIENTS), slice([A, C])])
            .expect([Outside], BALANCER, reaches([A, C]).masqueraded())
            .expect([OtherNode, Sandboxed, Pod, Node], BALANCER, shut_out()),
        row("a range may be one address", [SourceRanges])
            .given(objects![web().balancer().ranges(CLIENT), slice([A])])
            .expect([Outside], BALANCER, reaches([A]).masqueraded())
            .expect([Crowd, OtherNode], BALANCER, shut_out()),
        row("pods need to be in the ranges too", [SourceRanges])
            .given(objects![web().balancer().ranges(PODS), slice([A, C])])
            .expect([Sandboxed, Pod], BALANCER, reaches([A, C]).masqueraded_by_packets())
            .expect([Outside, OtherNode, Node], BALANCER, shut_out()),
        row("the node needs to be in the ranges too", [SourceRanges])
            .given(objects![web().balancer().ranges(THE_NODE), slice([A, C])])
            .expect([Node], BALANCER, reaches([A, C]))
            .expect([Outside, OtherNode, Sandboxed, Pod], BALANCER, shut_out()),
        row("several ranges are united", [SourceRanges])
            .given(objects![
                web().balancer().ranges(&["192.0.2.2/32", "192.0.5.0/24", "2001:db8:2::2/128", "2001:db8:5::/64"]),
                slice([A]),
            ])
            .expect([Outside, OtherNode], BALANCER, reaches([A]).masqueraded())
            .expect([Sandboxed, Crowd], BALANCER, shut_out()),
        row("ranges guard under external policy Local too", [SourceRanges, ExternalLocal])
            .given(objects![web().balancer().external_local().ranges(CLIENTS), slice([A, C])])
            .expect([Outside], BALANCER, reaches([A]))
            .expect([OtherNode, Sandboxed], BALANCER, shut_out()),
        row("a range that holds the node lets it use a load balancer's address that is its own", [SourceRangesNode])
            .address(BALANCER)
            .given(objects![web().balancer().ranges(&["192.0.2.1/32", "2001:db8:2::1/128"]), slice([A, C]),])
            .expect([Node], BALANCER, reaches([A, C]))
            .expect([Outside, Sandboxed], BALANCER, shut_out()),
    ]
}

fn elsewhere() -> Vec<Row> {
    vec![
        row("ranges do not guard the clusterIP", [SourceRangesElsewhere])
            .given(objects![web().balancer().ranges(CLIENT), slice([A, C])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C])),
        row("ranges do not guard nodePorts", [SourceRangesElsewhere])
            .given(objects![web().balancer().ranges(CLIENT), slice([A, C])])
            .expect(EVERYONE, NODE_PORT, reaches([A, C]).masqueraded()),
        row("ranges do not guard external IPs", [SourceRangesElsewhere])
            .given(objects![web().balancer().external_ip().ranges(CLIENT), slice([A, C])])
            .expect(EVERYONE, EXTERNAL_IP, reaches([A, C]).masqueraded()),
        row("ranges of one Service do not guard another one", [SourceRangesElsewhere])
            .given(objects![
                web().balancer().ranges(CLIENT),
                slice([A]),
                other().balancer().ranges(PODS),
                slice([C]).of_other(),
            ])
            .expect([Outside], BALANCER, reaches([A]).masqueraded())
            .expect([Sandboxed], BALANCER, shut_out())
            .expect([Outside], BALANCER.of(1), shut_out())
            .expect([Sandboxed], BALANCER.of(1), reaches([C]).masqueraded()),
    ]
}

fn off() -> Vec<Row> {
    vec![
        row("a prefix of length zero guards nothing", [SourceRangesOff])
            .given(objects![web().balancer().ranges(ALL), slice([A, C])])
            .expect(EVERYONE, BALANCER, reaches([A, C]).masqueraded()),
        row("a prefix of length zero among others guards nothing", [SourceRangesOff])
            .given(objects![
                web().balancer().ranges(&["192.0.2.2/32", "0.0.0.0/0", "2001:db8:2::2/128", "::/0"]),
                slice([A, C]),
            ])
            .expect(EVERYONE, BALANCER, reaches([A, C]).masqueraded()),
        row("ranges of IPv4 only do not guard IPv6", [SourceRangesOff])
            .only(V6)
            .given(objects![web().balancer().ranges(&["192.0.2.2/32"]), slice([A, C])])
            .expect(EVERYONE, BALANCER, reaches([A, C]).masqueraded()),
        row("ranges of IPv4 only guard IPv4", [SourceRanges])
            .only(V4)
            .given(objects![web().balancer().ranges(&["192.0.2.2/32"]), slice([A, C])])
            .expect([Outside], BALANCER, reaches([A, C]).masqueraded())
            .expect([Sandboxed, OtherNode], BALANCER, shut_out()),
        row("without ranges nothing is guarded", [SourceRangesOff])
            .given(objects![web().balancer().ranges(&[]), slice([A, C])])
            .expect(EVERYONE, BALANCER, reaches([A, C]).masqueraded()),
    ]
}

fn order() -> Vec<Row> {
    vec![
        row("without endpoint those who are allowed are refused, and the others dropped", [SourceRangesFirst])
            .given(objects![web().balancer().ranges(CLIENTS)])
            .expect([Outside], BALANCER, refused())
            .expect([OtherNode, Sandboxed, Pod], BALANCER, shut_out()),
        row("without endpoint the node is refused where it is allowed", [SourceRangesFirst])
            .given(objects![web().balancer().ranges(THE_NODE)])
            .expect([Node], BALANCER, refused())
            .expect([Outside], BALANCER, shut_out()),
        row(
            "without local endpoint those who are allowed are dropped for that reason",
            [SourceRangesFirst, NothingLocal],
        )
        .given(objects![web().balancer().external_local().ranges(CLIENTS), slice([C])])
        .expect([Outside], BALANCER, dropped())
        .expect([OtherNode, Sandboxed], BALANCER, shut_out()),
    ]
}

fn changes() -> Vec<Row> {
    vec![
        row("ranges that change take effect", [SourceRanges, OthersUntouched])
            .given(objects![web().balancer().ranges(CLIENTS), slice([A, B])])
            .expect([Outside], BALANCER, reaches([A, B]).masqueraded())
            .expect([Sandboxed], BALANCER, shut_out())
            .given(objects![web().balancer().ranges(PODS)])
            .expect([Outside], BALANCER, shut_out())
            .expect([Sandboxed], BALANCER, reaches([A, B]).masqueraded()),
        row("ranges that come and go take effect", [SourceRanges])
            .given(objects![web().balancer(), slice([A])])
            .expect([Sandboxed], BALANCER, reaches([A]).masqueraded())
            .given(objects![web().balancer().ranges(CLIENTS)])
            .expect([Sandboxed], BALANCER, shut_out())
            .given(objects![web().balancer()])
            .expect([Sandboxed], BALANCER, reaches([A]).masqueraded()),
    ]
}
