//! Connections that are there when something changes.

use proxy_common::Protocol::{Tcp, Udp};

use super::{
    super::{
        cast::{
            A, B, BALANCER, C, CLUSTER_IP,
            Client::{self, From, Node, Outside, Pod, Sandboxed},
            D, NODE_PORT, To,
        },
        objects::{OTHER_TARGET, TARGET, empty_slice, ending, other, port, ready, slice, terminating, web},
        row::{Row, Setting, reaches, refused, row},
        rules::*,
    },
    SOME,
};
use crate::objects;

/// Connections of one client each.
const HOLDERS: [(&str, Client); 4] =
    [("from outside", Outside), ("of a sandboxed pod", Sandboxed), ("of a pod", Pod), ("of the node", Node)];

/// All of them begin a connection.
fn all_open(row: Row, to: To, pods: &[super::super::cast::Pod]) -> Row {
    HOLDERS.iter().fold(row, |row, &(name, client)| row.open(name, client, to, pods))
}

fn all_go_on(row: Row) -> Row {
    HOLDERS.iter().fold(row, |row, &(name, _)| row.goes_on(name))
}

fn all_move(row: Row, pods: &[super::super::cast::Pod], port: u16) -> Row {
    HOLDERS.iter().fold(row, |row, &(name, _)| row.moves_to(name, pods, port))
}

pub fn rows() -> Vec<Row> {
    let mut rows = endpoints();
    rows.extend(first());
    rows.extend(services());
    rows.extend(others());
    rows
}

fn endpoints() -> Vec<Row> {
    let begun = |name, rules: &[Rule]| all_open(row(name, rules).given(objects![web(), slice([A])]), CLUSTER_IP, &[A]);
    vec![
        all_go_on(
            begun("connections go on when their endpoint terminates", &[FlowTerminating])
                .given(objects![slice([terminating(A), ready(C)])])
                .expect(SOME, CLUSTER_IP, reaches([C])),
        ),
        all_go_on(
            begun("connections go on when their endpoint takes no more", &[FlowTerminating])
                .given(objects![slice([ending(A), ready(C)])])
                .expect(SOME, CLUSTER_IP, reaches([C])),
        ),
        all_go_on(
            begun("connections go on when their endpoint is the last one and terminates", &[FlowTerminating])
                .given(objects![slice([terminating(A)])]),
        ),
        all_move(
            begun("when their endpoint is gone, datagrams go elsewhere", &[FlowGone]).given(objects![slice([C, D])]),
            &[C, D],
            TARGET,
        ),
        all_move(
            begun("when it was elsewhere and all are here now, too", &[FlowGone])
                .given(objects![slice([C])])
                .given(objects![slice([B])]),
            &[B],
            TARGET,
        ),
        all_go_on(
            begun("connections go on when endpoints are added", &[FlowOthers]).given(objects![slice([A, B, C, D])]),
        ),
        all_go_on(
            begun("TCP goes on when no endpoint is left", &[FlowGone])
                .protocols([Tcp])
                .given(objects![empty_slice()])
                .expect(SOME, CLUSTER_IP, refused()),
        ),
        row("a masqueraded flow moves when its endpoint is gone", [FlowGone, ExternalCluster])
            .given(objects![web().balancer(), slice([A])])
            .open("outside", Outside, BALANCER, [A])
            .open("by nodePort", Outside, NODE_PORT, [A])
            .given(objects![slice([C])])
            .moves("outside", [C])
            .moves("by nodePort", [C]),
        row("a flow under policy Local moves within the node", [FlowGone, ExternalLocal])
            .given(objects![web().balancer().external_local(), slice([A, C])])
            .open("outside", Outside, BALANCER, [A])
            .given(objects![slice([B, C])])
            .moves("outside", [B]),
        row("an endpoint that spoke to itself speaks to another one", [FlowGone, Hairpin])
            .given(objects![web(), slice([A])])
            .open("itself", From(A), CLUSTER_IP, [A])
            .given(objects![slice([C])])
            .moves("itself", [C]),
    ]
}

fn first() -> Vec<Row> {
    let in_vain =
        |row: Row| HOLDERS.iter().fold(row, |row, &(name, client)| row.open_in_vain(name, client, CLUSTER_IP));
    let works = |row: Row| HOLDERS.iter().fold(row, |row, &(name, _)| row.works(name, [A]));
    vec![
        works(
            in_vain(
                row("datagrams that were refused work when the first endpoint appears", [FlowFirstEndpoint])
                    .protocols([Udp])
                    .given(objects![web()]),
            )
            .given(objects![slice([A])]),
        ),
        works(
            in_vain(
                row("datagrams that were dropped work when the first local endpoint appears", [FlowFirstEndpoint])
                    .protocols([Udp])
                    .given(objects![web().internal_local(), slice([C])]),
            )
            .given(objects![slice([A, C])]),
        ),
        works(
            in_vain(
                row("datagrams that passed by work when the Service appears", [FlowFirstEndpoint])
                    .protocols([Udp])
                    .given(objects![slice([A])]),
            )
            .given(objects![web()]),
        ),
        row("datagrams to a nodePort work when the first endpoint appears", [FlowFirstEndpoint])
            .protocols([Udp])
            .given(objects![web().node_port()])
            .open_in_vain("outside", Outside, NODE_PORT)
            .given(objects![slice([A])])
            .works("outside", [A]),
    ]
}

