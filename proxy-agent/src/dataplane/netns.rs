//! This process's network namespace, as socket hooks know it.

use std::{fs, fs::File, io, os::fd::AsFd as _, path::PathBuf};

use super::{
    bpf,
    features::{Feature, Features},
    mounts,
};

/// The cookie of this thread's network namespace. `None` where hooks cannot tell namespaces apart, or the kernel does not
/// say which this one is.
#[must_use]
pub(super) fn cookie(features: &Features) -> Option<u64> {
    if !features.has(Feature::NetnsCookie) {
        return None;
    }
    let cookie = bpf::netns_cookie().or_else(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => by_connecting(),
        _ => Err(error),
    });
    cookie
        .inspect_err(|error| {
            tracing::warn!(%error, "the kernel does not tell this network namespace from others: what depends on it is left to packets");
        })
        .ok()
}

/// Before 5.14 only a hook knows.
pub(super) fn by_connecting() -> io::Result<u64> {
    let root = mounts::mounted_cgroup2().map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // The mount may show only a part of the hierarchy: then its root is the part that this process is in.
    let folder = Some(root.join(own)).filter(|folder: &PathBuf| folder.is_dir()).unwrap_or(root);
    bpf::netns_cookie_by_connecting(File::open(folder)?.as_fd())
}
