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
        let reply = FlowKey::new(flow.to(), client(headers, &flow), headers.protocol, Direction::Reply);
        note(tables, &reply, now, TcpState::NONE, NEVER);
    }
    Some(flow)
}

/// The flow that a packet out of the node is a reply of.
#[inline(always)]
pub(super) fn replied<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) -> Option<Flow<F::Address>> {
    let key = FlowKey::new(headers.source, headers.destination, headers.protocol, Direction::Reply);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let (flow, idle) = note(tables, &key, now, headers.tcp, timeout)?;
    if idle > timeout {
        // The flow has ended; what the backend sends now is its own affair.
        return None;
    }
    if idle > 0 {
        let client = (headers.destination.0, flow.client_port().unwrap_or(headers.destination.1));
        let original = FlowKey::new(client, flow.to(), headers.protocol, Direction::Original);
        note(tables, &original, now, TcpState::NONE, NEVER);
    }
    Some(flow)
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

/// How a reply entry for the client's connection to `backend`, which knows the client by `port`, may be written; `None` if
/// another connection has it.
#[inline(always)]
pub(super) fn room<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    backend: (F::Address, Port),
    port: Port,
) -> Option<Insertion> {
    let client = (headers.source.0, port);
    let reply = FlowKey::new(backend, client, headers.protocol, Direction::Reply);
    let Some(other) = tables.with_flow(&reply, |other| *other) else { return Some(Insertion::New) };
    let is_same = other.to() == headers.destination && other.client_port().unwrap_or(port) == headers.source.1;
    (is_same || has_ended(tables, headers.protocol, client, backend, &other)).then_some(Insertion::Replace)
}

/// A client connects to what is no frontend, from a port from which it reaches, or reached, the same address and port
/// through a frontend: that connection's reply entry, if answers have been seen and it has not ended. It would give the new
/// one's answers the frontend's name. One that has ended is removed.
///
/// UDP is not asked for: where a packet passes two devices, nothing tells a datagram that was translated at the first one
/// from one that was sent to the endpoint itself. In TCP and SCTP, only what begins a connection comes here, before any answer.
#[inline(always)]
pub(super) fn in_the_way<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) -> Option<Flow<F::Address>> {
    if headers.protocol == Protocol::Udp {
        return None;
    }
    let key = FlowKey::new(headers.destination, headers.source, headers.protocol, Direction::Reply);
    let reply = tables.with_flow(&key, |reply| *reply)?;
    if has_ended(tables, headers.protocol, headers.source, headers.destination, &reply) {
        tables.remove_flow(&key);
        return None;
    }
    (reply.state() != TcpState::NONE).then_some(reply)
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
    let reply = FlowKey::new(flow.to(), client(headers, flow), headers.protocol, Direction::Reply);
    tables.with_flow(&reply, |reply| reply.state().is_closing()).unwrap_or(true)
}

/// The client of an original entry as the backend knows it.
#[inline(always)]
fn client<F: Family>(headers: &Headers<F>, original: &Flow<F::Address>) -> (F::Address, Port) {
    (headers.source.0, original.client_port().unwrap_or(headers.source.1))
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

/// Whether the connection of a reply entry has ended: by the entry's state and the time since its last packet, and by what the
/// original entry knows. `client` and `backend` are the entry's key. One FIN ends one direction only.
#[inline(always)]
fn has_ended<F: Family, T: Tables<F>>(
    tables: &mut T,
    protocol: Protocol,
    client: (F::Address, Port),
    backend: (F::Address, Port),
    reply: &Flow<F::Address>,
) -> bool {
    let idle = tables.now().saturating_sub(reply.last_seen());
    if protocol == Protocol::Udp {
        return idle > tables.settings().udp_timeout();
    }
    let sender = (client.0, reply.client_port().unwrap_or(client.1));
    let original = FlowKey::new(sender, reply.to(), protocol, Direction::Original);
    let timeout = tables.settings().half_closed_timeout();
    let replied = reply.state();
    let ended = |original: &mut Flow<F::Address>| {
        let asked = original.state();
        let either = asked.with(replied);
        let both = asked.is_closing() && replied.is_closing();
        // Another backend or port: the entry is a later connection's.
        original.to() != backend
            || original.client_port().unwrap_or(sender.1) != client.1
            || both
            || either.contains(TcpState::RST)
            || (either.is_closing() && idle > timeout)
    };
    tables.with_flow(&original, ended).unwrap_or(true)
}
