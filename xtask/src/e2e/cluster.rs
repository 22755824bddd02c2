//! The cluster: made, filled, asked, removed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Options, folder};
use crate::{command, workspace};

/// The namespace of deploy/e2e/workloads.yaml.
pub(super) const NAMESPACE: &str = "proxy-agent-e2e";
/// What the workloads run.
const WORKLOAD_IMAGE: &str = "busybox:1.36";

/// A cluster that is removed when this value is, unless it is to be kept.
pub(super) struct Cluster {
    name: String,
    keep: bool,
}

impl Cluster {
    /// Everything that makes the cluster and puts the agent and the workloads into it, in this order.
    pub(super) fn steps(options: &Options) -> Vec<Command> {
        let Options { name, image, .. } = options;
        let image = image.as_deref().unwrap_or("proxy-agent:e2e");
        let (repository, tag) =
            image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((image, "latest"));
        let kubeconfig = kubeconfig(name);
        let kubeconfig = kubeconfig.to_string_lossy();
        let mut steps = Vec::new();
        let mut step = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).current_dir(workspace::root());
            steps.push(command);
        };
        if options.image.is_none() {
            step(&["docker", "build", "--file", "deploy/Dockerfile", "--tag", image, "."]);
        }
        step(&["docker", "pull", WORKLOAD_IMAGE]);
        step(&[
            "kind",
            "create",
            "cluster",
            "--name",
            name,
            "--config",
            "deploy/kind.yaml",
            "--kubeconfig",
            &kubeconfig,
        ]);
        step(&["kind", "load", "docker-image", image, WORKLOAD_IMAGE, "--name", name]);
        // Nodes find each other by the names that docker gives them, without any Service.
        let url = format!("apiServer.url=https://{name}-control-plane:6443");
        let repository = format!("image.repository={repository}");
        let tag = format!("image.tag={tag}");
        step(&[
            "helm",
            "install",
            "proxy-agent",
            "deploy/chart",
            "--kubeconfig",
            &kubeconfig,
            "--namespace",
            "kube-system",
            "--values",
            "deploy/e2e/values.yaml",
            "--set",
            &url,
            "--set-string",
            &repository,
            "--set-string",
            &tag,
        ]);
        let kubectl = ["kubectl", "--kubeconfig", &kubeconfig];
        let wait = ["rollout", "status", "--timeout=5m"];
        let agents = ["--namespace", "kube-system", "daemonset/proxy-agent"];
        let dns = ["--namespace", "kube-system", "deployment/coredns"];
        let workload = |name| ["--namespace", NAMESPACE, name];
        step(&[&kubectl[..], &wait, &agents].concat());
        step(&[&kubectl[..], &wait, &dns].concat());
        step(&[&kubectl[..], &["apply", "--filename", "deploy/e2e/workloads.yaml"]].concat());
        step(&[&kubectl[..], &wait, &workload("deployment/web")].concat());
        step(&[&kubectl[..], &wait, &workload("deployment/client")].concat());
        steps
    }

    /// Runs the steps.
    pub(super) fn make(options: &Options, steps: Vec<Command>) -> anyhow::Result<Self> {
        fs::create_dir_all(folder()).with_context(|| format!("cannot make {}", folder().display()))?;
        let clusters = output(Command::new("kind").args(["get", "clusters"]))?;
        if clusters.lines().any(|line| line == options.name) {
            bail!("there is a cluster named {} already: kind delete cluster --name {0}", options.name);
        }
        let cluster = Self { name: options.name.clone(), keep: options.keep };
        for mut step in steps {
            command::run(&mut step)?;
        }
        Ok(cluster)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.name)
    }

    /// What kubectl prints.
    pub(super) fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        output(Command::new("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(words))
    }

    /// An object, or a list of them.
    pub(super) fn get(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "--output", "json"][..], words].concat())?;
        serde_json::from_str(&text).context("kubectl's answer is no JSON")
    }

    /// The nodes' names, those of docker's containers as well.
    pub(super) fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = output(Command::new("kind").args(["get", "nodes", "--name", &self.name]))?;
        Ok(nodes.lines().map(str::to_owned).collect())
    }

    /// What a URL answers to a pod.
    pub(super) fn fetch_in_pod(&self, url: &str) -> anyhow::Result<String> {
        self.kubectl(&[
            "exec",
            "--namespace",
            NAMESPACE,
            "deployment/client",
            "--",
            "wget",
            "-q",
            "-T",
            "5",
            "-O",
            "-",
            url,
        ])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            println!("The cluster is kept; its kubeconfig is {}.", self.kubeconfig().display());
            return;
        }
        let removed = command::run(Command::new("kind").args(["delete", "cluster", "--name", &self.name]));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
        let _ = fs::remove_file(self.kubeconfig());
    }
}

/// What a URL answers to a process of a node, outside of all pods.
pub(super) fn fetch_on_node(node: &str, url: &str) -> anyhow::Result<String> {
    output(Command::new("docker").args([
        "exec",
        node,
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "5",
        url,
    ]))
}
fn kubeconfig(name: &str) -> PathBuf {
    Path::new(&folder()).join(format!("{name}.kubeconfig"))
}

/// What a command prints; an exit code other than 0 is an error with what it says.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", command::show(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", command::show(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
