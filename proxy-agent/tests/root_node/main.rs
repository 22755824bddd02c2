//! Nodes that lack something: how the agent serves them, or what it says. Needs root.
//!
//! Most of what a node can lack is emulated for the agent: by mounts of its own, dropped rights, or system calls that
//! are denied. What nobody can take from a running kernel needs a machine that was booted so; on other machines those
//! tests are listed as ignored. `cargo xtask vm` boots these machines and names what they lack in
//! `PROXY_AGENT_NODE_LACKS`; a machine that has it nevertheless fails the test.
//!
//! | machine | what it is |
//! |---|---|
//! | `without-nft` | no module of nftables can be loaded (`nf_tables`, `nft_*`) |
//! | `without-ipv6` | kernel parameter `ipv6.disable=1` |
//! | `cgroup-v1` | controllers of the first version are mounted below `/sys/fs/cgroup`, and cgroup2 nowhere |
//! | `without-btf` | `/sys/kernel/btf/vmlinux` is not there: hidden by a tmpfs, or the kernel has no `CONFIG_DEBUG_INFO_BTF` |
//! | `without-bpffs` | no BPF file system is mounted |
//! | `low-memlock` | `ulimit -l 64`, and no `CAP_SYS_RESOURCE` (`setpriv --bounding-set -sys_resource`) |

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

#[path = "../root_traffic/client.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod client;
mod deny;
mod lack;
#[path = "../root_traffic/manifests.rs"]
mod manifests;
#[path = "../root_traffic/peer.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod peer;
mod scenarios;
#[path = "../root_traffic/server.rs"]
mod server;
mod service;
#[path = "../root_traffic/stage.rs"]
#[allow(dead_code, reason = "shared with root_traffic; each uses what it needs")]
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::{env, process::ExitCode};

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(peer::COMMAND) => peer::main(&arguments[2..]),
        Some(deny::COMMAND) => deny::main(&arguments[2..]),
        _ => {
            let mut arguments = Arguments::from_args();
            // What one of them mounts, another one finds.
            arguments.test_threads = Some(1);
            libtest_mimic::run(&arguments, scenarios::all()).exit_code()
        }
    }
}
