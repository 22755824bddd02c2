//! What follows from the facts. Pure.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    Readiness,
    facts::{Facts, Servers},
};
use crate::{
    cli::print::{Detail, View, columns, or_dash, warning},
    dataplane::features::Feature,
    error::one_line,
};

/// What was looked at, in the order in which it should be put right.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Findings {
    /// Whether the agent can run here.
    ready: bool,
    checks: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    result: Grade,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// As it should be.
    Ok,
    /// The agent runs, and somebody should know.
    Warning,
    /// The agent does not run, or Services are served twice.
    Failed,
}

impl Findings {
    /// What the facts mean.
    pub(super) fn of(facts: &Facts) -> Self {
        let Facts {
            features: _,
            config,
            cgroup2: _,
            nf_tables: _,
            forwarding,
            kube_proxies,
            rules,
            programs: _,
            agent,
        } = facts;
        let mut checks = kernel(facts);
        checks.extend(file_systems(facts));
        checks.extend(configuration(config, *agent));
        checks.push(forwarding_finding(*forwarding));
        checks.push(kube_proxy(kube_proxies, rules));
        checks.push(others(facts));
        let ready = checks.iter().all(|finding| finding.result != Grade::Failed);
        Self { ready, checks }
    }

    pub(super) const fn readiness(&self) -> Readiness {
        if self.ready { Readiness::Ready } else { Readiness::NotReady }
    }
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, result: Grade::Ok, found: found.into(), advice: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: Grade::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: Grade::Failed, found: found.into(), advice: Some(advice.into()) }
    }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let features = match &facts.features {
        Ok(features) => features,
        Err(error) => {
            return vec![Finding::failed(
                "kernel",
                one_line(error),
                "run this command as the agent is to run, and see the message",
            )];
        }
    };
    let mut checks = match features.require() {
        Ok(()) => vec![Finding::ok("kernel", features.release())],
        Err(error) => {
            vec![Finding::failed("kernel", one_line(&error), "use a newer kernel; the agent supports 5.10 and later")]
        }
    };
    for feature in Feature::ALL.into_iter().filter(|&feature| !features.has(feature)) {
        if let Some(without) = feature.without() {
            let advice = format!("Linux {} has it; the agent works without", feature.since());
            checks.push(Finding::warning("kernel", format!("no {feature}: {without}"), advice));
        }
    }
    checks.push(match &facts.nf_tables {
        Ok(true) => Finding::ok("masquerading", "the kernel has nf_tables"),
        Ok(false) => Finding::warning(
            "masquerading",
            "the kernel has no nf_tables",
            "load the module nf_tables (modprobe nf_tables nft_masq nft_chain_nat); without it nothing is masqueraded",
        ),
        Err(error) => Finding::warning("masquerading", one_line(error), "run as root, with CAP_NET_ADMIN"),
    });
    checks
}

fn file_systems(facts: &Facts) -> Vec<Finding> {
    vec![match &facts.cgroup2 {
        Ok(true) => Finding::ok("cgroup v2", "mounted"),
        Ok(false) => Finding::warning(
            "cgroup v2",
            "not mounted",
            "the agent mounts it; in a container, mount the node's /sys/fs/cgroup",
        ),
        Err(error) => Finding::failed("cgroup v2", one_line(error), "mount /proc"),
    }]
}

fn configuration(config: &Result<Servers, Vec<String>>, agent: Option<u32>) -> Vec<Finding> {
    let Servers { listening, without_effect } = match config {
        Ok(servers) => servers,
        Err(lines) => {
            let advice =
                "correct it; \"proxy-agent run --config FILE --write-config-to OTHER\" tells whether it is right";
            return lines.iter().map(|line| Finding::failed("configuration", line, advice)).collect();
        }
    };
    let mut checks = vec![Finding::ok("configuration", "valid")];
    if !without_effect.is_empty() {
        let found = format!("no effect here: {}", without_effect.join(", "));
        checks.push(Finding::warning("configuration", found, "nothing; kube-proxy needs them, and the agent does not"));
    }
    for (what, address, error) in listening {
        checks.push(match (error, agent) {
            (None, _) => Finding::ok("ports", format!("{address} is free for {what}")),
            (Some(_), Some(process)) => {
                Finding::ok("ports", format!("{address} for {what}: an agent runs, process {process}"))
            }
            (Some(error), None) => {
                let advice = format!(
                    "stop who listens there (kube-proxy does by default), or change --{}-bind-address",
                    if *what == "health" { "healthz" } else { *what }
                );
                Finding::failed("ports", format!("{address} cannot be used for {what}: {error}"), advice)
            }
        });
    }
    checks
}

fn forwarding_finding(forwarding: Option<bool>) -> Finding {
    match forwarding {
        Some(true) => Finding::ok("forwarding", "on"),
        Some(false) => Finding::warning(
            "forwarding",
            "net.ipv4.ip_forward is 0",
            "it is the CNI's to set; without it clients outside do not reach pods (sysctl -w net.ipv4.ip_forward=1)",
        ),
        None => Finding::warning("forwarding", "net.ipv4.ip_forward cannot be read", "mount /proc"),
    }
}

fn kube_proxy(processes: &[u32], rules: &[String]) -> Finding {
    let list = |items: Vec<String>| items.join(", ");
    if !processes.is_empty() {
        let found = format!("running, process {}", list(processes.iter().map(u32::to_string).collect()));
        return Finding::failed(
            "kube-proxy",
            found,
            "remove its DaemonSet (kubectl -n kube-system delete daemonset kube-proxy); both would serve the same Services",
        );
    }
    if !rules.is_empty() {
        let found = format!("not running, but left {}", list(rules.to_vec()));
        return Finding::warning(
            "kube-proxy",
            found,
            "remove it when the agent runs: proxy-agent cleanup --kube-proxy",
        );
    }
    Finding::ok("kube-proxy", "neither running nor anything left of it in nftables or IPVS")
}

