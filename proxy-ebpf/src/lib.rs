//! The datapath: what happens to a packet or a socket call that may be a Service's.
//!
//! Everything here is generic over the IP [`Family`](proxy_common::Family) and over two seams:
//! [`Packet`] (the bytes of a frame and its mark) and [`Tables`] (lookups and inserts). In the kernel
//! they are the skb and the BPF maps (`main.rs` and `kernel/`, built for bpf only); in tests a byte
//! buffer and ordinary maps. The code that runs in the kernel is therefore the code under test.
//!
//! The pipeline never loops over Services or backends, never allocates, and never touches a packet
//! that belongs to no Service.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined costs the verifier and the stack; where it pays, it is said"
)]

#[cfg(feature = "host")]
extern crate std;

pub mod affinity;
pub mod answer;
mod bytes;
pub mod checksum;
pub mod choose;
pub mod clock;
pub mod crc32c;
#[cfg(feature = "fixtures")]
#[expect(clippy::missing_panics_doc, reason = "a fixture that cannot be built is a mistake in the fixture")]
pub mod fixtures;
pub mod frontend;
pub mod headers;
#[cfg(feature = "host")]
pub mod host;
pub mod packet;
pub mod policy;
pub mod rewrite;
pub mod socket;
pub mod tables;
pub mod tc;
pub mod trace;

pub use packet::{Packet, Truncated};
pub use tables::{InsertError, Insertion, Tables};
pub use tc::Verdict;
