//! Developer commands: `cargo xtask COMMAND`.

mod bench;
mod build;
mod check;
mod command;
mod demo;
mod e2e;
mod faults;
#[path = "../../proxy-agent/build/object.rs"]
mod object;
mod setup;
mod test;
#[path = "../../proxy-agent/build/toolchain.rs"]
mod toolchain;
mod verify;
mod vm;
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
    /// Show real connections balanced by the real datapath. Needs root.
    Demo,
    /// Run all tests; those that need root are skipped without it.
    Test(test::Options),
    /// Measure what the kernel's verifier makes of the programs, and compare it with docs/verifier.md. Needs root.
    Verify(verify::Options),
    /// Run the tests that need root on other kernels, in virtual machines.
    Vm(vm::Options),
    /// Measure how fast it is, beside what it should be. Needs root, and a machine that has nothing else to do.
    Bench(bench::Options),
    /// Let one fault after another happen to a node under load, and count what it costs. Needs root.
    Faults(faults::Options),
    /// Make a cluster with kind, install the agent, and run scenarios and Kubernetes' own tests of Services in it.
    E2e(e2e::Options),
    /// Check format, lints and dependencies.
    Check,
    #[command(hide = true)]
    DemoEnter(demo::enter::Options),
    #[command(hide = true, subcommand)]
    DemoPeer(demo::peer::Role),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(options) => setup::run(&options).map(success),
        Command::Build(options) => build::run(&options).map(success),
        Command::Demo => demo::run().map(success),
        Command::DemoEnter(options) => demo::enter::run(&options).map(success),
        Command::DemoPeer(role) => demo::peer::run(&role).map(success),
        Command::Test(options) => test::run(&options),
        Command::Verify(options) => verify::run(&options).map(success),
        Command::Vm(options) => vm::run(&options),
        Command::Bench(options) => bench::run(&options).map(success),
        Command::Faults(options) => faults::run(&options).map(success),
        Command::E2e(options) => e2e::run(&options).map(success),
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
