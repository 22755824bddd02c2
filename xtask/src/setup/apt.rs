//! Debian's and Ubuntu's packages.

use std::process::Command;

use nix::unistd::geteuid;

use super::output;
use crate::{
    command,
    toolchain::{OLDEST_RUSTC, Version},
};

/// What this process may do with packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Install them.
    Root,
    /// Ask about them.
    User,
    /// The distribution has no apt.
    None,
}

/// A distribution's compiler, its cargo, the library's source and its clippy.
const COMPILERS: [([&str; 3], &str); 2] =
    [(["rustc-web", "cargo-web", "rust-web-src"], "rust-web-clippy"), (["rustc", "cargo", "rust-src"], "rust-clippy")];

pub(super) fn access() -> Access {
    if command::find("apt-get").is_none() {
        Access::None
    } else if geteuid().is_root() {
        Access::Root
    } else {
        Access::User
    }
}

/// The packages of a compiler that is new enough, if the distribution has one.
pub(super) fn compiler_packages() -> Option<[&'static str; 3]> {
    let new_enough = |package: &&str| candidate(package).is_some_and(|version| version >= OLDEST_RUSTC);
    COMPILERS.into_iter().map(|(packages, _)| packages).find(|[compiler, ..]| new_enough(compiler))
}

/// The clippy that belongs to the compiler of [`compiler_packages`].
pub(super) fn clippy_package() -> Option<&'static str> {
    let compiler = compiler_packages()?;
    COMPILERS.iter().find(|(packages, _)| *packages == compiler).map(|(_, clippy)| *clippy)
}

/// The first of some names that is a package here; the first of all if none is.
pub(super) fn first_known<'a>(names: &[&'a str]) -> &'a str {
    names.iter().find(|name| is_known(name)).unwrap_or(&names[0])
}

/// Fetches the lists of packages.
pub(super) fn update() -> anyhow::Result<()> {
    command::run(Command::new("apt-get").args(["update", "--quiet"]))
}

/// Installs packages, without asking and without removing any. The lists are fetched first if they do not know all of them, or
/// if the first try fails, as it does with old lists.
pub(super) fn install(packages: &[&str]) -> anyhow::Result<()> {
    if !packages.iter().all(|package| is_known(package)) {
        update()?;
    }
    if command::run(&mut install_command(packages)).is_err() {
        update()?;
        command::run(&mut install_command(packages))?;
    }
    Ok(())
}

fn install_command(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
        .args(["install", "--yes", "-qq", "--option=Dpkg::Use-Pty=0", "--no-install-recommends", "--no-remove"])
        .args(packages);
    command
}

fn is_known(package: &str) -> bool {
    candidate_text(package).is_some()
}

/// The version that would be installed.
fn candidate(package: &str) -> Option<Version> {
    Version::parse(&candidate_text(package)?)
}

fn candidate_text(package: &str) -> Option<String> {
    let policy = output(Command::new("apt-cache").args(["policy", package]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}
