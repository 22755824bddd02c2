//! `kubeproxy.config.k8s.io/v1alpha1, kind KubeProxyConfiguration`. Every field that kube-proxy had from 1.21 to 1.36 is
//! known by name and has its value checked; what has no effect here is checked and dropped.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    kube_proxy::{Conntrack, DetectLocal, HEALTHZ_PORT, KubeProxy, METRICS_PORT, Mode, default_addresses},
    section::{ConfigError, Section, document},
    values::{self, NodePortAddresses},
};
use crate::yaml::Node;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// A field that kube-proxy had until 1.25.
pub(super) const UDP_IDLE_TIMEOUT: &str = "udpIdleTimeout";

/// Reads the file's text.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn parse(text: &str) -> Result<KubeProxy, Vec<ConfigError>> {
    read(text).map(|(config, _)| config)
}

/// The same, and the file's fields as they stand there.
pub(super) fn read(text: &str) -> Result<(KubeProxy, Node), Vec<ConfigError>> {
    document(text, API_VERSION, KIND, configuration)
}

/// Reads the fields, wherever they come from.
pub(super) fn configuration(root: &mut Section<'_>) -> KubeProxy {
    let mut config = KubeProxy::default();
    root.switches("featureGates");
    root.section("clientConnection", |section| client_connection(section, &mut config));
    root.section("logging", |section| logging(section, &mut config));
    config.hostname_override = root.text("hostnameOverride").map(str::to_owned);
    addresses(root, &mut config);
    config.mode = root.parsed("mode", Mode::parse).unwrap_or_default();
    masquerade(root, &mut config);
    root.section("ipvs", ipvs);
    root.section("winkernel", winkernel);
    detect_local(root, &mut config);
    config.conntrack = root.section("conntrack", conntrack);
    root.duration("configSyncPeriod");
    config.bind_address_hard_fail = root.boolean("bindAddressHardFail").unwrap_or_default();
    root.boolean("enableProfiling");
    root.boolean("windowsRunAsService");
    root.text("showHiddenMetricsForVersion");
    let oom_score_adj = root.integer("oomScoreAdj", -1000..=1000);
    config.oom_score_adj = oom_score_adj.and_then(|score| score.try_into().ok()).unwrap_or(config.oom_score_adj);
    root.parsed("portRange", values::port_range);
    // Of the mode `userspace`, which went with kube-proxy 1.26; kubeadm wrote it into every file until then.
    root.duration(UDP_IDLE_TIMEOUT);
    config
}

fn client_connection(section: &mut Section<'_>, config: &mut KubeProxy) {
    config.kubeconfig = section.text("kubeconfig").map(Into::into);
    section.text("acceptContentTypes");
    section.text("contentType");
    match section.number("qps") {
        Some(qps) if qps < 0.0 => config.qps = f64::INFINITY,
        Some(qps) if qps > 0.0 => config.qps = qps,
        _ => {}
    }
    match section.integer("burst", 0..=i64::from(u32::MAX)) {
        None | Some(0) => {}
        Some(burst) => config.burst = u32::try_from(burst).unwrap_or(u32::MAX),
    }
}

fn logging(section: &mut Section<'_>, config: &mut KubeProxy) {
    section.text("format");
    // A duration, or a number of nanoseconds in files of former versions.
    section.ignored("flushFrequency");
    config.verbosity =
        section.integer("verbosity", 0..=i64::from(u32::MAX)).map(|level| u8::try_from(level).unwrap_or(u8::MAX));
    section.ignored("vmodule");
    section.ignored("options");
}

