//! ICMP errors about packets that were translated.
//!
//! Who sent the packet knows it as it was before translation, so what an error quotes is translated back. The error
//! itself then comes from, or goes to, the end that the quoted packet names: a router's own address behind a frontend
//! is nothing that the client knows (RFC 5508 §4.2), and netfilter does the same.
//!
//! An error about a request leaves the node towards the client. One about a reply enters the node and goes on to the
//! backend. A flow is not kept alive by them. Masquerading is undone and done by netfilter, behind and before these
//! programs.

use proxy_common::{Direction, DropReason, FlowKey};

use super::{Found, Stage, TcFamily, Verdict, Work, drop, flows};
use crate::{
    headers,
    packet::{Packet, Truncated},
    rewrite::{self, End},
    tables::Tables,
};

/// An ICMP error: finds the flow whose packet it is about.
///
/// In `direction`, that is [`Direction::Original`] for an error that enters the node: it is about what a backend sent
/// through its frontend. One that leaves is about what a client sent.
#[inline(always)]
pub fn error<F: TcFamily, P: Packet, T: Tables<F>>(
    packet: &P,
    tables: &mut T,
    work: &mut Work<F>,
    direction: Direction,
) -> Verdict {
    match headers::quoted(packet, &work.located) {
        Ok(Some(quoted)) => work.quoted = quoted,
        Ok(None) | Err(Truncated) => return Verdict::Pass,
    }
    let quoted = &work.quoted;
    // An error goes to who sent the packet; anything else is no answer to it.
    if quoted.source.0 != work.located.destination {
        return Verdict::Pass;
    }
    let key = FlowKey::new(quoted.destination, quoted.source, quoted.protocol, direction);
    let Some(flow) = flows::translating(&key, quoted.protocol, tables) else { return Verdict::Pass };
    work.found = Found { to: flow.to(), client_port: flow.client_port(), service: flow.service() };
    Verdict::Continue(Stage::Correct)
}

/// An ICMP error whose flow [`error`] found: translates it and what it quotes.
#[inline(always)]
pub fn correct<F: TcFamily, P: Packet>(packet: &mut P, work: &mut Work<F>, direction: Direction) -> Verdict {
    // The quoted packet went the other way than the packets of the flow's entry.
    let end = match direction {
        Direction::Original => End::Source,
        Direction::Reply => End::Destination,
    };
    match rewrite::error(packet, &work.located, &work.quoted, end, work.found.to, work.found.client_port) {
        Ok(()) => Verdict::Pass,
        Err(Truncated) => drop(work, work.found.service, DropReason::Malformed),
    }
}
