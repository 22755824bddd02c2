//! What is remembered of connections: two entries each, in one of two tables, and when they have ended.

use proxy_common::{
    Backend, Direction, Family, Flow, FlowFlags, FlowKey, FlowTable, Port, Protocol, ServiceId, TcpState,
};

use crate::{
    frontend::{self, Loopback},
    headers::Headers,
    packet::Packet,
    policy::List,
    tables::{Insertion, Tables},
};

/// What a table of flows says of a packet's flow.
pub(super) enum Known<A> {
    /// The packet goes where those before it went.
    GoesOn(Flow<A>),
    /// The flow has ended, or goes elsewhere from now on.
    IsOver,
    /// It has none.
    Unknown,
    /// It has none, and there is no young flow either.
    Nobody,
}

/// Where the reply entry of another connection is, that a new one's takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Former {
    /// There is none.
    None = 0,
    /// Among the young flows.
    Young = 1,
    /// Among the confirmed flows, and maybe also among the young ones.
    Confirmed = 2,
}

impl Former {
    /// What was found in this table.
    #[inline(always)]
    const fn of(table: FlowTable) -> Self {
        match table {
            FlowTable::Confirmed => Self::Confirmed,
            FlowTable::Young => Self::Young,
        }
    }

    /// How the new entry is added to the young flows.
    #[inline(always)]
    pub(super) const fn insertion(self) -> Insertion {
        match self {
            Self::None => Insertion::New,
            Self::Young | Self::Confirmed => Insertion::Replace,
        }
    }
}

/// Who defends a connection that may live against what seems to begin another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Defence {
    /// Nobody for sure, or there is no such connection.
    Nobody = 0,
    /// Its backend, an endpoint of the Service.
    Endpoint = 1,
}

/// The confirmed flow that a packet into the node belongs to.
#[inline(always)]
pub(super) fn established<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    headers: &Headers<F>,
    tables: &mut T,
) -> Known<F::Address> {
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Original);
    if !tables.may_have_flow(&key) {
        return Known::Nobody;
    }
    let timeout = timeout(tables, headers.protocol);
    let Some(Noted { flow, idle, now }) = note(tables, FlowTable::Confirmed, &key, headers.tcp, timeout) else {
        return Known::Unknown;
    };
    // Most packets do not need it.
    let reply_key = || FlowKey::new(flow.to(), client(headers, &flow), headers.protocol, Direction::Reply);
    let replied = |tables: &mut T| tables.with_flow(FlowTable::Confirmed, &reply_key(), |reply| reply.state());
    let is_over = idle > timeout
        || !goes_on(packet, headers, tables, (FlowTable::Confirmed, &key), &flow, replied)
        || idle > 0 && !keep(tables, FlowTable::Confirmed, &reply_key(), now) && needs_reply_entry(headers, &flow);
    if is_over {
        forget_datagrams(headers, tables, &key, &reply_key());
        return Known::IsOver;
    }
    Known::GoesOn(flow)
}

/// The confirmed flow that a packet out of the node is a reply of.
#[inline(always)]
pub(super) fn replied<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) -> Known<F::Address> {
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Reply);
    if !tables.may_have_flow(&key) {
        return Known::Nobody;
    }
    let timeout = timeout(tables, headers.protocol);
    let Some(Noted { flow, idle, now }) = note(tables, FlowTable::Confirmed, &key, headers.tcp, timeout) else {
        return Known::Unknown;
    };
    if idle > timeout {
        // What the backend sends now is its own affair.
        return Known::IsOver;
    }
    if idle > 0 {
        keep_original(headers, tables, FlowTable::Confirmed, &flow, now);
    }
    Known::GoesOn(flow)
}

/// Keeps the original entry of a flow from being evicted, when a reply has passed its `reply` entry.
#[inline(always)]
pub(super) fn keep_original<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    table: FlowTable,
    reply: &Flow<F::Address>,
    now: u32,
) {
    let client = (headers.destination().0, reply.client_port().unwrap_or(headers.destination().1));
    let original = FlowKey::new(client, reply.to(), headers.protocol, Direction::Original);
    keep(tables, table, &original, now);
}

/// Keeps an entry from being evicted. Whether it is there.
#[inline(always)]
fn keep<F: Family, T: Tables<F>>(tables: &mut T, table: FlowTable, key: &FlowKey<F::Address>, now: u32) -> bool {
    tables.with_flow(table, key, |flow| flow.note(now, TcpState::NONE)).is_some()
}

/// Whether a flow is over if its reply entry is gone. No packet says where one of datagrams ends, and its client would wait for the
/// frontend's answers for as long as it asks.
#[inline(always)]
pub(super) fn needs_reply_entry<F: Family>(headers: &Headers<F>, original: &Flow<F::Address>) -> bool {
    headers.protocol == Protocol::Udp && !original.flags().contains(FlowFlags::OWN)
}

