//! The place where the demo happens: a mount namespace with a BPF file system and named network
//! namespaces in it, and two cgroups. Nothing of it can be seen from outside but the cgroups, and all
//! of it goes when the demo ends, however that comes about.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use super::enter;

/// Whether the agent's socket hooks see a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sockets {
    /// Its cgroup is below the one that the agent is attached to, as an ordinary pod's is.
    Hooked,
    /// It is not, as in a virtual machine or on another host.
    Unhooked,
}

/// See the module.
pub(super) struct Lab {
    folder: TempDir,
    cgroup: PathBuf,
}

impl Lab {
    /// Makes it. To be called while the process has one thread.
    pub(super) fn new() -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("cannot make the mounts private")?;
        let folder = tempfile::Builder::new().prefix("proxy-demo-").tempdir().context("cannot make a folder")?;
        let cgroup = cgroup_mount()?.join(format!("proxy-demo-{}", process::id()));
        let lab = Self { folder, cgroup };
        mount_fs("tmpfs", lab.folder.path())?;
        for folder in ["net", "bpf", "manifests"] {
            fs::create_dir(lab.path(folder)).with_context(|| format!("cannot make {}", lab.path(folder).display()))?;
        }
        mount_fs("bpf", &lab.path("bpf"))?;
        for cgroup in [lab.cgroup.clone(), lab.cgroup(Sockets::Hooked), lab.cgroup(Sockets::Unhooked)] {
            fs::create_dir(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        }
        Ok(lab)
    }

    /// A file or folder of the lab.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The cgroup of processes that are, or are not, seen by the socket hooks.
    pub(super) fn cgroup(&self, sockets: Sockets) -> PathBuf {
        self.cgroup.join(match sockets {
            Sockets::Hooked => "hooked",
            Sockets::Unhooked => "unhooked",
        })
    }

    /// Makes a network namespace.
    pub(super) fn add_namespace(&self, name: &str) -> anyhow::Result<()> {
        let file = self.namespace(name);
        fs::write(&file, "").with_context(|| format!("cannot make {}", file.display()))?;
        let status = Command::new(env::current_exe()?)
            .args(enter::arguments(&file, None))
            .status()
            .context("cannot start this program again")?;
        if !status.success() {
            bail!("the namespace {name} cannot be made");
        }
        Ok(())
    }

    /// The file that a namespace is mounted on.
    pub(super) fn namespace(&self, name: &str) -> PathBuf {
        self.path("net").join(name)
    }

    /// A command that runs in a namespace and a cgroup, and dies with this process.
    pub(super) fn command(&self, namespace: &str, sockets: Sockets, program: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.args(enter::arguments(&self.namespace(namespace), Some(&self.cgroup(sockets)))).arg(program);
        Ok(command)
    }

    /// Runs lines of ip(8)'s batch language in a namespace.
    pub(super) fn ip(&self, namespace: &str, lines: &str) -> anyhow::Result<()> {
        let mut command = self.command(namespace, Sockets::Unhooked, Path::new("ip"))?;
        let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("cannot start ip")?;
        ip.stdin.take().context("ip has no standard input")?.write_all(lines.as_bytes())?;
        if !ip.wait()?.success() {
            bail!("the network of {namespace} cannot be made");
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The namespaces and the pinned objects go with the mount.
        if let Err(error) = umount2(self.folder.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.folder.path().display());
        }
        for cgroup in [self.cgroup(Sockets::Hooked), self.cgroup(Sockets::Unhooked), self.cgroup.clone()] {
            remove_cgroup(&cgroup);
        }
    }
}

/// Removes a cgroup, which succeeds only when the kernel is done with the processes that were in it.
fn remove_cgroup(cgroup: &Path) {
    for _ in 0..100 {
        if !cgroup.exists() || fs::remove_dir(cgroup).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("the cgroup {} could not be removed", cgroup.display());
}

fn mount_fs(kind: &str, target: &Path) -> anyhow::Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount {kind} on {}", target.display()))
}

/// Where cgroup v2 is mounted.
fn cgroup_mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let mount = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
    });
    mount.map(PathBuf::from).context("cgroup v2 is not mounted; mount -t cgroup2 none /sys/fs/cgroup")
}
