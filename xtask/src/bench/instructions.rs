//! Instructions of what runs on the host, counted by Valgrind: the benchmarks `instructions` of the packages.

use std::{fs, process::Command};

use anyhow::{Context, bail};

use crate::{command, setup::output, workspace};

/// Packages that have such a benchmark.
const PACKAGES: [&str; 2] = ["proxy-ebpf", "proxy-agent"];

/// Runs them all; each prints its own figures, beside those of its run before.
pub(super) fn run() -> anyhow::Result<()> {
    if output(Command::new("valgrind").arg("--version")).is_none() {
        bail!("Valgrind counts the instructions: install the package `valgrind`");
    }
    runner()?;
    for package in PACKAGES {
        command::run(command::cargo().args(["bench", "--package", package, "--bench", "instructions"]))?;
    }
    Ok(())
}

/// Installs what starts Valgrind, unless it is there. It must be of the library's version.
fn runner() -> anyhow::Result<()> {
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let version = locked(&lock, "gungraun").context("Cargo.lock has no gungraun")?;
    let installed = output(Command::new("gungraun-runner").arg("--version"));
    if installed.is_some_and(|text| text.split_whitespace().any(|word| word == version)) {
        return Ok(());
    }
    command::run(command::cargo().args(["install", "gungraun-runner", "--locked", "--force", "--version", version]))
}

/// The version of a package.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_lock_file() {
        let lock =
            "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"ab\"\nversion = \"2.0.0\"\n";
        assert_eq!((locked(lock, "a"), locked(lock, "ab"), locked(lock, "b")), (Some("1.0.0"), Some("2.0.0"), None));
    }
}