/// An entry, wherever it is.
#[inline(always)]
pub(super) fn find<F: Family, T: Tables<F>>(
    tables: &mut T,
    key: &FlowKey<F::Address>,
) -> Option<(Flow<F::Address>, FlowTable)> {
    match tables.with_flow(FlowTable::Confirmed, key, |flow| *flow) {
        Some(flow) => Some((flow, FlowTable::Confirmed)),
        None => tables.with_flow(FlowTable::Young, key, |flow| *flow).map(|flow| (flow, FlowTable::Young)),
    }
}

/// The flow that translates packets of this key now. It is not noted: this is about a packet that was sent before.
#[inline(always)]
pub(super) fn translating<F: Family, T: Tables<F>>(
    key: &FlowKey<F::Address>,
    protocol: Protocol,
    tables: &mut T,
) -> Option<Flow<F::Address>> {
    let (now, timeout) = (tables.now(), timeout(tables, protocol));
    let (flow, _) = find(tables, key)?;
    let translates = !flow.flags().contains(FlowFlags::OWN) && now.saturating_sub(flow.last_seen()) <= timeout;
    translates.then_some(flow)
}

/// What a reply entry for the client's connection to `backend`, which knows the client by `port`, takes the place of; `None` if
/// another connection has it.
#[inline(always)]
pub(super) fn room<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    backend: (F::Address, Port),
    port: Port,
) -> Option<Former> {
    let client = (headers.source().0, port);
    let reply = FlowKey::new(backend, client, headers.protocol, Direction::Reply);
    let Some((other, table)) = find(tables, &reply) else { return Some(Former::None) };
    let is_same = other.to() == headers.destination() && other.client_port().unwrap_or(port) == headers.source().1;
    (is_same || has_ended(tables, headers.protocol, client, backend, &other)).then_some(Former::of(table))
}

/// The connection through `service` between the ends of a SYN or INIT that seems to begin another one, if it may live nevertheless: whoever
/// sends in the client's name without seeing the answers can end it or begin it as he likes. Its backend knows: it defends a
/// connection that lives (RFC 9293 §3.10.7.4, RFC 9260 §5.2.2) and begins anew after one that does not. So only its word is taken for an
/// end, but for backends that new connections do not go to, and after a silence. Also what its reply entry is to the new one.
///
/// To an endpoint that is gone, one SYN goes: a second one without an answer in between looks for another.
#[inline(always)]
pub(super) fn may_live<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    service: ServiceId,
    list: List,
) -> Option<(Flow<F::Address>, Former, Defence)> {
    if headers.protocol == Protocol::Udp {
        return None;
    }
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Original);
    let (flow, _) = find(tables, &key)?;
    let client = client(headers, &flow);
    let key = FlowKey::new(flow.to(), client, headers.protocol, Direction::Reply);
    let (reply, table) = find(tables, &key)?;
    let is_its = flow.service() == service
        && reply.to() == headers.destination()
        && reply.client_port().unwrap_or(client.1) == headers.source().1;
    let said = reply.state();
    let has_answered = said != TcpState::NONE && !said.is_closing();
    let idle = tables.now().saturating_sub(reply.last_seen());
    let is_silent = idle > tables.settings().half_closed_timeout().min(timeout(tables, headers.protocol));
    let defence = match current(tables, &flow) {
        Some(backend) => list.has(&backend).then_some(Defence::Endpoint),
        None => (said.contains(TcpState::DATA) && !flow.state().is_closing()).then_some(Defence::Nobody),
    }?;
    (is_its && has_answered && !is_silent).then_some((flow, Former::of(table), defence))
}

/// A client connects to what is no frontend, from a port from which it reaches, or reached, the same address and port
/// through a frontend: that connection's reply entry, if it has not ended. It would give the new
/// one's answers the frontend's name. One that has ended is removed.
///
/// Where a packet passes two devices, what was translated at the first one is no connection to the endpoint itself: it is the
/// connection's own last SYN or INIT, by its number. Of any other, gives that number, too. Nothing tells such datagrams from others, so UDP is not asked for. In TCP and SCTP, only what begins a
/// connection comes here.
#[inline(always)]
pub(super) fn in_the_way<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    headers: &Headers<F>,
    tables: &mut T,
) -> Option<(Flow<F::Address>, u16)> {
    if headers.protocol == Protocol::Udp {
        return None;
    }
    let key = FlowKey::new(headers.destination(), headers.source(), headers.protocol, Direction::Reply);
    // Most addresses are no backend that was ever chosen.
    if !tables.may_have_flow(&key) {
        return None;
    }
    let (reply, _) = find(tables, &key)?;
    let Some(original) = living(tables, headers.protocol, headers.source(), headers.destination(), &reply) else {
        tables.remove_flow(FlowTable::Confirmed, &key);
        tables.remove_flow(FlowTable::Young, &key);
        return None;
    };
    let opening = headers.opening(packet);
    (original.opening() != opening).then_some((reply, opening))
}

