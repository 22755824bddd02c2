//! Why the pinned tables cannot be read: nobody runs here, something is broken, or the pins are somebody else's.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use proxy_common::{LAYOUT_VERSION, Settings, V4, V6, maps};

use super::{
    bpf, mounts,
    pins::Pins,
    tables::{TableError, read_settings_of_any_layout},
};

/// Why the tables at a path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Diagnosis {
    /// Nothing is pinned there.
    #[error(
        "no tables at {path}: is the agent running on this node? If it uses another directory, name it with --bpffs-root"
    )]
    NotRunning {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is somewhere else.
    #[error("{path} is not on a bpf file system: name the agent's directory, below /sys/fs/bpf, with --bpffs-root")]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Reading needs rights.
    #[error("not allowed to read the tables at {path}: run as root")]
    NotAllowed {
        /// The directory.
        path: PathBuf,
    },
    /// Some of the agent's tables are pinned, and some are not.
    #[error(
        "{path} is broken: {} not pinned there, but other tables of the agent's are; restart the agent, which makes all of \
         them anew",
        are(missing)
    )]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// The tables that are missing.
        missing: Vec<&'static str>,
    },
    /// Something that is no map.
    #[error("{path} is a pinned {kind}, and no table of the agent's: somebody else uses this directory")]
    NoMap {
        /// The pin.
        path: PathBuf,
        /// What it is: a program or a link.
        kind: &'static str,
    },
    /// Another map.
    #[error(
        "what is pinned as {} is another program's, or an agent's of another version: {error}. Use the \
         proxy-agent that runs on this node, or name another directory with --bpffs-root",
        error.path().display()
    )]
    Foreign {
        /// What is wrong with it.
        error: TableError,
    },
    /// The agent that made the tables is another version.
    #[error(
        "the tables at {path} have layout {found}, and this proxy-agent knows layout {LAYOUT_VERSION}: use the proxy-agent \
         that runs on this node"
    )]
    OtherLayout {
        /// The directory.
        path: PathBuf,
        /// Their layout.
        found: u32,
    },
    /// The agent made the tables and has not filled them.
    #[error("the tables at {path} are empty: an agent is starting, or ended before it had filled them; see its log")]
    Unfilled {
        /// The directory.
        path: PathBuf,
    },
}

/// What the error of opening or reading a table below `root` means.
#[must_use]
pub fn of_error(error: TableError, root: &Path) -> Diagnosis {
    let path = root.to_owned();
    if error.is_denied() {
        return Diagnosis::NotAllowed { path };
    }
    match mounts::is_bpffs(root) {
        Ok(false) if root.exists() => return Diagnosis::NotBpffs { path },
        _ => {}
    }
    let pins = Pins::new(root);
    // Another version's agent has other tables, and not all of those that this one knows.
    if let Ok(Some((found, _))) = read_settings_of_any_layout(&pins.map(maps::SETTINGS))
        && ![0, LAYOUT_VERSION].contains(&found)
    {
        return Diagnosis::OtherLayout { path, found };
    }
    if error.is_missing() {
        let (present, missing): (Vec<_>, Vec<_>) = tables().partition(|table| pins.map(table).exists());
        return if present.is_empty() {
            Diagnosis::NotRunning { path }
        } else {
            Diagnosis::Incomplete { path, missing }
        };
    }
    match kind(error.path()) {
        Ok(Some(kind)) => Diagnosis::NoMap { path: error.path().to_owned(), kind },
        Ok(None) | Err(_) => Diagnosis::Foreign { error },
    }
}

/// What is wrong with tables that have these settings.
///
/// # Errors
/// They are another version's, or not filled.
pub fn check_layout(settings: &Settings, root: &Path) -> Result<(), Diagnosis> {
    let path = root.to_owned();
    match settings.layout_version() {
        LAYOUT_VERSION => Ok(()),
        0 => Err(Diagnosis::Unfilled { path }),
        found => Err(Diagnosis::OtherLayout { path, found }),
    }
}

/// The names of all tables.
fn tables() -> impl Iterator<Item = &'static str> {
    maps::FAMILY_MAPS.into_iter().flat_map(|map| [map.name::<V4>(), map.name::<V6>()]).chain(maps::SHARED_MAPS)
}

/// What is pinned there, if it is no map: descriptors of the kernel's BPF objects are links to a name that says so.
fn kind(path: &Path) -> io::Result<Option<&'static str>> {
    let object = bpf::open_pinned(path)?;
    let name = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    let name = name.to_string_lossy();
    let kinds = [("bpf-prog", "program"), ("bpf-link", "link"), ("bpf_link", "link")];
    Ok(kinds.into_iter().find(|(found, _)| name.contains(found)).map(|(_, kind)| kind))
}

fn are(missing: &[&str]) -> String {
    match missing {
        [table] => format!("{table} is"),
        tables => format!("{} are", tables.join(", ")),
    }
}
