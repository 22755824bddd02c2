//! kube-proxy's flags that stand for fields of its file. What they say becomes the same tree as the file's text does, and is read
//! by the same code.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Number, Value};

use super::{section::ConfigError, values};
use crate::yaml::{Content, Entry, Node};

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// True if there is no value.
    Switch,
    /// Separated by commas.
    List,
    /// `name=true`, separated by commas.
    Switches,
    /// `pattern=4`, separated by commas.
    Levels,
}

/// A flag, the field that it stands for, and what help says of it.
struct Flag {
    name: &'static str,
    field: &'static str,
    kind: Kind,
    help: &'static str,
}

impl Flag {
    /// The field that the flag stands for in this mode.
    fn field(&self, mode: Option<&str>) -> &'static str {
        if mode == Some("nftables") { self.nftables_field().unwrap_or(self.field) } else { self.field }
    }

    /// The field of nftables mode, if the flag stands for another one there (kube-proxy's `processV1Alpha1Flags` and its conversion to
    /// v1alpha1).
    fn nftables_field(&self) -> Option<&'static str> {
        match self.name {
            "masquerade-all" => Some("nftables.masqueradeAll"),
            "iptables-sync-period" => Some("nftables.syncPeriod"),
            "iptables-min-sync-period" => Some("nftables.minSyncPeriod"),
            _ => None,
        }
    }

    fn stands_for(&self, field: &str) -> bool {
        self.field == field || self.nftables_field() == Some(field)
    }
}

const fn flag(name: &'static str, field: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, field, kind, help }
}

/// Help of flags that mean nothing here.
const NO_EFFECT: &str = "Accepted for kube-proxy's sake; has no effect";

/// In the order in which help shows them and mistakes are told.
#[rustfmt::skip]
const FLAGS: [Flag; 46] = [
    flag("kubeconfig", "clientConnection.kubeconfig", Kind::Text, "Kubeconfig file (*). Without it and --manifests: the pod's service account"),
    flag("kube-api-qps", "clientConnection.qps", Kind::Number, "Requests a second that the API client keeps to (*). Default: 5"),
    flag("kube-api-burst", "clientConnection.burst", Kind::Number, "Requests that the API client may make at once (*). Default: 10"),
    flag("kube-api-content-type", "clientConnection.contentType", Kind::Text, NO_EFFECT),
    flag("detect-local-mode", "detectLocalMode", Kind::Text, "How pods are told from the outside (*): ClusterCIDR (default), NodeCIDR, BridgeInterface, InterfaceNamePrefix"),
    flag("cluster-cidr", "clusterCIDR", Kind::Text, "Prefixes of the pods' addresses, at most one for each family, separated by a comma (*)"),
    flag("pod-bridge-interface", "detectLocal.bridgeInterface", Kind::Text, "Bridge of the pods, for --detect-local-mode BridgeInterface (*)"),
    flag("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", Kind::Text, "Beginning of the names of the pods' devices, for --detect-local-mode InterfaceNamePrefix (*)"),
    flag("masquerade-all", "iptables.masqueradeAll", Kind::Switch, "Masquerade everything that is sent to a clusterIP and translated by a TC program (*)"),
    flag("iptables-masquerade-bit", "iptables.masqueradeBit", Kind::Number, "Bit of the packet mark that asks for masquerading, 0 to 31 (*). Default: 14"),
    flag("nodeport-addresses", "nodePortAddresses", Kind::List, "On which of the node's addresses nodePorts are served, prefixes separated by commas, or `primary` (*). Default: all"),
    flag("iptables-localhost-nodeports", "iptables.localhostNodePorts", Kind::Switch, "Whether the node's own processes reach nodePorts on loopback addresses (*). Default: true"),
    flag("bind-address", "bindAddress", Kind::Text, "An address of the family in which health and metrics are served by default (*)"),
    flag("bind-address-hard-fail", "bindAddressHardFail", Kind::Switch, "Give up if health or metrics cannot be served (*)"),
    flag("healthz-bind-address", "healthzBindAddress", Kind::Text, "Where /healthz and /livez listen (*). Empty: nowhere. Default: 0.0.0.0:10256"),
    flag("metrics-bind-address", "metricsBindAddress", Kind::Text, "Where /metrics and /proxyMode listen (*). Empty: nowhere. Default: 127.0.0.1:10249"),
    flag("iptables-sync-period", "iptables.syncPeriod", Kind::Text, "Half of the time after which an update that is not carried out makes the agent unhealthy (*). Default: 30s"),
    flag("conntrack-max-per-core", "conntrack.maxPerCore", Kind::Number, "Connections to track for each CPU, 0 to leave the limit as it is (*). Default: 32768"),
    flag("conntrack-min", "conntrack.min", Kind::Number, "Connections to track at least (*). Default: 131072"),
    flag("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", Kind::Text, "Idle time of tracked TCP connections, 0 to leave it as it is (*). Default: 24h"),
    flag("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", Kind::Text, "Idle time of TCP connections that one side has closed (*). Default: 1h"),
    flag("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", Kind::Switch, "Track TCP segments outside the window too (*)"),
    flag("conntrack-udp-timeout", "conntrack.udpTimeout", Kind::Text, "Idle time of tracked UDP flows without an answer, 0 to leave it as it is (*)"),
    flag("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", Kind::Text, "Idle time of UDP flows with answers, 0 to leave it as it is (*)"),
    flag("oom-score-adj", "oomScoreAdj", Kind::Number, "The agent's oom_score_adj, -1000 to 1000 (*). Default: -999"),
    flag("proxy-mode", "mode", Kind::Text, "kube-proxy's mode: iptables, ipvs or nftables (*). All are served alike"),
    flag("config-sync-period", "configSyncPeriod", Kind::Text, NO_EFFECT),
    flag("feature-gates", "featureGates", Kind::Switches, NO_EFFECT),
    flag("iptables-min-sync-period", "iptables.minSyncPeriod", Kind::Text, NO_EFFECT),
    flag("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", Kind::List, NO_EFFECT),
    flag("ipvs-min-sync-period", "ipvs.minSyncPeriod", Kind::Text, NO_EFFECT),
    flag("ipvs-scheduler", "ipvs.scheduler", Kind::Text, NO_EFFECT),
    flag("ipvs-strict-arp", "ipvs.strictARP", Kind::Switch, NO_EFFECT),
    flag("ipvs-sync-period", "ipvs.syncPeriod", Kind::Text, NO_EFFECT),
    flag("ipvs-tcp-timeout", "ipvs.tcpTimeout", Kind::Text, NO_EFFECT),
    flag("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", Kind::Text, NO_EFFECT),
    flag("ipvs-udp-timeout", "ipvs.udpTimeout", Kind::Text, NO_EFFECT),
    flag("log-flush-frequency", "logging.flushFrequency", Kind::Text, NO_EFFECT),
    flag("log-json-info-buffer-size", "logging.options.json.infoBufferSize", Kind::Text, NO_EFFECT),
    flag("log-json-split-stream", "logging.options.json.splitStream", Kind::Switch, NO_EFFECT),
    flag("log-text-info-buffer-size", "logging.options.text.infoBufferSize", Kind::Text, NO_EFFECT),
    flag("log-text-split-stream", "logging.options.text.splitStream", Kind::Switch, NO_EFFECT),
    flag("logging-format", "logging.format", Kind::Text, NO_EFFECT),
    flag("profiling", "enableProfiling", Kind::Switch, NO_EFFECT),
    flag("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", Kind::Text, NO_EFFECT),
    flag("vmodule", "logging.vmodule", Kind::Levels, NO_EFFECT),
];

