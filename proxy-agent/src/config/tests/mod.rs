mod effective;
mod reference;

use std::{fs, time::Duration};

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: RunFlags,
}

fn load(arguments: &[&str]) -> Result<Config, ConfigErrors> {
    let command = Command::try_parse_from(["run"].iter().chain(arguments)).expect("flags that exist");
    Config::load(&command.flags)
}

fn messages(text: &str) -> Vec<String> {
    parse(text).expect_err("a wrong file").iter().map(ToString::to_string).collect()
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// What kubeadm writes into its `ConfigMap`, with the fields that it leaves empty.
const KUBEADM: &str = r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
featureGates:
  SomeGate: true
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
windowsRunAsService: false
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

/// What kubeadm 1.21 wrote into its `ConfigMap`: without the sections that came later, and with a field that is gone since 1.26.
const KUBEADM_1_21: &str = r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
metricsBindAddress: ""
mode: ""
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
udpIdleTimeout: 0s
winkernel:
  enableDSR: false
  networkName: ""
  sourceVip: ""
"#;

#[test]
fn kubeadms_file_means_the_defaults() {
    let expected = KubeProxy {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        cluster_cidrs: Cidrs {
            v4: Some("10.244.0.0/16".parse().expect("prefix")),
            v6: Some("fd00:10:244::/56".parse().expect("prefix")),
        },
        verbosity: Some(0),
        ..KubeProxy::default()
    };
    assert_eq!(parse(KUBEADM), Ok(expected));
}

#[test]
fn the_file_of_kubeadm_1_21_means_the_defaults() {
    let expected = KubeProxy {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        cluster_cidrs: Cidrs { v4: Some("10.244.0.0/16".parse().expect("prefix")), v6: None },
        ..KubeProxy::default()
    };
    assert_eq!(parse(KUBEADM_1_21), Ok(expected));
}

#[test]
fn every_field_with_an_effect_is_read() {
    let text = format!(
        "{HEAD}{}",
        r#"
mode: nftables
bindAddress: 192.0.2.10
bindAddressHardFail: true
clientConnection: {kubeconfig: /k, qps: 50, burst: 100}
hostnameOverride: node-a
healthzBindAddress: 127.0.0.1
metricsBindAddress: "[::]:9000"
detectLocalMode: InterfaceNamePrefix
detectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}
nodePortAddresses: [192.0.2.1/24]
iptables: {localhostNodePorts: false, masqueradeBit: 3, syncPeriod: 10s}
nftables: {masqueradeAll: true, masqueradeBit: 16, syncPeriod: 1m}
oomScoreAdj: -5
conntrack:
  maxPerCore: 0
  min: 7
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 5m
  tcpBeLiberal: true
  udpTimeout: 30s
  udpStreamTimeout: 2m
logging: {verbosity: 4}
"#
    );
    let config = parse(&text).expect("a good file");
    let expected = KubeProxy {
        kubeconfig: Some("/k".into()),
        qps: 50.0,
        burst: 100,
        hostname_override: Some("node-a".into()),
        healthz: Some("127.0.0.1:10256".parse().expect("address")),
        metrics: Some("[::]:9000".parse().expect("address")),
        bind_address: Some("192.0.2.10".parse().expect("address")),
        bind_address_hard_fail: true,
        mode: Mode::Nftables,
        node_port_addresses: NodePortAddresses::Prefixes(vec!["192.0.2.0/24".parse().expect("prefix")]),
        localhost_node_ports: false,
        detect: DetectLocal::InterfaceNamePrefix,
        cluster_cidrs: Cidrs::default(),
        bridge_interface: Some("cni0".into()),
        interface_name_prefix: Some("veth".into()),
        masquerade_bit: 16,
        masquerade_all: true,
        sync_period: Duration::from_mins(1),
        oom_score_adj: -5,
        conntrack: Conntrack {
            max_per_core: 0,
            min: 7,
            tcp_established_timeout: None,
            tcp_close_wait_timeout: Some(Duration::from_mins(5)),
            tcp_be_liberal: true,
            udp_timeout: Some(Duration::from_secs(30)),
            udp_stream_timeout: Some(Duration::from_mins(2)),
        },
        verbosity: Some(4),
    };
    assert_eq!(config, expected);
}

#[test]
fn an_ipv6_bind_address_moves_the_default_servers() {
    let config = parse(&format!("{HEAD}bindAddress: \"::\"\n")).expect("a good file");
    assert_eq!(config.healthz, Some("[::]:10256".parse().expect("address")));
    assert_eq!(config.metrics, Some("[::1]:10249".parse().expect("address")));
}

