//! Takes no new connections any more, and lets those that are there go on, so that somebody else can take over.

use std::path::Path;

use proxy_common::{Family, PlainAddress};

use super::{
    CleanupError,
    frontends::FormerFrontends,
    lock::{Lock, LockError},
    pins::Pins,
    tables::{FamilyTables, TableError, Tables, Writes},
};

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Frontends that were taken away.
    pub frontends: usize,
    /// Connections and flows of datagrams that TC programs translate, some of which may have ended.
    pub flows: usize,
}

/// Takes all frontends out of the tables pinned at `bpffs_root`. From then on whatever begins is left to others, such as
/// kube-proxy's rules, while the programs go on translating what they know: each flow's entries say where it goes.
///
/// # Errors
/// An agent is running, which would put the frontends back; or the tables cannot be read or written.
pub fn drain(bpffs_root: &Path) -> Result<Drained, DrainError> {
    // Without tables there is nothing to lock either.
    let mut tables = Tables::open(&Pins::new(bpffs_root))?;
    let _lock = Lock::take(bpffs_root).map_err(|error| match error {
        LockError::Taken { path } => CleanupError::Running { path },
        LockError::Io { .. } => CleanupError::Lock(error),
    })?;
    // An agent may have ended while it replaced programs: those have frontends of their own.
    FormerFrontends::open(&Pins::new(bpffs_root), Writes::Single)?.empty()?;
    let frontends = take_frontends(&mut tables.v4)? + take_frontends(&mut tables.v6)?;
    let flows = flows(&tables.v4)? + flows(&tables.v6)?;
    Ok(Drained { frontends, flows })
}

/// Why frontends cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// A table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An agent is running, or the directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] CleanupError),
}

fn flows<F: Family<Address: PlainAddress>>(tables: &FamilyTables<F>) -> Result<usize, TableError> {
    let mut entries = 0;
    tables.visit_flows(|_, _| entries += 1)?;
    // Each flow has two.
    Ok(entries / 2)
}

fn take_frontends<F: Family<Address: PlainAddress>>(tables: &mut FamilyTables<F>) -> Result<usize, TableError> {
    let frontends = tables.services.all()?;
    frontends.keys().try_for_each(|key| tables.services.remove(key))?;
    Ok(frontends.len())
}
