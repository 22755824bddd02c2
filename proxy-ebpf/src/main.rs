//! The kernel programs. Each entry point names its hook and hands over to the pipeline; the rest of
//! this binary, in `kernel/`, lends the pipeline the skb, the socket call and the maps.
//!
//! On the host this is an empty program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For one instruction that `core` does not offer for bpf, see `kernel/tables.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[expect(clippy::inline_always, reason = "a function that is not inlined costs the verifier and the stack")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