#[test]
fn all_errors_are_told_at_once_with_field_and_line() {
    let text = format!(
        "{HEAD}{}",
        r"clusterCIDR: 10.0.0.0/8,11.0.0.0/8
clusterCidr: 10.0.0.0/8
oomScoreAdj: -1001
iptables:
  masqueradeBit: 32
  minSyncPeriod: 1m
  syncPeriods: 5s
mode: bpf
detectLocalMode: BridgeInterface
nodePortAddresses: [10.0.0.0/8, here]
conntrack:
  min: many
portRange: 9-1
healthzBindAddress: localhost
featureGates: {A: 1}
"
    );
    assert_eq!(
        messages(&text),
        [
            "line 3: clusterCIDR: 11.0.0.0/8 is a second CIDR of its family, and only one is possible",
            "line 4: clusterCidr: is no field; did you mean clusterCIDR?",
            "line 5: oomScoreAdj: -1001 is not a whole number from -1000 to 1000",
            "line 7: iptables.masqueradeBit: 32 is not a whole number from 0 to 31",
            "line 8: iptables.minSyncPeriod: 60s is longer than syncPeriod 30s",
            "line 9: iptables.syncPeriods: is no field; did you mean syncPeriod or minSyncPeriod?",
            "line 10: mode: \"bpf\" is none of iptables, ipvs, nftables",
            "line 11: detectLocalMode: BridgeInterface needs detectLocal.bridgeInterface",
            "line 12: nodePortAddresses: \"here\" is not a CIDR such as 10.244.0.0/16",
            "line 14: conntrack.min: \"many\" is not a number",
            "line 15: portRange: \"9-1\" is not a port range such as 30000-32767",
            "line 16: healthzBindAddress: \"localhost\" is not an IP address with a port, such as 0.0.0.0:10256",
            "line 17: featureGates: {\"A\":1} is not a map from names to true or false",
        ]
    );
}

#[test]
fn another_kind_of_file_is_refused() {
    assert_eq!(
        messages("apiVersion: v1\nkind: ConfigMap\n"),
        [
            "line 1: apiVersion: \"v1\" is not kubeproxy.config.k8s.io/v1alpha1",
            "line 2: kind: \"ConfigMap\" is not KubeProxyConfiguration",
        ]
    );
    assert_eq!(messages(""), ["one KubeProxyConfiguration is needed, found 0 documents"]);
    assert!(messages("a: [\n")[0].starts_with("line "), "{:?}", messages("a: [\n"));
    assert_eq!(messages("- x\n")[2], "line 1: document: [\"x\"] is not a map");
}

