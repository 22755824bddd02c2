//! The pipeline's seams on the host: a frame in a byte buffer, tables in ordinary maps.

mod packet;
mod tables;

pub use packet::{ChecksumState, HostPacket};
use proxy_common::Direction;
pub use tables::{FlowChange, HostTables};

use crate::{
    packet::Packet,
    tables::Tables,
    tc::{self, Stage, TcFamily, Verdict, Work},
};

/// Which of the TC programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The packet enters the node.
    Ingress,
    /// The packet leaves the node.
    Egress,
}

/// Runs a TC program's stages, in the order in which the kernel's entry point runs them. `l3` is the offset of the
/// IP header.
pub fn run<F: TcFamily, P: Packet, T: Tables<F>>(packet: &mut P, tables: &mut T, hook: Hook, l3: usize) -> Verdict {
    let work = &mut Work::<F>::default();
    let direction = match hook {
        Hook::Ingress => Direction::Original,
        Hook::Egress => Direction::Reply,
    };
    let mut verdict = tc::inspect(packet, work, l3);
    while let Verdict::Continue(stage) = verdict {
        verdict = match stage {
            Stage::Match => match hook {
                Hook::Ingress => tc::ingress(packet, tables, work),
                Hook::Egress => tc::egress(packet, tables, work),
            },
            Stage::Forward => tc::forward(packet, work),
            Stage::Return => tc::returns(tables, work),
            Stage::SendBack => tc::send_back(packet, tables, work),
            Stage::Young => tc::young(packet, tables, work),
            Stage::YoungReply => tc::young_reply(packet, tables, work),
            Stage::Admit => tc::admit(packet, tables, work),
            Stage::Choose => tc::choose(tables, work),
            Stage::Evade => tc::evade(tables, work),
            Stage::ChangePort => tc::change_port(packet, tables, work, direction),
            Stage::Remember => tc::remember(tables, work),
            Stage::Follow => tc::follow(packet, tables, work),
            Stage::Refuse => tc::refuse(packet, work),
            Stage::Leave => tc::leave(tables, work),
            Stage::Error => tc::error(packet, tables, work, direction),
            Stage::Correct => tc::correct(packet, tables, work, direction),
            Stage::LaterFragment => tc::later_fragment(packet, tables, work, direction),
        };
    }
    if verdict == Verdict::Pass && work.is_first_fragment() {
        verdict = tc::note_fragment(packet, tables, work, direction);
    }
    verdict
}
