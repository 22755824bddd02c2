//! The pipeline's seams on the host: a frame in a byte buffer, tables in ordinary maps.

mod packet;
mod tables;

pub use packet::{ChecksumState, HostPacket};
pub use tables::HostTables;

use crate::{
    headers,
    tc::{self, Stage, TcFamily, Verdict},
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
    let mut verdict = match hook {
        Hook::Ingress => tc::ingress(packet, tables, &headers),
        Hook::Egress => tc::egress(packet, tables, &headers),
    };
    if verdict == Verdict::Continue(Stage::Begin) {
        verdict = tc::begin(packet, tables, &headers);
    }
    if verdict == Verdict::Continue(Stage::Follow) {
        verdict = tc::follow(packet, tables, &headers);
    }
    if verdict == Verdict::Continue(Stage::Refuse) {
        verdict = tc::refuse(packet, tables, &headers);
    }
    verdict
}