#[test]
fn flags_alone() {
    let config = load(&[
        "--kubeconfig=/k",
        "--master=https://10.0.0.1:6443",
        "--hostname-override=node-a",
        "--cluster-cidr=10.244.0.0/16",
        "--masquerade-all",
        "--iptables-masquerade-bit=15",
        "--healthz-bind-address=",
        "--metrics-bind-address=0.0.0.0",
        "--devices=eth0,eth1",
        "--v=4",
    ])
    .expect("good flags");
    let expected = Config {
        objects: Objects::Api { kubeconfig: Some("/k".into()), master: Some("https://10.0.0.1:6443".to_owned()) },
        node_name: Some("node-a".to_owned()),
        kube_proxy: KubeProxy {
            kubeconfig: Some("/k".into()),
            cluster_cidrs: Cidrs { v4: Some("10.244.0.0/16".parse().expect("prefix")), v6: None },
            masquerade_all: true,
            masquerade_bit: 15,
            verbosity: Some(4),
            healthz: None,
            metrics: Some("0.0.0.0:10249".parse().expect("address")),
            ..KubeProxy::default()
        },
        socket_lb: SocketLb::All,
        kube_ovn: false,
        host_routing: HostRouting::Off,
        metrics_services: None,
        cgroup_root: None,
        bpffs_root: "/sys/fs/bpf/proxy-agent".into(),
        flow_table_size: None,
        devices: Some(vec!["eth0".to_owned(), "eth1".to_owned()]),
        verbosity: 4,
        ignored_flags: Vec::new(),
        without_effect: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn all_wrong_flags_are_told_at_once() {
    let error = load(&[
        "--cluster-cidr=10.0.0.0",
        "--detect-local-mode=clusterCIDR",
        "--iptables-masquerade-bit=32",
        "--healthz-bind-address=:1",
        "--masquerade-all=maybe",
        "--v=loud",
        "--pod-bridge-interface=much-too-long-name",
    ])
    .expect_err("wrong flags");
    let text = error.to_string();
    let flags: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(
        flags,
        [
            "--detect-local-mode",
            "--cluster-cidr",
            "--pod-bridge-interface",
            "--masquerade-all",
            "--iptables-masquerade-bit",
            "--healthz-bind-address",
            "--v"
        ],
        "{text}"
    );
}

#[test]
fn each_mode_has_its_own_masquerade_all_and_the_flag_is_for_any() {
    for (mode, iptables, nftables, expected) in [
        ("nftables", true, false, false),
        ("nftables", false, true, true),
        ("iptables", true, false, true),
        ("iptables", false, true, false),
    ] {
        let sections = format!("iptables: {{masqueradeAll: {iptables}}}\nnftables: {{masqueradeAll: {nftables}}}\n");
        let config = parse(&format!("{HEAD}mode: {mode}\n{sections}")).expect("a good file");
        assert_eq!(config.masquerade_all, expected, "{mode} {iptables} {nftables}");
    }
    for mode in ["iptables", "nftables"] {
        let config = load(&[&format!("--proxy-mode={mode}"), "--masquerade-all"]).expect("good flags");
        assert!(config.kube_proxy.masquerade_all, "{mode}");
    }
}

#[test]
fn flags_for_any_mode_have_their_effect_in_nftables_mode_and_are_told_by_their_names() {
    let periods = ["--proxy-mode=nftables", "--iptables-sync-period=1m", "--iptables-min-sync-period=2s"];
    let config = load(&periods).expect("good flags");
    assert_eq!(config.kube_proxy.sync_period, Duration::from_mins(1));
    assert_eq!(config.without_effect, ["--iptables-min-sync-period"]);
    for mode in ["iptables", "nftables"] {
        let wrong = [&format!("--proxy-mode={mode}"), "--iptables-sync-period=nonsense"];
        let error = load(&wrong).expect_err("a wrong flag").to_string();
        assert!(error.starts_with("--iptables-sync-period: "), "{mode}: {error}");
    }
}

#[test]
fn a_specified_bind_address_is_the_nodes_primary_one() {
    for (text, expected) in
        [("192.0.2.10", Some("192.0.2.10")), ("\"::1\"", Some("::1")), ("0.0.0.0", None), ("\"::\"", None)]
    {
        let config = parse(&format!("{HEAD}bindAddress: {text}\n")).expect("a good file");
        assert_eq!(config.bind_address, expected.map(|text| text.parse().expect("an address")), "{text}");
    }
}

#[test]
fn a_local_mode_by_device_needs_the_device() {
    for mode in ["BridgeInterface", "InterfaceNamePrefix"] {
        let error = load(&[&format!("--detect-local-mode={mode}")]).expect_err("no device given");
        assert!(error.to_string().starts_with(&format!("--detect-local-mode: {mode} needs --pod-")), "{error}");
    }
}

#[test]
fn with_a_file_only_our_own_flags_and_the_name_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, format!("{HEAD}hostnameOverride: from-file\nlogging: {{verbosity: 2}}\n")).expect("a file");
    let file = format!("--config={}", path.display());
    let config =
        load(&[&file, "--masquerade-all=true", "--cluster-cidr=nonsense", "--manifests=/m", "--bpffs-root=/b"])
            .expect("a good file");
    assert_eq!(config.node_name.as_deref(), Some("from-file"));
    assert_eq!(config.objects, Objects::Manifests("/m".into()));
    assert_eq!(config.bpffs_root, PathBuf::from("/b"));
    assert_eq!(config.verbosity, 2);
    assert!(!config.kube_proxy.masquerade_all);
    assert_eq!(config.ignored_flags, ["--cluster-cidr", "--masquerade-all"]);

    let config = load(&[&file, "--hostname-override=from-flag", "-v", "5"]).expect("a good file");
    assert_eq!(config.node_name.as_deref(), Some("from-flag"));
    assert_eq!(config.verbosity, 5);
}

