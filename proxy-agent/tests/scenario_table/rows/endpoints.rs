//! Which endpoints are used.

use serde_json::json;

use super::{
    super::{
        cast::{A, B, BALANCER, C, CLUSTER_IP, Client::Outside, D, EXTERNAL_IP, NODE, NODE_PORT, OTHER_NODE, ZONE},
        objects::{empty_slice, ending, ready, slice, terminating, unready, web},
        row::{Row, dropped, reaches, refused, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

/// A zone in which the node is not.
const ELSEWHERE: &str = "zone-b";

pub fn rows() -> Vec<Row> {
    let mut rows = states();
    rows.extend(local());
    rows.extend(nobody());
    rows.extend(zones());
    rows.extend(nodes());
    rows
}

fn states() -> Vec<Row> {
    vec![
        row("ready endpoints come before those that terminate", [ReadyEndpoints, TerminatingEndpoints])
            .given(objects![web(), slice([ready(A), terminating(B), ready(C), terminating(D)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C])),
        row("where none is ready, those that terminate are used", [TerminatingEndpoints])
            .given(objects![web(), slice([terminating(A), terminating(C), unready(B)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C])),
        row("one that terminates and serves no more is not used", [TerminatingEndpoints])
            .given(objects![web(), slice([ending(A), terminating(C)])])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("where all serve no more, the client is refused", [TerminatingEndpoints, NothingUsable])
            .given(objects![web(), slice([ending(A), ending(C)])])
            .expect(SOME, CLUSTER_IP, refused()),
        row("an endpoint that is not ready is not used", [ReadyEndpoints, UnusableEndpoints])
            .given(objects![web(), slice([ready(A), unready(B), unready(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("where none is ready and none terminates, the client is refused", [UnusableEndpoints, NothingUsable])
            .given(objects![web(), slice([unready(A), unready(C)])])
            .expect(SOME, CLUSTER_IP, refused()),
        row("publishNotReadyAddresses is the slices' business", [UnusableEndpoints])
            .given(objects![web().spec(json!({ "publishNotReadyAddresses": true })), slice([unready(A), ready(C)])])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("the state of endpoints in other slices counts too", [TerminatingEndpoints, SlicesAreUnited])
            .given(objects![web(), slice([terminating(A)]), slice([ready(C)]).named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([C])),
    ]
}

fn local() -> Vec<Row> {
    vec![
        row("policy Local uses ready endpoints of this node", [LocalEndpoints])
            .given(objects![web().internal_local(), slice([ready(A), terminating(B), ready(C)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A])),
        row("policy Local falls back to what terminates here, though others are ready elsewhere", [LocalTerminating])
            .given(objects![web().internal_local(), slice([terminating(A), ready(C), ready(D)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A])),
        row("policy Cluster does not, for the same endpoints", [TerminatingEndpoints])
            .given(objects![web(), slice([terminating(A), ready(C), ready(D)])])
            .expect(SOME, CLUSTER_IP, reaches([C, D])),
        row("under policy Local an unready endpoint here is as good as none", [LocalEndpoints, NothingLocal])
            .given(objects![web().internal_local(), slice([unready(A), ready(C)])])
            .expect(SOME, CLUSTER_IP, dropped()),
        row(
            "under policy Local an endpoint here that serves no more is as good as none",
            [LocalTerminating, NothingLocal],
        )
        .given(objects![web().internal_local(), slice([ending(A), ready(C)])])
        .expect(SOME, CLUSTER_IP, dropped()),
        row("what terminates elsewhere is something usable too", [NothingLocal, TerminatingEndpoints])
            .given(objects![web().internal_local(), slice([terminating(C)])])
            .expect(SOME, CLUSTER_IP, dropped()),
        row("the external policy falls back to what terminates here", [LocalTerminating, ExternalLocal])
            .given(objects![web().balancer().external_local().external_ip(), slice([terminating(A), ready(C)])])
            .expect([Outside], BALANCER, reaches([A]))
            .expect([Outside], EXTERNAL_IP, reaches([A]))
            .expect([Outside], NODE_PORT, reaches([A])),
    ]
}

fn nobody() -> Vec<Row> {
    vec![
        row("a Service without slices refuses", [NothingUsable]).given(objects![web()]).expect(
            EVERYONE,
            CLUSTER_IP,
            refused(),
        ),
        row("a Service with an empty slice refuses", [NothingUsable]).given(objects![web(), empty_slice()]).expect(
            EVERYONE,
            CLUSTER_IP,
            refused(),
        ),
        row("external addresses refuse too", [NothingUsable])
            .given(objects![web().balancer().external_ip()])
            .expect(EVERYONE, EXTERNAL_IP, refused())
            .expect(EVERYONE, BALANCER, refused())
            .expect(EVERYONE, NODE_PORT, refused()),
        row("policy Local without any endpoint refuses", [NothingUsable, LocalEndpoints])
            .given(objects![web().internal_local().external_local().balancer()])
            .expect(EVERYONE, CLUSTER_IP, refused())
            .expect(EVERYONE, BALANCER, refused()),
        row("policy Local with endpoints elsewhere only drops", [NothingLocal])
            .given(objects![web().internal_local(), slice([C, D])])
            .expect(EVERYONE, CLUSTER_IP, dropped()),
        row("external policy Local with endpoints elsewhere only drops", [NothingLocal, ExternalLocal])
            .given(objects![web().balancer().external_local().external_ip(), slice([C, D])])
            .expect([Outside], BALANCER, dropped())
            .expect([Outside], EXTERNAL_IP, dropped())
            .expect([Outside], NODE_PORT, dropped())
            .expect([Outside], CLUSTER_IP, reaches([C, D])),
    ]
}

fn zones() -> Vec<Row> {
    let here = |pod| ready(pod).for_zones(&[ZONE]);
    let there = |pod| ready(pod).for_zones(&[ELSEWHERE]);
    vec![
        row("hints for the node's zone apply", [ZoneHints])
            .given(objects![web(), slice([here(A), here(C), there(B), there(D)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C])),
        row("an endpoint may be for several zones", [ZoneHints])
            .given(objects![web(), slice([ready(A).for_zones(&[ELSEWHERE, ZONE]), there(B), here(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("one endpoint without a hint, and no hint applies", [IncompleteHints])
            .given(objects![web(), slice([here(A), there(C), ready(D)])])
            .expect(SOME, CLUSTER_IP, reaches([A, C, D])),
        row("no endpoint for the node's zone, and no hint applies", [IncompleteHints])
            .given(objects![web(), slice([there(A), there(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("an endpoint that is not ready needs no hint", [ZoneHints])
            .given(objects![web(), slice([here(A), there(C), terminating(B), unready(D)])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a hint for an endpoint that is not ready is none for the zone", [IncompleteHints])
            .given(objects![web(), slice([there(A), unready(C).for_zones(&[ZONE])])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("hints do not apply to endpoints that terminate", [TerminatingEndpoints, IncompleteHints])
            .given(objects![web(), slice([terminating(A).for_zones(&[ELSEWHERE]), terminating(C).for_zones(&[ZONE])]),])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("hints apply over all slices together", [ZoneHints, SlicesAreUnited])
            .given(objects![web(), slice([here(A), there(B)]), slice([there(C)]).named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("one slice without hints, and no hint applies", [IncompleteHints, SlicesAreUnited])
            .given(objects![web(), slice([here(A), there(B)]), slice([C]).named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([A, B, C])),
        row("policy Local does not look at hints", [LocalIgnoresHints])
            .given(objects![web().internal_local(), slice([there(A), there(B), here(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A, B])),
        row("hints apply to external addresses under policy Cluster", [ZoneHints, ExternalCluster])
            .given(objects![web().external_ip(), slice([here(A), there(C)])])
            .expect([Outside], EXTERNAL_IP, reaches([A]).masqueraded()),
        row("hints follow the zone of the node", [ZoneHints])
            .given(objects![web(), slice([here(A), there(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .zone(ELSEWHERE)
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("trafficDistribution without hints changes nothing", [IncompleteHints])
            .given(objects![web().spec(json!({ "trafficDistribution": "PreferSameNode" })), slice([A, C])])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
    ]
}

fn nodes() -> Vec<Row> {
    let here = |pod| ready(pod).for_nodes(&[NODE]);
    let there = |pod| ready(pod).for_nodes(&[OTHER_NODE]);
    vec![
        row("hints for the node apply", [NodeHints])
            .given(objects![web(), slice([here(A), there(B), there(C), here(D)])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, D])),
        row("hints for nodes come before hints for zones", [NodeHints])
            .given(objects![web(), slice([here(A).for_zones(&[ELSEWHERE]), there(C).for_zones(&[ZONE])])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("where hints for nodes are incomplete, hints for zones apply", [ZoneHints])
            .given(objects![web(), slice([here(A).for_zones(&[ELSEWHERE]), ready(C).for_zones(&[ZONE])])])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("where no hint is for the node, hints for zones apply", [ZoneHints])
            .given(objects![web(), slice([there(A).for_zones(&[ELSEWHERE]), there(C).for_zones(&[ZONE])])])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("where neither apply, all ready endpoints are used", [IncompleteHints])
            .given(objects![web(), slice([there(A), there(C).for_zones(&[ZONE])])])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("policy Local does not look at hints for nodes", [LocalIgnoresHints])
            .given(objects![web().internal_local(), slice([there(A), here(B), here(C)])])
            .expect(SOME, CLUSTER_IP, reaches([A, B])),
    ]
}
