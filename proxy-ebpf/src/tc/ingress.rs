//! Packets that enter the node.

use proxy_common::{
    Counter, Detector, Direction, DropReason, Family, Flow, FlowFlags, FlowKey, FlowTable, Port, Protocol, ServiceId,
    Settings,
};

use super::{
    Admitted, Chosen, Stage, TcFamily, Verdict, Work, allows_source,
    clashes::step_aside,
    drop,
    flows::{self, Defence, Former, Known},
    forward,
};
use crate::{
    affinity, answer, choose,
    frontend::{self, Loopback},
    headers::Headers,
    packet::{Packet, Truncated},
    policy::{self, Client},
    rewrite,
    tables::{InsertError, Insertion, Tables},
};

/// A packet that came into the node on a device: translated if its flow is confirmed.
#[inline(always)]
pub fn ingress<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    let headers = &work.headers;
    match flows::established(packet, headers, tables) {
        Known::GoesOn(flow) if flow.flags().contains(FlowFlags::OWN) => Verdict::Pass,
        Known::GoesOn(flow) => {
            let client_port = flow.client_port().unwrap_or(headers.source().1);
            let verdict = translate(packet, tables, work, flow.to(), client_port, flow.flags(), flow.service());
            if verdict == Verdict::Pass && forward::is_to_be_sent(packet, tables, &flow) {
                (work.found.to, work.owner) = (flow.to(), flow.service());
                return Verdict::Continue(Stage::Forward);
            }
            verdict
        }
        Known::IsOver if headers.may_begin_connection() => {
            work.supersedes = true;
            Verdict::Continue(Stage::Admit)
        }
        Known::Unknown | Known::Nobody if forward::is_wanted(packet, tables) => Verdict::Continue(Stage::Return),
        Known::Unknown => Verdict::Continue(Stage::Young),
        Known::Nobody if headers.may_begin_connection() => {
            work.supersedes = false;
            Verdict::Continue(Stage::Admit)
        }
        Known::IsOver | Known::Nobody => Verdict::Pass,
    }
}

/// The first packet of what may be a Service's connection: finds the frontend, and from where its client may be served.
#[inline(always)]
pub fn admit<F: TcFamily, P: Packet, T: Tables<F>>(packet: &P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    let headers = &work.headers;
    let Some(service) = frontend::find(tables, headers.destination(), headers.protocol, Loopback::IsNobody) else {
        flows::forget(headers, tables);
        return step_aside(packet, tables, work);
    };
    work.opening = headers.opening(packet);
    if !allows_source(tables, &service, headers.source().0) {
        return drop(work, service.id(), DropReason::SourceNotAllowed);
    }
    let route =
        policy::route(service.flags(), tables.settings().flags(), &Sender { packet, tables: &*tables, headers });
    match route.list.of(&service) {
        Ok(range) => {
            work.admitted = Admitted { service, range, list: route.list, flags: route.flags };
            Verdict::Continue(Stage::Choose)
        }
        Err(DropReason::NoEndpoint) => {
            work.owner = service.id();
            Verdict::Continue(Stage::Refuse)
        }
        Err(reason) => drop(work, service.id(), reason),
    }
}

/// The first packet of a flow that [`admit`] admitted: chooses a backend.
#[inline(always)]
pub fn choose<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &mut Work<F>) -> Verdict {
    let Work { headers, admitted, chosen, supersedes, .. } = work;
    let service = &admitted.service;
    let client = affinity::Client::Address(headers.source().0);
    let recalled = affinity::recall(tables, client, service, admitted.list);
    if *supersedes && let Some((flow, former, defence)) = flows::may_live(headers, tables, service.id(), admitted.list)
    {
        let client_port = flow.client_port().unwrap_or(headers.source().1);
        let (backend, to) = (flow.backend(), flow.to());
        let is_recalled = recalled.is_some();
        *chosen = Chosen { backend, to, client_port, former, defence, is_recalled, evasions: 0 };
        return Verdict::Continue(Stage::Remember);
    }
    let mut attempt = 0;
    while attempt < choose::ATTEMPTS {
        let candidate = match recalled {
            Some(candidate) if attempt == 0 => Some(candidate),
            _ => choose::one(tables, service.id(), admitted.range),
        };
        attempt += 1;
        let Some((backend, entry)) = candidate else { continue };
        let to = (entry.address(), entry.port());
        let client_port = headers.source().1;
        let room = flows::room(headers, tables, to, client_port);
        let former = room.unwrap_or(Former::None);
        let is_recalled = recalled.is_some();
        *chosen = Chosen { backend, to, client_port, former, defence: Defence::Nobody, is_recalled, evasions: 0 };
        return Verdict::Continue(if room.is_some() { Stage::Remember } else { Stage::Evade });
    }
    // Every backend that was hit had just been removed.
    let service = service.id();
    drop(work, service, DropReason::TupleClash)
}

