//! clusterIPs: who reaches which endpoints, and as whom.

use proxy_common::Protocol::{Sctp, Tcp, Udp};

use super::{
    super::{
        cast::{
            A, B, C, CLUSTER_IP,
            Client::{AtSocket, From, Node, OtherNode, Outside, Pod, Sandboxed},
            D, EXTERNAL_IP, NOBODY, direct,
        },
        objects::{OTHER_TARGET, TARGET, port, slice, web},
        row::{Row, Setting, dropped, evenly, passes, reaches, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

pub fn rows() -> Vec<Row> {
    let mut rows = clients();
    rows.extend(local());
    rows.extend(masqueraded());
    rows.extend(hairpin());
    rows.extend(protocols());
    rows.extend(bystanders());
    rows
}

fn clients() -> Vec<Row> {
    vec![
        row("a clusterIP leads everybody to every endpoint", [ClusterIp, NoDetector, ReadyEndpoints])
            .given(objects![web(), slice([A, B, C, D])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, B, C, D])),
        row("a pod of another node may use a clusterIP by way of this one", [ClusterIp, NoDetector])
            .given(objects![web(), slice([A, C])])
            .expect([From(D)], CLUSTER_IP, reaches([A, C])),
        row("each endpoint is chosen as often as the others", [Uniform])
            .given(objects![web(), slice([A, B, C, D])])
            .expect([Sandboxed, Pod], CLUSTER_IP, evenly([A, B, C, D])),
        row("of three endpoints, too", [Uniform]).given(objects![web(), slice([A, B, C])]).expect(
            [Outside, Node],
            CLUSTER_IP,
            evenly([A, B, C]),
        ),
    ]
}

fn local() -> Vec<Row> {
    vec![
        row("internal policy Local leads everybody to endpoints of this node", [InternalLocal])
            .given(objects![web().internal_local(), slice([A, B, C, D])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, B])),
        row("internal policy Local does not concern external addresses", [InternalLocal, ExternalCluster])
            .given(objects![web().internal_local().external_ip(), slice([A, C])])
            .expect([Outside, Sandboxed], EXTERNAL_IP, reaches([A, C]).masqueraded())
            .expect([Outside], CLUSTER_IP, reaches([A])),
        row("internal policy Local drops while external addresses serve", [InternalLocal, NothingLocal])
            .given(objects![web().internal_local().external_ip(), slice([C])])
            .expect(SOME, EXTERNAL_IP, reaches([C]).masqueraded())
            .expect(SOME, CLUSTER_IP, dropped()),
        row("internal policy Local knows no difference between pods and others", [InternalLocal, DetectorMasquerades])
            .with(Setting::ClusterCidr)
            .given(objects![web().internal_local(), slice([A, C])])
            .expect([Sandboxed, Pod, Node], CLUSTER_IP, reaches([A]))
            .expect([Outside, OtherNode], CLUSTER_IP, reaches([A]).masqueraded()),
    ]
}

fn masqueraded() -> Vec<Row> {
    vec![
        row("masqueradeAll masquerades what is sent to clusterIPs", [MasqueradeAll])
            .with(Setting::MasqueradeAll)
            .given(objects![web(), slice([A, C])])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C]).masqueraded()),
        row("masqueradeAll masquerades pods too, where they are known", [MasqueradeAll])
            .with(Setting::MasqueradeAllClusterCidr)
            .given(objects![web(), slice([A, C])])
            .expect([Sandboxed, From(B), Outside], CLUSTER_IP, reaches([A, C]).masqueraded()),
        row("masqueradeAll masquerades under internal policy Local", [MasqueradeAll, InternalLocal])
            .with(Setting::MasqueradeAll)
            .given(objects![web().internal_local(), slice([A, C])])
            .expect([Sandboxed, Outside], CLUSTER_IP, reaches([A]).masqueraded()),
        row("the cluster's prefix masquerades everybody else", [DetectorMasquerades])
            .with(Setting::ClusterCidr)
            .given(objects![web(), slice([A, C])])
            .expect([Outside, OtherNode], CLUSTER_IP, reaches([A, C]).masqueraded())
            .expect([Sandboxed, Pod, Node, From(D)], CLUSTER_IP, reaches([A, C])),
        row("the Node's prefix masquerades pods of other nodes too", [DetectorMasquerades])
            .with(Setting::NodeCidr)
            .given(objects![web(), slice([A, C])])
            .expect([Outside, OtherNode, From(D)], CLUSTER_IP, reaches([A, C]).masqueraded())
            .expect([Sandboxed, Pod, Node], CLUSTER_IP, reaches([A, C])),
        row("the names of devices tell this node's pods from others", [DetectorMasquerades])
            .with(Setting::PodDevices)
            .given(objects![web(), slice([A, C])])
            .expect([Outside, OtherNode, From(D)], CLUSTER_IP, reaches([A, C]).masqueraded())
            .expect([Sandboxed, Pod, Node, From(B)], CLUSTER_IP, reaches([A, C])),
        row("without a detector nobody is masqueraded because of the source", [NoDetector])
            .given(objects![web(), slice([A, C])])
            .expect([Outside, OtherNode, Sandboxed, From(B), From(D)], CLUSTER_IP, reaches([A, C])),
    ]
}

