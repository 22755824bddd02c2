//! The pipeline's seams on the host: a frame in a byte buffer, tables in ordinary maps.

mod packet;
mod tables;

pub use packet::{ChecksumState, HostPacket};
use proxy_common::{Decided, DecidedAt, Decision, Direction, DropReason};
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
    run_told(packet, tables, hook, l3).0
}

/// The same, with what is told of the packet to those who follow decisions.
pub fn run_told<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &mut P,
    tables: &mut T,
    hook: Hook,
    l3: usize,
) -> (Verdict, Option<Decision>) {
    let work = &mut Work::<F>::default();
    let (direction, at) = match hook {
        Hook::Ingress => (Direction::Original, DecidedAt::Ingress),
        Hook::Egress => (Direction::Reply, DecidedAt::Egress),
    };
    let mut began = false;
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
            Stage::ChangePort => tc::change_port(packet, work, direction),
            Stage::Remember => {
                let verdict = tc::remember(tables, work);
                began = verdict == Verdict::Continue(Stage::Follow);
                verdict
            }
            Stage::Follow => tc::follow(packet, tables, work),
            Stage::Refuse => tc::refuse(packet, tables, work),
            Stage::Leave => tc::leave(tables, work),
            Stage::Error => tc::error(packet, tables, work, direction),
            Stage::Correct => tc::correct(packet, work, direction),
            Stage::LaterFragment => tc::later_fragment(packet, tables, work, direction),
        };
    }
    if verdict == Verdict::Pass && work.is_first_fragment() {
        verdict = tc::note_fragment(packet, tables, work, direction);
    }
    let decided = match verdict {
        Verdict::Drop(reason) => Some(Decided::Dropped(reason)),
        Verdict::Answer => Some(Decided::Refused),
        Verdict::Pass | Verdict::SendOn if began => Some(Decided::Begins),
        Verdict::Pass | Verdict::SendOn | Verdict::Continue(_) => None,
    };
    match decided {
        Some(Decided::Dropped(reason)) => tc::count_end(tables, work, reason),
        Some(Decided::Refused) => tc::count_end(tables, work, DropReason::NoEndpoint),
        Some(Decided::Begins) | None => {}
    }
    (verdict, decided.map(|decided| tc::decision(packet, work, at, decided)))
}
