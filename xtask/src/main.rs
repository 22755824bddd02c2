//! Developer commands: `cargo xtask COMMAND`.

mod build;
mod command;
#[path = "../../proxy-agent/build/object.rs"]
mod object;
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
    /// Build the datapath and the agent.
    Build(build::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build(options) => build::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
