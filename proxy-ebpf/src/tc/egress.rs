//! Packets that leave the node.

use proxy_common::{Detector, Direction, DropReason, Flow, Protocol, ServiceEntry, ServiceFlags, SettingsFlags};

use super::{
    Stage, TcFamily, Verdict, Work, allows_source, drop,
    flows::{self, Known},
};
use crate::{
    frontend::{self, Loopback},
    headers::Headers,
    packet::Packet,
    policy::{self, Client},
    rewrite,
    tables::Tables,
};

/// A packet that leaves the node on a device: reverse NAT if it is a reply of a confirmed flow.
#[inline(always)]
pub fn egress<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, work: &mut Work<F>) -> Verdict {
    match flows::replied(&work.headers, tables) {
        Known::GoesOn(flow) => translate_back(packet, tables, work, &flow),
        Known::IsOver | Known::Nobody if work.headers.may_begin_connection() => Verdict::Continue(Stage::Leave),
        Known::IsOver | Known::Nobody => Verdict::Pass,
        Known::Unknown => Verdict::Continue(Stage::YoungReply),
    }
}

/// Rewrites the source of a reply.
#[inline(always)]
pub(super) fn translate_back<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    work: &mut Work<F>,
    flow: &Flow<F::Address>,
) -> Verdict {
    let headers = &work.headers;
    if rewrite::source(packet, headers, flow.to()).is_err() {
        return drop(work, flow.service(), DropReason::Malformed);
    }
    tables.count_packet(flow.service(), Direction::Reply, packet.size().saturating_sub(headers.l3));
    let present = headers.destination().1;
    work.note_translation(flow.service());
    work.with_client_port(flow.client_port().unwrap_or(present), present, flow.service())
}

/// What leaves the node, is no reply and may begin a connection. If it is addressed to a frontend, the socket hooks left it
/// alone, and it is too late to send it to a backend. But where the rules say that it is to be dropped, it is.
#[inline(always)]
pub fn leave<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &mut Work<F>) -> Verdict {
    let headers = &work.headers;
    // A nodePort has no ranges, and no policy that would drop what the node sends.
    if let Some(service) = frontend::exact(tables, headers.destination(), headers.protocol) {
        if !allows_source(tables, &service, headers.source().0) {
            return drop(work, service.id(), DropReason::SourceNotAllowed);
        }
        let route = policy::route(service.flags(), tables.settings().flags(), &ThisNode);
        if route.list.of(&service) == Err(DropReason::NoLocalEndpoint) {
            return drop(work, service.id(), DropReason::NoLocalEndpoint);
        }
    }
    if headers.protocol == Protocol::Udp
        && let Some(service) = mistakable(headers, tables)
    {
        flows::note_own(headers, tables, service.id());
    }
    Verdict::Pass
}

/// The Service whose clients' packets look like the answers to what leaves the node: the source is a frontend for clients outside.
#[inline(always)]
fn mistakable<F: TcFamily, T: Tables<F>>(headers: &Headers<F>, tables: &T) -> Option<ServiceEntry> {
    let (source, protocol) = (headers.source(), headers.protocol);
    if tables.settings().flags().contains(SettingsFlags::EXTERNAL_DATAGRAMS)
        && let Some(service) = frontend::exact(tables, source, protocol)
        && service.flags().contains(ServiceFlags::EXTERNAL)
    {
        return Some(service);
    }
    let service = frontend::node_port(tables, source.1, protocol)?;
    frontend::serves_node_ports(tables, source.0, Loopback::IsNobody).then_some(service)
}

/// Whatever passes here untranslated is treated as the node's own.
struct ThisNode;

impl Client for ThisNode {
    #[inline(always)]
    fn detector(&self) -> Detector {
        Detector::None
    }

    #[inline(always)]
    fn is_pod(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_node(&self) -> bool {
        true
    }
}
