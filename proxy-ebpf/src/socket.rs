//! What the socket hooks do: the destination is rewritten once, when a socket connects or sends, and the
//! application gets back the address it asked for. No packet is touched.
//!
//! A socket of the IPv6 kind that speaks to an IPv4 Service (`::ffff:a.b.c.d`) is served by the IPv4
//! tables; the caller picks the family.
//!
//! A hook often runs before the source address is chosen. What depends on it, or is to be dropped without a word, the
//! hooks leave to the TC programs.

use proxy_common::{
    BackendId, Counter, Detector, Direction, DropReason, Family, Port, Protocol, ServiceEntry, ServiceFlags, ServiceId,
    SettingsFlags, SocketEntry, SocketKey,
};

use crate::{
    affinity, choose,
    frontend::{self, Loopback},
    policy::{self, Client, List},
    tables::{Insertion, Tables},
};

/// What becomes of a socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<A> {
    /// The address stays as it is.
    Pass,
    /// The address is replaced.
    Rewrite((A, Port)),
    /// The call fails: connection refused.
    Refuse,
}

/// A socket call: who calls, and the peer's address as the application gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<A> {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Cookie of the socket's network namespace; `None` on kernels that do not tell.
    pub namespace: Option<u64>,
    /// Transport protocol of the socket.
    pub protocol: Protocol,
    /// The peer's address and port.
    pub peer: (A, Port),
}

/// `connect`: TCP, or UDP that fixes its peer.
#[inline(always)]
pub fn connect<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>) -> Verdict<F::Address> {
    if is_left_to_packets(tables, call) {
        return Verdict::Pass;
    }
    let Some(service) = frontend(tables, call) else { return itself(tables, call) };
    begin(tables, call, &service, Peers::One).map_or_else(|verdict| verdict, |chosen| Verdict::Rewrite(chosen.to))
}

/// Where a datagram goes that a UDP socket sends with an address, although it is connected to `peer`, as the kernel knows it: to the
/// frontend that it is connected through, it goes to the same backend. The kernel gives a connected socket nobody else's answers.
#[inline(always)]
pub fn connected<F: Family, T: Tables<F>>(
    tables: &mut T,
    call: &Call<F::Address>,
    peer: (F::Address, Port),
) -> Option<(F::Address, Port)> {
    let key = SocketKey::new(call.cookie, peer, call.protocol, Direction::Reply);
    let frontend = tables.with_socket(&key, |entry| entry.to())?;
    (frontend == call.peer).then_some(peer)
}

/// `sendto`/`sendmsg` on an unconnected UDP socket. Datagrams of one socket to one frontend stay with one
/// backend for as long as it is an endpoint and they do not pause for longer than the UDP timeout.
#[inline(always)]
pub fn sendmsg<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>) -> Verdict<F::Address> {
    if is_left_to_packets(tables, call) {
        return Verdict::Pass;
    }
    // No entry is touched: the kernel also asks for each `send` of a socket that is connected to `::ffff:a.b.c.d`,
    // with the address of the backend.
    let Some(service) = frontend(tables, call) else { return Verdict::Pass };
    let original = SocketKey::new(call.cookie, call.peer, call.protocol, Direction::Original);
    if let Some(to) = remembered(tables, call, &original, service.id()) {
        return Verdict::Rewrite(to);
    }
    match begin(tables, call, &service, Peers::Many) {
        Ok(Chosen { id, to }) => {
            let entry = SocketEntry::new(to, id, service.id(), tables.now());
            // A full table costs stickiness, not the datagram.
            let _ = tables.insert_socket(&original, &entry, Insertion::Replace);
            Verdict::Rewrite(to)
        }
        Err(verdict) => verdict,
    }
}

/// `recvfrom`/`recvmsg` on UDP, and `getpeername`: the peer as the kernel knows it becomes the address that the
/// application asked for.
#[inline(always)]
pub fn peer_name<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>) -> Verdict<F::Address> {
    let key = SocketKey::new(call.cookie, call.peer, call.protocol, Direction::Reply);
    tables.with_socket(&key, |entry| entry.to()).map_or(Verdict::Pass, Verdict::Rewrite)
}