/// Notes that the answers to a datagram that leaves from a frontend of `service` are no flow of its clients. Nobody outside can
/// make the node do that, so the entry is one of the confirmed ones.
#[inline(always)]
pub(super) fn note_own<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T, service: ServiceId) {
    let key = FlowKey::new(headers.destination(), headers.source(), headers.protocol, Direction::Original);
    let now = tables.now();
    let timeout = timeout(tables, headers.protocol);
    let living = tables.with_flow(FlowTable::Confirmed, &key, |flow| {
        if flow.flags().contains(FlowFlags::OWN) {
            flow.note(now, TcpState::NONE);
        }
        now.saturating_sub(flow.last_seen()) <= timeout
    });
    let is_young = |tables: &mut T| {
        let last_seen = tables.with_flow(FlowTable::Young, &key, |flow| flow.last_seen());
        last_seen.is_some_and(|last_seen| now.saturating_sub(last_seen) <= timeout)
    };
    let insertion = match living {
        // The same, or the flow of a client who uses the frontend.
        Some(true) => return,
        Some(false) => Insertion::Replace,
        None if is_young(tables) => return,
        None => Insertion::New,
    };
    let flow = Flow::new(headers.source(), FlowFlags::OWN, proxy_common::BackendId::new(0), service, now);
    // A full table costs the answers, which then go to the Service.
    let _ = tables.insert_flow(FlowTable::Confirmed, &key, &flow, insertion);
}

/// Whether a packet of a flow that has not timed out goes where those before it went. `replied` finds what the backend has
/// said, if the reply entry is there.
///
/// A datagram does for as long as its backend is an endpoint and its frontend the Service's. `at` is where the flow's entry is. So
/// does a SYN or INIT, if no side has ended the connection: then
/// it is a retransmission, or an SCTP peer's restart; otherwise it begins a new one, maybe at the same place (see [`may_live`]).
#[inline(always)]
pub(super) fn goes_on<F: Family, P: Packet, T: Tables<F>>(
    packet: &P,
    headers: &Headers<F>,
    tables: &mut T,
    at: (FlowTable, &FlowKey<F::Address>),
    flow: &Flow<F::Address>,
    replied: impl FnOnce(&mut T) -> Option<TcpState>,
) -> bool {
    match headers.protocol {
        Protocol::Udp => {
            flow.flags().contains(FlowFlags::OWN)
                || is_current(tables, flow) && is_its_services(headers, tables, at, flow)
        }
        Protocol::Tcp | Protocol::Sctp => {
            if !headers.may_begin_connection() {
                return true;
            }
            let is_known = !flow.state().is_closing()
                && is_current(tables, flow)
                && replied(tables).is_some_and(|said| !said.is_closing());
            if is_known {
                let opening = headers.opening(packet);
                tables.with_flow(at.0, at.1, |flow| flow.note_opening(opening));
            }
            is_known
        }
    }
}

/// Whether the frontend of a flow of datagrams has not become another Service's. It is looked up once after any frontend has. One
/// that is nobody's any more takes no flow away.
#[inline(always)]
fn is_its_services<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    (table, key): (FlowTable, &FlowKey<F::Address>),
    flow: &Flow<F::Address>,
) -> bool {
    let generation = tables.settings().generation();
    if flow.generation() == generation {
        return true;
    }
    let present = frontend::find(tables, headers.destination(), headers.protocol, Loopback::IsNobody);
    if present.is_some_and(|service| service.id() != flow.service()) {
        return false;
    }
    tables.with_flow(table, key, |flow| flow.note_generation(generation));
    true
}

/// Datagrams to a frontend go elsewhere from now on, or nowhere: what their former backend still answers is not the frontend's any
/// more, and half of the flow would be worse than nothing. `original` and `reply` are the keys of both entries.
#[inline(always)]
pub(super) fn forget_datagrams<F: Family, T: Tables<F>>(
    headers: &Headers<F>,
    tables: &mut T,
    original: &FlowKey<F::Address>,
    reply: &FlowKey<F::Address>,
) {
    if headers.protocol != Protocol::Udp {
        return;
    }
    tables.remove_flow(FlowTable::Confirmed, original);
    tables.remove_flow(FlowTable::Young, original);
    // By now the backend may answer the client for another frontend.
    let is_its = |flow: &mut Flow<F::Address>| flow.to() == headers.destination();
    if tables.with_flow(FlowTable::Confirmed, reply, is_its) == Some(true) {
        tables.remove_flow(FlowTable::Confirmed, reply);
    }
    if tables.with_flow(FlowTable::Young, reply, is_its) == Some(true) {
        tables.remove_flow(FlowTable::Young, reply);
    }
}

