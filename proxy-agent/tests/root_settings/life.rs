//! Settings of kube-proxy's that are about the agent and the kernel, not about Services.

use std::{
    fs,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Child, Output},
};

use rustix::fs::inotify;

use super::{
    services::{WEB, assert_seen},
    stage::{Family, Stage},
    support::eventually,
};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Replaces a file as editors do, and `ConfigMap`s.
fn write(path: &Path, fields: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("{HEAD}{fields}")).expect("the folder is ours");
    fs::rename(fresh, path).expect("the folder is ours");
}

/// Returns when the agent has read the file twice, or has ended. Before it reads a second time, it has acted on the first.
fn wait_for_two_looks(file: &Path, agent: &mut Child) {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("a watch");
    inotify::add_watch(&watch, file, inotify::WatchFlags::CLOSE_NOWRITE).expect("the file is there");
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut looks = 0;
    eventually("the agent looks twice", || {
        while events.next().is_ok() {
            looks += 1;
        }
        (looks >= 2 || agent.try_wait().expect("it is ours").is_some()).then_some(())
    });
}

/// The agent ends so that it is started again with the new configuration. Services are served all the time.
pub fn changed_file() {
    let mut stage = Stage::new(&[]);
    let file: PathBuf = stage.manifests().join(".config");
    write(&file, "clusterCIDR: 10.1.0.0/16,fd01::/16\n");
    let path = file.to_str().expect("text").to_owned();
    stage.set_arguments(&["--config", &path]);
    WEB.write_for(&stage, &stage.backends[0]);
    let mut agent = stage.spawn();
    eventually("it is ready", || stage.log().contains("programs attached to").then_some(()));

    write(&file, "clusterCIDR: nonsense\n");
    eventually("the mistake is told", || stage.log().contains("clusterCIDR: \"nonsense\" is not").then_some(()));
    write(&file, "# The same as before.\nclusterCIDR: fd01::/16,10.1.0.0/16\n");
    wait_for_two_looks(&file, &mut agent);
    assert_eq!(agent.try_wait().expect("it is ours"), None, "neither is a reason to end");

    write(&file, "clusterCIDR: 10.1.0.0/16,fd01::/16\noomScoreAdj: 501\n");
    let (status, _) = eventually("it ends", || agent.try_wait().expect("it is ours"));
    assert_eq!(status.code(), Some(1), "whoever started it sees that it is to be started again");
    assert!(stage.log().contains("the configuration was changed"), "{}", stage.log());
    for family in Family::ALL {
        let source = stage.sandboxed.ip(family);
        assert_seen(&stage.sandboxed_pod(), WEB.cluster_ip(family), source, "without an agent");
    }
    stage.start();
}

/// Runs the agent to its end, with flags that make it do something else than run.
fn run(stage: &Stage, flags: &[&str]) -> Output {
    let mut command = stage.node.command(env!("CARGO_BIN_EXE_proxy-agent"));
    command.arg("run").args(flags).arg("--bpffs-root").arg(stage.pins.path());
    command.arg("--cgroup-root").arg(stage.cgroup.path()).output().expect("it starts")
}

pub fn cleanup() {
    let mut stage = Stage::new(&[]);
    WEB.write_for(&stage, &stage.backends[0]);
    stage.start();
    let output = run(&stage, &["--cleanup"]);
    assert_eq!(output.status.code(), Some(1), "an agent is running: {output:?}");
    stage.stop();
    let output = run(&stage, &["--cleanup"]);
    assert!(output.status.success(), "{output:?}");
    let left = fs::read_dir(stage.pins.path()).map(Iterator::count).unwrap_or_default();
    assert_eq!(left, 0);
    let tables = stage.node.command("nft").args(["list", "tables"]).output().expect("nft runs");
    assert!(!String::from_utf8_lossy(&tables.stdout).contains("proxy-agent"), "{tables:?}");
}

/// The timeouts of conntrack belong to the network namespace, so they can be set in one. The limit is the machine's, which is no
/// reason to warn.
pub fn kernel_settings() {
    let timeouts =
        ["--conntrack-tcp-timeout-established=3h", "--conntrack-udp-timeout=17s", "--conntrack-min=1000000000"];
    let mut stage = Stage::new(&[&timeouts[..], &["--oom-score-adj=503"]].concat());
    let read = |stage: &Stage, name: &str| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        stage.node.enter(|| fs::read_to_string(path)).expect("conntrack is there").trim().to_owned()
    };
    WEB.write_for(&stage, &stage.backends[0]);
    stage.start();
    eventually("they are set", || (read(&stage, "tcp_timeout_established") == "10800").then_some(()));
    assert_eq!(read(&stage, "udp_timeout"), "17");
    assert_eq!(read(&stage, "tcp_timeout_close_wait"), "3600", "kube-proxy's default");
    assert!(stage.log().contains("can only be set in the first network namespace"), "{}", stage.log());
    assert!(!stage.log().contains("cannot set"), "{}", stage.log());
    let agent = stage.ask("status")["agent"].as_u64().expect("it runs");
    assert_eq!(fs::read_to_string(format!("/proc/{agent}/oom_score_adj")).expect("it runs").trim(), "503");
    stage.stop();

    // Connection tracking is there because of the table.
    let table =
        |verb| stage.node.command("nft").args([verb, "table", "inet", "proxy-agent"]).output().expect("nft runs");
    assert!(table("delete").status.success());
    let output = run(&stage, &["--init-only", "--conntrack-tcp-timeout-established=2h", "--conntrack-max-per-core=0"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read(&stage, "tcp_timeout_established"), "7200");
    assert!(table("list").status.success());
}