/// The socket is closed. `call.peer` is its peer as the kernel knows it: what was noted for that is of no use any more. (Of a
/// socket that is not connected, the kernel knows no peer. What was noted for it stays until its room is needed.)
#[inline(always)]
pub fn release<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>) {
    let key = SocketKey::new(call.cookie, call.peer, call.protocol, Direction::Reply);
    if tables.with_socket(&key, |_| ()).is_some() {
        tables.remove_socket(&key);
    }
}

/// Whether the settings say that the socket is none of these hooks' business.
#[inline(always)]
fn is_left_to_packets<F: Family, T: Tables<F>>(tables: &T, call: &Call<F::Address>) -> bool {
    tables.settings().flags().contains(SettingsFlags::HOST_NAMESPACE_ONLY) && is_nodes(tables, call) == Some(false)
}

/// Whether the socket is in the node's own network namespace; `None` if that is not known.
#[inline(always)]
fn is_nodes<F: Family, T: Tables<F>>(tables: &T, call: &Call<F::Address>) -> Option<bool> {
    Some(call.namespace? == tables.settings().node_netns_cookie()?)
}

#[inline(always)]
fn frontend<F: Family, T: Tables<F>>(tables: &T, call: &Call<F::Address>) -> Option<ServiceEntry> {
    let loopback = if is_nodes(tables, call) == Some(true) { Loopback::IsTheNode } else { Loopback::IsNobody };
    frontend::find(tables, call.peer, call.protocol, loopback)
}

/// The application connects to what is no frontend. If the socket was connected to this very peer through a
/// frontend before, that is over.
#[inline(always)]
fn itself<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>) -> Verdict<F::Address> {
    release(tables, call);
    Verdict::Pass
}

/// Where the socket's former datagrams to this frontend went, if that is still right.
#[inline(always)]
fn remembered<F: Family, T: Tables<F>>(
    tables: &mut T,
    call: &Call<F::Address>,
    original: &SocketKey<F::Address>,
    service: ServiceId,
) -> Option<(F::Address, Port)> {
    let now = tables.now();
    let timeout = tables.settings().udp_timeout();
    let (entry, idle) = tables.with_socket(original, |entry| {
        let before = *entry;
        let idle = now.saturating_sub(before.last_used());
        // What has ended stays so, also if this datagram is refused.
        if idle <= timeout {
            entry.note(now);
        }
        (before, idle)
    })?;
    let is_current = tables
        .backend(entry.backend())
        .is_some_and(|backend| backend.service() == service && (backend.address(), backend.port()) == entry.to());
    if !is_current || idle > timeout {
        forget_answers(tables, call, entry.to());
        return None;
    }
    // The way back must be known for as long as the way there is. Once a second is often enough to
    // keep it from being evicted, and to write it again if it was.
    if idle > 0 {
        remember_peer(tables, call, entry.backend(), entry.to(), service);
    }
    Some(entry.to())
}

/// Datagrams to the frontend go elsewhere from now on: what their former `backend` still answers is not the frontend's any more.
#[inline(always)]
fn forget_answers<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>, backend: (F::Address, Port)) {
    let key = SocketKey::new(call.cookie, backend, call.protocol, Direction::Reply);
    let peer = call.peer;
    // By now the backend may answer the socket for another frontend.
    if tables.with_socket(&key, |entry| entry.to() == peer) == Some(true) {
        tables.remove_socket(&key);
    }
}

/// How many peers a socket has at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peers {
    /// It is being connected; what it spoke to before is over.
    One,
    /// It is not connected.
    Many,
}

struct Chosen<A> {
    id: BackendId,
    to: (A, Port),
}

