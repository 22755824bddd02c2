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
use rustix::process::{Pid, Signal, kill_process};

use super::{is_left_behind, unique_name};

/// A cgroup below that of the test's process; what runs in it is killed and it is removed when dropped.
///
/// It is a threaded cgroup, so that single threads of the test can be in it too.
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
        let own = fs::read_to_string("/proc/self/cgroup").expect("readable");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("every process is in a cgroup");
        let parent = root.join(own);
        SWEEP.call_once(|| sweep(&parent));
        let path = parent.join(unique_name());
        fs::create_dir(&path).expect("the root may make cgroups");
        fs::write(path.join("cgroup.type"), "threaded").expect("no controllers are in use");
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

    /// Runs a function on a thread of its own in the cgroup: the sockets that it opens belong to the cgroup.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
                fs::write(self.path.join("cgroup.threads"), thread).expect("enters");
                function()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
        // Threaded cgroups cannot be killed as a whole.
        let threads = fs::read_to_string(path.join("cgroup.threads")).unwrap_or_default();
        threads
            .lines()
            .filter_map(process_of)
            .for_each(|process| kill_process(process, Signal::KILL).unwrap_or_default());
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The process that a thread belongs to, unless it is this one.
fn process_of(thread: &str) -> Option<Pid> {
    let status = fs::read_to_string(Path::new("/proc").join(thread).join("status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    Pid::from_raw(process).filter(|&process| process != rustix::process::getpid())
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_left_behind) {
            delete(&entry.path());
        }
    }
}