fn hairpin() -> Vec<Row> {
    vec![
        row("an endpoint that reaches itself is masqueraded", [Hairpin])
            .with(Setting::ClusterCidr)
            .given(objects![web(), slice([A])])
            .expect([From(A)], CLUSTER_IP, reaches([A]).masqueraded_if_itself()),
        row("an endpoint that reaches another one is not", [Hairpin])
            .with(Setting::ClusterCidr)
            .given(objects![web(), slice([A, B, C])])
            .expect([From(A)], CLUSTER_IP, reaches([A, B, C]).masqueraded_if_itself()),
        row("an endpoint that reaches itself is masqueraded without a detector", [Hairpin])
            .given(objects![web(), slice([A, C])])
            .expect([From(A)], CLUSTER_IP, reaches([A, C]).masqueraded_if_itself()),
        row("an endpoint that reaches itself by its socket needs no masquerading", [Hairpin])
            .protocols([Tcp, Udp])
            .given(objects![web(), slice([A])])
            .expect([AtSocket(A)], CLUSTER_IP, reaches([A])),
        row("an endpoint reaches itself under internal policy Local", [Hairpin, InternalLocal])
            .given(objects![web().internal_local(), slice([A, C])])
            .expect([From(A)], CLUSTER_IP, reaches([A]).masqueraded_if_itself()),
        row("an endpoint of another node reaches itself by way of this one", [Hairpin])
            .given(objects![web(), slice([D])])
            .expect([From(D)], CLUSTER_IP, reaches([D]).masqueraded_if_itself()),
        row("an endpoint reaches itself by an external address", [Hairpin, ExternalCluster])
            .given(objects![web().external_ip(), slice([A])])
            .expect([From(A)], EXTERNAL_IP, reaches([A]).masqueraded()),
    ]
}

fn protocols() -> Vec<Row> {
    let apart = || {
        objects![
            web().ports([port("t", 80).only(Tcp), port("u", 80).only(Udp), port("s", 80).only(Sctp)]),
            slice([A]).ports([port("t", TARGET).only(Tcp)]),
            slice([B]).named("web-2").ports([port("u", TARGET).only(Udp)]),
            slice([C]).named("web-3").ports([port("s", TARGET).only(Sctp)]),
        ]
    };
    vec![
        row("of one number for several protocols, TCP has endpoints of its own", [Protocols, PortsByName])
            .protocols([Tcp])
            .given(apart())
            .expect(EVERYONE, CLUSTER_IP, reaches([A])),
        row("of one number for several protocols, UDP has endpoints of its own", [Protocols, PortsByName])
            .protocols([Udp])
            .given(apart())
            .expect(EVERYONE, CLUSTER_IP, reaches([B])),
        row("of one number for several protocols, SCTP has endpoints of its own", [Protocols, PortsByName])
            .protocols([Sctp])
            .given(apart())
            .expect([Outside, OtherNode, Pod, Sandboxed], CLUSTER_IP, reaches([C])),
        row("a number that one protocol has is not another one's", [Protocols, Bystanders])
            .protocols([Udp, Sctp])
            .given(objects![web().ports([port("main", 80).only(Tcp)]), slice([A])])
            .expect(EVERYONE, CLUSTER_IP, passes()),
        row("each port of a clusterIP leads to its own number", [ClusterIp, PortsByName])
            .given(objects![
                web().ports([port("main", 80), port("second", 81)]),
                slice([A, C]).ports([port("main", TARGET), port("second", OTHER_TARGET)]),
            ])
            .expect(EVERYONE, CLUSTER_IP, reaches([A, C]))
            .expect(EVERYONE, CLUSTER_IP.port(81), reaches([A, C]).at(OTHER_TARGET)),
    ]
}

fn bystanders() -> Vec<Row> {
    vec![
        row("other ports of a clusterIP are left alone", [Bystanders]).given(objects![web(), slice([A])]).expect(
            EVERYONE,
            CLUSTER_IP.port(81),
            passes(),
        ),
        row("addresses that are no Service's are left alone", [Bystanders]).given(objects![web(), slice([A])]).expect(
            EVERYONE,
            NOBODY,
            passes(),
        ),
        row("pods that are addressed directly are left alone", [Bystanders])
            .with(Setting::MasqueradeAll)
            .given(objects![web(), slice([A, C])])
            .expect(EVERYONE, direct(A), passes())
            .expect(EVERYONE, direct(C), passes()),
        row("without any Service everything is left alone", [Bystanders])
            .given(objects![slice([A])])
            .expect(EVERYONE, CLUSTER_IP, passes())
            .expect(EVERYONE, direct(A), passes()),
    ]
}
