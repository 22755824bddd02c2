//! All of kube-proxy's flags, and the configuration that is written.

use super::*;
use crate::config::effective::DEFAULTS;

/// kube-proxy 1.36's flags, each with a value that is not the default.
const KUBE_PROXY_FLAGS: [&str; 52] = [
    "--bind-address=192.0.2.1",
    "--bind-address-hard-fail",
    "--cleanup=false",
    "--cluster-cidr=10.244.0.0/16",
    "--config-sync-period=1m",
    "--conntrack-max-per-core=1000",
    "--conntrack-min=2000",
    "--conntrack-tcp-be-liberal",
    "--conntrack-tcp-timeout-close-wait=2m",
    "--conntrack-tcp-timeout-established=3h",
    "--conntrack-udp-timeout=4s",
    "--conntrack-udp-timeout-stream=5s",
    "--detect-local-mode=NodeCIDR",
    "--feature-gates=A=true,B=false",
    "--healthz-bind-address=127.0.0.1",
    "--healthz-port=1025",
    "--hostname-override=Node-A",
    "--init-only=false",
    "--iptables-localhost-nodeports=false",
    "--iptables-masquerade-bit=5",
    "--iptables-min-sync-period=2s",
    "--iptables-sync-period=1m",
    "--ipvs-exclude-cidrs=10.0.0.0/8,11.0.0.0/8",
    "--ipvs-min-sync-period=2s",
    "--ipvs-scheduler=rr",
    "--ipvs-strict-arp",
    "--ipvs-sync-period=1m",
    "--ipvs-tcp-timeout=1s",
    "--ipvs-tcpfin-timeout=2s",
    "--ipvs-udp-timeout=3s",
    "--kube-api-burst=20",
    "--kube-api-content-type=application/json",
    "--kube-api-qps=6.5",
    "--kubeconfig=/k",
    "--log-flush-frequency=1s",
    "--log-json-info-buffer-size=1Ki",
    "--log-json-split-stream",
    "--log-text-info-buffer-size=2Ki",
    "--log-text-split-stream",
    "--logging-format=json",
    "--masquerade-all",
    "--master=https://192.0.2.9",
    "--metrics-bind-address=[::]:9000",
    "--metrics-port=1026",
    "--nodeport-addresses=192.0.2.0/24",
    "--nodeport-addresses=198.51.100.0/24",
    "--oom-score-adj=-500",
    "--pod-bridge-interface=cni0",
    "--pod-interface-name-prefix=veth",
    "--profiling",
    "--proxy-mode=ipvs",
    "--show-hidden-metrics-for-version=1.35",
];

#[test]
fn every_flag_of_kube_proxys_is_taken_and_written_as_its_field() {
    let mut flags = KUBE_PROXY_FLAGS.to_vec();
    flags.extend(["--v=3", "--vmodule=proxy=4,route=5"]);
    let config = load(&flags).expect("all of them are known");
    assert_eq!(config.kube_proxy.healthz, Some("127.0.0.1:1025".parse().expect("an address")));
    assert_eq!(config.kube_proxy.metrics, Some("[::]:9000".parse().expect("an address")), "it has a port");
    assert_eq!((config.kube_proxy.qps, config.kube_proxy.burst), (6.5, 20));
    assert_eq!(config.kube_proxy.oom_score_adj, -500);
    let expected = [
        "--kube-api-content-type",
        "--config-sync-period",
        "--feature-gates",
        "--iptables-min-sync-period",
        "--ipvs-scheduler",
        "--logging-format",
        "--profiling",
        "--show-hidden-metrics-for-version",
        "--vmodule",
    ];
    for flag in expected {
        assert!(config.without_effect.iter().any(|told| told == flag), "{flag}: {:?}", config.without_effect);
    }
    assert!(!config.without_effect.iter().any(|told| told == "--cluster-cidr"), "{:?}", config.without_effect);
    assert_eq!(config.without_effect.iter().filter(|told| *told == "--feature-gates").count(), 1, "of two gates");

    // What is written means the same, and is complete.
    let written = effective_of(&flags);
    let defaults: serde_json::Value = serde_saphyr::from_str(DEFAULTS).expect("YAML");
    let tree: serde_json::Value = serde_saphyr::from_str(&written).expect("YAML");
    assert_same_fields(&defaults, &tree, "");
    assert_eq!(tree["hostnameOverride"], "node-a");
    assert_eq!(tree["logging"]["vmodule"][1], serde_json::json!({ "filePattern": "route", "verbosity": 5 }));
    let read = parse(&written).expect("it is valid");
    assert_eq!(read, KubeProxy { hostname_override: Some("node-a".to_owned()), ..config.kube_proxy });
}

