//! Which objects count.

use proxy_common::Protocol::Tcp;
use serde_json::{Value, json};

use super::{
    super::{
        cast::{
            A, B, C, CLUSTER_IP,
            Client::{Outside, Pod},
            D, EXTERNAL_IP,
            Family::{V4, V6},
        },
        objects::{OTHER_TARGET, TARGET, empty_slice, endpoint, other, port, ready, slice, unready, web},
        row::{Row, dropped, evenly, passes, reaches, refused, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

pub fn rows() -> Vec<Row> {
    let mut rows = services();
    rows.extend(slices());
    rows.extend(ports());
    rows.extend(families());
    rows.extend(conditions());
    rows.extend(broken());
    rows
}

fn services() -> Vec<Row> {
    let left_alone = |name, service| {
        row(name, [ServicesForOthers]).given(objects![service, slice([A, C])]).expect(EVERYONE, CLUSTER_IP, passes())
    };
    vec![
        left_alone(
            "a Service of type ExternalName is left alone",
            web().spec(json!({ "type": "ExternalName", "externalName": "example.com" })),
        ),
        left_alone(
            "a headless Service is left alone",
            web().spec(json!({ "clusterIP": "None", "clusterIPs": ["None"] })),
        ),
        left_alone(
            "a Service without clusterIP is left alone",
            web().spec(json!({ "clusterIP": "", "clusterIPs": null })),
        ),
        left_alone(
            "a Service for another proxy is left alone",
            web().label("service.kubernetes.io/service-proxy-name", "somebody"),
        ),
        left_alone(
            "the name of the other proxy may be empty",
            web().label("service.kubernetes.io/service-proxy-name", ""),
        ),
        row("the label of headless slices means nothing on a Service", [ServicesForOthers])
            .given(objects![web().label("service.kubernetes.io/headless", ""), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a clusterIP alone is as good as a list of one", [ServicesForOthers, FamiliesOfService])
            .only(V4)
            .given(objects![web().spec(json!({ "clusterIPs": null })), slice([A, C])])
            .expect(SOME, CLUSTER_IP, reaches([A, C])),
    ]
}

fn slices() -> Vec<Row> {
    vec![
        row("slices of headless Services are left alone", [SlicesForOthers])
            .given(objects![web(), slice([A]).label("service.kubernetes.io/headless", "")])
            .expect(SOME, CLUSTER_IP, refused()),
        row("the label of Services for another proxy means nothing on a slice", [SlicesForOthers])
            .given(objects![
                web(),
                slice([A]).label("service.kubernetes.io/service-proxy-name", "somebody"),
                slice([B]).named("web-2"),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A, B])),
        row("slices with host names are left alone", [SlicesForOthers])
            .given(objects![
                web(),
                slice([ready(A).with(json!({ "addresses": ["example.com"] }))])
                    .named("web-2")
                    .patch(json!({ "addressType": "FQDN" })),
                slice([B]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([B])),
        row("slices without a Service are left alone", [SlicesForOthers])
            .given(objects![web(), slice([A]).patch(json!({ "metadata": { "labels": null } }))])
            .expect(SOME, CLUSTER_IP, refused()),
        row("slices of another Service do not count", [SlicesForOthers])
            .given(objects![web(), other(), slice([A]), slice([C]).of_other()])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .expect(SOME, CLUSTER_IP.of(1), reaches([C])),
        row("the slices of a Service are united", [SlicesAreUnited])
            .given(objects![web(), slice([A, B]), slice([C]).named("web-2"), slice([D]).named("web-3")])
            .expect(SOME, CLUSTER_IP, reaches([A, B, C, D])),
        row("an empty slice beside another one takes nothing away", [SlicesAreUnited])
            .given(objects![web(), slice([A]), empty_slice().named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("an endpoint in two slices counts once", [SlicesAreUnited, Uniform])
            .given(objects![web(), slice([A, B]), slice([A]).named("web-2"), slice([A]).named("web-3")])
            .expect(SOME, CLUSTER_IP, evenly([A, B])),
        row("an endpoint twice in a slice counts once", [SlicesAreUnited, Uniform])
            .given(objects![web(), slice([A, A, A, B])])
            .expect(SOME, CLUSTER_IP, evenly([A, B])),
        row("an endpoint that is ready in one of its slices is ready", [SlicesAreUnited, ReadyEndpoints])
            .given(objects![web(), slice([ready(A)]), slice([unready(A)]).named("web-2")])
            .expect(SOME, CLUSTER_IP, reaches([A])),
    ]
}

fn ports() -> Vec<Row> {
    vec![
        row("a slice's port of another name does not count", [PortsByName])
            .given(objects![web(), slice([A]).ports([port("strange", TARGET)])])
            .expect(SOME, CLUSTER_IP, refused()),
        row("a slice's port of another protocol does not count", [PortsByName])
            .protocols([Tcp])
            .given(objects![
                web(),
                slice([A]).patch(json!({ "ports": [{ "name": "main-tcp", "port": TARGET, "protocol": "UDP" }] })),
            ])
            .expect(SOME, CLUSTER_IP, refused()),
        row("each port has the endpoints of its name", [PortsByName])
            .given(objects![
                web().ports([port("main", 80), port("second", 81)]),
                slice([A]),
                slice([C]).named("web-2").ports([port("second", OTHER_TARGET)]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .expect(SOME, CLUSTER_IP.port(81), reaches([C]).at(OTHER_TARGET)),
        row("a slice may have both ports", [PortsByName])
            .given(objects![
                web().ports([port("main", 80), port("second", 81)]),
                slice([A, C]).ports([port("second", OTHER_TARGET), port("main", TARGET)]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A, C]))
            .expect(SOME, CLUSTER_IP.port(81), reaches([A, C]).at(OTHER_TARGET)),
        row("ports without names are joined", [PortsByName])
            .protocols([Tcp])
            .given(objects![
                web().spec(json!({ "ports": [{ "port": 80, "protocol": "TCP" }] })),
                slice([A]).patch(json!({ "ports": [{ "name": "", "port": TARGET, "protocol": "TCP" }] })),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a port without protocol is TCP", [PortsByName, Protocols])
            .protocols([Tcp])
            .given(objects![
                web().spec(json!({ "ports": [{ "name": "web", "port": 80 }] })),
                slice([A]).patch(json!({ "ports": [{ "name": "web", "port": TARGET }] })),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("the number is the slice's, not the Service's targetPort", [NumbersBySlice])
            .given(objects![web(), slice([A]).at(OTHER_TARGET)])
            .expect(SOME, CLUSTER_IP, reaches([A]).at(OTHER_TARGET)),
        row("slices have numbers of their own", [NumbersBySlice, SlicesAreUnited])
            .given(objects![web(), slice([A]), slice([C]).named("web-2").at(OTHER_TARGET)])
            .expect(SOME, CLUSTER_IP, reaches([A, C]).at_any_port()),
    ]
}

fn families() -> Vec<Row> {
    vec![
        row("a Service of IPv4 only does not serve IPv6", [FamiliesOfService])
            .only(V6)
            .given(objects![web().single_stack(V4), slice([A])])
            .expect(SOME, CLUSTER_IP, passes()),
        row("a Service of IPv4 only serves IPv4", [FamiliesOfService])
            .only(V4)
            .given(objects![web().single_stack(V4), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("a Service of IPv6 only serves IPv6", [FamiliesOfService])
            .only(V6)
            .given(objects![web().single_stack(V6), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("slices of the other family do not count", [FamiliesOfService])
            .only(V4)
            .given(objects![web(), slice([A]).only(V6)])
            .expect(SOME, CLUSTER_IP, refused()),
        row("each family has endpoints of its own", [FamiliesOfService])
            .only(V6)
            .given(objects![web(), slice([A]).only(V4), slice([C]).named("web-2").only(V6)])
            .expect(SOME, CLUSTER_IP, reaches([C])),
        row("external addresses of the other family do not count", [FamiliesOfService])
            .only(V6)
            .given(objects![web().single_stack(V4).external_ip(), slice([A])])
            .expect(SOME, EXTERNAL_IP, passes()),
    ]
}

fn conditions() -> Vec<Row> {
    vec![
        row("without conditions an endpoint is ready", [UnsetConditions])
            .given(objects![web(), slice([endpoint(A, Value::Null)])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("with empty conditions an endpoint is ready", [UnsetConditions])
            .given(objects![web(), slice([endpoint(A, json!({})), unready(B)])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("an endpoint that does not say so serves", [UnsetConditions, TerminatingEndpoints])
            .given(objects![web(), slice([endpoint(A, json!({ "ready": false, "terminating": true }))])])
            .expect(SOME, CLUSTER_IP, reaches([A])),
        row("an endpoint that does not say so does not terminate", [UnsetConditions, UnusableEndpoints])
            .given(objects![web(), slice([endpoint(A, json!({ "ready": false, "serving": true }))])])
            .expect(SOME, CLUSTER_IP, refused()),
        row("an endpoint without a node is not local", [LocalByNodeName])
            .given(objects![web().internal_local(), slice([ready(A).with(json!({ "nodeName": null }))])])
            .expect(SOME, CLUSTER_IP, dropped()),
        row("an endpoint of another node is not local, wherever its address is", [LocalByNodeName])
            .given(objects![web().internal_local(), slice([ready(A).with(json!({ "nodeName": "node-2" })), ready(B)])])
            .expect(SOME, CLUSTER_IP, reaches([B])),
    ]
}

fn broken() -> Vec<Row> {
    vec![
        row("a broken address of an endpoint is told, and the others are used", [BrokenParts])
            .only(V4)
            .given(objects![web(), slice([ready(A).with(json!({ "addresses": ["10.1.11"] })), ready(B)])])
            .expect(SOME, CLUSTER_IP, reaches([B]))
            .told("endpoints[0]"),
        row("a broken port of a Service is told, and the others are served", [BrokenParts])
            .protocols([Tcp])
            .given(objects![
                web().spec(json!({ "ports": [
                    { "name": "broken", "port": 0, "protocol": "TCP" },
                    { "name": "main-tcp", "port": 80, "protocol": "TCP" },
                ] })),
                slice([A]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .told("spec.ports[0].port"),
        row("a broken external address is told, and the clusterIP is served", [BrokenParts])
            .given(objects![web().spec(json!({ "externalIPs": ["nonsense"] })), slice([A])])
            .expect([Outside, Pod], CLUSTER_IP, reaches([A]))
            .told("spec.externalIPs[0]"),
        row("a broken source range is told", [BrokenParts])
            .given(objects![web().balancer().ranges(&["192.0.2.0/33"]), slice([A])])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .told("spec.loadBalancerSourceRanges[0]"),
        row("an unknown protocol is told, and the other ports are served", [BrokenParts])
            .protocols([Tcp])
            .given(objects![
                web().spec(json!({ "ports": [
                    { "name": "odd", "port": 81, "protocol": "QUIC" },
                    { "name": "main-tcp", "port": 80, "protocol": "TCP" },
                ] })),
                slice([A]),
            ])
            .expect(SOME, CLUSTER_IP, reaches([A]))
            .told("spec.ports[0].protocol"),
    ]
}
