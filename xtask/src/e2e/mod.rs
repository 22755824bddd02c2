//! `cargo xtask e2e`: the agent in a cluster made by kind, tried by our own scenarios and by Kubernetes' own tests of
//! Services. It needs docker, kind, kubectl and helm, and for Kubernetes' tests hydrophone; all of them fetch images.

mod cluster;
mod report;
mod scenarios;

use std::{path::PathBuf, process::Command};

use anyhow::bail;
use clap::Args;
use cluster::Cluster;
use report::Report;

use crate::{command, workspace};

/// What of Kubernetes' tests is run: all of Services, but for those that need a cloud's load balancer or change the cluster's
/// masters.
const FOCUS: &str = r"\[sig-network\] (Services|EndpointSlice|Networking Granular Checks: Services)";
const SKIP: &str = r"\[Disruptive\]|\[Serial\]|LoadBalancer|load-balancer|\[Feature:";

#[derive(Args)]
pub(crate) struct Options {
    /// The cluster's name; it must not be there yet.
    #[arg(long, default_value = "proxy-agent-e2e")]
    name: String,
    /// An image that is there already, instead of one built from this tree.
    #[arg(long)]
    image: Option<String>,
    /// Leave the cluster as it is at the end, to look into it.
    #[arg(long)]
    keep: bool,
    /// Leave out Kubernetes' own tests, which take an hour.
    #[arg(long)]
    own_only: bool,
    /// Show the commands that would be run up to the first scenario, and run none.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let steps = Cluster::steps(options);
    if options.dry_run {
        for step in &steps {
            println!("{}", command::show(step));
        }
        return Ok(());
    }
    let mut needed = vec!["docker", "kind", "kubectl", "helm"];
    if !options.own_only {
        needed.push("hydrophone");
    }
    let missing: Vec<_> = needed.into_iter().filter(|program| command::find(program).is_none()).collect();
    if !missing.is_empty() {
        bail!("{} must be installed", missing.join(", "));
    }
    let cluster = Cluster::make(options, steps)?;
    let mut report = Report::default();
    scenarios::run(&cluster, &mut report);
    if !options.own_only {
        report.add("Kubernetes' own tests of Services", kubernetes_tests(&cluster));
    }
    drop(cluster);
    let file = folder().join("report.md");
    report.write(&file)?;
    println!("{report}");
    println!("The report is in {}.", file.display());
    if report.has_failures() {
        bail!("a scenario failed");
    }
    Ok(())
}

/// Where reports and what they refer to are put.
fn folder() -> PathBuf {
    workspace::target_dir().join("e2e")
}

fn kubernetes_tests(cluster: &Cluster) -> anyhow::Result<String> {
    let output = folder().join("kubernetes");
    let mut hydrophone = Command::new("hydrophone");
    hydrophone.args(["--focus", FOCUS, "--skip", SKIP, "--parallel", "4", "--output-dir"]).arg(&output);
    hydrophone.arg("--kubeconfig").arg(cluster.kubeconfig());
    command::run(&mut hydrophone)?;
    Ok(format!("results in {}", output.display()))
}
