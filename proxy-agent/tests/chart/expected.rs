//! The values that the chart is rendered with, and what there is to find in the result.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use proxy_agent::{
    dataplane::tables::FlowTableUse,
    model::IpFamily,
    plan::{Capacities, NoLocalEndpoints, Usage},
    server::{Metrics, ServiceSeries, Statistics, SyncKind},
};
use proxy_common::{Counter, DropReason};
use serde_json::{Value, json};

/// Values of wrong names, types or content, and the name that the refusal must mention.
pub const REFUSED: [(&str, &str); 8] = [
    ("no address of the API server", "apiServer.url"),
    ("an address without a scheme", "/apiServer/url"),
    ("a name that is not known", "imagePullPolicy"),
    ("a policy that is not known", "/image/pullPolicy"),
    ("socketLB of a wrong kind", "/config/agent/socketLB"),
    ("port 0", "/ports/healthz"),
    ("a folder in a folder", "/bpffs/folder"),
    ("an account without a name", "serviceAccount.name"),
];

/// Case → values.
pub fn cases() -> Value {
    let url = "https://192.0.2.1:6443";
    json!({
        "defaults": {"apiServer": {"url": url}},
        "least rights": {"apiServer": {"url": url}, "leastRights": true},
        "existing": {"config": {"existing": {"configMap": "kube-proxy"}}},
        "accounts": {"apiServer": {"url": url}, "serviceAccount": {"create": false, "name": "theirs"}, "rbac": {"create": false}},
        "everything": everything(),
        REFUSED[0].0: {},
        REFUSED[1].0: {"apiServer": {"url": "192.0.2.1:6443"}},
        REFUSED[2].0: {"apiServer": {"url": url}, "imagePullPolicy": "Always"},
        REFUSED[3].0: {"apiServer": {"url": url}, "image": {"pullPolicy": "Sometimes"}},
        REFUSED[4].0: {"apiServer": {"url": url}, "config": {"agent": {"socketLB": "some"}}},
        REFUSED[5].0: {"apiServer": {"url": url}, "ports": {"healthz": 0}},
        REFUSED[6].0: {"apiServer": {"url": url}, "bpffs": {"folder": "a/b"}},
        REFUSED[7].0: {"apiServer": {"url": url}, "serviceAccount": {"create": false}},
    })
}

/// All values, none of them at its default; what is free text begins with `marked`.
fn everything() -> Value {
    json!({
        "nameOverride": "named",
        "namespaceOverride": "marked-namespace",
        "commonLabels": {"a": "marked-label"},
        "commonAnnotations": {"a": "marked-annotation"},
        "image": {
            "repository": "marked.example/repository", "tag": "1", "digest": format!("sha256:{}", "0".repeat(64)),
            "pullPolicy": "Always", "pullSecrets": [{"name": "marked-secret"}],
        },
        "apiServer": {"url": "https://marked.example:6443"},
        "config": {
            "kubeProxy": {"detectLocalMode": "InterfaceNamePrefix", "clusterCIDR": "", "detectLocal": {"interfaceNamePrefix": "marked"}},
            "agent": {"socketLB": "off", "kubeOvn": true, "hostRouting": "peers", "devices": ["marked-device*"]},
        },
        "ports": {"healthz": 20256, "metrics": 20249},
        "logLevel": 4,
        "extraArgs": ["--marked-argument"],
        "extraEnv": [{"name": "MARKED", "value": "marked-variable"}],
        "cgroup": {"hostPath": "/marked/cgroup"},
        "bpffs": {"hostPath": "/marked/bpf", "folder": "marked-folder"},
        "hostPID": false,
        "securityContext": {"privileged": false, "capabilities": {"add": ["MARKED_CAPABILITY"]}, "readOnlyRootFilesystem": true},
        "serviceAccount": {"create": true, "name": "marked-account", "annotations": {"b": "marked-account-annotation"}},
        "priorityClassName": "marked-priority",
        "tolerations": [{"key": "marked-toleration", "operator": "Exists"}],
        "nodeSelector": {"c": "marked-node"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "marked-affinity", "operator": "Exists"}]},
        ]}}},
        "updateStrategy": {"type": "OnDelete"},
        "podLabels": {"d": "marked-pod-label"},
        "podAnnotations": {"e": "marked-pod-annotation"},
        "resources": {"limits": {"memory": "317Mi"}},
        "livenessProbe": {"failureThreshold": 31, "initialDelaySeconds": 15, "periodSeconds": 10},
        "readinessProbe": {"failureThreshold": 37, "periodSeconds": 5},
        "podMonitor": {
            "enabled": true, "labels": {"f": "marked-monitor-label"}, "interval": "17s", "scrapeTimeout": "13s",
            "relabelings": [{"targetLabel": "marked-relabeling", "replacement": "x"}],
            "metricRelabelings": [{"targetLabel": "marked-metric-relabeling", "replacement": "x"}],
        },
        "dashboard": {"enabled": true, "labels": {"g": "marked-dashboard-label"}, "annotations": {"h": "marked-dashboard-annotation"}},
    })
}

/// What must be found somewhere in the objects of case `everything`.
pub fn marks() -> Vec<String> {
    let mut marks = Vec::new();
    collect(&everything(), &mut marks);
    let others = [
        "\"imagePullPolicy\":\"Always\"",
        "\"containerPort\":20256",
        "\"containerPort\":20249",
        "\"port\":20256",
        "--v=4",
        "317Mi",
        "\"failureThreshold\":31",
        "\"failureThreshold\":37",
        "\"interval\":\"17s\"",
        "\"scrapeTimeout\":\"13s\"",
        "\"type\":\"OnDelete\"",
        "socketLB: \\\"off\\\"",
        "hostRouting: peers",
    ];
    marks.extend(others.map(str::to_owned));
    marks
}

fn collect(value: &Value, marks: &mut Vec<String>) {
    match value {
        Value::String(text) if text.to_lowercase().contains("marked") => marks.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, marks)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, marks)),
        _ => {}
    }
}

struct Idle;

impl Statistics for Idle {
    fn counters(&self) -> Vec<(Counter, u64)> {
        vec![(Counter::SocketConnections, 0), (Counter::Flows, 0), (Counter::Drop(DropReason::NoEndpoint), 0)]
    }

    fn flow_tables(&self) -> Vec<FlowTableUse> {
        vec![FlowTableUse { table: "flows_v4", entries: 0, capacity: 1, evicted: 0 }]
    }

    fn masquerading(&self) -> Option<bool> {
        Some(true)
    }
}

/// The names of all metrics that the agent has, as Prometheus stores them.
pub fn metrics() -> BTreeSet<String> {
    let metrics = Metrics::new(Arc::new(Idle), ServiceSeries::default());
    // Those with labels show from their first value on.
    metrics.healthz_answered(200);
    metrics.livez_answered(200);
    let none = Capacities { services: 1, slots: 1, backends: 1, source_ranges: 1, names: 1 };
    metrics.set_usage(Usage::default(), none);
    let families = BTreeSet::from(IpFamily::ALL);
    metrics.queued(0, 0, &families, Timestamp::UNIX_EPOCH);
    metrics.synced(SyncKind::Full, &families, Duration::ZERO, &[], Timestamp::UNIX_EPOCH);
    metrics.set_no_local_endpoints(NoLocalEndpoints::default());
    let text = metrics.encode().expect("text");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.flat_map(|line| {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    });
    names.collect()
}
