//! What is taken away, and what must happen then.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

use libtest_mimic::Trial;
use proxy_agent::dataplane::{features::Feature, mounts};
use serde_json::{Value, json};

use super::{
    deny::Denied,
    lack::{Lack, Machine},
    service,
    stage::{Family, Setting, Stage},
    support::{Cgroup, features, release, run},
};

/// All tests. Those that need a machine without file systems come first, because the others mount them.
pub fn all() -> Vec<Trial> {
    let machine = Machine::examine();
    vec![
        machine.claims_are_known(),
        machine.lacking(Lack::Bpffs, "without_a_mounted_bpf_file_system", bpffs),
        machine.lacking(Lack::Cgroup2, "with_cgroups_of_the_first_version_only", cgroup_v1),
        machine.complete("with_a_part_of_the_cgroup2_hierarchy_and_none_mounted", part_of_cgroup2),
        machine.lacking(Lack::Nft, "without_nftables", nft),
        machine.complete("without_netfilter_over_netlink", denied_netfilter),
        machine.lacking(Lack::Ipv6, "without_ipv6_in_the_kernel", ipv6),
        machine.complete("without_ipv6_sockets", denied_ipv6),
        machine.complete("with_ipv6_switched_off", switched_off_ipv6),
        machine.lacking(Lack::Btf, "without_the_kernels_types", btf),
        machine.complete("with_the_kernels_types_hidden", hidden_btf),
        machine.complete("without_types_of_maps", denied_btf),
        machine.lacking(Lack::Memlock, "with_little_locked_memory", memlock),
        machine.complete("with_little_locked_memory_and_no_right_to_raise_it", low_memlock),
        machine.complete("with_no_more_rights_than_needed", rights),
    ]
}

/// A launcher that runs a shell script and then becomes the agent.
fn shell(script: &str) -> Vec<String> {
    ["sh", "-e", "-c", &format!("{script}\nexec \"$@\""), "sh"].map(str::to_owned).into()
}

/// The same in a mount namespace of its own.
fn with_mounts(script: &str) -> Vec<String> {
    let unshare = ["unshare", "--mount", "--"].map(str::to_owned);
    unshare.into_iter().chain(shell(script)).collect()
}

fn launched_by(launcher: Vec<String>) -> Setting {
    Setting { launcher, ..Setting::default() }
}

/// The pods' addresses; without them, the agent warns that it cannot tell pods from the outside.
const PODS: [&str; 2] = ["--cluster-cidr", "10.1.0.0/16,fd01::/16"];

/// Starts an agent that serves both families, and sends traffic of all kinds.
#[track_caller]
fn serve(setting: Setting) -> Stage {
    let families = setting.families;
    let mut stage = Stage::with(setting, &PODS);
    service::write(&stage);
    stage.start();
    service::is_served(&stage, families);
    assert!(!stage.log().contains("ERROR"), "{}", stage.log());
    stage
}

/// The last line of an agent that gives up, as it should.
#[track_caller]
fn complaint(stage: &Stage) -> String {
    let status = stage.spawn().wait().expect("it is ours");
    let log = stage.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    log.lines().last().unwrap_or_default().to_owned()
}

/// How many lines of the log contain a text.
fn count(stage: &Stage, text: &str) -> usize {
    stage.log().lines().filter(|line| line.contains(text)).count()
}

/// What an agent says that gives up over a device, after it has found or mounted file systems. (A test would mount them
/// itself for its own use.)
#[track_caller]
fn said_until_devices(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_proxy-agent"));
    agent.args(["run", "--hostname-override", "node", "--devices", "none-such", "--manifests"]).arg(folder.path());
    let output = agent.args(arguments).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--devices none-such: there is no such device"), "{said}");
    said
}

/// The agent mounts one.
fn bpffs() {
    let said = said_until_devices(&["--bpffs-root", "/sys/fs/bpf/proxy-agent-test"]);
    assert!(said.contains("mounted a bpf file system"), "{said}");
    assert!(mounts::is_bpffs(Path::new("/sys/fs/bpf")).expect("told"));
    serve(Setting::default());
}

