//! Fragments: the first one has the ports and is handled like any packet; the others follow it.
//!
//! Inwards, fragments are seen as they arrive, and the kernel puts them together behind these programs if it tracks
//! connections. Outwards, what was put together has been fragmented again before these programs see it.
//!
//! A fragment that arrives before the first one of its datagram cannot be told from a foreign one. It is passed on as it is, so
//! the datagram is lost if it was a Service's; that is counted when the first fragment comes.

use proxy_common::{Direction, DropReason, Family, Fragment, FragmentKey, Protocol};

use super::{TcFamily, Verdict, Work, drop};
use crate::{
    headers::Part,
    packet::{Packet, Truncated},
    rewrite::{self, End},
    tables::Tables,
};

/// A fragment without a transport header: gets the address that the first one got.
#[inline(always)]
pub fn later_fragment<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    work: &mut Work<F>,
    direction: Direction,
) -> Verdict {
    let located = &work.located;
    let key = key::<F>(located.source, located.destination, located.part, direction);
    let now = tables.now();
    let Some(first) = living(tables, &key) else {
        // Only what enters the node can be out of order.
        if direction == Direction::Original && Protocol::from_number(located.protocol).is_some() {
            tables.insert_fragment(&key, &Fragment::early(located.destination, now));
        }
        return Verdict::Pass;
    };
    if first.is_early() {
        return Verdict::Pass;
    }
    let end = match direction {
        Direction::Original => End::Destination,
        Direction::Reply => End::Source,
    };
    match rewrite::fragment::<F, _>(packet, located, end, first.address()) {
        Ok(()) => {
            packet.set_mark(packet.mark() | first.mark());
            tables.count_packet(first.service(), direction, packet.size().saturating_sub(located.l3));
            Verdict::Pass
        }
        Err(Truncated) => drop(work, first.service(), DropReason::Malformed),
    }
}

/// The first fragment of a datagram, after everything else is done with it: notes what became of it for the others. Another
/// datagram may have had the same number before, so it is also noted that nothing was done.
#[inline(always)]
pub fn note_fragment<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    work: &Work<F>,
    direction: Direction,
) -> Verdict {
    let headers = &work.headers;
    let key = key::<F>(headers.source().0, headers.destination().0, headers.part, direction);
    let Some(service) = work.translated else {
        tables.remove_fragment(&key);
        return Verdict::Pass;
    };
    let offset = match direction {
        Direction::Original => F::DESTINATION_OFFSET,
        Direction::Reply => F::SOURCE_OFFSET,
    };
    let Ok(address) = F::load_address(packet, headers.l3 + offset) else { return Verdict::Pass };
    if living(tables, &key).is_some_and(|other| other.is_early()) {
        tables.dropped(service, DropReason::FragmentOutOfOrder);
    }
    let settings = tables.settings();
    let mark = packet.mark() & (settings.masquerade_mark() | settings.local_node_port_mark());
    let entry = Fragment::translated(address, mark, service, tables.now());
    tables.insert_fragment(&key, &entry);
    Verdict::Pass
}

#[inline(always)]
fn key<F: Family>(
    source: F::Address,
    destination: F::Address,
    part: Part,
    direction: Direction,
) -> FragmentKey<F::Address> {
    FragmentKey::new(source, destination, part.identification, part.protocol, direction)
}

/// The entry, unless it is so old that it is another datagram's.
#[inline(always)]
fn living<F: Family, T: Tables<F>>(tables: &T, key: &FragmentKey<F::Address>) -> Option<Fragment<F::Address>> {
    let entry = tables.fragment(key)?;
    (tables.now().saturating_sub(entry.noted()) <= Fragment::<F::Address>::TIMEOUT).then_some(entry)
}
