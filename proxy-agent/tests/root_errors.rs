//! What the program says, in one line, where it cannot run, and what it does so that it can. Needs root, to take things
//! away. What is served on a node that lacks something is in `root_node`.

mod support;

use std::{path::Path, process::Output};

use proxy_agent::{
    dataplane::{features::Feature, mounts},
    plan::Changes,
};
use support::{Node, features, patience};

/// Runs a shell script on the node, in a mount namespace of its own. `agent` in it runs the agent on an
/// empty folder of manifests.
fn script(node: &Node, script: &str) -> Output {
    let manifests = tempfile::tempdir().expect("a folder");
    let (program, folder) = (env!("CARGO_BIN_EXE_proxy-agent"), manifests.path().display());
    let patience = patience().as_secs();
    let agent = format!(
        "agent() {{ $RUN timeout {patience} {program} run --hostname-override node --manifests {folder} \"$@\"; }}\n"
    );
    let mut command = node.netns.command("unshare");
    command.args(["--mount", "sh", "-c", &format!("{agent}{script}")]);
    command.env("CGROUP", node.cgroup.path()).env("PINS", node.pins.path()).env("RUN", "");
    command.output().expect("runs")
}

/// The last line of a run that failed as it should: with exit code 1 and without a backtrace.
#[track_caller]
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn without_the_right_to_load_programs() {
    let node = Node::default();
    let run = "RUN='setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all'";
    let output = script(&node, &format!("{run}; agent --cgroup-root $CGROUP --bpffs-root $PINS"));
    let said = complaint(&output);
    assert!(said.starts_with("proxy-agent: not allowed to load BPF programs: run as root, or with CAP_BPF"), "{said}");
}

/// Takes all cgroup2 file systems away, and everything below `/run`.
const NO_CGROUP2: &str =
    "awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo | while read -r at; do umount -l $at; done
mount -t tmpfs tmpfs /run
";

/// What the agent needs but for mounting.
fn may_not_mount() -> String {
    // Before 5.11 the tables need it.
    let more = if features().has(Feature::CgroupMemory) { "" } else { ",+sys_resource" };
    let rights = format!("-all,+bpf,+net_admin,+perfmon{more}");
    format!("RUN='setpriv --bounding-set={rights} --inh-caps={rights} --ambient-caps=-all'\n")
}

#[test]
fn a_missing_cgroup2_file_system_is_mounted_and_found_the_next_time() {
    let node = Node::default();
    // The agent gives up over the device, after it has found everything else in order.
    let agent = "agent --bpffs-root $PINS --devices eth7";
    let output = script(
        &node,
        &format!(
            "{NO_CGROUP2} grep -c ' - cgroup2 ' /proc/self/mountinfo; {agent}; {agent}; code=$?; \
             grep -c ' / /run/proxy-agent/cgroup2 .* - cgroup2 ' /proc/self/mountinfo; exit $code"
        ),
    );
    assert!(complaint(&output).contains("--devices eth7"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches("mounted a cgroup2 file system at /run/proxy-agent/cgroup2").count(), 1, "{text}");
}

#[test]
fn without_a_cgroup2_file_system_and_the_right_to_mount_it() {
    let node = Node::default();
    let output = script(&node, &format!("{NO_CGROUP2} {} agent --bpffs-root $PINS", may_not_mount()));
    let said = complaint(&output);
    let expected = "proxy-agent: no cgroup2 file system is mounted, and it cannot be mounted at \
                    /run/proxy-agent/cgroup2: Operation not permitted (os error 1); mount it beforehand";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn with_a_cgroup_that_is_none() {
    let node = Node::default();
    let said = complaint(&script(&node, "agent --cgroup-root /proc --bpffs-root $PINS"));
    assert!(said.starts_with("proxy-agent: --cgroup-root /proc is not a directory of a cgroup2 file system"), "{said}");
}

#[test]
fn without_a_bpf_file_system_and_the_right_to_mount_it() {
    let node = Node::default();
    let script_text = format!("umount -l /sys/fs/bpf\n{} agent --cgroup-root $CGROUP", may_not_mount());
    let said = complaint(&script(&node, &script_text));
    let expected = "proxy-agent: cannot mount a bpf file system at /sys/fs/bpf: Operation not permitted (os error 1); \
                    mount it beforehand (mount -t bpf bpffs /sys/fs/bpf)";
    assert_eq!(said, expected);
}

#[test]
fn with_pins_outside_a_bpf_file_system() {
    let node = Node::default();
    let said = complaint(&script(&node, "agent --cgroup-root $CGROUP --bpffs-root /proc/proxy-agent"));
    assert!(
        said.starts_with("proxy-agent: --bpffs-root /proc/proxy-agent is not on a bpf file system: mount one"),
        "{said}"
    );
}

#[test]
fn an_unknown_device() {
    let node = Node::default();
    let said = complaint(&script(&node, "agent --cgroup-root $CGROUP --bpffs-root $PINS --devices lo,eth7"));
    assert!(said.starts_with("proxy-agent: --devices eth7: there is no such device"), "{said}");
}

#[test]
fn beside_another_agent() {
    let node = Node::default();
    let _running = node.start(&Changes::default());
    let said = complaint(&script(&node, "agent --cgroup-root $CGROUP --bpffs-root $PINS"));
    assert!(said.starts_with("proxy-agent: another agent is running with --bpffs-root"), "{said}");
}

#[test]
fn a_missing_bpf_file_system_is_mounted() {
    let node = Node::default();
    // The agent gives up over the device, after it has found everything else in order.
    let output = script(
        &node,
        "umount -l /sys/fs/bpf; grep -c ' - bpf ' /proc/self/mountinfo; \
         agent --cgroup-root $CGROUP --bpffs-root /sys/fs/bpf/proxy-agent --devices eth7; code=$?; \
         grep -c ' /sys/fs/bpf .* - bpf ' /proc/self/mountinfo; exit $code",
    );
    assert!(complaint(&output).contains("--devices eth7"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n");
    assert!(mounts::is_bpffs(Path::new("/sys/fs/bpf")).expect("told"), "that of everybody else is still there");
}
