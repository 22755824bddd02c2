//! Host routing: packets of confirmed flows are sent on by the program itself, past netfilter, where the settings ask for it.
//!
//! Only what is not masqueraded and keeps its ports, and only whole packets without options and marks: all else takes the ordinary
//! way, and so does what begins or ends a connection. An answer is recognised where it enters the node. Requests follow only after
//! an answer has been sent on, so that connection tracking sees both directions of a connection or none. It hears of the
//! end nevertheless: it would keep what has ended for as long as what is idle, and no more connections than it has room for.

use proxy_common::{
    Direction, DropReason, Family, Flow, FlowFlags, FlowKey, FlowTable, Port, Protocol, Settings, SettingsFlags,
};

use super::{
    Found, Stage, TcFamily, Verdict, Work, drop,
    flows::{self, Known},
};
use crate::{
    checksum,
    headers::{Headers, Piece},
    packet::{Journey, Packet, Truncated},
    rewrite::{self, WriteFamily},
    tables::Tables,
};

/// An IP version whose packets can be sent on.
pub trait ForwardFamily: WriteFamily {
    /// Offset of the time to live or hop limit from the start of the IP header.
    const TTL_OFFSET: usize;

    /// What a router goes by beside addresses: type of service, or traffic class and flow label, as [`Journey::class`] has it.
    ///
    /// # Errors
    /// [`Truncated`] if the packet ends before.
    fn class<P: Packet>(packet: &P, l3: usize) -> Result<[u8; 4], Truncated>;

    /// Length from the IP header on, as the header says it.
    ///
    /// # Errors
    /// As [`Self::class`].
    fn length<P: Packet>(packet: &P, l3: usize) -> Result<u16, Truncated>;

    /// Writes the time to live.
    ///
    /// # Errors
    /// [`Truncated`] if the packet cannot be written.
    fn store_ttl<P: Packet>(packet: &mut P, l3: usize, ttl: u8) -> Result<(), Truncated>;
}

impl ForwardFamily for proxy_common::V4 {
    const TTL_OFFSET: usize = 8;

    #[inline(always)]
    fn class<P: Packet>(packet: &P, l3: usize) -> Result<[u8; 4], Truncated> {
        let [service]: [u8; 1] = packet.load(l3 + 1)?;
        Ok([service, 0, 0, 0])
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P, l3: usize) -> Result<u16, Truncated> {
        packet.load(l3 + 2).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn store_ttl<P: Packet>(packet: &mut P, l3: usize, ttl: u8) -> Result<(), Truncated> {
        let before: [u8; 2] = packet.load(l3 + Self::TTL_OFFSET)?;
        let after = [ttl, before[1]];
        packet.store(l3 + Self::TTL_OFFSET, &after)?;
        // Both changes together leave the sum over the header what it is.
        packet.adjust_header_checksum(l3 + 10, checksum::difference(&before, &after))
    }
}

impl ForwardFamily for proxy_common::V6 {
    const TTL_OFFSET: usize = 7;

    #[inline(always)]
    fn class<P: Packet>(packet: &P, l3: usize) -> Result<[u8; 4], Truncated> {
        let [first, second, third, fourth]: [u8; 4] = packet.load(l3)?;
        Ok([first & 0x0f, second, third, fourth])
    }

    #[inline(always)]
    fn length<P: Packet>(packet: &P, l3: usize) -> Result<u16, Truncated> {
        packet.load(l3 + 4).map(|length| u16::from_be_bytes(length).saturating_add(40))
    }

    #[inline(always)]
    fn store_ttl<P: Packet>(packet: &mut P, l3: usize, ttl: u8) -> Result<(), Truncated> {
        packet.store_summed(l3 + Self::TTL_OFFSET, &[ttl])
    }
}

/// Whether the settings ask for such a packet to be sent on. Marks are read on the ordinary way, by rules and by routing.
#[inline(always)]
pub(super) fn is_wanted<F: TcFamily, P: Packet, T: Tables<F>>(packet: &P, tables: &T) -> bool {
    tables.settings().flags().contains(SettingsFlags::HOST_ROUTING) && packet.mark() == 0 && packet.can_be_sent_on()
}

/// Whether packets of a flow can be sent on without anybody missing them on the ordinary way.
#[inline(always)]
fn is_eligible<A: Copy>(flow: &Flow<A>, settings: &Settings) -> bool {
    let flags = flow.flags();
    let is_marked = flags.contains(FlowFlags::MASQUERADE)
        || flags.contains(FlowFlags::LOCAL_NODE_PORT) && settings.local_node_port_mark() != 0;
    !is_marked && !flags.contains(FlowFlags::OWN) && flow.client_port().is_none()
}

/// Whether a request of the flow, which has just been translated, may be sent on. Then [`forward`] is next.
#[inline(always)]
pub(super) fn is_to_be_sent<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &T,
    flow: &Flow<F::Address>,
) -> bool {
    flow.flags().contains(FlowFlags::SENT_ON) && is_wanted(packet, tables) && is_eligible(flow, tables.settings())
}