/// Chooses a backend and remembers the way back.
#[inline(always)]
fn begin<F: Family, T: Tables<F>>(
    tables: &mut T,
    call: &Call<F::Address>,
    service: &ServiceEntry,
    peers: Peers,
) -> Result<Chosen<F::Address>, Verdict<F::Address>> {
    let list = admit(tables, call, service)?;
    let range = match list.of(service) {
        Ok(range) => range,
        Err(DropReason::NoEndpoint) => {
            tables.dropped(service.id(), DropReason::NoEndpoint);
            return Err(Verdict::Refuse);
        }
        // To be dropped silently. A hook cannot: the packet goes out untranslated and a TC program drops it.
        Err(_) => return Err(Verdict::Pass),
    };
    // Without a namespace, `admit` lets no Service with affinity pass.
    let client = affinity::Client::Namespace(call.namespace.unwrap_or(0));
    let recalled = affinity::recall(tables, client, service, list);
    let mut attempt = 0;
    while attempt < choose::ATTEMPTS {
        let candidate = match recalled {
            Some(candidate) if attempt == 0 => Some(candidate),
            _ => choose::one(tables, service.id(), range),
        };
        attempt += 1;
        let Some((id, backend)) = candidate else { continue };
        let to = (backend.address(), backend.port());
        if peers == Peers::Many && attempt < choose::ATTEMPTS && is_taken(tables, call, to) {
            continue;
        }
        remember_peer(tables, call, id, to, service.id());
        if recalled.is_none() {
            affinity::note(tables, client, service, id);
        }
        tables.begun(service.id(), Counter::SocketConnections);
        return Ok(Chosen { id, to });
    }
    // Every backend that was hit had just been removed: the packet is left to TC.
    Err(Verdict::Pass)
}

/// The list that the caller may choose from.
///
/// # Errors
/// What is left to the TC programs, because it takes a source address or a namespace that is not known here.
#[inline(always)]
fn admit<F: Family, T: Tables<F>>(
    tables: &T,
    call: &Call<F::Address>,
    service: &ServiceEntry,
) -> Result<List, Verdict<F::Address>> {
    let (flags, is_nodes) = (service.flags(), is_nodes(tables, call));
    let is_allowed = is_nodes == Some(true) && flags.contains(ServiceFlags::NODE_ALLOWED);
    if (flags.contains(ServiceFlags::SOURCE_RANGES) && !is_allowed)
        || (flags.contains(ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL)) && is_nodes.is_none())
        || (flags.contains(ServiceFlags::AFFINITY) && call.namespace.is_none())
    {
        return Err(Verdict::Pass);
    }
    let settings = tables.settings();
    let caller = Caller { detector: F::settings(settings).detector(), is_nodes: is_nodes == Some(true) };
    // Nothing is masqueraded at a socket: the kernel chooses a source that reaches the backend.
    Ok(policy::route(flags, settings.flags(), &caller).list)
}

/// The process that makes a call.
struct Caller {
    detector: Detector,
    is_nodes: bool,
}

impl Client for Caller {
    #[inline(always)]
    fn detector(&self) -> Detector {
        self.detector
    }

    /// Every namespace but the node's own is a pod's. Without a detector, pods count as outside, as in TC.
    #[inline(always)]
    fn is_pod(&self) -> bool {
        !self.is_nodes && self.detector != Detector::None
    }

    #[inline(always)]
    fn is_node(&self) -> bool {
        self.is_nodes
    }
}

/// Whether the socket reaches this backend through another frontend already, so that answers could not be
/// told apart. (If no other backend is found, the newer frontend wins: the application sees the right data
/// under the wrong one of two names that it uses itself.)
#[inline(always)]
fn is_taken<F: Family, T: Tables<F>>(tables: &mut T, call: &Call<F::Address>, to: (F::Address, Port)) -> bool {
    let key = SocketKey::new(call.cookie, to, call.protocol, Direction::Reply);
    let peer = call.peer;
    tables.with_socket(&key, |other| other.to() != peer).unwrap_or(false)
}

#[inline(always)]
fn remember_peer<F: Family, T: Tables<F>>(
    tables: &mut T,
    call: &Call<F::Address>,
    id: BackendId,
    to: (F::Address, Port),
    service: ServiceId,
) {
    let key = SocketKey::new(call.cookie, to, call.protocol, Direction::Reply);
    let entry = SocketEntry::new(call.peer, id, service, tables.now());
    // A full table costs the name that the application sees, not the connection.
    let _ = tables.insert_socket(&key, &entry, Insertion::Replace);
}