fn addresses(root: &mut Section<'_>, config: &mut KubeProxy) {
    let bind = root.parsed("bindAddress", values::address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    config.bind_address = Some(bind).filter(|bind| !bind.is_unspecified());
    let [healthz, metrics] = default_addresses(bind);
    let listen = |port| move |text: &str| values::listen(text, port);
    config.healthz = Some(root.parsed("healthzBindAddress", listen(HEALTHZ_PORT)).unwrap_or(healthz));
    config.metrics = Some(root.parsed("metricsBindAddress", listen(METRICS_PORT)).unwrap_or(metrics));
    match NodePortAddresses::from_list(&root.texts("nodePortAddresses")) {
        Ok(addresses) => config.node_port_addresses = addresses,
        Err(reasons) => {
            for reason in reasons {
                root.wrong("nodePortAddresses", reason);
            }
        }
    }
}

/// What the sections `iptables` and `nftables` have in common.
struct Rules {
    masquerade_bit: u8,
    masquerade_all: bool,
    sync_period: Duration,
}

fn masquerade(root: &mut Section<'_>, config: &mut KubeProxy) {
    let iptables = root.section("iptables", |section| (section.boolean("localhostNodePorts"), rules(section, config)));
    let (localhost_node_ports, iptables) = iptables;
    config.localhost_node_ports = localhost_node_ports.unwrap_or(config.localhost_node_ports);
    let nftables = root.section("nftables", |section| rules(section, config));
    let chosen = if config.mode == Mode::Nftables { nftables } else { iptables };
    config.masquerade_all = chosen.masquerade_all;
    config.masquerade_bit = chosen.masquerade_bit;
    config.sync_period = chosen.sync_period;
}

fn rules(section: &mut Section<'_>, defaults: &KubeProxy) -> Rules {
    let masquerade_bit = section.integer("masqueradeBit", 0..=31).and_then(|bit| u8::try_from(bit).ok());
    let or_default = |period: Option<Duration>, default| period.filter(|period| !period.is_zero()).unwrap_or(default);
    let sync_period = or_default(section.duration("syncPeriod"), defaults.sync_period);
    let min_sync_period = or_default(section.duration("minSyncPeriod"), Duration::from_secs(1));
    if min_sync_period > sync_period {
        section.wrong("minSyncPeriod", format!("{min_sync_period:?} is longer than syncPeriod {sync_period:?}"));
    }
    Rules {
        masquerade_bit: masquerade_bit.unwrap_or(defaults.masquerade_bit),
        masquerade_all: section.boolean("masqueradeAll").unwrap_or(defaults.masquerade_all),
        sync_period,
    }
}

fn ipvs(section: &mut Section<'_>) {
    for key in ["syncPeriod", "minSyncPeriod", "tcpTimeout", "tcpFinTimeout", "udpTimeout"] {
        section.duration(key);
    }
    section.text("scheduler");
    section.texts("excludeCIDRs");
    section.boolean("strictARP");
}

fn winkernel(section: &mut Section<'_>) {
    for key in ["networkName", "sourceVip", "rootHnsEndpointName"] {
        section.text(key);
    }
    section.boolean("enableDSR");
    section.boolean("forwardHealthCheckVip");
}

fn detect_local(root: &mut Section<'_>, config: &mut KubeProxy) {
    config.detect = root.parsed("detectLocalMode", DetectLocal::parse).unwrap_or_default();
    config.cluster_cidrs = root.parsed("clusterCIDR", values::cidrs).unwrap_or_default();
    root.section("detectLocal", |section| {
        config.bridge_interface = section.parsed("bridgeInterface", values::device);
        config.interface_name_prefix = section.parsed("interfaceNamePrefix", values::device);
    });
    match config.detect {
        DetectLocal::BridgeInterface if config.bridge_interface.is_none() => {
            root.wrong("detectLocalMode", "BridgeInterface needs detectLocal.bridgeInterface");
        }
        DetectLocal::InterfaceNamePrefix if config.interface_name_prefix.is_none() => {
            root.wrong("detectLocalMode", "InterfaceNamePrefix needs detectLocal.interfaceNamePrefix");
        }
        _ => {}
    }
}

/// Unset values are defaults; a zero leaves the kernel's value as it is.
fn conntrack(section: &mut Section<'_>) -> Conntrack {
    let defaults = Conntrack::default();
    let mut count = |key, default| {
        section.integer(key, 0..=i64::from(i32::MAX)).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    let (max_per_core, min) = (count("maxPerCore", defaults.max_per_core), count("min", defaults.min));
    let mut timeout = |key, default: Option<Duration>| {
        section.duration(key).map_or(default, |timeout| Some(timeout).filter(|timeout| !timeout.is_zero()))
    };
    Conntrack {
        max_per_core,
        min,
        tcp_established_timeout: timeout("tcpEstablishedTimeout", defaults.tcp_established_timeout),
        tcp_close_wait_timeout: timeout("tcpCloseWaitTimeout", defaults.tcp_close_wait_timeout),
        udp_timeout: timeout("udpTimeout", defaults.udp_timeout),
        udp_stream_timeout: timeout("udpStreamTimeout", defaults.udp_stream_timeout),
        tcp_be_liberal: section.boolean("tcpBeLiberal").unwrap_or(defaults.tcp_be_liberal),
    }
}