fn services() -> Vec<Row> {
    let begun =
        |name, rules: &[Rule]| all_open(row(name, rules).given(objects![web().balancer(), slice([A])]), BALANCER, &[A]);
    vec![
        all_move(
            begun("when the target port changes, datagrams go to the new one", &[FlowPortChange])
                .given(objects![slice([A]).at(OTHER_TARGET)]),
            &[A],
            OTHER_TARGET,
        ),
        all_go_on(
            begun("connections go on when a port is added", &[FlowPortChange])
                .given(objects![web().balancer().ports([port("main", 80), port("second", 81)])]),
        ),
        all_go_on(
            begun("TCP goes on when its port is removed", &[FlowPortChange])
                .protocols([Tcp])
                .given(objects![web().balancer().ports([port("second", 81)])]),
        ),
        all_go_on(begun("TCP goes on when its port is renamed", &[FlowPortChange]).protocols([Tcp]).given(objects![
            web().balancer().ports([port("renamed", 80)]),
            slice([A]).ports([port("renamed", TARGET)]),
        ])),
        all_go_on(
            begun("connections go on when affinity is switched on", &[FlowPolicyChange])
                .given(objects![web().balancer().affinity(), slice([A, B, C, D])]),
        ),
        all_go_on(
            begun("connections go on when the external policy becomes Local", &[FlowPolicyChange])
                .given(objects![web().balancer().external_local(), slice([A, B, C, D])]),
        ),
        all_go_on(
            row("connections to an endpoint elsewhere go on when the policy becomes Local", [FlowPolicyChange])
                .given(objects![web(), slice([C])])
                .open("from outside", Outside, CLUSTER_IP, [C])
                .open("of a sandboxed pod", Sandboxed, CLUSTER_IP, [C])
                .open("of a pod", Pod, CLUSTER_IP, [C])
                .open("of the node", Node, CLUSTER_IP, [C])
                .given(objects![web().internal_local(), slice([A, C])])
                .expect(SOME, CLUSTER_IP, reaches([A])),
        ),
        row("connections by a nodePort go on when the Service becomes a clusterIP", [FlowPolicyChange])
            .given(objects![web().node_port(), slice([A])])
            .open("outside", Outside, NODE_PORT, [A])
            .given(objects![web()])
            .goes_on("outside"),
        all_go_on(
            begun("TCP goes on when its Service is removed", &[FlowPolicyChange])
                .protocols([Tcp])
                .without(objects![web()]),
        ),
        all_go_on(
            begun("connections go on when source ranges shut their client out", &[FlowPolicyChange])
                .given(objects![web().balancer().ranges(&["198.51.100.0/24", "2001:db8:77::/64"])]),
        ),
    ]
}

fn others() -> Vec<Row> {
    vec![
        all_go_on(
            all_open(
                row("connections to one Service go on when another one loses its endpoints", [FlowOthers])
                    .given(objects![web(), slice([A]), other(), slice([A]).of_other()]),
                CLUSTER_IP,
                &[A],
            )
            .without(objects![slice([A]).of_other()])
            .expect(SOME, CLUSTER_IP.of(1), refused()),
        ),
        all_go_on(
            all_open(
                row("connections to one Service go on when another one goes and a new one comes", [FlowOthers])
                    .given(objects![web(), slice([A, C]), other(), slice([B]).of_other()]),
                CLUSTER_IP,
                &[A, C],
            )
            .without(objects![other(), slice([B]).of_other()])
            .given(objects![
                super::super::objects::service("third", 2),
                slice([D]).named("third-1").patch(serde_json::json!({
                    "metadata": { "labels": { "kubernetes.io/service-name": "third" } },
                })),
            ])
            .expect(SOME, CLUSTER_IP.of(2), reaches([D])),
        ),
        all_go_on(
            all_open(
                row("connections go on when the agent starts anew", [FlowRestart])
                    .given(objects![web(), slice([A, B, C, D])]),
                CLUSTER_IP,
                &[A, B, C, D],
            )
            .restart(),
        ),
        all_go_on(
            all_open(
                row("masqueraded connections go on when the agent starts anew", [FlowRestart, DetectorMasquerades])
                    .with(Setting::ClusterCidr)
                    .given(objects![web(), slice([A, C])]),
                CLUSTER_IP,
                &[A, C],
            )
            .restart(),
        ),
    ]
}
