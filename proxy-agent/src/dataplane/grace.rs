//! Waiting until every program that might still use what was replaced has finished.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;

use super::bpf;

/// Waits for running programs.
///
/// Userspace cannot call `synchronize_rcu` itself, but the kernel calls it, for this very purpose, when
/// userspace changes a map of maps (`maybe_wait_bpf_programs`, kernel commit 1ae80cf31938, Linux 5.0).
/// membarrier(2) is no substitute: it returns at once on a machine with one processor, and fails on
/// kernels with `nohz_full`.
#[derive(Debug)]
pub(super) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// # Errors
    /// The kernel refuses the two small maps.
    pub(super) fn new() -> io::Result<Self> {
        let inner = bpf::create_map(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0)?;
        let outer = bpf::create_map_of_maps(inner.as_fd())?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program has finished that was running at the time of the call: some
    /// milliseconds.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn wait(&self) -> io::Result<()> {
        bpf::set_inner_map(self.outer.as_fd(), self.inner.as_fd())
    }
}
