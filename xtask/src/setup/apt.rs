//! Debian's and Ubuntu's packages.

use std::{fs, path::Path, process::Command};

use anyhow::Context as _;
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
    if command::run(install_command(packages).arg("--no-remove")).is_err() {
        update()?;
        command::run(install_command(packages).arg("--no-remove"))?;
    }
    Ok(())
}

/// Unpacks a package, and what it needs and this machine lacks, into the folder `to`. Nothing is installed, and so nothing has to
/// make room for it, and no right is needed but that to write there. The lists are fetched first if they do not know the package,
/// or if the first try fails.
pub(super) fn unpack(package: &str, to: &Path) -> anyhow::Result<()> {
    let downloads = to.with_extension("downloads");
    if !is_known(package) {
        update()?;
    }
    if download(package, &downloads).is_err() {
        update()?;
        download(package, &downloads)?;
    }
    // What is half unpacked is never taken for all of it.
    let fresh = to.with_extension("new");
    empty(&fresh)?;
    let files = fs::read_dir(&downloads)?.filter_map(|file| Some(file.ok()?.path()));
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
        command::run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&fresh))?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::rename(&fresh, to).with_context(|| format!("cannot make {}", to.display()))
}

/// Downloads what installing a package would install.
fn download(package: &str, to: &Path) -> anyhow::Result<()> {
    empty(to)?;
    fs::create_dir_all(to.join("partial"))?;
    let to = fs::canonicalize(to)?;
    let mut command = install_command(&[package]);
    // It does not write what it would have to lock.
    command.args(["--download-only", "--option=Debug::NoLocking=true", "--option=APT::Sandbox::User=root"]);
    command::run(command.arg(format!("--option=Dir::Cache::archives={}", to.display())))
}

/// Makes an empty folder.
fn empty(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn install_command(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "--yes", "-qq", "--option=Dpkg::Use-Pty=0", "--no-install-recommends"]).args(packages);
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
