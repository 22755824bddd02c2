//! `cargo xtask bench`: how fast it is, beside what it should be.
//!
//! Measured is by the agent's test program `root_bench`, optimised, which prints a line of JSON for each figure.

mod comparison;
mod instructions;
mod plot;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
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
/// The same of the comparison of several that do the same.
const COMPARISON_PLOT: &str = "docs/comparison.svg";
const COMPARISON_BEGIN: &str = "<!-- comparison -->";
const COMPARISON_END: &str = "<!-- end of the comparison -->";

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure. Default: everything but `instructions`.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Write the figures into docs/performance.md, with their plots. What is not measured stays as it was measured before.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Connections and round trips that are translated at the socket.
    Sockets,
    /// Packets in TC, and round trips through a nodePort.
    Packets,
    /// The same Services by plain routing, by the agent, and by kube-proxy's rules.
    Netfilter,
    /// Runs of the TC programs by themselves.
    Runs,
    /// From a change to the kernel, and the start.
    Tables,
    /// Memory and processor time of the agent.
    Process,
    /// Instructions of the pipeline and of the control plane on the host. Needs Valgrind, but not root.
    Instructions,
}

/// What was measured, and what it should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figure {
    benchmark: String,
    what: String,
    /// Whose figure it is, where several do the same.
    by: Option<String>,
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

    /// The part that it is of its target; `None` without one, or if the target is that there is nothing.
    fn share(&self) -> Option<f64> {
        self.target.filter(|target| *target > 0.0).map(|target| self.value / target)
    }

    /// Whether it is as it should be, if that is said.
    fn is_met(&self) -> Option<bool> {
        Some(self.value <= self.target?)
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.names.contains(&Name::Instructions) {
        setup::building()?;
        instructions::run()?;
        if options.names.len() == 1 {
            return Ok(());
        }
    }
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
    // A part of the page is written anew; the other benchmarks' figures are those of the run before.
    let figures = if options.write { merged(&former(&json)?, &figures) } else { figures };
    fs::write(&json, serde_json::to_string_pretty(&figures)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    let (compared, single): (Vec<Figure>, Vec<Figure>) = figures.into_iter().partition(|figure| figure.by.is_some());
    let tables = [table(&single), comparison::table(&compared)];
    println!("{}\nThe figures are in {}.", tables.join("\n"), json.display());
    if options.write {
        let machine = machine()?;
        write(BEGIN, &format!("{machine}\n\n{}", tables[0]), END)?;
        write(COMPARISON_BEGIN, &tables[1], COMPARISON_END)?;
        let met: Vec<(&str, f64)> =
            single.iter().filter_map(|figure| Some((figure.what.as_str(), figure.share()?))).collect();
        draw(PLOT, &plot::targets(&met))?;
        draw(COMPARISON_PLOT, &plot::times(&comparison::bars(&compared)))?;
    }
    Ok(())
}

/// The figures of a run before, if there was one.
fn former(json: &Path) -> anyhow::Result<Vec<Figure>> {
    match fs::read(json) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("cannot read {}", json.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", json.display())),
    }
}

/// The figures of both, of the newer run where both have a benchmark's, each benchmark's where they were.
fn merged(former: &[Figure], newer: &[Figure]) -> Vec<Figure> {
    let mut benchmarks: Vec<&str> = Vec::new();
    for figure in former.iter().chain(newer) {
        if !benchmarks.contains(&figure.benchmark.as_str()) {
            benchmarks.push(&figure.benchmark);
        }
    }
    let of = |benchmark: &str| {
        let of = |figures: &[Figure]| -> Vec<Figure> {
            figures.iter().filter(|figure| figure.benchmark == benchmark).cloned().collect()
        };
        let newer = of(newer);
        if newer.is_empty() { of(former) } else { newer }
    };
    benchmarks.into_iter().flat_map(of).collect()
}

fn measure(names: &[Name]) -> anyhow::Result<Vec<Figure>> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--quiet", "--release", "--package", "proxy-agent", "--test", "root_bench", "--", "--measure"]);
    let names = names.iter().filter(|&&name| name != Name::Instructions).filter_map(ValueEnum::to_possible_value);
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

/// Puts a text between two lines of the page.
fn write(begin: &str, text: &str, end: &str) -> anyhow::Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let (before, rest) = page.split_once(begin).with_context(|| format!("{PAGE} has no line {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("{PAGE} has no line {end}"))?;
    fs::write(&path, format!("{before}{begin}\n{text}{end}{after}")).with_context(|| format!("cannot write {PAGE}"))
}

fn draw(path: &str, plot: &str) -> anyhow::Result<()> {
    fs::write(workspace::root().join(path), plot).with_context(|| format!("cannot write {path}"))
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
        let line =
            r#"{"benchmark":"b","what":"w","by":null,"unit":"ns","value":121.4,"spread":[99.0,1.5],"target":120.0}"#;
        let figure: Figure = serde_json::from_str(line).expect("a figure");
        assert_eq!(figure.is_met(), Some(false));
        let expected = "| w | 121 ns | 99.0 ns … 1.500 ns | ≤ 120 ns | **missed** |\n";
        assert!(table(&[figure]).ends_with(expected), "{expected}");
    }
}
