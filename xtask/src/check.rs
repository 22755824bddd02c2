//! `cargo xtask check`: everything that is asked of the code without running it.
//!
//! All checks are made even if one fails. A check whose program is not installed is reported as not
//! made.

use std::process::Command;

use anyhow::bail;

use crate::{
    command, object, setup,
    toolchain::{Compiler, Tools},
    workspace,
};

/// How a check ended.
enum Outcome {
    Good,
    Bad,
    NotMade(&'static str),
}

pub(crate) fn run() -> anyhow::Result<()> {
    let tools = setup::building()?;
    if let Err(error) = setup::linting(&tools.compiler) {
        eprintln!("{error:#}");
    }
    let checks = [
        ("format", format()),
        ("imports", imports()),
        ("clippy", outcome(command::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]))),
        ("clippy for bpf", datapath(&tools)),
        ("dependencies", dependencies()),
        ("unused dependencies", unused_dependencies()),
    ];
    println!();
    for (name, outcome) in &checks {
        match outcome {
            Outcome::Good => println!("{name}: good"),
            Outcome::Bad => println!("{name}: FAILED"),
            Outcome::NotMade(why) => println!("{name}: not made, {why}"),
        }
    }
    if checks.iter().any(|(_, outcome)| matches!(outcome, Outcome::Bad)) {
        bail!("a check failed");
    }
    Ok(())
}

fn format() -> Outcome {
    outcome(command::cargo().args(["fmt", "--all", "--check"]))
}

/// Grouped imports, an option that only nightly's rustfmt has.
fn imports() -> Outcome {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace::root()).args(["+nightly", "fmt"]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    if !quiet(cargo.arg("--version")) {
        return Outcome::NotMade("there is no nightly rustfmt");
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace::root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    outcome(cargo.args(["+nightly", "fmt", "--all", "--check", "--", "--config"]).arg("group_imports=StdExternalCrate"))
}

/// The datapath as the kernel gets it. The code that it shares with the host was linted there already.
fn datapath(tools: &Tools) -> Outcome {
    let Compiler { bin, .. } = &tools.compiler;
    let clippy = bin.join("cargo-clippy");
    if !clippy.is_file() || !bin.join("clippy-driver").is_file() {
        return Outcome::NotMade("the compiler for bpf has no clippy");
    }
    let mut command = Command::new(clippy);
    command.args(["clippy", "--quiet"]);
    let command = object::for_bpf(&mut command, tools, workspace::root(), std::env::consts::ARCH);
    // cargo-clippy is its own wrapper, and starts the cargo that it is told.
    command.env_remove("RUSTC_WORKSPACE_WRAPPER").env("CARGO", bin.join("cargo"));
    outcome(command.args(["--", "-Dwarnings"]))
}

/// Licences, sources and duplicates. Advisories change without the code; CONTRIBUTING.md says how to
/// ask for them.
fn dependencies() -> Outcome {
    if command::find("cargo-deny").is_none() {
        return Outcome::NotMade("cargo-deny is missing (cargo xtask setup --all)");
    }
    outcome(command::cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
}

fn unused_dependencies() -> Outcome {
    if command::find("cargo-machete").is_none() {
        return Outcome::NotMade("cargo-machete is missing (cargo xtask setup --all)");
    }
    outcome(command::cargo().arg("machete"))
}

fn outcome(command: &mut Command) -> Outcome {
    match command::run(command) {
        Ok(()) => Outcome::Good,
        Err(error) => {
            eprintln!("{error:#}");
            Outcome::Bad
        }
    }
}

fn quiet(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
