//! What the TC programs do: DNAT and policy where a packet enters the node, reverse NAT where it leaves.
//!
//! An established packet costs one hash lookup, and once a second per flow a second one that keeps the
//! entry of the other direction from being evicted. The first packet of a flow costs up to five lookups (flow, frontend,
//! reply entry, whether another connection there has ended, the new flow) for each backend tried, and two inserts.

use proxy_common::{
    Backend, BackendId, Counter, Detector, Direction, DropReason, Family, Flow, FlowFlags, FlowKey, Port, Protocol,
    ServiceEntry, ServiceKey, Settings, SettingsFlags, TcpState,
};

use crate::{
    answer::{self, AnswerFamily},
    choose,
    headers::{Headers, ParseFamily},
    packet::{Packet, Truncated},
    rewrite::{self, WriteFamily},
    tables::{InsertError, Insertion, Tables},
};

/// An IP version that the TC programs handle.
pub trait TcFamily: ParseFamily + WriteFamily + AnswerFamily {}

impl<F: ParseFamily + WriteFamily + AnswerFamily> TcFamily for F {}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated or not.
    Pass,
    /// It is dropped without a word.
    Drop(DropReason),
    /// It has been turned into an answer to its sender and leaves through the device it came in on.
    Answer,
    /// Another stage decides.
    Continue(Stage),
}

/// A part of the pipeline behind the first one.
///
/// In the kernel each stage is a function of its own, because a program has 512 bytes of stack. The headers are
/// read once and handed from stage to stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The packet belongs to no flow and may begin one: [`begin`].
    Begin,
    /// The packet's flow has just begun: [`follow`].
    Follow,
    /// The Service has no endpoint: [`refuse`].
    Refuse,
}

/// A packet that came into the node on a device.
#[inline(always)]
pub fn ingress<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, headers: &Headers<F>) -> Verdict {
    match established(headers, tables) {
        Some(flow) => translate(packet, tables, headers, flow.to(), flow.flags()),
        None if headers.may_begin_connection() => Verdict::Continue(Stage::Begin),
        None => Verdict::Pass,
    }
}

/// The first packet of what may be a Service's connection: finds the frontend, chooses a backend, remembers it.
#[inline(always)]
pub fn begin<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, headers: &Headers<F>) -> Verdict {
    let key = ServiceKey::new(headers.destination.0, headers.destination.1, headers.protocol);
    let Some(service) = tables.service(&key) else {
        forget_ended(tables, headers);
        return Verdict::Pass;
    };
    match start(packet, tables, headers, &service) {
        Ok(()) => Verdict::Continue(Stage::Follow),
        Err(DropReason::NoEndpoint) => Verdict::Continue(Stage::Refuse),
        Err(reason) => drop(tables, reason),
    }
}

/// The first packet of a flow that [`begin`] remembered: translates it.
#[inline(always)]
pub fn follow<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, headers: &Headers<F>) -> Verdict {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Original);
    match tables.with_flow(&key, |flow| *flow) {
        Some(flow) => translate(packet, tables, headers, flow.to(), flow.flags()),
        // Evicted within a microsecond: the table is far too small for what goes on.
        None => drop(tables, DropReason::FlowTableFull),
    }
}

/// A packet whose Service has no endpoint: tells its sender.
#[inline(always)]
pub fn refuse<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, headers: &Headers<F>) -> Verdict {
    tables.count(Counter::Drop(DropReason::NoEndpoint));
    match answer::refuse(packet, headers) {
        Ok(()) => Verdict::Answer,
        Err(Truncated) => Verdict::Drop(DropReason::NoEndpoint),
    }
}

/// A packet that leaves the node on a device.
#[inline(always)]
pub fn egress<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, headers: &Headers<F>) -> Verdict {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Reply);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let Some((flow, idle)) = note(tables, &key, now, headers.tcp, timeout) else { return Verdict::Pass };
    if idle > timeout {
        // The flow has ended; what the backend sends now is its own affair.
        return Verdict::Pass;
    }
    if idle > 0 {
        let original = FlowKey::new(headers.destination, flow.to(), headers.protocol, Direction::Original);
        note(tables, &original, now, TcpState::NONE, NEVER);
    }
    if rewrite::source(packet, headers, flow.to()).is_err() {
        return drop(tables, DropReason::Malformed);
    }
    Verdict::Pass
}

