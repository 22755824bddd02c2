//! Objects that change: what new connections find.

use serde_json::json;

use super::{
    super::{
        cast::{
            A, B, BALANCER, C, CLUSTER_IP,
            Client::{Outside, Sandboxed},
            D, EXTERNAL_IP, NODE_PORT,
        },
        objects::{OTHER_TARGET, TARGET, other, port, ready, slice, terminating, unready, web},
        row::{Row, dropped, passes, reaches, refused, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

pub fn rows() -> Vec<Row> {
    let mut rows = types();
    rows.extend(ports());
    rows.extend(objects_that_come_and_go());
    rows.extend(endpoints());
    rows
}

fn types() -> Vec<Row> {
    vec![
        row("a clusterIP becomes a nodePort", [TypeChanges])
            .given(objects![web(), slice([A])])
            .expect(SOME, NODE_PORT, passes())
            .given(objects![web().node_port()])
            .expect(EVERYONE, NODE_PORT, reaches([A]).masqueraded())
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a nodePort becomes a clusterIP", [TypeChanges])
            .given(objects![web().node_port(), slice([A])])
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded())
            .given(objects![web()])
            .expect(EVERYONE, NODE_PORT, passes())
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a nodePort becomes a load balancer and goes back", [TypeChanges])
            .given(objects![web().node_port(), slice([A])])
            .expect(SOME, BALANCER, passes())
            .given(objects![web().balancer()])
            .expect(SOME, BALANCER, reaches([A]).masqueraded())
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded())
            .given(objects![web().node_port()])
            .expect(SOME, BALANCER, passes())
            .expect(SOME, NODE_PORT, reaches([A]).masqueraded()),
        row("a load balancer becomes an ExternalName", [TypeChanges, ServicesForOthers])
            .given(objects![web().balancer(), slice([A])])
            .expect(SOME, BALANCER, reaches([A]).masqueraded())
            .given(objects![web().spec(json!({ "type": "ExternalName", "externalName": "example.com" }))])
            .expect(EVERYONE, BALANCER, passes())
            .expect(EVERYONE, NODE_PORT, passes())
            .expect(EVERYONE, CLUSTER_IP, passes()),
        row("an ExternalName becomes a clusterIP", [TypeChanges, ServicesForOthers])
            .given(objects![web().spec(json!({ "type": "ExternalName", "externalName": "example.com" })), slice([A])])
            .expect(SOME, CLUSTER_IP, passes())
            .given(objects![web()])
            .expect(EVERYONE, CLUSTER_IP, reaches([A])),
        row("an external IP comes and goes", [TypeChanges])
            .given(objects![web(), slice([A])])
            .expect(SOME, EXTERNAL_IP, passes())
            .given(objects![web().external_ip()])
            .expect(SOME, EXTERNAL_IP, reaches([A]).masqueraded())
            .given(objects![web()])
            .expect(SOME, EXTERNAL_IP, passes()),
        row("a load balancer's address that changes takes effect", [TypeChanges])
            .given(objects![web().balancer(), slice([A])])
            .expect(SOME, BALANCER, reaches([A]).masqueraded())
            .given(objects![web().balancer_of(1, "VIP")])
            .expect(SOME, BALANCER, passes())
            .expect(SOME, BALANCER.of(1), reaches([A]).masqueraded()),
        row("the internal policy changes to and fro", [InternalLocal])
            .given(objects![web(), slice([A, C])])
            .expect(SOME, CLUSTER_IP, reaches([A, C]))
            .given(objects![web().internal_local()])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![web()])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
        row("the external policy changes to and fro", [ExternalLocal, ExternalCluster])
            .given(objects![web().balancer(), slice([A, C])])
            .expect([Outside], BALANCER, reaches([A, C]).masqueraded())
            .given(objects![web().balancer().external_local()])
            .expect([Outside], BALANCER, reaches([A]))
            .expect([Outside], NODE_PORT, reaches([A]))
            .given(objects![web().balancer()])
            .expect([Outside], BALANCER, reaches([A, C]).masqueraded()),
    ]
}

