//! What the tests that need root share: namespaces, cgroups and pin directories that clean up after
//! themselves.
//!
//! Names carry the process id and a counter, so that tests run in parallel, also with another run of
//! themselves. Every guard removes what it made when it is dropped, also while a test panics; what a
//! killed run left behind is removed by the next one.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file is a crate of its own and uses what it needs"
)]

mod cgroup;
mod netns;
mod node;
mod pins;
mod trials;

use std::{
    env,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use proxy_agent::dataplane::features::Features;

pub use self::{
    cgroup::Cgroup,
    netns::Netns,
    node::{Node, settings},
    pins::Pins,
    trials::{needing, needs},
};

/// What the names of everything made here begin with.
const PREFIX: &str = "patest";

/// `patest-PID-N`: a name that nobody else uses.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name was given by a process that is gone.
fn is_left_behind(name: &str) -> bool {
    let process =
        name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split('-').next());
    process
        .is_some_and(|process| process.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(process).exists())
}

/// What the running kernel can do.
///
/// # Panics
/// The process may not ask.
#[track_caller]
pub fn features() -> Features {
    Features::probe().unwrap_or_else(|error| panic!("{error}"))
}

/// Major and minor number of the running kernel's release.
#[must_use]
pub fn release() -> (u32, u32) {
    release_of(&rustix::system::uname().release().to_string_lossy())
}

/// Major and minor number of a kernel's release, such as `6.1.0-18-amd64`.
///
/// # Panics
/// It is none.
#[must_use]
#[track_caller]
pub fn release_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).expect("a kernel release");
    (next(), next())
}

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// It cannot be run, or does not succeed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// How many times slower than a real machine this one is, by `PROXY_AGENT_TEST_SLOWNESS`: an emulated one is.
#[must_use]
pub fn slowness() -> u32 {
    env::var("PROXY_AGENT_TEST_SLOWNESS").map_or(1, |factor| factor.parse().expect("a number"))
}

/// How long anything may take that is bound to happen: twenty seconds on a real machine.
#[must_use]
pub fn patience() -> Duration {
    Duration::from_secs(20) * slowness()
}

/// How long what follows an event at once may take: a second on a real machine, which may be busy with other tests.
/// (It takes some milliseconds; what is not reported takes half a minute.)
#[must_use]
pub fn prompt() -> Duration {
    Duration::from_secs(1) * slowness()
}

/// Asks again and again until the answer is `Some`, for [`patience`] at most, and returns it with the
/// time that it took.
///
/// # Panics
/// The time is over.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return (answer, start.elapsed());
        }
        assert!(start.elapsed() < patience(), "not within {:?}: {what}", patience());
        std::thread::sleep(Duration::from_millis(5));
    }
}
