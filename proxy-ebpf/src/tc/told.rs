//! What is told of a packet to those who follow decisions; see [`crate::trace`].

use proxy_common::{Decided, DecidedAt, Decision, FlowFlags, Port};

use super::{TcFamily, Work};
use crate::packet::Packet;

/// What is told of a packet, after all stages.
#[inline(always)]
pub fn decision<F: TcFamily, P: Packet>(packet: &P, work: &Work<F>, at: DecidedAt, decided: Decided) -> Decision {
    let Work { headers, located, chosen, admitted, .. } = work;
    let (device, mark) = (packet.device(), packet.mark());
    if headers.l4 == PORTLESS {
        let destination = (located.destination, Port::default());
        let mut decision = Decision::new::<F>(at, decided, work.owner, located.protocol, &destination);
        decision.set_packet::<F>(&(located.source, Port::default()), device, mark);
        return decision;
    }
    let mut decision = Decision::new::<F>(at, decided, work.owner, headers.protocol.number(), &headers.destination());
    decision.set_packet::<F>(&headers.source(), device, mark);
    if decided == Decided::Begins {
        decision.set_backend::<F>(&chosen.to);
        if chosen.client_port != headers.source().1 {
            decision.set_client_port(chosen.client_port);
        }
        if admitted.flags.contains(FlowFlags::MASQUERADE) {
            decision.set_masqueraded();
        }
    }
    decision
}

/// Where the transport header is in the headers of a packet that has none.
pub(super) const PORTLESS: usize = 0;