fn ports() -> Vec<Row> {
    vec![
        row("a port that is added is served", [PortChanges])
            .given(objects![web(), slice([A]).ports([port("main", TARGET), port("second", OTHER_TARGET)])])
            .expect(SOME, CLUSTER_IP.port(81), passes())
            .given(objects![web().ports([port("main", 80), port("second", 81)])])
            .expect(SOME, CLUSTER_IP.port(81), reaches([A]).at(OTHER_TARGET))
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a port that is removed is left alone", [PortChanges, Bystanders])
            .given(objects![
                web().node_port().ports([port("main", 80), port("second", 81)]),
                slice([A]).ports([port("main", TARGET), port("second", OTHER_TARGET)]),
            ])
            .expect(SOME, CLUSTER_IP.port(81), reaches([A]).at(OTHER_TARGET))
            .given(objects![web().node_port()])
            .expect(SOME, CLUSTER_IP.port(81), passes())
            .expect(SOME, NODE_PORT.port(81), passes())
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a port that is renamed loses its endpoints until the slices follow", [PortChanges, PortsByName])
            .given(objects![web(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![web().ports([port("renamed", 80)])])
            .expect(SOME, CLUSTER_IP, refused())
            .given(objects![slice([A]).ports([port("renamed", TARGET)])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("ports that exchange their names exchange their endpoints", [PortChanges, PortsByName])
            .given(objects![
                web().ports([port("main", 80), port("second", 81)]),
                slice([A]),
                slice([C]).named("web-2").ports([port("second", TARGET)]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .expect(SOME, CLUSTER_IP.port(81), reaches([C]))
            .given(objects![web().ports([port("second", 80), port("main", 81)])])
            .expect(SOME, CLUSTER_IP, reaches([C]))
            .expect(SOME, CLUSTER_IP.port(81), reaches([A])),
        row("a port that changes its number is served there", [PortChanges])
            .given(objects![web(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![web().ports([port("main", 82)])])
            .expect(SOME, CLUSTER_IP, passes())
            .expect(SOME, CLUSTER_IP.port(82), reaches([A])),
        row("another target port takes effect", [PortChanges, NumbersBySlice])
            .given(objects![web(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![slice([A]).at(OTHER_TARGET)])
            .expect(SOME, CLUSTER_IP, reaches([A]).at(OTHER_TARGET)),
    ]
}

fn objects_that_come_and_go() -> Vec<Row> {
    const PROXY: &str = "service.kubernetes.io/service-proxy-name";
    vec![
        row("a Service that goes is left alone", [Bystanders])
            .given(objects![web().balancer(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .without(objects![web()])
            .expect(EVERYONE, CLUSTER_IP, passes())
            .expect(EVERYONE, BALANCER, passes())
            .expect(EVERYONE, NODE_PORT, passes()),
        row("a Service may come after its slices", [SlicesAreUnited])
            .given(objects![slice([A])])
            .expect(SOME, CLUSTER_IP, passes())
            .given(objects![web()])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a Service that comes back finds its slices", [SlicesAreUnited])
            .given(objects![web(), slice([A])])
            .without(objects![web()])
            .expect(SOME, CLUSTER_IP, passes())
            .given(objects![web()])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a slice that goes takes its endpoints along", [SlicesAreUnited])
            .given(objects![web(), slice([A]), slice([C]).named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([A, C]))
            .without(objects![slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([C]))
            .without(objects![slice([C]).named("web-2")])
            .expect(SOME, CLUSTER_IP, refused()),
        row("a slice may move to another Service", [SlicesForOthers, SlicesAreUnited])
            .given(objects![web(), other(), slice([A]), slice([C]).of_other()])
            .given(objects![
                slice([A]).patch(json!({ "metadata": { "labels": { "kubernetes.io/service-name": "other" } } }))
            ])
            .expect(SOME, CLUSTER_IP, refused())
            .expect(SOME, CLUSTER_IP.of(1), reaches([A, C]).at_any_port()),
        row("the label for another proxy comes and goes", [ServicesForOthers])
            .given(objects![web(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![web().label(PROXY, "somebody")])
            .expect(SOME, CLUSTER_IP, passes())
            .given(objects![web()])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("the label for headless Services comes and goes on a slice", [SlicesForOthers])
            .given(objects![web(), slice([A])])
            .given(objects![slice([A]).label("service.kubernetes.io/headless", "")])
            .expect(SOME, CLUSTER_IP, refused())
            .given(objects![slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("what changes for one Service changes nothing for another one", [OthersUntouched])
            .given(objects![web().balancer(), slice([A]), other().balancer(), slice([B, C]).of_other()])
            .expect(SOME, CLUSTER_IP.of(1), reaches([B, C]))
            .given(objects![web().ports([port("main", 83)]), slice([D])])
            .expect(SOME, CLUSTER_IP.of(1), reaches([B, C]))
            .expect(SOME, BALANCER.of(1), reaches([B, C]).masqueraded())
            .without(objects![web(), slice([D])])
            .expect(SOME, CLUSTER_IP.of(1), reaches([B, C]))
            .expect(SOME, NODE_PORT.of(1), reaches([B, C]).masqueraded()),
        row("a restart of the agent changes nothing", [FlowRestart])
            .given(objects![web().balancer().internal_local(), slice([A, C]), other()])
            .restart()
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .expect(SOME, BALANCER, reaches([A, C]).masqueraded())
            .expect(SOME, CLUSTER_IP.of(1), refused()),
    ]
}

fn endpoints() -> Vec<Row> {
    vec![
        row("endpoints come and go", [ReadyEndpoints, NothingUsable])
            .given(objects![web(), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![slice([A, B, C, D])])
            .expect(SOME, CLUSTER_IP, reaches([A, B, C, D]))
            .given(objects![slice([D])])
            .expect(SOME, CLUSTER_IP, reaches([D]))
            .given(objects![super::super::objects::empty_slice()])
            .expect(SOME, CLUSTER_IP, refused())
            .given(objects![slice([B])])
            .expect(SOME, CLUSTER_IP, reaches([B])),
        row("an endpoint becomes ready, terminates and ends", [ReadyEndpoints, TerminatingEndpoints])
            .given(objects![web(), slice([unready(A)])])
            .expect(SOME, CLUSTER_IP, refused())
            .given(objects![slice([ready(A)])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![slice([terminating(A)])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![slice([terminating(A), ready(C)])])
            .expect(SOME, CLUSTER_IP, reaches([C]))
            .given(objects![slice([C])])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("the last local endpoint goes, and one comes back", [NothingLocal, LocalEndpoints])
            .given(objects![web().internal_local(), slice([A, C])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .given(objects![slice([C])])
            .expect(SOME, CLUSTER_IP, dropped())
            .given(objects![slice([B, C])])
            .expect(SOME, CLUSTER_IP, reaches([B])),
        row("a rollout has endpoints at each moment", [TerminatingEndpoints, ExternalLocal])
            .given(objects![web().balancer().external_local(), slice([ready(A)])])
            .expect([Outside], BALANCER, reaches([A]))
            .given(objects![slice([terminating(A), unready(B)])])
            .expect([Outside], BALANCER, reaches([A]))
            .given(objects![slice([terminating(A), ready(B)])])
            .expect([Outside], BALANCER, reaches([B]))
            .expect([Outside, Sandboxed], CLUSTER_IP, reaches([B])),
    ]
}