/// Every field of one tree is in the other.
#[track_caller]
fn assert_same_fields(one: &serde_json::Value, other: &serde_json::Value, path: &str) {
    for (key, value) in one.as_object().into_iter().flatten() {
        let found = other.get(key).unwrap_or_else(|| panic!("{path}.{key} is missing"));
        assert_same_fields(value, found, &format!("{path}.{key}"));
    }
}

fn effective_of(arguments: &[&str]) -> String {
    let command = Command::try_parse_from(["run"].iter().chain(arguments)).expect("flags that exist");
    Config::effective(&command.flags).expect("a good configuration")
}

#[test]
fn what_is_written_means_the_same_in_each_mode() {
    for mode in ["iptables", "ipvs", "nftables"] {
        let flags = [&format!("--proxy-mode={mode}"), "--masquerade-all", "--iptables-sync-period=1m", "--v=0"];
        let config = load(&flags).expect("good flags").kube_proxy;
        assert!(config.masquerade_all);
        assert_eq!(parse(&effective_of(&flags)).expect("it is valid"), config, "{mode}");
    }
}

#[test]
fn a_file_is_written_with_the_defaults_of_what_it_leaves_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, KUBEADM).expect("a file");
    let flag = format!("--config={}", path.display());
    let config = load(&[&flag]).expect("a good file");
    assert_eq!(config.without_effect, ["featureGates.SomeGate"], "all else has its default");

    let written = effective_of(&[&flag]);
    let mut expected: serde_json::Value = serde_saphyr::from_str(DEFAULTS).expect("YAML");
    expected["clientConnection"]["kubeconfig"] = "/var/lib/kube-proxy/kubeconfig.conf".into();
    expected["clusterCIDR"] = "10.244.0.0/16,fd00:10:244::/56".into();
    expected["featureGates"] = serde_json::json!({ "SomeGate": true });
    let tree: serde_json::Value = serde_saphyr::from_str(&written).expect("YAML");
    assert_eq!(tree, expected);

    // Written once more it is the same.
    fs::write(&path, &written).expect("a file");
    assert_eq!(effective_of(&[&flag]), written);
}

#[test]
fn a_field_that_kube_proxy_had_is_told_if_it_says_something_and_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    let flag = format!("--config={}", path.display());
    let mut expected: serde_json::Value = serde_saphyr::from_str(DEFAULTS).expect("YAML");
    expected["clientConnection"]["kubeconfig"] = "/var/lib/kube-proxy/kubeconfig.conf".into();
    expected["clusterCIDR"] = "10.244.0.0/16".into();
    for (timeout, told) in [("0s", None), ("250ms", Some("udpIdleTimeout"))] {
        let text = KUBEADM_1_21.replace("udpIdleTimeout: 0s", &format!("udpIdleTimeout: {timeout}"));
        fs::write(&path, text).expect("a file");
        assert_eq!(load(&[&flag]).expect("a good file").without_effect, Vec::from_iter(told));
        let tree: serde_json::Value = serde_saphyr::from_str(&effective_of(&[&flag])).expect("YAML");
        assert_eq!(tree, expected);
    }
}

#[test]
fn the_defaults_are_those_of_an_empty_file() {
    let defaults = parse(DEFAULTS).expect("it is valid");
    let expected = KubeProxy { mode: Mode::Iptables, verbosity: Some(0), ..KubeProxy::default() };
    assert_eq!(defaults, expected);
    assert_eq!(parse(HEAD), Ok(KubeProxy::default()));
}

#[test]
fn a_port_of_zero_is_no_server() {
    let config = load(&["--healthz-port=0", "--metrics-port=9000"]).expect("good flags");
    assert_eq!(config.kube_proxy.healthz, None);
    assert_eq!(config.kube_proxy.metrics, KubeProxy::default().metrics, "the default address has a port");
    assert!(load(&["--metrics-port=x"]).is_err());
}

#[test]
fn what_is_to_be_done() {
    let action = |arguments: &[&str]| {
        let command = Command::try_parse_from(["run"].iter().chain(arguments)).expect("flags that exist");
        command.flags.action()
    };
    assert_eq!(action(&[]), Ok(Action::Run));
    assert_eq!(action(&["--cleanup"]), Ok(Action::CleanUp));
    assert_eq!(action(&["--init-only=true"]), Ok(Action::Initialize));
    assert_eq!(action(&["--cleanup", "--init-only", "--write-config-to=/f"]), Ok(Action::WriteConfig));
    let error = load(&["--cleanup=perhaps"]).expect_err("neither").to_string();
    assert_eq!(error, "--cleanup: \"perhaps\" is neither true nor false");
}