/// A request that has been translated to `work.found.to`: sends it on if routing leads anywhere.
#[inline(always)]
pub fn forward<F: TcFamily, P: Packet>(packet: &mut P, work: &Work<F>) -> Verdict {
    let Work { headers, found, .. } = work;
    match way(packet, headers, headers.source(), found.to) {
        Ok(Some(way)) => send(packet, headers, &way),
        Ok(None) | Err(Truncated) => Verdict::Pass,
    }
}

/// A packet into the node that belongs to no confirmed flow as a request: it may be the answer of one. Then [`send_back`] is next.
#[inline(always)]
pub fn returns<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &mut Work<F>) -> Verdict {
    match flows::replied(&work.headers, tables) {
        Known::GoesOn(flow) if is_eligible(&flow, tables.settings()) => {
            work.found = Found { to: flow.to(), client_port: None, service: flow.service() };
            work.is_sent_on = flow.flags().contains(FlowFlags::SENT_ON);
            Verdict::Continue(Stage::SendBack)
        }
        Known::GoesOn(_) | Known::IsOver | Known::Unknown | Known::Nobody => Verdict::Continue(Stage::Young),
    }
}

/// An answer of a confirmed flow, from `work.found.to` to the client: if routing leads anywhere, translates it and sends it on.
#[inline(always)]
pub fn send_back<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    work.owner = work.found.service;
    let Work { headers, found, .. } = work;
    let (to, service) = (found.to, found.service);
    let Ok(Some(way)) = way(packet, headers, to, headers.destination()) else {
        if work.is_sent_on {
            note(tables, work, |flags| flags.without(FlowFlags::SENT_ON));
        }
        return Verdict::Continue(Stage::Young);
    };
    if rewrite::source(packet, headers, to).is_err() {
        return drop(work, service, DropReason::Malformed);
    }
    tables.count_packet(service, Direction::Reply, packet.size().saturating_sub(headers.l3));
    let verdict = send(packet, headers, &way);
    if !work.is_sent_on {
        note(tables, work, |flags| flags.with(FlowFlags::SENT_ON));
    }
    verdict
}

/// Changes the flags of both entries of an answer's flow.
#[inline(always)]
fn note<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &Work<F>, change: impl Fn(FlowFlags) -> FlowFlags) {
    let (source, client, protocol) = (work.headers.source(), work.headers.destination(), work.headers.protocol);
    let mut key = FlowKey::new(source, client, protocol, Direction::Reply);
    tables.with_flow(FlowTable::Confirmed, &key, |flow| flow.set_flags(change(flow.flags())));
    key = FlowKey::new(client, work.found.to, protocol, Direction::Original);
    tables.with_flow(FlowTable::Confirmed, &key, |flow| flow.set_flags(change(flow.flags())));
}

/// Where routing leads the packet with these ends; `None` if that is the ordinary way's affair.
#[inline(always)]
fn way<F: TcFamily, P: Packet>(
    packet: &P,
    headers: &Headers<F>,
    source: (F::Address, Port),
    destination: (F::Address, Port),
) -> Result<Option<P::Way>, Truncated> {
    let (l3, l4) = (headers.l3, headers.l4);
    let [ttl]: [u8; 1] = packet.load(l3 + F::TTL_OFFSET)?;
    // A router tells the sender, and looks at options; and what came without a link-layer header cannot be given one.
    let is_ordinary = ttl <= 1
        || l3 == 0
        || l4 - l3 != F::HEADER_LEN
        || headers.part.piece != Piece::Whole
        || headers.tcp.is_closing();
    if is_ordinary {
        return Ok(None);
    }
    let length = match packet.segment_size() {
        None => F::length(packet, l3)?,
        Some(size) => {
            let transport = match headers.protocol {
                Protocol::Tcp => {
                    let [words]: [u8; 1] = packet.load(l4 + 12)?;
                    u16::from(words >> 4) * 4
                }
                Protocol::Udp => 8,
                Protocol::Sctp => 12,
            };
            #[expect(clippy::cast_possible_truncation, reason = "20 or 40")]
            let header = F::HEADER_LEN as u16;
            size.saturating_add(header + transport)
        }
    };
    let journey = Journey {
        version: F::VERSION,
        protocol: headers.protocol.number(),
        source_port: source.1,
        destination_port: destination.1,
        length,
        class: F::class(packet, l3)?,
        source: wide::<F>(source.0),
        destination: wide::<F>(destination.0),
    };
    Ok(packet.way(&journey))
}

/// A packet goes on as a router sends it.
#[inline(always)]
fn send<F: TcFamily, P: Packet>(packet: &mut P, headers: &Headers<F>, way: &P::Way) -> Verdict {
    let ttl: Result<[u8; 1], Truncated> = packet.load(headers.l3 + F::TTL_OFFSET);
    let Ok([ttl]) = ttl else { return Verdict::Drop(DropReason::Malformed) };
    if F::store_ttl(packet, headers.l3, ttl.wrapping_sub(1)).is_err() {
        return Verdict::Drop(DropReason::Malformed);
    }
    packet.send_on(way);
    Verdict::SendOn
}

#[inline(always)]
fn wide<F: Family>(address: F::Address) -> [u8; 16] {
    let mut wide = [0; 16];
    for (to, from) in wide.iter_mut().zip(address.as_ref()) {
        *to = *from;
    }
    wide
}
