//! `cargo xtask build`: the datapath and the agent.

use std::path::PathBuf;

use clap::Args;

use crate::{command, object, setup, workspace};

/// The only target that is linked statically: musl's is not in every distribution.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(Args)]
pub(crate) struct Options {
    /// Optimise the agent. The datapath always is.
    #[arg(long)]
    release: bool,
    /// Link the agent statically, so that it runs on any x86-64 Linux.
    #[arg(long = "static", requires = "release")]
    linked_statically: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let agent = build(options)?;
    println!("{}", agent.display());
    Ok(())
}

/// The agent, not optimised.
pub(crate) fn agent() -> anyhow::Result<PathBuf> {
    build(&Options { release: false, linked_statically: false })
}

fn build(options: &Options) -> anyhow::Result<PathBuf> {
    datapath()?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", "proxy-agent"]);
    let mut output = workspace::target_dir();
    if options.linked_statically {
        cargo.args(["--target", STATIC_TARGET]).env("RUSTFLAGS", "-C target-feature=+crt-static");
        output.push(STATIC_TARGET);
    }
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    output.push(if options.release { "release" } else { "debug" });
    Ok(output.join("proxy-agent"))
}

/// The datapath's object, up to date. The agent's build script does the same; here the errors of the
/// datapath come first and undecorated.
pub(crate) fn datapath() -> anyhow::Result<PathBuf> {
    Ok(object::build(&setup::building()?, workspace::root(), std::env::consts::ARCH)?)
}
