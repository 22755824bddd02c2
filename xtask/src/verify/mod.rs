//! `cargo xtask verify`: what the kernel's verifier makes of the programs, whether that is within the budget, and whether
//! `docs/verifier.md` says so.
//!
//! Measured is by the agent's test program `root_verifier`, on the machine whose kernel is meant; [`report`] takes what it prints,
//! wherever that ran.

mod documentation;
mod figure;
#[path = "../../../proxy-agent/tests/root_verifier/measurement.rs"]
mod measurement;
#[cfg(test)]
mod measurement_tests;
mod series;
mod table;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, bail};
use clap::Args;
use nix::unistd::geteuid;

use self::{documentation::Documentation, measurement::Measurement, series::Series};
use crate::{
    command, setup,
    vm::{self, Kernel},
};

/// The test program that measures, a target of the package `proxy-agent`.
const PROGRAM: &str = "root_verifier";
/// Its argument for that: it prints its measurements, a line each, and tests nothing.
const MEASURE: &str = "--measure";

#[derive(Args)]
pub(crate) struct Options {
    /// Measure on this kernel in a virtual machine; can be repeated. Without it, on the running kernel.
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<Kernel>,
    /// Write the figures into docs/verifier.md.
    #[arg(long)]
    write: bool,
}

impl Options {
    /// The command that writes the figures into the documentation.
    fn mend(&self) -> String {
        let kernels = self.kernels.iter().map(|kernel| format!("--kernel {kernel}"));
        let words = ["cargo xtask verify".to_owned()].into_iter().chain(kernels).chain(["--write".to_owned()]);
        words.collect::<Vec<_>>().join(" ")
    }
}

/// What is to be done with figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Compare them with the documentation.
    Compare,
    /// Document them.
    Document,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let lines =
        if options.kernels.is_empty() { measure_here()? } else { vm::output_of(&options.kernels, PROGRAM, MEASURE)? };
    let purpose = if options.write { Purpose::Document } else { Purpose::Compare };
    report(&lines, purpose, &options.mend())
}

/// Measures on the running kernel, and returns what was printed.
fn measure_here() -> anyhow::Result<Vec<String>> {
    if !geteuid().is_root() {
        bail!("only root may ask the kernel's verifier: run `cargo xtask verify` as root, or with --kernel");
    }
    setup::building()?;
    let mut cargo = command::cargo();
    cargo.args(["test", "--quiet", "--package", "proxy-agent", "--test", PROGRAM, "--", MEASURE]);
    let mut child = command::spawn(cargo.stdout(Stdio::piped()))?;
    let output = child.stdout.take().context("cargo's output is not a pipe")?;
    let lines = BufReader::new(output).lines().collect::<Result<Vec<String>, _>>()?;
    if !child.wait()?.success() {
        bail!("the programs cannot be measured");
    }
    Ok(lines)
}

/// Shows the measurements of one or more kernels among these lines, and compares them with the documentation or documents
/// them.
///
/// # Errors
/// There are none, or a program is beyond the budget, or the documentation is out of date and is not to be changed.
fn report(lines: &[String], purpose: Purpose, mend: &str) -> anyhow::Result<()> {
    let mut kernels: BTreeMap<Series, Vec<Measurement>> = BTreeMap::new();
    for line in lines {
        let Some(measurement) = Measurement::from_line(line) else { continue };
        let measurement = measurement.with_context(|| format!("not a measurement: {line}"))?;
        kernels.entry(measurement.kernel.parse()?).or_default().push(measurement);
    }
    if kernels.is_empty() {
        bail!("nothing was measured");
    }
    let mut documentation = Documentation::read()?;
    let mut problems = Vec::new();
    for (series, measurements) in &kernels {
        let kernel = measurements.first().map_or("", |measurement| &measurement.kernel);
        println!("Linux {kernel}\n{}", figure::overview(measurements));
        problems.extend(measurements.iter().flat_map(Measurement::overruns));
        match purpose {
            Purpose::Document => documentation.replace(*series, measurements)?,
            Purpose::Compare if documentation.knows(*series)? => {
                let differences = documentation.differences(*series, measurements)?;
                if !differences.is_empty() {
                    problems.extend(differences);
                    problems.push(format!("{} is out of date for Linux {series}: {mend}", documentation::PATH));
                }
            }
            Purpose::Compare => {
                println!("not compared: {} has no figures for Linux {series} ({mend})", documentation::PATH);
            }
        }
    }
    if purpose == Purpose::Document {
        documentation.write()?;
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}
