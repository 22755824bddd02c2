//! Session affinity.

use proxy_common::Protocol::{Tcp, Udp};

use super::{
    super::{
        cast::{
            A, B, BALANCER, C, CLUSTER_IP,
            Client::{AtSocket, Crowd, From, Node, Outside, Pod, Sandboxed},
            D, EXTERNAL_IP, NODE_PORT,
        },
        objects::{OTHER_TARGET, TARGET, other, port, ready, slice, terminating, web},
        row::{Mode, Reason, Row, Setting, evenly, reaches, row, sticks, sticks_anew, still_sticks},
        rules::*,
    },
    EVERYONE, slow,
};
use crate::objects;

pub fn rows() -> Vec<Row> {
    let mut rows = clients();
    rows.extend(timeouts());
    rows.extend(forgotten());
    rows.extend(apart());
    rows
}

fn clients() -> Vec<Row> {
    vec![
        row("a client keeps its endpoint", [Affinity]).given(objects![web().affinity(), slice([A, B, C, D])]).expect(
            EVERYONE,
            CLUSTER_IP,
            sticks([A, B, C, D]),
        ),
        row("different clients get different endpoints", [Affinity, Uniform])
            .given(objects![web().affinity(), slice([A, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, C]))
            .expect([Crowd], CLUSTER_IP, still_sticks([A, C])),
        row("a client keeps its endpoint by whichever frontend", [Affinity])
            .given(objects![web().affinity().balancer().external_ip(), slice([A, B, C, D])])
            .expect([Outside, Sandboxed, Pod, Node], CLUSTER_IP, sticks([A, B, C, D]))
            .expect([Outside, Sandboxed, Pod, Node], NODE_PORT, still_sticks([A, B, C, D]).masqueraded())
            .expect([Outside, Sandboxed, Pod, Node], EXTERNAL_IP, still_sticks([A, B, C, D]).masqueraded())
            .expect([Outside, Sandboxed, Pod, Node], BALANCER, still_sticks([A, B, C, D]).masqueraded()),
        row("affinity holds within policy Local", [Affinity, ExternalLocal])
            .given(objects![web().affinity().balancer().external_local(), slice([A, B, C])])
            .expect([Crowd], BALANCER, sticks([A, B]))
            .expect([Crowd], BALANCER, still_sticks([A, B])),
        row("affinity holds within internal policy Local", [Affinity, InternalLocal])
            .given(objects![web().affinity().internal_local(), slice([A, B, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, B]))
            .expect([Pod, Node], CLUSTER_IP, sticks([A, B])),
        row("an endpoint may keep to itself", [Affinity, Hairpin])
            .given(objects![web().affinity(), slice([A])])
            .expect([From(A)], CLUSTER_IP, sticks([A]).masqueraded_if_itself())
            .expect([AtSocket(A)], CLUSTER_IP, sticks([A]).masqueraded_if_itself()),
        row("affinity for those who are masqueraded is by their own address", [Affinity, MasqueradeAll])
            .with(Setting::MasqueradeAll)
            .given(objects![web().affinity(), slice([A, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, C]).masqueraded())
            .expect([Crowd], CLUSTER_IP, still_sticks([A, C]).masqueraded()),
    ]
}

fn timeouts() -> Vec<Row> {
    vec![
        row("affinity ends after its timeout", [AffinityTimeout])
            .given(objects![web().affinity_for(slow(2)), slice([A, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, C]))
            .wait(slow(4))
            .expect([Crowd], CLUSTER_IP, sticks_anew([A, C])),
        row("each new connection renews affinity", [AffinityTimeout])
            .given(objects![web().affinity_for(slow(6)), slice([A, C])])
            .expect([Crowd, Pod], CLUSTER_IP, sticks([A, C]))
            .wait(slow(4))
            .expect([Crowd, Pod], CLUSTER_IP, still_sticks([A, C]))
            .wait(slow(4))
            .expect([Crowd, Pod], CLUSTER_IP, still_sticks([A, C])),
        row("the timeout is three hours where none is given", [AffinityTimeout])
            .not_in(Mode::Kernel, Reason::Clock)
            .not_in(Mode::Sockets, Reason::Clock)
            .given(objects![web().affinity(), slice([A, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, C]))
            .wait(10_800)
            .expect([Crowd], CLUSTER_IP, still_sticks([A, C]))
            .wait(10_801)
            .expect([Crowd], CLUSTER_IP, sticks_anew([A, C])),
        row("a new timeout holds for clients that are known", [AffinityTimeout, PortChanges])
            .given(objects![web().affinity(), slice([A, C])])
            .expect([Crowd], CLUSTER_IP, sticks([A, C]))
            .given(objects![web().affinity_for(slow(5))])
            .expect([Crowd], CLUSTER_IP, still_sticks([A, C]))
            .wait(slow(7))
            .expect([Crowd], CLUSTER_IP, sticks_anew([A, C])),
    ]
}

fn forgotten() -> Vec<Row> {
    vec![
        row("an endpoint that is gone is forgotten", [AffinityForgets])
            .given(objects![web().affinity(), slice([A])])
            .expect(EVERYONE, CLUSTER_IP, sticks([A]))
            .given(objects![slice([C])])
            .expect(EVERYONE, CLUSTER_IP, sticks([C])),
        row("an endpoint that terminates is forgotten while others are ready", [AffinityForgets])
            .given(objects![web().affinity(), slice([A])])
            .expect(EVERYONE, CLUSTER_IP, sticks([A]))
            .given(objects![slice([terminating(A), ready(C)])])
            .expect(EVERYONE, CLUSTER_IP, sticks([C])),
        row("new endpoints make nobody leave", [Affinity])
            .given(objects![web().affinity(), slice([A])])
            .expect(EVERYONE, CLUSTER_IP, sticks([A]))
            .given(objects![slice([A, B, C, D])])
            .expect(EVERYONE, CLUSTER_IP, still_sticks([A])),
        row("an endpoint elsewhere is forgotten when the policy becomes Local", [AffinityForgets, InternalLocal])
            .given(objects![web().affinity(), slice([C])])
            .expect(EVERYONE, CLUSTER_IP, sticks([C]))
            .given(objects![web().affinity().internal_local(), slice([A, C])])
            .expect(EVERYONE, CLUSTER_IP, sticks([A])),
        row("an endpoint of another zone is forgotten when hints apply", [AffinityForgets, ZoneHints])
            .given(objects![web().affinity(), slice([C])])
            .expect([Outside, Pod], CLUSTER_IP, sticks([C]))
            .given(objects![slice([ready(A).for_zones(&["zone-a"]), ready(C).for_zones(&["zone-b"])])])
            .expect([Outside, Pod], CLUSTER_IP, sticks([A])),
        row("affinity that is switched off holds nobody", [Affinity])
            .given(objects![web().affinity(), slice([A, C])])
            .expect([Sandboxed, Pod], CLUSTER_IP, sticks([A, C]))
            .given(objects![web()])
            .expect([Sandboxed, Pod], CLUSTER_IP, evenly([A, C])),
        row("affinity that is switched on holds everybody", [Affinity])
            .given(objects![web(), slice([A, C])])
            .expect([Sandboxed, Pod], CLUSTER_IP, reaches([A, C]))
            .given(objects![web().affinity()])
            .expect([Sandboxed, Pod], CLUSTER_IP, sticks([A, C])),
    ]
}

fn apart() -> Vec<Row> {
    vec![
        row("Services remember clients apart", [AffinityApart])
            .given(objects![web().affinity(), slice([A, B]), other().affinity(), slice([C, D]).of_other()])
            .expect(EVERYONE, CLUSTER_IP, sticks([A, B]))
            .expect(EVERYONE, CLUSTER_IP.of(1), sticks([C, D]))
            .expect(EVERYONE, CLUSTER_IP, still_sticks([A, B]))
            .expect(EVERYONE, CLUSTER_IP.of(1), still_sticks([C, D])),
        row("ports remember clients apart", [AffinityApart])
            .protocols([Tcp, Udp])
            .given(objects![
                web().affinity().ports([port("main", 80), port("second", 81)]),
                slice([A, B]),
                slice([C, D]).named("web-2").ports([port("second", OTHER_TARGET)]),
            ])
            .expect([Sandboxed, Pod], CLUSTER_IP, sticks([A, B]))
            .expect([Sandboxed, Pod], CLUSTER_IP.port(81), sticks([C, D]).at(OTHER_TARGET))
            .expect([Sandboxed, Pod], CLUSTER_IP, still_sticks([A, B]).at(TARGET)),
        row("a Service without affinity beside one with it holds nobody", [AffinityApart])
            .given(objects![web().affinity(), slice([A, B]), other(), slice([A, B]).of_other()])
            .expect([Sandboxed, Pod], CLUSTER_IP, sticks([A, B]))
            .expect([Sandboxed, Pod], CLUSTER_IP.of(1), evenly([A, B])),
    ]
}
