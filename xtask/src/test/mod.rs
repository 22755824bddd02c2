//! `cargo xtask test`: every test there is, and a count of them.
//!
//! Integration tests in `PACKAGE/tests/root_*.rs` need root. Without it they are listed as skipped,
//! by name, and never counted as passed.

mod count;
mod targets;

use std::{
    io::{self, BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use clap::Args;
use nix::unistd::geteuid;

pub(crate) use self::{
    count::Count,
    targets::{Target, integration_tests},
};
use crate::{command, setup};

#[derive(Args)]
pub(crate) struct Options {
    /// Run only the tests whose names contain this.
    filter: Option<String>,
}

/// The last line printed is the count: `N passed, N failed, N skipped`.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    setup::building()?;
    let filter = options.filter.as_deref();
    let mut count = Count::default();
    if geteuid().is_root() {
        setup::running()?;
        count.add(all(&["--workspace"], filter)?);
    } else {
        let (root, user) = integration_tests()?.into_iter().partition::<Vec<_>, _>(Target::needs_root);
        count.add(all(&["--workspace", "--lib", "--bins"], filter)?);
        for target in &user {
            count.add(all(&target.arguments(), filter)?);
        }
        count.add(all(&["--workspace", "--doc"], filter)?);
        for target in &root {
            count.skipped += skip(target, filter)?;
        }
    }
    if count.passed + count.failed == 0 {
        eprintln!("error: no test was run");
    }
    println!("{count}");
    Ok(if count.passed > 0 && count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `cargo test` with a selection of targets, shows what it prints, and counts.
fn all(selection: &[&str], filter: Option<&str>) -> anyhow::Result<Count> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--no-fail-fast"]).args(selection).args(filter).stdout(Stdio::piped());
    let mut child = command::spawn(&mut cargo)?;
    let output = child.stdout.take().context("cargo's output is not a pipe")?;
    let mut count = Count::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        count.note(&line);
    }
    if !child.wait()?.success() && count.failed == 0 {
        eprintln!("error: something did not compile, or a test took its whole process down");
        count.failed = 1;
    }
    Ok(count)
}

/// Lists a target's tests as skipped, and counts them.
fn skip(target: &Target, filter: Option<&str>) -> anyhow::Result<u32> {
    let mut cargo: Command = command::cargo();
    cargo.arg("test").args(target.arguments()).args(filter).args(["--", "--list", "--format", "terse"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests in {target} cannot be listed");
    }
    let mut skipped = 0;
    for line in io::Cursor::new(output.stdout).lines() {
        if let Some(name) = line?.strip_suffix(": test") {
            println!("skipped, needs root: {target} {name}");
            skipped += 1;
        }
    }
    Ok(skipped)
}
