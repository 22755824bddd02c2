//! `proxy-agent cleanup`, the one command that changes something.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::CommandError;
use crate::dataplane::{self, DrainError, Drained, diagnosis, pins};

/// What to remove.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// The agent's directory on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = pins::DEFAULT_ROOT)]
    pub bpffs_root: PathBuf,
    /// The cgroup that the programs are attached to; counts on kernels before 5.7 only. Default: the root of
    /// the cgroup2 file system.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// What to do instead of removing everything of the agent's.
    #[command(flatten)]
    pub instead: Instead,
}

/// What to do instead of removing everything of the agent's.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub struct Instead {
    /// Remove what kube-proxy left on this node, in all of its modes, and nothing of the agent's, which should be running.
    #[arg(long)]
    pub kube_proxy: bool,
    /// Take no new connections any more, and let those that are there go on: for kube-proxy to take over. To be followed by a
    /// cleanup once they have ended.
    #[arg(long)]
    pub drain: bool,
}

/// Carries out the command and prints what was done.
pub(super) fn run(arguments: &CleanupArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let CleanupArgs { bpffs_root, cgroup_root, instead } = arguments;
    if instead.drain {
        let Drained { frontends, flows } = dataplane::drain(bpffs_root).map_err(|error| match error {
            DrainError::Table(error) => diagnosis::of_error(error, bpffs_root).into(),
            DrainError::Lock(error) => CommandError::from(error),
        })?;
        writeln!(out, "{frontends} frontends are not served any more; about {flows} flows go on through TC programs")?;
        return Ok(());
    }
    let removed = if instead.kube_proxy {
        dataplane::remove_kube_proxy()?
    } else {
        dataplane::cleanup(bpffs_root, cgroup_root.as_deref())?
    };
    for what in &removed {
        writeln!(out, "removed {what}")?;
    }
    if removed.is_empty() {
        writeln!(out, "nothing to remove")?;
    }
    if instead.kube_proxy {
        let left = dataplane::virtual_servers();
        if left > 0 {
            writeln!(
                out,
                "left: {left} virtual servers of IPVS, which may be somebody else's; ipvsadm --clear removes them all"
            )?;
        }
    }
    Ok(())
}
