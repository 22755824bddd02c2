//! Cgroups.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
    time::Duration,
};

use proxy_agent::dataplane::mounts;

use super::{is_left_behind, unique_name};

/// A cgroup below the root of the hierarchy; its processes are killed and it is removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new, empty cgroup.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        let root = mounts::cgroup_root(None).expect("a cgroup2 file system");
        SWEEP.call_once(|| sweep(&root));
        let path = root.join(unique_name());
        fs::create_dir(&path).expect("the root may make cgroups");
        Self { path }
    }

    /// The cgroup's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run in the cgroup.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.path).arg(program);
        command
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        delete(&self.path);
    }
}

/// Ends the processes in the cgroup, all of them started by a test, and removes it. A failure leaves
/// it to the next run.
fn delete(path: &Path) {
    for _ in 0..100 {
        drop(fs::write(path.join("cgroup.kill"), "1"));
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_left_behind) {
            delete(&entry.path());
        }
    }
}
