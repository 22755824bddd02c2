//! Kernel features, maps, programs, links, devices, cgroup and nftables: everything of the agent that
//! touches the kernel.
//!
//! Decides nothing about Services: what the tables hold comes from [`crate::plan`].

#[expect(dead_code, unused_imports, reason = "the maps and programs that use the rest are still to come")]
mod bpf;
pub mod devices;
pub mod features;
pub mod lock;
pub mod mounts;
pub mod nft;
pub mod object;