/// A connection begins at what is no frontend, or none any more: what is remembered of one that was served between the same ends would
/// translate its packets.
#[inline(always)]
pub(super) fn forget<F: Family, T: Tables<F>>(headers: &Headers<F>, tables: &mut T) {
    if headers.protocol == Protocol::Udp {
        return;
    }
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Original);
    if tables.may_have_flow(&key) {
        tables.remove_flow(FlowTable::Confirmed, &key);
        tables.remove_flow(FlowTable::Young, &key);
    }
}

/// The client of an original entry as the backend knows it.
#[inline(always)]
pub(super) fn client<F: Family>(headers: &Headers<F>, original: &Flow<F::Address>) -> (F::Address, Port) {
    (headers.source().0, original.client_port().unwrap_or(headers.source().1))
}

/// The backend of an original entry, if it is still an endpoint of its Service.
#[inline(always)]
fn current<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) -> Option<Backend<F::Address>> {
    let backend = tables.backend(flow.backend())?;
    let is_its = backend.service() == flow.service() && (backend.address(), backend.port()) == flow.to();
    is_its.then_some(backend)
}

#[inline(always)]
fn is_current<F: Family, T: Tables<F>>(tables: &T, flow: &Flow<F::Address>) -> bool {
    current(tables, flow).is_some()
}

/// Seconds without a packet after which a flow has ended. Most of TCP's and SCTP's end before, by what they say; see
/// [`living`].
#[inline(always)]
pub(super) fn timeout<F: Family, T: Tables<F>>(tables: &T, protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => tables.settings().established_timeout(),
        Protocol::Udp => tables.settings().udp_timeout(),
    }
}

/// An entry that a packet was found to belong to.
pub(super) struct Noted<A> {
    /// The entry as it was before this packet.
    pub(super) flow: Flow<A>,
    /// Seconds since the packet before.
    pub(super) idle: u32,
    /// Seconds since boot.
    pub(super) now: u32,
}

/// The entry of a packet. Notes the packet, unless the flow ended before it: what has ended stays so, whatever becomes of this
/// packet.
#[inline(always)]
pub(super) fn note<F: Family, T: Tables<F>>(
    tables: &mut T,
    table: FlowTable,
    key: &FlowKey<F::Address>,
    seen: TcpState,
    timeout: u32,
) -> Option<Noted<F::Address>> {
    tables.with_flow_now(table, key, |flow, now| {
        let before = *flow;
        let idle = now.saturating_sub(before.last_seen());
        if idle <= timeout {
            flow.note(now, seen);
        }
        Noted { flow: before, idle, now }
    })
}

/// Whether the connection of a reply entry has ended. `client` and `backend` are the entry's key.
#[inline(always)]
fn has_ended<F: Family, T: Tables<F>>(
    tables: &mut T,
    protocol: Protocol,
    client: (F::Address, Port),
    backend: (F::Address, Port),
    reply: &Flow<F::Address>,
) -> bool {
    match protocol {
        Protocol::Udp => tables.now().saturating_sub(reply.last_seen()) > timeout(tables, protocol),
        Protocol::Tcp | Protocol::Sctp => living(tables, protocol, client, backend, reply).is_none(),
    }
}

/// The original entry of the TCP connection or SCTP association of a reply entry, unless it has ended: by the reply entry's state and the
/// time since its last packet, and by what the original entry knows. `client` and `backend` are the reply entry's key. One FIN
/// ends one direction only. A RST of the client's counts, although anybody may have sent it: a client that resets all its connections, as
/// health checks do, would soon find all ports taken.
#[inline(always)]
fn living<F: Family, T: Tables<F>>(
    tables: &mut T,
    protocol: Protocol,
    client: (F::Address, Port),
    backend: (F::Address, Port),
    reply: &Flow<F::Address>,
) -> Option<Flow<F::Address>> {
    let idle = tables.now().saturating_sub(reply.last_seen());
    if idle > timeout(tables, protocol) {
        return None;
    }
    let sender = (client.0, reply.client_port().unwrap_or(client.1));
    let key = FlowKey::new(sender, reply.to(), protocol, Direction::Original);
    let half_closed = tables.settings().half_closed_timeout();
    let (original, _) = find(tables, &key)?;
    let (asked, replied) = (original.state(), reply.state());
    let either = asked.with(replied);
    let both = asked.is_closing() && replied.is_closing();
    // Another backend or port: the entry is a later connection's.
    let has_ended = original.to() != backend
        || original.client_port().unwrap_or(sender.1) != client.1
        || both
        || either.contains(TcpState::RST)
        || (either.is_closing() && idle > half_closed);
    (!has_ended).then_some(original)
}
