//! The kernel modules that tests need, in the order in which they can be loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{kernel::Files, output, tool};

/// Devices, protocols, traffic control, and lists of sockets.
const NETWORK: [&str; 14] = [
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "8021q",
    "tun",
    "wireguard",
    "sch_ingress",
    "cls_bpf",
    "overlay",
    "ipv6",
    "sctp",
    "inet_diag",
    "udp_diag",
];
/// nftables with address translation, as far as the agent's rules and those of tests go. What a kernel does not have is
/// built into another module.
const NFTABLES: [&str; 15] = [
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_counter",
    "nft_limit",
    "nft_numgen",
    "nft_log",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_reject_inet",
    "nft_fib_inet",
    "nf_conntrack_netlink",
];

/// Whether nftables is among the modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nftables {
    Included,
    LeftOut,
}

/// The files of the modules, each after those that it needs.
pub(super) fn files(kernel: &Files, nftables: Nftables) -> anyhow::Result<Vec<PathBuf>> {
    index(kernel)?;
    let mut files = Vec::new();
    let wanted: &[&str] = match nftables {
        Nftables::Included => &NFTABLES,
        Nftables::LeftOut => &[],
    };
    for module in NETWORK.iter().chain(wanted) {
        let mut command = tool("modprobe")?;
        command.arg("--dirname").arg(&kernel.root).arg("--set-version").arg(&kernel.release);
        command.args(["--config", "/dev/null", "--show-depends", module]);
        let found = command.output().context("cannot start modprobe")?;
        // A module that this kernel does not have: tests say what they miss.
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let file = PathBuf::from(file.trim());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    if files.is_empty() {
        bail!("no modules were found for {}", kernel.release);
    }
    Ok(files)
}

/// A module's bytes. The kernel may not be able to unpack it itself.
pub(super) fn bytes(file: &Path) -> anyhow::Result<Vec<u8>> {
    let unpack = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| file.display().to_string()),
    };
    let unpacked = tool(unpack)?.args(["--decompress", "--stdout"]).arg(file).output()?;
    anyhow::ensure!(unpacked.status.success(), "{unpack} cannot unpack {}", file.display());
    Ok(unpacked.stdout)
}

/// Writes the index of modules that installing the package would have written.
fn index(kernel: &Files) -> anyhow::Result<()> {
    let index = kernel.root.join("lib/modules").join(&kernel.release).join("modules.dep.bin");
    if !index.exists() {
        let mut depmod: Command = tool("depmod")?;
        output(depmod.arg("--basedir").arg(&kernel.root).arg(&kernel.release))?;
    }
    Ok(())
}
