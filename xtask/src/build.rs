//! `cargo xtask build`: the datapath and the agent.

use std::{env, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{command, object, setup, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Optimise the agent. The datapath always is.
    #[arg(long)]
    release: bool,
    /// Link the agent statically, so that it runs on any Linux of its architecture.
    #[arg(long = "static", requires = "release")]
    linked_statically: bool,
    /// The architecture that a static agent is for. For another one than this machine's, rustup's target and gcc's cross
    /// compiler must be installed.
    #[arg(long, requires = "linked_statically", default_value = Architecture::HERE)]
    architecture: Architecture,
}

/// An architecture by the name that images have for it.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

    /// Rust's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The target that is linked statically: musl's is not in every distribution.
    fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// Whether this machine's own linker makes programs for it.
    fn is_here(self) -> bool {
        self.name() == env::consts::ARCH
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let agent = build(options)?;
    println!("{}", agent.display());
    Ok(())
}

/// The agent, not optimised.
pub(crate) fn agent() -> anyhow::Result<PathBuf> {
    let architecture = if Architecture::Arm64.is_here() { Architecture::Arm64 } else { Architecture::Amd64 };
    build(&Options { release: false, linked_statically: false, architecture })
}

fn build(options: &Options) -> anyhow::Result<PathBuf> {
    let architecture = options.architecture;
    // The agent's build script does the same; here the errors of the datapath come first and undecorated.
    object::build(&setup::building()?, workspace::root(), architecture.name())?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", "proxy-agent"]);
    let mut output = workspace::target_dir();
    if options.linked_statically {
        let target = architecture.target();
        cargo.args(["--target", &target]).env("RUSTFLAGS", "-C target-feature=+crt-static");
        if !architecture.is_here() {
            let gcc = format!("{}-linux-gnu-gcc", architecture.name());
            let variable = target.replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), &gcc);
            cargo.env(format!("CC_{variable}"), gcc);
        }
        output.push(target);
    }
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    output.push(if options.release { "release" } else { "debug" });
    Ok(output.join("proxy-agent"))
}
