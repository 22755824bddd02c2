//! The pipeline's seams on the host: a frame in a byte buffer, tables in ordinary maps.

mod packet;
mod tables;

pub use packet::{ChecksumState, HostPacket};
pub use tables::HostTables;

use crate::tc::{self, Stage, TcFamily, Verdict};

/// Which of the TC programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The packet enters the node.
    Ingress,
    /// The packet leaves the node.
    Egress,
}

/// Runs a TC program's stages, in the order in which the kernel's entry point runs them.
pub fn run<F: TcFamily>(packet: &mut HostPacket, tables: &mut HostTables<F>, hook: Hook, l3: usize) -> Verdict {
    let mut verdict = match hook {
        Hook::Ingress => tc::ingress(packet, tables, l3),
        Hook::Egress => tc::egress(packet, tables, l3),
    };
    if verdict == Verdict::Continue(Stage::Begin) {
        verdict = tc::begin(packet, tables, l3);
    }
    if verdict == Verdict::Continue(Stage::Refuse) {
        verdict = tc::refuse(packet, tables, l3);
    }
    verdict
}