#[test]
fn an_unreadable_file_is_one_line() {
    let error = load(&["--config=/nowhere/config.yaml"]).expect_err("no file");
    assert!(error.to_string().starts_with("/nowhere/config.yaml: cannot be read: No such file"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn manifests_and_the_api_exclude_each_other() {
    let result = Command::try_parse_from(["run", "--manifests=/m", "--kubeconfig=/k"]);
    assert!(result.is_err_and(|error| error.kind() == clap::error::ErrorKind::ArgumentConflict));
}

const OWN_HEAD: &str = "apiVersion: proxy-agent/v1alpha1\nkind: AgentConfiguration\n";

#[test]
fn our_own_settings_come_from_a_file_and_flags_go_before_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("agent.yaml");
    let text = "socketLB: hostNamespaceOnly\nkubeOvn: true\nhostRouting: true\ndevices: [eth0, 'pod*']\nmetricsServices: 7\ncgroupRoot: /c\nbpffsRoot: /b\nflowTableSize: 4096\n";
    fs::write(&path, format!("{OWN_HEAD}{text}")).expect("a file");
    let file = format!("--agent-config={}", path.display());
    let config = load(&[&file]).expect("a good file");
    assert_eq!((config.socket_lb, config.kube_ovn), (SocketLb::HostNamespaceOnly, true));
    assert_eq!(config.host_routing, HostRouting::On);
    assert!(config.kube_proxy.conntrack.tcp_be_liberal, "it does not see what comes in between");
    assert_eq!(config.devices, Some(vec!["eth0".to_owned(), "pod*".to_owned()]));
    assert_eq!((config.cgroup_root, config.bpffs_root), (Some("/c".into()), "/b".into()));
    assert_eq!(config.metrics_services, Some(7));
    assert_eq!(config.flow_table_size, FlowTableSize::new(4096));

    let config = load(&[
        &file,
        "--socket-lb=off",
        "--kube-ovn=false",
        "--host-routing=false",
        "--devices=eth1",
        "--bpffs-root=/other",
        "--metrics-services=0",
        "--flow-table-size=8192",
    ])
    .expect("good flags");
    assert_eq!(config.flow_table_size, FlowTableSize::new(8192));
    assert_eq!((config.socket_lb, config.kube_ovn), (SocketLb::Off, false));
    assert!(config.host_routing == HostRouting::Off && !config.kube_proxy.conntrack.tcp_be_liberal);
    let own = parse_own(&format!("{OWN_HEAD}hostRouting: peers\n")).expect("valid");
    assert_eq!(own.host_routing, Some(HostRouting::Peers));
    for (flag, expected) in [
        ("--host-routing", HostRouting::On),
        ("--host-routing=F", HostRouting::Off),
        ("--host-routing=peers", HostRouting::Peers),
    ] {
        assert_eq!(load(&[flag]).expect("a good flag").host_routing, expected);
    }
    let error = load(&["--host-routing=all"]).expect_err("no such way").to_string();
    assert_eq!(error, "--host-routing: \"all\" is none of true, false, peers");
    let wrong = parse_own(&format!("{OWN_HEAD}hostRouting: 1\n")).expect_err("a number");
    assert_eq!(wrong[0].to_string(), "line 3: hostRouting: 1 is not true, false or a word");
    assert_eq!(config.devices, Some(vec!["eth1".to_owned()]));
    assert_eq!((config.cgroup_root, config.bpffs_root), (Some("/c".into()), "/other".into()));
    assert_eq!(config.metrics_services, Some(0));
}

#[test]
fn what_is_wrong_in_either_file_and_in_flags_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let own = write("agent.yaml", format!("{OWN_HEAD}socketLB: most\nkubeOVN: true\ndevices: eth0\n"));
    let kube_proxy = write("config.yaml", format!("{HEAD}oomScoreAdj: 1001\n"));
    let error = load(&[&format!("--agent-config={own}"), &format!("--config={kube_proxy}"), "--kube-ovn=maybe"])
        .expect_err("wrong everywhere");
    let expected = [
        "--kube-ovn: \"maybe\" is neither true nor false".to_owned(),
        format!("{own}: line 3: socketLB: \"most\" is none of all, hostNamespaceOnly, off"),
        format!("{own}: line 4: kubeOVN: is no field; did you mean kubeOvn?"),
        format!("{own}: line 5: devices: \"eth0\" is not a list of strings"),
        format!("{kube_proxy}: line 3: oomScoreAdj: 1001 is not a whole number from -1000 to 1000"),
    ];
    assert_eq!(error.to_string().lines().collect::<Vec<_>>(), expected);
    assert_eq!(parse_own("").expect_err("nothing").len(), 1);
}
