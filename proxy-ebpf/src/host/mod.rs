//! The pipeline's seams on the host: a frame in a byte buffer, tables in ordinary maps.

mod packet;
mod tables;

pub use packet::{ChecksumState, HostPacket};
pub use tables::HostTables;

use crate::{
    headers,
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
pub fn run<F: TcFamily>(packet: &mut HostPacket, tables: &mut HostTables<F>, hook: Hook, l3: usize) -> Verdict {
    let Ok(Some(headers)) = headers::parse::<F, _>(packet, l3) else { return Verdict::Pass };
    let work = &mut Work::new(headers);
    let mut verdict = match hook {
        Hook::Ingress => tc::ingress(packet, tables, work),
        Hook::Egress => tc::egress(packet, tables, work),
    };
    while let Verdict::Continue(stage) = verdict {
        verdict = match stage {
            Stage::Admit => tc::admit(packet, tables, work),
            Stage::Choose => tc::choose(tables, work),
            Stage::Remember => tc::remember(tables, work),
            Stage::Follow => tc::follow(packet, tables, work),
            Stage::Refuse => tc::refuse(packet, work),
            Stage::Leave => tc::leave(tables, work),
        };
    }
    verdict
}
