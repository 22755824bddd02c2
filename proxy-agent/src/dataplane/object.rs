//! The datapath's object file, embedded at build time.

/// The ELF object with all maps and programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf"));

/// A hash of [`OBJECT`] and of what loads it, which tells them from those of other builds.
pub(super) const HASH: &str = env!("PROXY_EBPF_HASH");
