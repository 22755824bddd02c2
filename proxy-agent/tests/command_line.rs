//! The program as somebody starts it: what is wrong with its configuration ends it with status 1 and
//! one line for each mistake, before anything in the kernel is touched. Needs no rights.

use std::{
    fs,
    process::{Command, Output},
};

fn run(arguments: &[&str]) -> Output {
    program(&[&["run"], arguments].concat())
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_proxy-agent"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("NODE_NAME", "node-a")
        .output()
        .expect("the program starts")
}

/// The lines on standard error of a program that failed with status 1.
fn complaints(arguments: &[&str]) -> Vec<String> {
    let Output { status, stdout, stderr } = run(arguments);
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stdout.is_empty());
    stderr.lines().map(str::to_owned).collect()
}

#[test]
fn a_folder_or_file_that_is_not_there_is_one_line() {
    for (flag, path) in [("--manifests", "/nowhere/m"), ("--kubeconfig", "/nowhere/k"), ("--config", "/nowhere/c")] {
        let lines = complaints(&[flag, path]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("proxy-agent: ") && lines[0].contains(path), "{lines:?}");
        assert!(lines[0].contains("No such file or directory"), "{lines:?}");
    }
}

#[test]
fn without_any_source_of_objects_it_says_which_there_are() {
    let lines = complaints(&[]);
    assert_eq!(lines, complaints(&["--master="]), "what is empty is not given");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for flag in ["--kubeconfig", "--master", "--manifests"] {
        assert!(lines[0].contains(flag), "{lines:?}");
    }
}

/// As in an image that holds nothing but the program.
#[test]
fn an_address_without_encryption_needs_no_certificates() {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_proxy-agent"));
    agent.args(["run", "--master", "http://127.0.0.1:1", "--hostname-override", "node-a", "--cgroup-root", "/nowhere"]);
    agent.env_remove("KUBERNETES_SERVICE_HOST").env("SSL_CERT_FILE", "/nowhere/file").env("SSL_CERT_DIR", "/nowhere");
    let Output { status, stderr, .. } = agent.output().expect("the program starts");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "it ends later, as there is no such cgroup or it has no rights: {stderr}");
    assert!(!stderr.contains("certificate"), "{stderr}");
}

#[test]
fn flags_may_have_underscores_as_in_all_of_kubernetes() {
    let lines = complaints(&["--cluster_cidr=10.0.0.0", "--detect_local_mode", "Pods_and_more", "--v=loud"]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("Pods_and_more")), "values stay as they are: {lines:?}");
}