/// The flow that the packet belongs to, if it goes where it went before.
#[inline(always)]
fn established<F: TcFamily, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) -> Option<Flow<F::Address>> {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Original);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let (flow, idle) = note(tables, &key, now, headers.tcp, timeout)?;
    let keeps = match headers.protocol {
        Protocol::Tcp => !headers.may_begin_connection() || !begins_anew(headers, tables, &flow),
        Protocol::Udp | Protocol::Sctp => idle <= timeout && is_current(tables, &flow),
    };
    if !keeps {
        return None;
    }
    if idle > 0 {
        let reply = FlowKey::new(flow.to(), headers.source, headers.protocol, Direction::Reply);
        note(tables, &reply, now, TcpState::NONE, NEVER);
    }
    Some(flow)
}

/// Whether a SYN on a known flow begins a new connection: the former one was ended by a side, or its
/// backend is gone. Otherwise it is a retransmission and keeps its backend.
#[inline(always)]
fn begins_anew<F: TcFamily, T: Tables<F>>(headers: &Headers<F>, tables: &mut T, flow: &Flow<F::Address>) -> bool {
    if flow.state().is_closing() || !is_current(tables, flow) {
        return true;
    }
    let reply = FlowKey::new(flow.to(), headers.source, headers.protocol, Direction::Reply);
    tables.with_flow(&reply, |reply| reply.state().is_closing()).unwrap_or(true)
}

/// Whether the backend of an original entry is still an endpoint of its Service.
#[inline(always)]
fn is_current<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) -> bool {
    tables
        .backend(flow.backend())
        .is_some_and(|backend| backend.service() == flow.service() && (backend.address(), backend.port()) == flow.to())
}

/// No flow pauses for as long.
const NEVER: u32 = u32::MAX;

/// Seconds without a packet after which a flow has ended. TCP's end by their segments; see [`has_ended`].
#[inline(always)]
fn timeout<F: Family, T: Tables<F>>(tables: &T, protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => NEVER,
        Protocol::Udp | Protocol::Sctp => tables.settings().udp_timeout(),
    }
}

/// The entry as it was before this packet and the seconds since the packet before. Notes the packet, unless the flow
/// ended before it: what has ended stays so, whatever becomes of this packet.
#[inline(always)]
fn note<F: Family, T: Tables<F>>(
    tables: &mut T,
    key: &FlowKey<F::Address>,
    now: u32,
    seen: TcpState,
    timeout: u32,
) -> Option<(Flow<F::Address>, u32)> {
    tables.with_flow(key, |flow| {
        let before = *flow;
        let idle = now.saturating_sub(before.last_seen());
        if idle <= timeout {
            flow.note(now, seen);
        }
        (before, idle)
    })
}

/// Chooses a backend and remembers it in both directions.
#[inline(always)]
fn start<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    headers: &Headers<F>,
    service: &ServiceEntry,
) -> Result<(), DropReason> {
    let range = choose::eligible(service)?;
    let masquerade = masquerades_source(packet, tables, headers);
    let mut attempt = 0;
    while attempt < choose::ATTEMPTS {
        attempt += 1;
        let Some((id, backend)) = choose::one(tables, service, range) else { continue };
        match remember(tables, headers, service, id, &backend, masquerade) {
            Ok(()) => return Ok(()),
            Err(InsertError::Exists) => {}
            Err(InsertError::Full) => return Err(DropReason::FlowTableFull),
        }
    }
    Err(DropReason::TupleClash)
}

/// Inserts both entries of a flow. [`InsertError::Exists`] if the backend already has a connection with
/// the same client address and port through another frontend.
#[inline(always)]
fn remember<F: TcFamily, T: Tables<F>>(
    tables: &mut T,
    headers: &Headers<F>,
    service: &ServiceEntry,
    id: BackendId,
    backend: &Backend<F::Address>,
    masquerade: bool,
) -> Result<(), InsertError> {
    let now = tables.now();
    let to = (backend.address(), backend.port());
    let flags = if masquerade || is_hairpin(headers, backend) { FlowFlags::MASQUERADE } else { FlowFlags::NONE };

    // One variable for both keys and one for both flows: each is a piece of the kernel's stack.
    let mut key = FlowKey::new(to, headers.source, headers.protocol, Direction::Reply);
    let mut flow = Flow::new(headers.destination, flags, id, service.id(), now);
    let insertion = match tables.with_flow(&key, |other| (other.to(), other.state(), other.last_seen())) {
        None => Insertion::New,
        Some((frontend, ..)) if frontend == headers.destination => Insertion::Replace,
        Some((frontend, state, last_seen)) => {
            let idle = now.saturating_sub(last_seen);
            if !has_ended(tables, headers, frontend, to, state, idle) {
                return Err(InsertError::Exists);
            }
            Insertion::Replace
        }
    };
    tables.insert_flow(&key, &flow, insertion)?;

    key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Original);
    flow = Flow::new(to, flags, id, service.id(), now);
    flow.note(now, headers.tcp);
    tables.insert_flow(&key, &flow, Insertion::Replace)?;
    tables.count(Counter::Flows);
    Ok(())
}

