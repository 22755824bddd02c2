//! Who is told of a decision.
//!
//! Nobody, most of the time: then the programs look at the few elements of the `traces` table when something is decided, and at
//! nothing when a packet goes the way that was decided before.

use proxy_common::{Decision, Trace};

/// Whether a trace asks for the decision. Only the time of the decision says whether the trace is still going on: who asked may have
/// been killed.
#[inline(always)]
#[must_use]
pub fn wants(trace: &Trace, decision: &Decision) -> bool {
    trace.lasts(decision.time())
        && wants_protocol(trace, decision)
        && wants_service(trace, decision)
        && wants_address(trace, decision)
}

#[inline(always)]
fn wants_protocol(trace: &Trace, decision: &Decision) -> bool {
    trace.protocol() == 0 || trace.protocol() == u32::from(decision.protocol_number())
}

#[inline(always)]
fn wants_service(trace: &Trace, decision: &Decision) -> bool {
    let services = trace.services();
    // The empty places behind the last one are nobody's number, and so is an empty first one.
    services[0] == 0 || services.contains(&decision.service().get())
}

#[inline(always)]
fn wants_address(trace: &Trace, decision: &Decision) -> bool {
    let (version, address) = trace.address();
    if version == 0 {
        return true;
    }
    // An address that is not known is unspecified, for which nobody asks.
    version == u32::from(decision.version())
        && (*address == decision.source().0 || *address == decision.destination().0 || *address == decision.backend().0)
}