fn others(facts: &Facts) -> Finding {
    match &facts.programs {
        Ok(programs) if programs.is_empty() => {
            Finding::ok("other proxies", "no program of Cilium's or Calico's that serves Services")
        }
        Ok(programs) => Finding::failed(
            "other proxies",
            format!("programs that serve Services: {}", programs.join(", ")),
            "use one of them only: Cilium without kubeProxyReplacement and socketLB, Calico without bpfEnabled",
        ),
        Err(error) => Finding::warning(
            "other proxies",
            format!("the kernel does not list programs: {error}"),
            "run as root (CAP_SYS_ADMIN)",
        ),
    }
}

impl View for Findings {
    fn write_text(&self, _: Detail, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.checks.iter().map(|Finding { check, result, found, advice }| {
            let grade = match result {
                Grade::Ok => "ok",
                Grade::Warning => "warning",
                Grade::Failed => "FAILED",
            };
            vec![(*check).to_owned(), grade.to_owned(), found.clone(), or_dash(advice.as_ref())]
        });
        writeln!(out, "{}", columns(&["CHECK", "RESULT", "FOUND", "WHAT TO DO"], rows.collect()))?;
        if self.ready {
            writeln!(out, "\nThe agent can run here.")
        } else {
            writeln!(out, "\n{}", warning("The agent cannot run here as it should: see what FAILED."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::print::{assert_documented, plain},
        dataplane::features::Features,
    };

    fn fine() -> Facts {
        let listening = vec![("health", "127.0.0.1:10256".parse().expect("an address"), None)];
        Facts {
            features: Ok(Features::new("6.12.0".to_owned(), Feature::ALL.into())),
            config: Ok(Servers { listening, without_effect: vec![] }),
            cgroup2: Ok(true),
            nf_tables: Ok(true),
            forwarding: Some(true),
            kube_proxies: vec![],
            rules: vec![],
            programs: Ok(vec![]),
            agent: None,
        }
    }

    /// What is not as it should be.
    fn wrong(facts: &Facts) -> Vec<(&'static str, Grade)> {
        let findings = Findings::of(facts);
        let wrong: Vec<_> = findings.checks.iter().filter(|finding| finding.result != Grade::Ok).collect();
        assert!(wrong.iter().all(|finding| finding.advice.is_some()), "each says what to do: {wrong:?}");
        assert_eq!(findings.ready, wrong.iter().all(|finding| finding.result == Grade::Warning));
        wrong.into_iter().map(|finding| (finding.check, finding.result)).collect()
    }

    #[test]
    fn a_node_as_it_should_be_is_ready() {
        assert_eq!(wrong(&fine()), []);
        let text = plain(&Findings::of(&fine()), Detail::Usual);
        assert!(text.contains("127.0.0.1:10256 is free for health"), "{text}");
        assert!(text.ends_with("The agent can run here.\n"), "{text}");
    }

    #[test]
    fn what_stands_in_the_way_fails() {
        let taken = || Some(io::Error::from(io::ErrorKind::AddrInUse));
        let listening = |error| {
            let address = "127.0.0.1:10249".parse().expect("an address");
            Ok(Servers { listening: vec![("metrics", address, error)], without_effect: vec![] })
        };
        let old = Features::new(
            "5.4.0".to_owned(),
            Feature::ALL.into_iter().filter(|&feature| feature != Feature::RingBuffer).collect(),
        );
        for (facts, check) in [
            (Facts { features: Ok(old), ..fine() }, "kernel"),
            (Facts { config: Err(vec!["x: line 1".to_owned()]), ..fine() }, "configuration"),
            (Facts { config: listening(taken()), ..fine() }, "ports"),
            (Facts { kube_proxies: vec![7], ..fine() }, "kube-proxy"),
            (Facts { programs: Ok(vec!["cil_sock4_conne".to_owned()]), ..fine() }, "other proxies"),
        ] {
            assert_eq!(wrong(&facts), [(check, Grade::Failed)]);
        }
        let own = Facts { config: listening(taken()), agent: Some(5), ..fine() };
        assert_eq!(wrong(&own), [], "our own agent's ports");
    }

    #[test]
    fn what_somebody_should_know_is_a_warning() {
        let without_tcx = Feature::ALL.into_iter().filter(|&feature| feature != Feature::Tcx).collect();
        let servers = Servers { listening: vec![], without_effect: vec!["mode".to_owned()] };
        for (facts, check) in [
            (Facts { features: Ok(Features::new("6.1.0".to_owned(), without_tcx)), ..fine() }, "kernel"),
            (Facts { config: Ok(servers), ..fine() }, "configuration"),
            (Facts { cgroup2: Ok(false), ..fine() }, "cgroup v2"),
            (Facts { nf_tables: Ok(false), ..fine() }, "masquerading"),
            (Facts { forwarding: Some(false), ..fine() }, "forwarding"),
            (Facts { rules: vec!["IPVS services".to_owned()], ..fine() }, "kube-proxy"),
            (Facts { programs: Err(io::ErrorKind::PermissionDenied.into()), ..fine() }, "other proxies"),
        ] {
            assert_eq!(wrong(&facts), [(check, Grade::Warning)]);
        }
    }

    #[test]
    fn fields_are_documented() {
        assert_documented(&Findings::of(&Facts { kube_proxies: vec![7], ..fine() }));
    }
}