/// A client connects to an endpoint itself, from a port from which it once reached the same endpoint through a
/// frontend. The former connection's reply entry would give the new one's answers the frontend's name.
///
/// UDP needs no such care: the reply entry of a flow that has ended translates nothing.
#[inline(always)]
fn forget_ended<F: TcFamily, T: Tables<F>>(tables: &mut T, headers: &Headers<F>) {
    if headers.protocol != Protocol::Tcp {
        return;
    }
    let backend = headers.destination;
    let reply = FlowKey::new(backend, headers.source, headers.protocol, Direction::Reply);
    let entry = tables.with_flow(&reply, |reply| (reply.to(), reply.state(), reply.last_seen()));
    let Some((frontend, state, last_seen)) = entry else { return };
    let idle = tables.now().saturating_sub(last_seen);
    if has_ended(tables, headers, frontend, backend, state, idle) {
        tables.remove_flow(&reply);
    }
}

/// Whether the client's connection to `backend` through `frontend` has ended: by the state of its reply entry and the
/// time since its last packet, and by what its original entry knows. One FIN ends one direction only.
#[inline(always)]
fn has_ended<F: TcFamily, T: Tables<F>>(
    tables: &mut T,
    headers: &Headers<F>,
    frontend: (F::Address, Port),
    backend: (F::Address, Port),
    replied: TcpState,
    idle: u32,
) -> bool {
    if headers.protocol != Protocol::Tcp {
        return idle > tables.settings().udp_timeout();
    }
    let original = FlowKey::new(headers.source, frontend, headers.protocol, Direction::Original);
    let timeout = tables.settings().half_closed_timeout();
    let ended = |original: &mut Flow<F::Address>| {
        let asked = original.state();
        let either = asked.with(replied);
        let both = asked.is_closing() && replied.is_closing();
        // Another backend: the entry is a later connection's.
        original.to() != backend || both || either.contains(TcpState::RST) || (either.is_closing() && idle > timeout)
    };
    tables.with_flow(&original, ended).unwrap_or(true)
}

/// The backend is the client itself: without masquerading it would answer itself directly.
#[inline(always)]
fn is_hairpin<F: Family>(headers: &Headers<F>, backend: &Backend<F::Address>) -> bool {
    headers.source.0 == backend.address()
}

/// Whether the source makes a clusterIP packet masqueraded.
#[inline(always)]
fn masquerades_source<F: TcFamily, P: Packet, T: Tables<F>>(packet: &P, tables: &T, headers: &Headers<F>) -> bool {
    let settings = tables.settings();
    if settings.flags().contains(SettingsFlags::MASQUERADE_ALL) {
        return true;
    }
    match F::settings(settings).detector() {
        Detector::None => false,
        Detector::Prefix => !in_pod_prefix::<F>(settings, headers.source.0),
        Detector::Device => !tables.is_pod_device(packet.device()),
    }
}

#[inline(always)]
fn in_pod_prefix<F: Family>(settings: &Settings, address: F::Address) -> bool {
    let family = F::settings(settings);
    let (prefix, mask) = (family.prefix(), family.mask());
    let mut bytes = address.as_ref().iter().zip(mask.as_ref()).zip(prefix.as_ref());
    bytes.all(|((byte, mask), prefix)| byte & mask == *prefix)
}

/// Rewrites the destination and marks the packet.
#[inline(always)]
fn translate<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    headers: &Headers<F>,
    to: (F::Address, Port),
    flags: FlowFlags,
) -> Verdict {
    if rewrite::destination(packet, headers, to).is_err() {
        return drop(tables, DropReason::Malformed);
    }
    if flags.contains(FlowFlags::MASQUERADE) {
        packet.set_mark(packet.mark() | tables.settings().masquerade_mark());
    }
    Verdict::Pass
}

#[inline(always)]
fn drop<F: Family, T: Tables<F>>(tables: &mut T, reason: DropReason) -> Verdict {
    tables.count(Counter::Drop(reason));
    Verdict::Drop(reason)
}
