//! `cargo xtask setup`: finds or installs what building, testing and the demo need.
//!
//! Idempotent, and done in a moment when nothing is missing. Without root, and on distributions
//! without apt, it installs what a user may install and says exactly what is left.

mod apt;
mod helm;
mod linker;
mod rustup;

use std::{path::Path, process::Command};

use anyhow::bail;
use clap::Args;

use crate::{
    command,
    toolchain::{Compiler, Missing, Tools},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Install what only `check` and some tests use as well: cargo-deny, cargo-machete, iptables, ipset, Helm's engine.
    #[arg(long)]
    all: bool,
}

/// A program that is looked up by name when it is needed.
struct Program {
    name: &'static str,
    /// The Debian and Ubuntu packages that may hold it, the likelier one first.
    packages: &'static [&'static str],
    purpose: &'static str,
}

/// What tests and the demo run. Building needs none of it.
const PROGRAMS: [Program; 3] = [
    Program { name: "ip", packages: &["iproute2"], purpose: "namespaces and devices of the demo and the tests" },
    Program { name: "nft", packages: &["nftables"], purpose: "masquerading" },
    Program { name: "bpftool", packages: &["bpftool", "linux-tools-generic"], purpose: "showing the tables" },
];

/// What some tests run. Where one is missing, those tests are listed as ignored.
const NEIGHBOURS: [Program; 3] = [
    Program { name: "iptables-nft", packages: &["iptables"], purpose: "rules of others, beside the agent's" },
    Program { name: "ipset", packages: &["ipset"], purpose: "what kube-proxy leaves" },
    Program { name: "iptables-legacy", packages: &["iptables"], purpose: "rules of others, beside the agent's" },
];

/// What booting other kernels takes. Where it cannot be installed, those tests are skipped.
const EMULATION: [Program; 8] = [
    Program { name: "busybox", packages: &["busybox-static"], purpose: "the guests' system" },
    Program { name: "depmod", packages: &["kmod"], purpose: "the order of the guests' modules" },
    Program { name: "modprobe", packages: &["kmod"], purpose: "the order of the guests' modules" },
    Program { name: "strip", packages: &["binutils"], purpose: "small images" },
    Program { name: "xz", packages: &["xz-utils"], purpose: "unpacking modules" },
    Program { name: "tc", packages: &["iproute2"], purpose: "tests in the guests" },
    Program { name: "unshare", packages: &["util-linux"], purpose: "tests in the guests" },
    Program { name: "dpkg-deb", packages: &["dpkg"], purpose: "unpacking kernels" },
];

/// What only `check` runs, installed by cargo.
const CHECKERS: [&str; 2] = ["cargo-deny", "cargo-machete"];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let tools = building()?;
    linting(&tools.compiler)?;
    running()?;
    if options.all {
        for checker in CHECKERS.iter().filter(|checker| command::find(checker).is_none()) {
            command::run(command::cargo().args(["install", "--locked", checker]))?;
        }
        if let Some(missing) = optional(&NEIGHBOURS) {
            eprintln!("{missing}: tests with it will be skipped");
        }
        if let Err(error) = helm::install() {
            eprintln!("Helm's engine is missing ({error:#}): tests of the chart will be skipped");
        }
    }
    println!("Everything is installed.");
    Ok(())
}

/// Makes sure that the datapath can be built.
pub(crate) fn building() -> anyhow::Result<Tools> {
    if Compiler::all().is_empty() {
        compiler()?;
    }
    match Tools::find() {
        Ok(tools) => Ok(tools),
        Err(missing @ Missing::Compiler) => Err(missing.into()),
        Err(missing @ (Missing::Linker | Missing::UnfitLinker(_))) => {
            eprintln!("{}", missing.what());
            linker::install(&Compiler::all())?;
            Ok(Tools::find()?)
        }
    }
}

/// Makes sure that the demo and the tests that need root find the programs they run.
pub(crate) fn running() -> anyhow::Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|program| command::find(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|program| apt::first_known(program.packages)).collect();
    match apt::access() {
        apt::Access::Root => apt::install(&packages)?,
        apt::Access::User | apt::Access::None => {
            for Program { name, packages, purpose } in &missing {
                eprintln!("`{name}` is missing ({purpose}); Debian and Ubuntu have it in {}", packages.join(" or "));
            }
            bail!("as root: apt-get update && apt-get install {}", packages.join(" "));
        }
    }
    match missing.iter().find(|program| command::find(program.name).is_none()) {
        Some(program) => bail!("`{}` is still missing after installing {}", program.name, packages.join(" ")),
        None => Ok(()),
    }
}

/// Makes sure that other kernels can be booted; otherwise says why they cannot.
pub(crate) fn virtual_machines() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("only x86-64 machines are booted".to_owned());
    }
    optional(&EMULATION)
}

/// A package with what it needs, unpacked into the folder `to` and not installed: a machine that has a part of the same software
/// in another version keeps it.
pub(crate) fn unpacked(package: &str, to: &Path) -> anyhow::Result<()> {
    match apt::access() {
        apt::Access::None => bail!("there is no apt that has the package {package}"),
        apt::Access::Root | apt::Access::User => apt::unpack(package, to),
    }
}

/// Installs what can be done without, where that is possible. Says of the first program that is missing then why it is wanted.
fn optional(programs: &[Program]) -> Option<String> {
    let is_missing = |program: &&Program| command::find(program.name).is_none();
    let mut packages: Vec<_> =
        programs.iter().filter(is_missing).map(|program| apt::first_known(program.packages)).collect();
    packages.dedup();
    if packages.is_empty() {
        return None;
    }
    if apt::access() == apt::Access::Root
        && let Err(error) = apt::install(&packages)
    {
        eprintln!("{error:#}");
    }
    let why = |program: &Program| {
        format!("`{}` is missing ({}; package {})", program.name, program.purpose, program.packages.join(" or "))
    };
    programs.iter().find(is_missing).map(why)
}

/// Makes sure that the datapath can be linted, if the compiler is a package that has its own clippy.
pub(crate) fn linting(compiler: &Compiler) -> anyhow::Result<()> {
    if compiler.bin == Path::new("/usr/bin")
        && apt::access() == apt::Access::Root
        && !Path::new("/usr/bin/clippy-driver").exists()
        && let Some(clippy) = apt::clippy_package()
    {
        apt::install(&[clippy])?;
    }
    Ok(())
}

/// Installs a compiler that can build for BPF: the distribution's if it is new enough, else rustup's.
fn compiler() -> anyhow::Result<()> {
    eprintln!("{}", Missing::Compiler.what());
    let access = apt::access();
    if access == apt::Access::Root {
        apt::update()?;
    }
    match (apt::compiler_packages(), access) {
        (Some(packages), apt::Access::Root) => match apt::install(&packages) {
            Err(error) if command::find("rustup").is_some() => {
                eprintln!("{error:#}; trying rustup");
                rustup::install()
            }
            result => result,
        },
        (Some(packages), _) if command::find("rustup").is_none() => {
            bail!("as root: apt-get install {}", packages.join(" "))
        }
        _ => rustup::install(),
    }
}

/// What a program prints, if it is there and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