/// The flags that were given, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldFlags(BTreeMap<&'static str, Vec<String>>);

impl FieldFlags {
    /// Whether a flag was given, and its last value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str)
    }

    /// Those that were given.
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        FLAGS.iter().map(|flag| flag.name).filter(|name| self.0.contains_key(name))
    }

    /// The fields that the flags stand for, and what is wrong with values that are not of their flag's kind.
    pub(super) fn tree(&self) -> (Node, Vec<ConfigError>) {
        let mut root = Vec::new();
        let mut errors = Vec::new();
        let mode = self.get("proxy-mode");
        for flag in &FLAGS {
            let Some(values) = self.0.get(flag.name) else { continue };
            match content(flag.kind, values) {
                Ok(content) => insert(&mut root, flag.field(mode), Node { line: 0, content }),
                Err(reason) => errors.push(ConfigError::Flag { flag: flag.name, reason }),
            }
        }
        (Node { line: 0, content: Content::Mapping(root) }, errors)
    }
}

/// The place of what is wrong with a flag among all that is wrong.
pub(super) fn place(error: &ConfigError) -> usize {
    let ConfigError::Flag { flag, .. } = error else { return 0 };
    FLAGS.iter().position(|known| known.name == *flag).unwrap_or(FLAGS.len())
}

/// What is wrong with a field, as something that is wrong with its flag.
pub(super) fn as_flag(error: ConfigError) -> ConfigError {
    let ConfigError::Field { field, reason, .. } = &error else { return error };
    let Some(flag) = FLAGS.iter().find(|flag| flag.stands_for(field)) else { return error };
    // Fields that the reason names are flags too.
    let mut reason = reason.clone();
    for other in &FLAGS {
        reason = reason.replace(&format!(" {}", other.field), &format!(" --{}", other.name));
    }
    ConfigError::Flag { flag: flag.name, reason }
}

