//! Packets as real networks make of what sockets send, through the attached TC programs. Needs root.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod clashes;
mod fragments;
mod host_routing;
mod path_mtu;
mod refusals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