/// The agent mounts the second version, and serves all processes of the machine. (So there is nobody left whom TC would
/// have to serve.)
fn cgroup_v1() {
    let at = mounts::CGROUP2;
    let said = said_until_devices(&[]);
    assert!(said.contains(&format!("mounted a cgroup2 file system at {at}")), "{said}");
    assert!(!said.contains("WARN"), "it is the root of the hierarchy: {said}");

    let setting = Setting { names_cgroup: false, ..Setting::default() };
    let mut stage = Stage::with(setting, &PODS);
    service::write(&stage);
    stage.start();
    service::at_sockets(&stage, &Family::ALL);
    stage.stop();
    let mut cleanup = stage.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
    let removed = run(cleanup.arg("cleanup").arg("--bpffs-root").arg(stage.pins.path()));
    assert!(removed.contains(&format!("removed cgroup2 file system at {at}")), "{removed}");
}

/// As in a container with a cgroup namespace on a node with first-version cgroups: the agent mounts what it may see,
/// warns that this is not all, and serves that.
fn part_of_cgroup2() {
    let cgroup = Cgroup::new();
    let enter = format!("echo $$ > {}/cgroup.procs", cgroup.path().display());
    let inner = r#"
        awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo | while read -r at; do umount -l "$at"; done
        mount -t tmpfs tmpfs /run
        exec "$@""#;
    let script =
        format!("{enter}\nexec unshare --mount --cgroup -- sh -e -c '{}' sh \"$@\"", inner.replace('\'', "'\\''"));
    let setting = Setting { names_cgroup: false, launcher: shell(&script), ..Setting::default() };
    let mut stage = Stage::with(setting, &PODS);
    // The agent and the clients that sockets serve are in the same cgroup.
    stage.cgroup = cgroup;
    service::write(&stage);
    stage.start();
    service::is_served(&stage, &Family::ALL);
    assert_eq!(count(&stage, "mounted a cgroup2 file system at /run/proxy-agent/cgroup2"), 1, "{}", stage.log());
    assert_eq!(count(&stage, "WARN"), 1, "{}", stage.log());
    assert_eq!(count(&stage, "/run/proxy-agent/cgroup2 shows a part of the cgroup2 hierarchy"), 1, "{}", stage.log());
}

/// Everything but masquerading works, and that is said once, shown and measured.
fn nft() {
    let stage = serve(Setting::default());
    is_not_masqueraded(&stage);
    assert_eq!(stage.ask("status")["masquerading"], "unsupported");
}

fn denied_netfilter() {
    let stage = serve(launched_by(Denied::Netfilter.launcher()));
    is_not_masqueraded(&stage);
    // Nothing is denied to the test itself.
    assert_eq!(stage.ask("status")["masquerading"], "missing");
}

#[track_caller]
fn is_not_masqueraded(stage: &Stage) {
    assert_eq!(count(stage, "WARN"), 1, "{}", stage.log());
    assert_eq!(count(stage, "packets are not masqueraded"), 1, "{}", stage.log());
    assert_eq!(count(stage, "the kernel needs nf_tables"), 1, "{}", stage.log());
    let mut metrics = String::new();
    stage.node.enter(|| {
        let mut connection = TcpStream::connect("127.0.0.1:10249").expect("the agent listens");
        write!(connection, "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").expect("asks");
        connection.read_to_string(&mut metrics).expect("answers");
    });
    assert!(metrics.lines().any(|line| line == "proxy_agent_masquerading 0"), "{metrics}");
}

/// IPv4 is served, and nothing fails.
fn ipv6() {
    let setting = Setting { families: &[Family::V4], ..Setting::default() };
    let stage = serve(setting);
    only_ipv4_is_said(&stage, "the kernel has no IPv6 (ipv6.disable=1): only IPv4 is served");
    assert_eq!(stage.ask("status")["masquerading"], "installed");
}

fn denied_ipv6() {
    let setting = Setting { families: &[Family::V4], launcher: Denied::Ipv6.launcher(), ..Setting::default() };
    let stage = serve(setting);
    only_ipv4_is_said(&stage, "the kernel has no IPv6 (ipv6.disable=1): only IPv4 is served");
}

fn switched_off_ipv6() {
    let setting = Setting { families: &[Family::V4], ..Setting::default() };
    let mut stage = Stage::with(setting, &PODS);
    let pods = stage.backends.iter().chain([&stage.ordinary, &stage.sandboxed]).map(|pod| &pod.namespace);
    for namespace in pods.chain([&stage.node, &stage.outside]) {
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    }
    service::write(&stage);
    stage.start();
    service::is_served(&stage, &[Family::V4]);
    only_ipv4_is_said(&stage, "IPv6 is switched off (net.ipv6.conf.all.disable_ipv6=1): only IPv4 is served");
}