#[test]
fn each_wrong_value_is_a_line_of_its_own() {
    let lines =
        complaints(&["--cluster-cidr=10.0.0.0", "--detect-local-mode=Pods", "--v=loud", "--masquerade-all=maybe"]);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: bpf\nmodes: x\n";
    fs::write(&config, text).expect("written");
    let config = config.display().to_string();
    let lines = complaints(&["--config", &config]);
    let expected = [
        format!("proxy-agent: {config}: line 3: mode: \"bpf\" is none of iptables, ipvs, nftables"),
        format!("proxy-agent: {config}: line 4: modes: is no field; did you mean mode?"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn an_unknown_flag_is_named() {
    let lines = complaints(&["--manifest=/m"]);
    assert!(lines[0].contains("--manifest"), "{lines:?}");
}

#[test]
fn the_configuration_in_effect_is_written_if_it_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (config, written) = (path("config.yaml"), path("written.yaml"));
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(&config, format!("{head}clusterCIDR: 10.244.0.0/16\n")).expect("written");
    let output = run(&["--config", &config, "--write-config-to", &written]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&written).expect("it was written");
    for line in ["clusterCIDR: 10.244.0.0/16", "oomScoreAdj: -999", "  tcpEstablishedTimeout: 24h0m0s"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }

    fs::remove_file(&written).expect("it was written");
    fs::write(&config, format!("{head}clusterCIDR: x\noomScoreAdj: 1001\n")).expect("written");
    let lines = complaints(&["--config", &config, "--write-config-to", &written]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!std::path::Path::new(&written).exists());
    let lines = complaints(&["--write-config-to", "/nowhere/f"]);
    assert!(lines.len() == 1 && lines[0].contains("/nowhere/f cannot be written"), "{lines:?}");
}

#[test]
fn the_version_can_be_asked_as_kube_proxys() {
    let output = run(&["--version"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

/// The commands of the program.
const COMMANDS: [&str; 12] = [
    "run",
    "status",
    "services",
    "backends",
    "flows",
    "explain",
    "trace",
    "top",
    "check",
    "cleanup",
    "completion",
    "man",
];

#[test]
fn shells_can_complete_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Output { status, stdout, .. } = program(&["completion", shell]);
        let text = String::from_utf8(stdout).expect("text");
        assert!(status.success() && text.contains("cluster-cidr") && text.contains("backends"), "{shell}");
    }
    let wrong = program(&["completion", "tcsh"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(1) && said.contains("'tcsh'") && said.contains("bash"), "{said}");
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let page = program(&["man"]);
    let text = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.status.success() && text.contains("proxy\\-agent\\-services(1)"), "{text}");
    let folder = tempfile::tempdir().expect("a folder");
    assert!(program(&["man", "--directory", &folder.path().display().to_string()]).status.success());
    for command in COMMANDS {
        let page = fs::read_to_string(folder.path().join(format!("proxy-agent-{command}.1")));
        assert!(page.expect("a page").contains(".SH OPTIONS"), "{command}");
    }
    let lost = program(&["man", "--directory", "/nowhere"]);
    assert!(String::from_utf8_lossy(&lost.stderr).contains("cannot be written into /nowhere"));
}

#[test]
fn tables_that_are_not_there_are_one_line_without_colours() {
    let Output { status, stdout, stderr } = program(&["services", "--bpffs-root", "/nowhere"]);
    let said = String::from_utf8(stderr).expect("text");
    assert_eq!((status.code(), stdout.len()), (Some(1), 0));
    assert!(said.starts_with("proxy-agent: no tables at /nowhere: is the agent running"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn wrong_filters_name_the_flag_the_value_and_what_is_accepted() {
    for (arguments, parts) in [
        (&["flows", "--protocol", "icmp"], ["'icmp'", "--protocol", "tcp, udp, sctp"]),
        (&["flows", "--state", "dead"], ["'dead'", "--state", "established"]),
        (&["flows", "--address", "10.0.0"], ["'10.0.0'", "--address", "10.0.0.1"]),
        (&["flows", "--interval", "0"], ["'0'", "--interval", "whole number of seconds from 1"]),
        (&["trace", "--count", "many"], ["'many'", "--count", "whole number from 1"]),
        (&["trace", "--limit", "0"], ["'0'", "--limit", "whole number from 1"]),
        (&["top", "--sort", "size"], ["'size'", "--sort", "packets"]),
        (&["services", "a/b/c", "-owide"], ["'a/b/c'", "NAME", "[NAMESPACE/]NAME[:PORT]"]),
        (&["explain", "10.0.0.1", "10.96.0.1"], ["'10.96.0.1'", "<DST:PORT>", "10.96.0.1:80"]),
        (&["explain", "10.0.0", "10.96.0.1:80"], ["'10.0.0'", "<SRC[:PORT]>", "10.0.0.1:4000"]),
        (&["backends", "-o", "xml"], ["'xml'", "--output", "yaml"]),
    ] {
        let Output { status, stderr, .. } = program(arguments);
        let said = String::from_utf8(stderr).expect("text");
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn a_check_says_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (manifests, port) = (folder.path().display().to_string(), std::net::TcpListener::bind("127.0.0.1:0"));
    let taken = port.as_ref().expect("a port").local_addr().expect("an address").to_string();
    let free = "127.0.0.1:0";
    let check = |metrics: &str, more: &[&str]| {
        let flags = ["check", "-ojson", "--manifests", &manifests, "--healthz-bind-address", free];
        let output = program(&[&flags, ["--metrics-bind-address", metrics].as_slice(), more].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.success(), json["ready"], "{json}");
        json["checks"].as_array().expect("a list").clone()
    };
    let of = |checks: &[serde_json::Value], name: &str| -> Vec<String> {
        let found = checks.iter().filter(|check| check["check"] == name);
        found.map(|check| format!("{}: {}; {}", check["result"], check["found"], check["advice"])).collect()
    };
    let fine = check(free, &[]);
    assert!(of(&fine, "ports").iter().all(|line| line.contains("ok")), "{fine:?}");
    let ports = of(&check(&taken, &[]), "ports");
    assert!(ports[1].contains("failed") && ports[1].contains(&taken), "{ports:?}");
    assert!(ports[1].contains("change --metrics-bind-address"), "{ports:?}");
    let config = of(&check(free, &["--cluster-cidr", "10.0.0.0"]), "configuration");
    assert!(config.len() == 1 && config[0].contains("failed") && config[0].contains("cluster-cidr"), "{config:?}");
}