/// The flag that stands for a field; the field itself if there is none.
pub(super) fn name_of(field: &str) -> String {
    let is_it = |flag: &&Flag| {
        flag.stands_for(field) || field.strip_prefix(flag.field).is_some_and(|rest| rest.starts_with('.'))
    };
    FLAGS.iter().find(is_it).map_or_else(|| field.to_owned(), |flag| format!("--{}", flag.name))
}

/// The field that a flag stands for.
#[cfg(test)]
pub(super) fn field_of(name: &str) -> Option<&'static str> {
    FLAGS.iter().find(|flag| flag.name == name).map(|flag| flag.field)
}

impl Args for FieldFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let argument = Arg::new(flag.name).long(flag.name).help(flag.help).hide_short_help(flag.help == NO_EFFECT);
            let argument = match flag.kind {
                Kind::Text => argument.value_name("VALUE"),
                Kind::Number => argument.value_name("NUMBER").allow_hyphen_values(true),
                Kind::Switch => {
                    argument.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
                }
                Kind::List => argument.value_name("VALUES"),
                Kind::Switches => argument.value_name("NAME=BOOL,…"),
                Kind::Levels => argument.value_name("PATTERN=LEVEL,…"),
            };
            // Lists grow; of anything else the last one counts, as in kube-proxy.
            command.arg(match flag.kind {
                Kind::List | Kind::Switches | Kind::Levels => argument.action(ArgAction::Append),
                Kind::Text | Kind::Number | Kind::Switch => argument.overrides_with(flag.name),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FieldFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |flag: &Flag| {
            let values: Vec<String> = matches.get_many::<String>(flag.name)?.cloned().collect();
            Some((flag.name, values))
        };
        Ok(Self(FLAGS.iter().filter_map(values).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

fn content(kind: Kind, values: &[String]) -> Result<Content, String> {
    let last = values.last().map_or("", String::as_str);
    let parts = || values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|part| !part.is_empty());
    let scalar = |value: Value| Node { line: 0, content: Content::Scalar(value) };
    let entry = |key: &str, value: Node| Entry { key: key.to_owned(), line: 0, value };
    Ok(match kind {
        Kind::Text => Content::Scalar(last.into()),
        Kind::Number => Content::Scalar(Value::Number(number(last)?)),
        Kind::Switch => Content::Scalar(values::boolean(last)?.into()),
        Kind::List => Content::Sequence(parts().map(|part| scalar(part.into())).collect()),
        Kind::Switches => Content::Mapping(
            parts()
                .map(|part| {
                    let (name, value) =
                        part.split_once('=').ok_or_else(|| format!("{part:?} is not name=true or name=false"))?;
                    Ok(entry(name, scalar(values::boolean(value)?.into())))
                })
                .collect::<Result<_, String>>()?,
        ),
        Kind::Levels => Content::Sequence(
            parts()
                .map(|part| {
                    let level =
                        part.split_once('=').and_then(|(pattern, level)| Some((pattern, level.parse::<u32>().ok()?)));
                    let (pattern, level) = level.ok_or_else(|| format!("{part:?} is not pattern=N"))?;
                    let entries =
                        vec![entry("filePattern", scalar(pattern.into())), entry("verbosity", scalar(level.into()))];
                    Ok(Node { line: 0, content: Content::Mapping(entries) })
                })
                .collect::<Result<_, String>>()?,
        ),
    })
}

fn number(text: &str) -> Result<Number, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Puts a node at `path`, with the maps that lead there.
fn insert(entries: &mut Vec<Entry>, path: &str, node: Node) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Some(rest) = rest else {
        return entries.push(Entry { key: key.to_owned(), line: node.line, value: node });
    };
    let index = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let value = Node { line: node.line, content: Content::Mapping(Vec::new()) };
        entries.push(Entry { key: key.to_owned(), line: node.line, value });
        entries.len() - 1
    });
    if let Content::Mapping(inner) = &mut entries[index].value.content {
        insert(inner, rest, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{effective::DEFAULTS, parse};

    #[test]
    fn every_flag_stands_for_a_field_of_its_own() {
        let defaults = crate::yaml::documents(DEFAULTS, crate::yaml::Syntax::Yaml).remove(0).root.expect("YAML");
        let mut fields: Vec<&str> = FLAGS.iter().map(|flag| flag.field).collect();
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(fields.len(), FLAGS.len());
        for field in fields {
            // The options of log formats and vmodule have no default.
            let parent = field.rsplit_once('.').map_or(field, |(parent, _)| parent);
            let found = field.split('.').try_fold(&defaults, |node, key| node.get(key)).is_some();
            let parent = parent.split('.').try_fold(&defaults, |node, key| node.get(key)).is_some();
            assert!(found || (field.starts_with("logging.") && parent), "{field}");
        }
        assert!(parse(DEFAULTS).is_ok());
    }
}
