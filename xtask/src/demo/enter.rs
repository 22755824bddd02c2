//! The hidden `demo-enter`: becomes another program inside a network namespace and a cgroup.
//!
//! A program of its own, because a process may only enter what it is about to use, and must die with
//! the demo even if that is killed.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use clap::Args;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
};

#[derive(Args)]
pub(crate) struct Options {
    /// The namespace to enter, a file. It is made there first if the file is empty.
    #[arg(long)]
    net: PathBuf,
    /// The cgroup v2 folder to enter.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The program to become, and its arguments.
    #[arg(last = true)]
    program: Vec<String>,
}

/// The arguments that [`run`] understands.
pub(super) fn arguments(net: &Path, cgroup: Option<&Path>) -> Vec<PathBuf> {
    let mut arguments = vec!["demo-enter".into(), "--net".into(), net.to_owned()];
    if let Some(cgroup) = cgroup {
        arguments.extend(["--cgroup".into(), cgroup.to_owned()]);
    }
    arguments.push("--".into());
    arguments
}

/// Returns only if something fails, or if there is no program to become.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Options { net, cgroup, program } = options;
    set_pdeathsig(Signal::SIGKILL).context("cannot ask to die with the demo")?;
    let file = File::open(net).with_context(|| format!("cannot open {}", net.display()))?;
    let Some((program, arguments)) = program.split_first() else {
        return make_namespace(net);
    };
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", net.display()))?;
    if let Some(cgroup) = cgroup {
        let members = cgroup.join("cgroup.procs");
        fs::write(&members, "0").with_context(|| format!("cannot write {}", members.display()))?;
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}

/// Makes a network namespace that lives as long as it is mounted on `file`, with its loopback up and
/// forwarding.
fn make_namespace(file: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    mount(Some("/proc/self/ns/net"), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount the namespace on {}", file.display()))?;
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = Path::new("/proc/sys/net").join(setting);
        fs::write(&path, "1").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
