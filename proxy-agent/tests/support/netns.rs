//! Network namespaces.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Once,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Cgroup, is_left_behind, run, unique_name};

/// A network namespace with its loopback device up; removed when dropped.
///
/// It has a name under `/run/netns`, but is never entered with `ip netns exec`, which would hide the
/// cgroup and BPF file systems.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new namespace.
    #[must_use]
    pub fn new() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let namespace = Self { name: unique_name() };
        run(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.ip("link set lo up");
        // Addresses are usable at once, without a second of duplicate address detection.
        if Path::new("/proc/sys/net/ipv6").exists() {
            namespace.sysctl("net/ipv6/conf/all/accept_dad", "0");
            namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        namespace
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` with blank-separated arguments in the namespace and returns what it prints.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Runs several such commands, one after the other, in one process: emulated machines start few in a second.
    #[track_caller]
    pub fn ip_batch(&self, commands: &[String]) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("ip: {error}"));
        let mut input = child.stdin.take().expect("it is piped");
        // What a failed command leaves unread is told by the exit code.
        drop(input.write_all(commands.join("\n").as_bytes()));
        drop(input);
        let output = child.wait_with_output().expect("it was started");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands:?}: {complaint}");
    }

    /// Sets a sysctl of the namespace, such as `net/ipv4/ip_forward`.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }

    /// A command that will run in the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A command that will run in the namespace and in a cgroup.
    #[must_use]
    pub fn command_in(&self, cgroup: &Cgroup, program: impl AsRef<OsStr>) -> Command {
        let mut command = cgroup.command("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a function on a thread of its own in the namespace. Sockets that it opens belong to the
    /// namespace wherever they are used later.
    #[track_caller]
    pub fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let namespace = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
                function()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs asynchronous code in the namespace, on a runtime of its own with one thread.
    #[track_caller]
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, function: impl FnOnce() -> F + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { function().await })
        })
    }

    /// Connects this namespace to another by a pair of devices, both up.
    #[track_caller]
    pub fn veth(&self, device: &str, other: &Netns, other_device: &str) {
        self.ip_batch(&[
            format!("link add {device} type veth peer name {other_device} netns {}", other.name),
            format!("link set {device} up"),
        ]);
        other.ip(&format!("link set {other_device} up"));
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

fn delete(name: &str) {
    // A failure leaves the namespace to the next run.
    drop(Command::new("ip").args(["netns", "del", name]).output());
}

fn sweep() {
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if is_left_behind(&name) {
            delete(&name);
        }
    }
}
