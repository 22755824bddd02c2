//! Connections that a backend could not tell apart: from one port of a client, through two frontends, or through one and
//! directly. The newer one reaches the backend from another port, as with netfilter.

use proxy_common::{Direction, DropReason, FlowFlags, Port, ServiceEntry, ServiceFlags, SlotRange};

use super::{
    Admitted, Chosen, Stage, TcFamily, Verdict, Work, drop, flows,
    flows::{Defence, Former},
};
use crate::{
    packet::{Packet, Truncated},
    policy::List,
    rewrite::{self, End},
    tables::Tables,
};

/// How often [`evade`] runs for a packet, at most: a port each time. Then the connection is given up.
pub const ATTEMPTS: u8 = 8;

/// The first packet of a flow whose backend has another connection from the same port: tries another one.
#[inline(always)]
pub fn evade<F: TcFamily, T: Tables<F>>(tables: &mut T, work: &mut Work<F>) -> Verdict {
    let Work { headers, admitted, chosen, .. } = work;
    let port = another(headers.source().1, tables.random());
    if let Some(former) = flows::room(headers, tables, chosen.to, port) {
        (chosen.client_port, chosen.former) = (port, former);
        return Verdict::Continue(Stage::Remember);
    }
    chosen.evasions += 1;
    if chosen.evasions < ATTEMPTS {
        return Verdict::Continue(Stage::Evade);
    }
    let service = admitted.service.id();
    drop(work, service, DropReason::TupleClash)
}

/// The first packet of a connection to what is no frontend: if a connection through a frontend is in its way, it is treated
/// like one through a frontend of the same Service.
#[inline(always)]
pub(super) fn step_aside<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    work: &mut Work<F>,
) -> Verdict {
    let headers = &work.headers;
    let Some((other, opening)) = flows::in_the_way(packet, headers, tables) else { return Verdict::Pass };
    work.opening = opening;
    let service = ServiceEntry::new(other.service(), ServiceFlags::NONE, SlotRange::EMPTY, SlotRange::EMPTY);
    work.admitted = Admitted { service, range: SlotRange::EMPTY, list: List::Cluster, flags: FlowFlags::NONE };
    work.chosen = Chosen {
        backend: other.backend(),
        to: headers.destination(),
        client_port: headers.source().1,
        former: Former::None,
        defence: Defence::Nobody,
        is_recalled: true,
        evasions: 0,
    };
    Verdict::Continue(Stage::Evade)
}

/// A packet that is translated, but for the client's port.
#[inline(always)]
pub fn change_port<F: TcFamily, P: Packet>(packet: &mut P, work: &mut Work<F>, direction: Direction) -> Verdict {
    let end = match direction {
        Direction::Original => End::Source,
        Direction::Reply => End::Destination,
    };
    match rewrite::port(packet, &work.headers, end, work.client_port) {
        Ok(()) => Verdict::Pass,
        Err(Truncated) => drop(work, work.owner, DropReason::Malformed),
    }
}

/// Another port of the same kind: privileged ones stay so, others become one of the upper half, where clients' ports are
/// (RFC 6056 §3.2).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
const fn another(port: Port, random: u32) -> Port {
    const PRIVILEGED: u16 = 1 << 10;
    const UPPER_HALF: u16 = 1 << 15;
    let random = random as u16;
    if port.get() < PRIVILEGED {
        Port::new(PRIVILEGED / 2 + random % (PRIVILEGED / 2))
    } else {
        Port::new(UPPER_HALF + random % UPPER_HALF)
    }
}
