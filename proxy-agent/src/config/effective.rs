//! The whole configuration of kube-proxy's kind that is in effect, as kube-proxy writes it with `--write-config-to`; and which
//! of what somebody gave has no effect here.

use serde_json::{Value, json};

use super::{file::UDP_IDLE_TIMEOUT, kube_proxy::KubeProxy, values};
use crate::yaml::{Content, Node, Syntax, documents};

/// Every field with its default.
pub(super) const DEFAULTS: &str = include_str!("defaults.yaml");

/// Fields whose zero stands for the default (kube-proxy's `SetDefaults_KubeProxyConfiguration`).
const ZERO_IS_DEFAULT: [&str; 10] = [
    "clientConnection.burst",
    "clientConnection.qps",
    "configSyncPeriod",
    "iptables.minSyncPeriod",
    "iptables.syncPeriod",
    "ipvs.syncPeriod",
    "logging.flushFrequency",
    "nftables.minSyncPeriod",
    "nftables.syncPeriod",
    UDP_IDLE_TIMEOUT,
];

/// Fields, or all fields below them, that are checked and mean nothing here.
const WITHOUT_EFFECT: [&str; 17] = [
    "clientConnection.acceptContentTypes",
    "clientConnection.contentType",
    "configSyncPeriod",
    "enableProfiling",
    "featureGates",
    "iptables.minSyncPeriod",
    "ipvs",
    "logging.flushFrequency",
    "logging.format",
    "logging.options",
    "logging.vmodule",
    "nftables.minSyncPeriod",
    "portRange",
    "showHiddenMetricsForVersion",
    UDP_IDLE_TIMEOUT,
    "windowsRunAsService",
    "winkernel",
];

/// The whole configuration: what was `given`, and the defaults for everything else.
pub(super) fn effective(given: &Node, config: &KubeProxy, hostname: Option<&str>) -> Value {
    let mut value = defaults();
    merge(&mut value, given, "", &mut |value, given, _| *value = given.to_json());
    // Nobody reads it any more.
    value.as_object_mut().map(|fields| fields.remove(UDP_IDLE_TIMEOUT));
    // What is not said where it is written.
    let address =
        |address: Option<std::net::SocketAddr>| address.map_or_else(String::new, |address| address.to_string());
    value["healthzBindAddress"] = json!(address(config.healthz));
    value["metricsBindAddress"] = json!(address(config.metrics));
    value["logging"]["verbosity"] = json!(config.verbosity.unwrap_or(0));
    if let Some(hostname) = hostname {
        value["hostnameOverride"] = json!(hostname);
    }
    value
}

/// The fields that somebody gave, with another value than the default, and that have no effect here.
pub(super) fn without_effect(given: &Node) -> Vec<String> {
    let mut fields = Vec::new();
    merge(&mut defaults(), given, "", &mut |default, given, path| {
        let is_below =
            |field: &str| path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if WITHOUT_EFFECT.into_iter().any(is_below) && !is_same(default, &given.to_json()) {
            fields.push(path.to_owned());
        }
    });
    fields
}

fn defaults() -> Value {
    let mut documents = documents(DEFAULTS, Syntax::Yaml);
    documents.remove(0).root.expect("a test reads it").to_json()
}

/// Calls `take` for each field of `given` that is not left to its default, with its value so far and its path.
fn merge(value: &mut Value, given: &Node, path: &str, take: &mut impl FnMut(&mut Value, &Node, &str)) {
    match (&given.content, value) {
        (Content::Mapping(entries), Value::Object(object)) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                merge(object.entry(entry.key.clone()).or_insert(Value::Null), &entry.value, &path, take);
            }
        }
        (Content::Scalar(scalar), _) if is_unset(scalar, path) => {}
        (_, value) => take(value, given, path),
    }
}

fn is_unset(scalar: &Value, path: &str) -> bool {
    let is_zero = || match scalar {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => values::duration(text).is_ok_and(|duration| duration.is_zero()),
        _ => false,
    };
    scalar.is_null() || scalar.as_str() == Some("") || (ZERO_IS_DEFAULT.contains(&path) && is_zero())
}

/// Whether two values of a field mean the same: durations can be written in many ways.
fn is_same(one: &Value, other: &Value) -> bool {
    let duration = |value: &Value| values::duration(value.as_str()?).ok();
    one == other || (duration(one).is_some() && duration(one) == duration(other))
}
