//! What is remembered of connections: two entries each, and when they have ended.

use proxy_common::{Direction, Family, Flow, FlowFlags, FlowKey, Port, Protocol, ServiceId, TcpState};

use crate::{
    headers::Headers,
    tables::{Insertion, Tables},
};

/// No flow pauses for as long.
const NEVER: u32 = u32::MAX;

/// The flow that a packet into the node belongs to, if it goes where it went before.
#[inline(always)]
pub(super) fn established<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) -> Option<Flow<F::Address>> {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Original);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let (flow, idle) = note(tables, &key, now, headers.tcp, timeout)?;
    let keeps = match headers.protocol {
        Protocol::Tcp | Protocol::Sctp => !headers.may_begin_connection() || !begins_anew(headers, tables, &flow),
        Protocol::Udp => idle <= timeout && (flow.flags().contains(FlowFlags::OWN) || is_current(tables, &flow)),
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

/// The frontend that a packet out of the node answers for, and its Service.
#[inline(always)]
pub(super) fn replied<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
) -> Option<((F::Address, Port), ServiceId)> {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Reply);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let (flow, idle) = note(tables, &key, now, headers.tcp, timeout)?;
    if idle > timeout {
        // The flow has ended; what the backend sends now is its own affair.
        return None;
    }
    if idle > 0 {
        let original = FlowKey::new(headers.destination, flow.to(), headers.protocol, Direction::Original);
        note(tables, &original, now, TcpState::NONE, NEVER);
    }
    Some((flow.to(), flow.service()))
}

/// The flow that translates packets of this key now. It is not noted: this is about a packet that was sent before.
#[inline(always)]
pub(super) fn translating<F: Family, T: Tables<F>>(
    key: &FlowKey<F::Address>,
    protocol: Protocol,
    tables: &mut T,
) -> Option<Flow<F::Address>> {
    let (now, timeout) = (tables.now(), timeout(tables, protocol));
    let flow = tables.with_flow(key, |flow| *flow)?;
    let translates = !flow.flags().contains(FlowFlags::OWN) && now.saturating_sub(flow.last_seen()) <= timeout;
    translates.then_some(flow)
}

/// How a reply entry for the client's connection to `backend` may be written; `None` if another connection, through another
/// frontend, has it.
#[inline(always)]
pub(super) fn room<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    backend: (F::Address, Port),
) -> Option<Insertion> {
    let reply = FlowKey::new(backend, headers.source, headers.protocol, Direction::Reply);
    let other = tables.with_flow(&reply, |other| (other.to(), other.state(), other.last_seen()));
    let Some((frontend, state, last_seen)) = other else { return Some(Insertion::New) };
    if frontend == headers.destination {
        return Some(Insertion::Replace);
    }
    let idle = tables.now().saturating_sub(last_seen);
    has_ended(tables, headers, frontend, backend, state, idle).then_some(Insertion::Replace)
}

/// A client connects to an endpoint itself, from a port from which it once reached the same endpoint through a
/// frontend. The former connection's reply entry would give the new one's answers the frontend's name.
///
/// UDP needs no such care: the reply entry of a flow that has ended translates nothing.
#[inline(always)]
pub(super) fn forget_ended<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) {
    if headers.protocol == Protocol::Udp {
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

/// Notes that the answers to a datagram that leaves from a nodePort of `service` are no flow of its clients.
#[inline(always)]
pub(super) fn note_own<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T, service: ServiceId) {
    let key = FlowKey::new(headers.destination, headers.source, headers.protocol, Direction::Original);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let living = tables.with_flow(&key, |flow| {
        if flow.flags().contains(FlowFlags::OWN) {
            flow.note(now, TcpState::NONE);
        }
        now.saturating_sub(flow.last_seen()) <= timeout
    });
    let insertion = match living {
        // The same, or the flow of a client who uses the nodePort.
        Some(true) => return,
        Some(false) => Insertion::Replace,
        None => Insertion::New,
    };
    let flow = Flow::new(headers.source, FlowFlags::OWN, proxy_common::BackendId::new(0), service, now);
    // A full table costs the answers, which then go to the Service.
    let _ = tables.insert_flow(&key, &flow, insertion);
}

/// Whether a SYN or INIT on a known flow begins a new connection: the former one was ended by a side, or its
/// backend is gone. Otherwise it is a retransmission, or an SCTP peer's restart, and keeps its backend.
#[inline(always)]
fn begins_anew<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T, flow: &Flow<F::Address>) -> bool {
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

/// Seconds without a packet after which a flow has ended. TCP's and SCTP's end by what they say; see [`has_ended`].
#[inline(always)]
fn timeout<F: Family, T: Tables<F>>(tables: &T, protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => NEVER,
        Protocol::Udp => tables.settings().udp_timeout(),
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

/// Whether the client's connection to `backend` through `frontend` has ended: by the state of its reply entry and the
/// time since its last packet, and by what its original entry knows. One FIN ends one direction only.
#[inline(always)]
fn has_ended<F: Family, T: Tables<F>>(
    tables: &mut T,
    headers: &Headers<F>,
    frontend: (F::Address, Port),
    backend: (F::Address, Port),
    replied: TcpState,
    idle: u32,
) -> bool {
    if headers.protocol == Protocol::Udp {
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
