//! Developer commands: `cargo xtask COMMAND`.

mod build;
mod check;
mod command;
#[path = "../../proxy-agent/build/object.rs"]
mod object;
mod setup;
mod test;
#[path = "../../proxy-agent/build/toolchain.rs"]
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building, testing and the demo need.
    Setup(setup::Options),
    /// Build the datapath and the agent.
    Build(build::Options),
    /// Run all tests; those that need root are skipped without it.
    Test(test::Options),
    /// Check format, lints and dependencies.
    Check,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(options) => setup::run(&options).map(success),
        Command::Build(options) => build::run(&options).map(success),
        Command::Test(options) => test::run(&options),
        Command::Check => check::run().map(success),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
