//! The network namespaces of the node, as far as processes that this one can see are in them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Calls `visit` in each network namespace, the process's own first, until it returns `false`. Only for a thread
/// that does nothing else: it stays where it was last.
///
/// # Errors
/// The processes cannot be listed, or a namespace cannot be entered; all others were visited. What goes away
/// meanwhile is no error.
pub(in crate::dataplane) fn each_namespace(mut visit: impl FnMut() -> bool) -> io::Result<()> {
    let mut seen = BTreeSet::new();
    let mut first_error = None;
    for path in paths()? {
        match enter(&path, &mut seen) {
            Ok(Entered::Yes) if !visit() => break,
            Ok(Entered::Yes | Entered::Before) => {}
            Err(error) => drop(
                first_error.get_or_insert_with(|| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            ),
        }
    }
    first_error.map_or(Ok(()), Err)
}

enum Entered {
    Yes,
    /// Another path leads to it, or to nothing any more.
    Before,
}

fn enter(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<Entered> {
    let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    let metadata = match fs::metadata(path) {
        Err(error) if gone(&error) => return Ok(Entered::Before),
        metadata => metadata?,
    };
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return Ok(Entered::Before);
    }
    let namespace = match File::open(path) {
        Err(error) if gone(&error) => return Ok(Entered::Before),
        namespace => namespace?,
    };
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(Entered::Yes)
}

fn paths() -> io::Result<Vec<PathBuf>> {
    let mut paths = vec![PathBuf::from("/proc/self/ns/net")];
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            paths.push(entry.path().join("ns/net"));
        }
    }
    Ok(paths)
}