/// The first packet of a flow for which [`choose`] chose: remembers it in both directions, among the young ones. What it takes
/// the place of among the confirmed ones is removed afterwards, so that there is always something to find.
#[inline(always)]
pub fn remember<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &mut Work<F>) -> Verdict {
    let Work { headers, admitted, chosen, .. } = work;
    // The backend is the client itself: without masquerading it would answer itself directly.
    if headers.source().0 == chosen.to.0 {
        admitted.flags = admitted.flags.with(FlowFlags::MASQUERADE);
    }
    let (service, now) = (admitted.service.id(), tables.now());

    // One variable for both keys and one for both flows: each is a piece of the kernel's stack.
    let client = (headers.source().0, chosen.client_port);
    let mut key = FlowKey::new(chosen.to, client, headers.protocol, Direction::Reply);
    let mut flow = Flow::new(headers.destination(), admitted.flags, chosen.backend, service, now);
    if client.1 != headers.source().1 {
        flow = flow.with_client_port(headers.source().1);
    }
    // Or else whoever is faster than the backend's answer could have the connection taken for one that nobody defends.
    if chosen.defence == Defence::Endpoint
        && let Some((former, _)) = flows::find(tables, &key)
    {
        flow.succeed(&former);
    }
    let mut inserted = tables.insert_flow(FlowTable::Young, &key, &flow, chosen.former.insertion());
    // Another CPU was faster. If it was with a packet of the same flow, both mean the same.
    if inserted == Err(InsertError::Exists) && flows::room(headers, tables, chosen.to, chosen.client_port).is_some() {
        inserted = tables.insert_flow(FlowTable::Young, &key, &flow, Insertion::Replace);
    }
    match inserted {
        Ok(()) => {}
        Err(InsertError::Exists) => return drop(work, service, DropReason::TupleClash),
        Err(InsertError::Full) => return drop(work, service, DropReason::FlowTableFull),
    }
    if chosen.former == Former::Confirmed {
        tables.remove_flow(FlowTable::Confirmed, &key);
    }
    key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Original);
    flow = Flow::new(chosen.to, admitted.flags, chosen.backend, service, now);
    if client.1 != headers.source().1 {
        flow = flow.with_client_port(client.1);
    }
    flow.note(now, headers.tcp);
    match headers.protocol {
        Protocol::Udp => flow.note_generation(tables.settings().generation()),
        Protocol::Tcp | Protocol::Sctp => flow.note_opening(work.opening),
    }
    if tables.insert_flow(FlowTable::Young, &key, &flow, Insertion::Replace).is_err() {
        return drop(work, service, DropReason::FlowTableFull);
    }
    if work.supersedes {
        tables.remove_flow(FlowTable::Confirmed, &key);
    }
    if !chosen.is_recalled {
        affinity::note(tables, affinity::Client::Address(headers.source().0), &admitted.service, chosen.backend);
    }
    work.owner = service;
    tables.begun(service, Counter::Flows);
    Verdict::Continue(Stage::Follow)
}

/// A packet of a flow that [`remember`] remembered, or that [`young`](super::young()) found: translates it.
#[inline(always)]
pub fn follow<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    let (Chosen { to, client_port, .. }, Admitted { service, flags, .. }) = (work.chosen, work.admitted);
    translate(packet, tables, work, to, client_port, flags, service.id())
}

/// A packet whose Service has no endpoint: tells its sender, unless that would be one ICMP error too many.
#[inline(always)]
pub fn refuse<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &T, work: &mut Work<F>) -> Verdict {
    if work.headers.protocol == Protocol::Udp && !work.errors.admit(tables.now()) {
        return Verdict::Drop(DropReason::NoEndpoint);
    }
    match answer::refuse(packet, &work.headers) {
        Ok(()) => Verdict::Answer,
        Err(Truncated) => Verdict::Drop(DropReason::NoEndpoint),
    }
}

/// Rewrites the destination and marks the packet.
#[inline(always)]
fn translate<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    work: &mut Work<F>,
    to: (F::Address, Port),
    client_port: Port,
    flags: FlowFlags,
    service: ServiceId,
) -> Verdict {
    if rewrite::destination(packet, &work.headers, to).is_err() {
        return drop(work, service, DropReason::Malformed);
    }
    tables.count_packet(service, Direction::Original, packet.size().saturating_sub(work.headers.l3));
    work.note_translation(service);
    let settings = tables.settings();
    if flags.contains(FlowFlags::MASQUERADE) {
        packet.set_mark(packet.mark() | settings.masquerade_mark());
    }
    if flags.contains(FlowFlags::LOCAL_NODE_PORT) {
        packet.set_mark(packet.mark() | settings.local_node_port_mark());
    }
    let present = work.headers.source().1;
    work.with_client_port(client_port, present, service)
}

/// Who sent a packet.
struct Sender<'a, F: Family, P, T> {
    packet: &'a P,
    tables: &'a T,
    headers: &'a Headers<F>,
}

impl<F: Family, P: Packet, T: Tables<F>> Client for Sender<'_, F, P, T> {
    #[inline(always)]
    fn detector(&self) -> Detector {
        F::settings(self.tables.settings()).detector()
    }

    #[inline(always)]
    fn is_pod(&self) -> bool {
        match self.detector() {
            Detector::None => false,
            Detector::Prefix => in_pod_prefix::<F>(self.tables.settings(), self.headers.source().0),
            Detector::Device => self.tables.is_pod_device(self.packet.device()),
        }
    }

    #[inline(always)]
    fn is_node(&self) -> bool {
        self.tables.node_address(&self.headers.source().0).is_some()
    }
}

#[inline(always)]
fn in_pod_prefix<F: Family>(settings: &Settings, address: F::Address) -> bool {
    let family = F::settings(settings);
    let (prefix, mask) = (family.prefix(), family.mask());
    let mut bytes = address.as_ref().iter().zip(mask.as_ref()).zip(prefix.as_ref());
    bytes.all(|((byte, mask), prefix)| byte & mask == *prefix)
}