#[track_caller]
fn only_ipv4_is_said(stage: &Stage, line: &str) {
    let log = stage.log();
    assert_eq!(count(stage, line), 1, "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "nothing failed: {log}");
}

/// What programs need of the kernel's types is nothing.
fn btf() {
    let stage = serve(Setting::default());
    assert!(fields_have_names(&stage));
}

fn hidden_btf() {
    let stage = serve(launched_by(with_mounts("mount -t tmpfs tmpfs /sys/kernel/btf")));
    assert_eq!(count(&stage, "WARN"), 0, "{}", stage.log());
    assert!(fields_have_names(&stage));
}

/// All works, but the tables show bytes.
fn denied_btf() {
    let stage = serve(launched_by(Denied::Btf.launcher()));
    assert_eq!(count(&stage, "without btf (Linux 4.18) bpftool shows the tables without names of fields"), 1);
    assert_eq!(count(&stage, "WARN"), 0, "{}", stage.log());
    assert!(!fields_have_names(&stage));
}

fn fields_have_names(stage: &Stage) -> bool {
    let table = stage.pins.path().join("services_v4");
    let dump = run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(table));
    let dump: Value = serde_json::from_str(&dump).expect("JSON");
    dump[0]["formatted"]["key"]["port"] == 80
}

/// Since 5.11 the limit does not matter. Before, it leaves no room for the tables, and the agent says so.
fn memlock() {
    locked_memory_is_low(Setting::default());
}

fn low_memlock() {
    let script = "ulimit -l 64\nset -- setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource \"$@\"";
    locked_memory_is_low(launched_by(shell(script)));
}

fn locked_memory_is_low(setting: Setting) {
    if (5, 11) <= release() {
        let stage = serve(setting);
        assert!(!stage.log().contains("locked memory"), "{}", stage.log());
        return;
    }
    let stage = Stage::with(setting, &PODS);
    service::write(&stage);
    let said = complaint(&stage);
    let expected = "counts BPF maps against the limit on locked memory, which is 64 KiB and cannot be raised: run";
    assert!(said.starts_with("proxy-agent: kernel 5.") && said.contains(expected), "{said}");
}

/// The capabilities that the agent's container has with `deploy/least-rights.yaml`.
fn capabilities() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/least-rights.yaml");
    let text = fs::read_to_string(file).expect("the file is there");
    let patch: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    let context = &patch["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!((&context["privileged"], &context["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let added = context["capabilities"]["add"].as_array().expect("a list");
    added.iter().map(|name| name.as_str().expect("a name").to_lowercase()).collect()
}

/// The rights that the agent has with `deploy/least-rights.yaml` suffice, in what a container runtime makes of a node: nothing can
/// be written to the root file system, `/sys` and `/proc/sys`, but for the file systems of BPF and cgroups.
fn rights() {
    let mut needed = vec!["-all".to_owned()];
    // That one is for kernels that count maps against the limit on locked memory, and for oom_score_adj.
    let is_needed = |name: &String| name != "sys_resource" || !features().has(Feature::CgroupMemory);
    needed.extend(capabilities().iter().filter(|name| is_needed(name)).map(|name| format!("+{name}")));
    let needed = needed.join(",");
    let script = format!(
        "mount --bind /proc/sys /proc/sys\nfor at in / /sys /proc/sys; do mount -o remount,bind,ro $at; done\n\
         set -- setpriv --bounding-set={needed} --inh-caps={needed} --ambient-caps=-all --no-new-privs \"$@\""
    );
    let mut stage = serve(launched_by(with_mounts(&script)));
    let mounts = run(Command::new("cat").arg(format!("/proc/{}/mounts", stage.agent_id())));
    for at in [" / ", " /sys ", " /proc/sys "] {
        let last = mounts.lines().rfind(|line| line.contains(at)).expect("it is mounted");
        assert!(last.contains(" ro,") || last.ends_with(" ro 0 0"), "{last}");
    }
    // The next agent needs no more, to take over and to put back what is taken away.
    stage.kill();
    stage.start();
    service::is_served(&stage, &Family::ALL);
}
