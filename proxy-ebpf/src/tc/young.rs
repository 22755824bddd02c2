//! Flows that are not confirmed yet: in a table of their own, which whoever invents senders may fill as they like.
//!
//! A flow is confirmed when its client shows that it has heard the backend. For TCP, that is an acknowledgment of the
//! backend's SYN, or any segment after the backend has sent more than that, which it does not do before it has accepted the
//! client's acknowledgment. For SCTP it is what follows COOKIE ACK or anything else of the backend's after its INIT ACK. For UDP it is a
//! datagram after an answer.
//!
//! When a flow is confirmed, its entries are copied and not moved: whoever looks into both tables, the confirmed one first,
//! finds it at any moment. What is left behind is not looked at any more, and so the next that the kernel evicts.

use proxy_common::{Direction, Flow, FlowKey, FlowTable, Protocol, ServiceEntry, ServiceFlags, SlotRange, TcpState};

use super::{
    Admitted, Chosen, Stage, TcFamily, Verdict, Work, egress, flows,
    flows::{Defence, Former, Known, Noted},
};
use crate::{
    headers::Headers,
    packet::{Packet, Truncated},
    policy::List,
    tables::{Insertion, Tables},
};

/// A packet into the node that belongs to no confirmed flow: translated if its flow is known nevertheless.
#[inline(always)]
pub fn young<F: TcFamily, P: Packet, T: Tables<F>>(packet: &P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    let headers = &work.headers;
    let flow = match asked(packet, headers, tables) {
        Known::GoesOn(flow) => flow,
        known if headers.may_begin_connection() => {
            work.supersedes = matches!(known, Known::IsOver);
            return Verdict::Continue(Stage::Admit);
        }
        Known::IsOver | Known::Unknown | Known::Nobody => return Verdict::Pass,
    };
    let service = ServiceEntry::new(flow.service(), ServiceFlags::NONE, SlotRange::EMPTY, SlotRange::EMPTY);
    work.admitted = Admitted { service, range: SlotRange::EMPTY, list: List::Cluster, flags: flow.flags() };
    work.chosen = Chosen {
        backend: flow.backend(),
        to: flow.to(),
        client_port: flow.client_port().unwrap_or(headers.source().1),
        former: Former::None,
        defence: Defence::Nobody,
        is_recalled: true,
        evasions: 0,
    };
    Verdict::Continue(Stage::Follow)
}

/// A packet out of the node that is no reply of a confirmed flow: translated if it is one of another.
#[inline(always)]
pub fn young_reply<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    work: &mut Work<F>,
) -> Verdict {
    match answered(packet, &work.headers, tables) {
        Some(flow) => egress::translate_back(packet, tables, work, &flow),
        None if work.headers.may_begin_connection() => Verdict::Continue(Stage::Leave),
        None => Verdict::Pass,
    }
}

/// The young flow that a packet into the node belongs to, if it goes where it went before. Confirms it if it may.
#[inline(always)]
fn asked<F: TcFamily, P: Packet, T: Tables<F>>(packet: &P, headers: &Headers<F>, tables: &mut T) -> Known<F::Address> {
    let timeout = flows::timeout(tables, headers.protocol);
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Original);
    let Some(Noted { mut flow, idle, now }) = flows::note(tables, FlowTable::Young, &key, headers.tcp, timeout) else {
        return Known::Unknown;
    };
    if idle > timeout {
        return Known::IsOver;
    }
    let client = flows::client(headers, &flow);
    let reply_key = FlowKey::new(flow.to(), client, headers.protocol, Direction::Reply);
    let reply = tables.with_flow(FlowTable::Young, &reply_key, |reply| {
        // What may begin another connection does not keep this one.
        if headers.protocol == Protocol::Udp || !headers.may_begin_connection() {
            reply.note(now, TcpState::NONE);
        }
        *reply
    });
    let said = reply.map(|reply| reply.state());
    if !flows::goes_on(packet, headers, tables, (FlowTable::Young, &key), &flow, |_| said)
        || said.is_none() && flows::needs_reply_entry(headers, &flow)
    {
        flows::forget_datagrams(headers, tables, &key, &reply_key);
        return Known::IsOver;
    }
    if let Some(reply) = reply
        && is_confirmed(packet, headers, &flow, &reply)
    {
        flow.note(now, headers.tcp);
        // The reply comes first: there is none before it is there. Another CPU may be faster with the same. What a reply is
        // noted to be just now, on another CPU, may stay behind.
        let _ = tables.insert_flow(FlowTable::Confirmed, &reply_key, &reply, Insertion::New);
        let _ = tables.insert_flow(FlowTable::Confirmed, &key, &flow, Insertion::New);
    }
    Known::GoesOn(flow)
}

/// The young flow that a packet out of the node is a reply of.
#[inline(always)]
fn answered<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    headers: &Headers<F>,
    tables: &mut T,
) -> Option<Flow<F::Address>> {
    let timeout = flows::timeout(tables, headers.protocol);
    let key = FlowKey::new(headers.source(), headers.destination(), headers.protocol, Direction::Reply);
    let seen = match headers.protocol {
        Protocol::Udp => TcpState::DATA,
        Protocol::Tcp | Protocol::Sctp => headers.tcp,
    };
    let Noted { flow, idle, now } = flows::note(tables, FlowTable::Young, &key, seen, timeout)?;
    if idle > timeout {
        return None;
    }
    if headers.protocol == Protocol::Tcp
        && headers.tcp.contains(TcpState::SYN)
        && let Ok(sequence) = headers.sequence(packet)
    {
        tables
            .with_flow(FlowTable::Young, &key, |flow| flow.await_acknowledgment(lower_half(sequence.wrapping_add(1))));
    } else if idle > 0 {
        flows::keep_original(headers, tables, FlowTable::Young, &flow, now);
    }
    Some(flow)
}

/// Whether a packet of the client's shows that it has heard the backend. `flow` and `reply` are the entries as they were before.
#[inline(always)]
fn is_confirmed<F: TcFamily, P: Packet>(
    packet: &P,
    headers: &Headers<F>,
    flow: &Flow<F::Address>,
    reply: &Flow<F::Address>,
) -> bool {
    let said = reply.state();
    if said.is_closing() || flow.state().is_closing() {
        return false;
    }
    match headers.protocol {
        Protocol::Udp => said.contains(TcpState::DATA),
        Protocol::Sctp => headers.tcp == TcpState::DATA && said.contains(TcpState::DATA),
        Protocol::Tcp => {
            headers.tcp == TcpState::DATA
                && (said.contains(TcpState::DATA)
                    || said.contains(TcpState::SYN) && acknowledges(packet, headers, reply.awaited()))
        }
    }
}

#[inline(always)]
fn acknowledges<F: TcFamily, P: Packet>(packet: &P, headers: &Headers<F>, awaited: u16) -> bool {
    match headers.acknowledgment(packet) {
        Ok(number) => headers.acknowledges && lower_half(number) == awaited,
        Err(Truncated) => false,
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
const fn lower_half(number: u32) -> u16 {
    number as u16
}
