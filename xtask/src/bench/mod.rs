//! `cargo xtask bench`: how fast it is, beside what it should be.
//!
//! Measured is by the agent's test program `root_bench`, optimised, which prints a line of JSON for each figure.

mod plot;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use nix::{sys::utsname::uname, unistd::geteuid};
use serde::{Deserialize, Serialize};

use crate::{command, setup, workspace};

/// The page, its plot, and the lines between which its table is.
const PAGE: &str = "docs/performance.md";
const PLOT: &str = "docs/performance.svg";
const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure. Default: everything.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Write the figures into docs/performance.md, with their plot. Only for all of them.
    #[arg(long, conflicts_with = "names")]
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Connections and round trips that are translated at the socket.
    Sockets,
    /// Packets in TC, and round trips through a nodePort.
    Packets,
    /// Runs of the TC programs by themselves.
    Runs,
    /// From a change to the kernel, and the start.
    Tables,
    /// Memory and processor time of the agent.
    Process,
}

/// What was measured, and what it should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figure {
    benchmark: String,
    what: String,
    unit: String,
    value: f64,
    /// The 5th and 95th percentile, or the least and the greatest of few values.
    spread: Option<(f64, f64)>,
    /// It should be no more than this.
    target: Option<f64>,
}

impl Figure {
    fn number(&self, value: f64) -> String {
        let digits = if value == 0.0 || value.abs() >= 100.0 {
            0
        } else if value.abs() >= 10.0 {
            1
        } else {
            3
        };
        format!("{value:.digits$} {}", self.unit).trim_end().to_owned()
    }

    /// Whether it is as it should be, if that is said.
    fn is_met(&self) -> Option<bool> {
        Some(self.value <= self.target?)
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!("benchmarks make namespaces and load programs: run `cargo xtask bench` as root");
    }
    setup::building()?;
    setup::running()?;
    let figures = measure(&options.names)?;
    if figures.is_empty() {
        bail!("nothing was measured");
    }
    let folder = workspace::target_dir().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let json = folder.join("figures.json");
    fs::write(&json, serde_json::to_string_pretty(&figures)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    let table = table(&figures);
    println!("{table}\nThe figures are in {}.", json.display());
    if options.write {
        write(&table, &figures)?;
    }
    Ok(())
}

fn measure(names: &[Name]) -> anyhow::Result<Vec<Figure>> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--quiet", "--release", "--package", "proxy-agent", "--test", "root_bench", "--", "--measure"]);
    let names = names.iter().filter_map(ValueEnum::to_possible_value);
    cargo.args(names.map(|name| name.get_name().to_owned()));
    let mut child = command::spawn(cargo.stdout(Stdio::piped()))?;
    let output = child.stdout.take().context("cargo's output is not a pipe")?;
    let mut figures = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        // cargo may say something as well.
        if line.starts_with('{') {
            figures.push(serde_json::from_str(&line).with_context(|| format!("not a figure: {line}"))?);
        }
    }
    if !child.wait()?.success() {
        bail!("the benchmarks failed");
    }
    Ok(figures)
}

fn table(figures: &[Figure]) -> String {
    let mut text = String::from("| what | measured | spread | target | |\n|---|--:|--:|--:|---|\n");
    for figure in figures {
        let spread =
            figure.spread.map(|(least, greatest)| format!("{} … {}", figure.number(least), figure.number(greatest)));
        let target = figure.target.map(|target| format!("≤ {}", figure.number(target)));
        let verdict = match figure.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let (spread, target) = (spread.unwrap_or_default(), target.unwrap_or_default());
        let value = figure.number(figure.value);
        writeln!(text, "| {} | {value} | {spread} | {target} | {verdict} |", figure.what)
            .expect("a String takes everything");
    }
    text
}

fn write(table: &str, figures: &[Figure]) -> anyhow::Result<()> {
    let path = workspace::root().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no line {END}"))?;
    let machine = machine()?;
    fs::write(&path, format!("{before}{BEGIN}\n{machine}\n\n{table}{END}{after}"))
        .with_context(|| format!("cannot write {PAGE}"))?;
    let plot = plot::plot(
        &figures
            .iter()
            .filter_map(|figure| Some((figure.what.as_str(), figure.value / figure.target?)))
            .collect::<Vec<_>>(),
    );
    fs::write(workspace::root().join(PLOT), plot).with_context(|| format!("cannot write {PLOT}"))
}

/// The machine, in a line.
fn machine() -> anyhow::Result<String> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        processors.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")));
    let name = name.map_or(env::consts::ARCH, |(_, name)| name);
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("Linux {release}, {count} × {name}, load {load} when the last figure was there."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_beside_its_target() {
        let line = r#"{"benchmark":"b","what":"w","unit":"ns","value":121.4,"spread":[99.0,1.5],"target":120.0}"#;
        let figure: Figure = serde_json::from_str(line).expect("a figure");
        assert_eq!(figure.is_met(), Some(false));
        let expected = "| w | 121 ns | 99.0 ns … 1.500 ns | ≤ 120 ns | **missed** |\n";
        assert!(table(&[figure]).ends_with(expected), "{expected}");
    }
}
