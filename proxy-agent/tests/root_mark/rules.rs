//! Rules of others, as they have them on nodes: who masquerades what, and who marks what.
//!
//! Sets of addresses are prefixes here, because not every machine has `ipset`.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use super::{stage::Family, support::Netns};

/// Who has rules on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Masquerades pods that speak to the outside, and leaves alone what carries the masquerade mark.
    Flannel,
    /// The same, with a floating address, marks in the upper half, and a drop of what conntrack finds invalid.
    Calico,
    /// Marks pods that speak to Services, masquerades what is marked and whatever pods send to pods through the node.
    KubeOvn,
    /// What kubelet and kube-proxy leave behind: the chains that mark, and those that masquerade and drop what is marked.
    Kubelet,
}

/// What the rules are written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// iptables on top of nftables.
    IptablesNft,
    /// iptables with tables of its own.
    IptablesLegacy,
    /// nftables itself.
    Nft,
}

/// Port of a server outside; what pods send there is marked for masquerading by the neighbour.
pub const MARKED_PORT: u16 = 7001;

impl Tool {
    pub const fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables_nft",
            Self::IptablesLegacy => "iptables_legacy",
            Self::Nft => "nft",
        }
    }

    /// Whether it works here, for both families.
    pub fn works_in(self, namespace: &Netns) -> bool {
        let succeeds = |program: &str, arguments: &[&str]| {
            namespace.command(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        match self {
            Self::IptablesNft | Self::IptablesLegacy => Family::ALL.iter().all(|&family| {
                succeeds(
                    &self.iptables(family, ""),
                    &["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE", "--random-fully"],
                )
            }),
            Self::Nft => succeeds("nft", &["add table inet test"]),
        }
    }

    /// The program for a family: `iptables-nft-restore` and its like.
    fn iptables(self, family: Family, suffix: &str) -> String {
        let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let variant = if self == Self::IptablesLegacy { "legacy" } else { "nft" };
        format!("{program}-{variant}{suffix}")
    }
}

impl Neighbour {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flannel => "flannel",
            Self::Calico => "calico",
            Self::KubeOvn => "kube_ovn",
            Self::Kubelet => "kubelet",
        }
    }

    /// Adds the rules to the node.
    #[track_caller]
    pub fn install(self, tool: Tool, node: &Netns) {
        for family in Family::ALL {
            let mut command = match tool {
                Tool::Nft => node.command("nft"),
                Tool::IptablesNft | Tool::IptablesLegacy => node.command(tool.iptables(family, "-restore")),
            };
            match tool {
                Tool::Nft => command.args(["-f", "-"]),
                Tool::IptablesNft | Tool::IptablesLegacy => command.arg("--noflush"),
            };
            let text = if tool == Tool::Nft { self.nft(family) } else { self.iptables(family) };
            feed(&mut command, &text);
        }
    }

    /// As `iptables-restore` takes it.
    fn iptables(self, family: Family) -> String {
        let (pods, multicast, outside) = prefixes(family);
        match self {
            Self::Flannel => format!(
                "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
                 -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
                 -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN\n\
                 -A FLANNEL-POSTRTG -s {pods} -d {pods} -j RETURN\n\
                 -A FLANNEL-POSTRTG ! -s {pods} -d {pods} -j RETURN\n\
                 -A FLANNEL-POSTRTG -s {pods} ! -d {multicast} -j MASQUERADE --random-fully\n\
                 -A FLANNEL-POSTRTG ! -s {pods} -d {pods} -j MASQUERADE --random-fully\n\
                 COMMIT\n\
                 *filter\n:FLANNEL-FWD - [0:0]\n\
                 -A FORWARD -j FLANNEL-FWD\n\
                 -A FLANNEL-FWD -s {pods} -j ACCEPT\n\
                 -A FLANNEL-FWD -d {pods} -j ACCEPT\n\
                 COMMIT\n"
            ),
            Self::Calico => calico(family),
            Self::KubeOvn => format!(
                "*nat\n:OVN-PREROUTING - [0:0]\n:OVN-POSTROUTING - [0:0]\n:OVN-MASQUERADE - [0:0]\n\
                 -A PREROUTING -m comment --comment \"kube-ovn prerouting rules\" -j OVN-PREROUTING\n\
                 -A POSTROUTING -m comment --comment \"kube-ovn postrouting rules\" -j OVN-POSTROUTING\n\
                 -A OVN-PREROUTING -i pod+ -s {pods} -d {outside} -p tcp --dport {MARKED_PORT} -j MARK --set-xmark 0x4000/0x4000\n\
                 -A OVN-PREROUTING -i pod+ -s {pods} -d {outside} -p udp --dport {MARKED_PORT} -j MARK --set-xmark 0x4000/0x4000\n\
                 -A OVN-POSTROUTING -m mark --mark 0x4000/0x4000 -j OVN-MASQUERADE\n\
                 -A OVN-POSTROUTING -s {pods} -d {pods} -j OVN-MASQUERADE\n\
                 -A OVN-POSTROUTING -m mark --mark 0x80000/0x80000 -d {pods} -j RETURN\n\
                 -A OVN-POSTROUTING -m mark --mark 0x80000/0x80000 -j OVN-MASQUERADE\n\
                 -A OVN-POSTROUTING -p tcp -m tcp --tcp-flags SYN NONE -m conntrack --ctstate NEW -j RETURN\n\
                 -A OVN-POSTROUTING ! -s {pods} -d {pods} -j RETURN\n\
                 -A OVN-POSTROUTING -s {pods} ! -d {pods} -j OVN-MASQUERADE\n\
                 -A OVN-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff\n\
                 -A OVN-MASQUERADE -j MASQUERADE\n\
                 COMMIT\n\
                 *mangle\n:OVN-POSTROUTING - [0:0]\n\
                 -A POSTROUTING -j OVN-POSTROUTING\n\
                 -A OVN-POSTROUTING -p tcp -s {pods} -m tcp --tcp-flags RST RST -m conntrack --ctstate INVALID -j DROP\n\
                 COMMIT\n\
                 *filter\n\
                 -A OUTPUT -p udp -m udp --dport 6081 -j MARK --set-xmark 0x0\n\
                 -A OUTPUT -p udp -m udp --dport 4789 -j MARK --set-xmark 0x0\n\
                 COMMIT\n"
            ),
            Self::Kubelet => format!(
                "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n\
                 *filter\n:KUBE-FIREWALL - [0:0]\n\
                 -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
                 -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n\
                 COMMIT\n\
                 *nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-MARK-DROP - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:PORTS - [0:0]\n\
                 -A PREROUTING -i pod+ -d {outside} -j PORTS\n\
                 -A PORTS -p tcp --dport {MARKED_PORT} -j KUBE-MARK-MASQ\n\
                 -A PORTS -p udp --dport {MARKED_PORT} -j KUBE-MARK-MASQ\n\
                 -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
                 -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000\n\
                 -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
                 -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
                 -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
                 -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
                 COMMIT\n"
            ),
        }
    }

    /// As `nft` takes it.
    fn nft(self, family: Family) -> String {
        let (pods, multicast, _) = prefixes(family);
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        match self {
            Self::Flannel => format!(
                "table {ip} flannel-{ip} {{\n chain postrtg {{\n type nat hook postrouting priority 100;\n\
                 meta mark & 0x4000 != 0 return\n\
                 {ip} saddr {pods} {ip} daddr {pods} return\n\
                 {ip} saddr != {pods} {ip} daddr {pods} return\n\
                 {ip} saddr {pods} {ip} daddr != {multicast} masquerade fully-random\n\
                 {ip} saddr != {pods} {ip} daddr {pods} masquerade fully-random\n\
                 }}\n chain forward {{\n type filter hook forward priority 0;\n\
                 {ip} saddr {pods} accept\n {ip} daddr {pods} accept\n }}\n}}\n"
            ),
            Self::Calico => format!(
                "table {ip} calico {{\n\
                 chain nat-cali-nat-outgoing {{ {ip} saddr {pods} {ip} daddr != {pods} masquerade fully-random; }}\n\
                 chain nat-POSTROUTING {{\n type nat hook postrouting priority 100;\n jump nat-cali-nat-outgoing\n }}\n\
                 chain filter-FORWARD {{\n type filter hook forward priority 0;\n\
                 meta mark set meta mark & 0xfff1ffff\n ct state invalid drop\n meta mark set meta mark | 0x10000 accept\n }}\n}}\n"
            ),
            Self::KubeOvn | Self::Kubelet => unreachable!("they have iptables rules only"),
        }
    }
}

fn calico(family: Family) -> String {
    let (pods, ..) = prefixes(family);
    let mut text = String::from(
        "*filter\n:cali-FORWARD - [0:0]\n:cali-from-wl-dispatch - [0:0]\n:cali-to-wl-dispatch - [0:0]\n\
         -A FORWARD -j cali-FORWARD\n\
         -A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT\n\
         -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000\n\
         -A cali-FORWARD -i pod+ -j cali-from-wl-dispatch\n\
         -A cali-FORWARD -o pod+ -j cali-to-wl-dispatch\n\
         -A cali-FORWARD -j MARK --set-xmark 0x10000/0x10000\n",
    );
    for chain in ["cali-from-wl-dispatch", "cali-to-wl-dispatch"] {
        writeln!(
            text,
            "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A {chain} -m conntrack --ctstate INVALID -j DROP\n\
             -A {chain} -j MARK --set-xmark 0x0/0x10000"
        )
        .expect("a String takes everything");
    }
    let (pod, floating) = match family {
        Family::V4 => ("10.1.13.2", "198.51.100.13"),
        Family::V6 => ("fd01:13::2", "2001:db8:9::13"),
    };
    write!(
        text,
        "COMMIT\n\
         *nat\n:cali-PREROUTING - [0:0]\n:cali-POSTROUTING - [0:0]\n:cali-fip-dnat - [0:0]\n:cali-fip-snat - [0:0]\n\
         :cali-nat-outgoing - [0:0]\n\
         -A PREROUTING -j cali-PREROUTING\n\
         -A POSTROUTING -j cali-POSTROUTING\n\
         -A cali-PREROUTING -j cali-fip-dnat\n\
         -A cali-POSTROUTING -j cali-fip-snat\n\
         -A cali-POSTROUTING -j cali-nat-outgoing\n\
         -A cali-POSTROUTING -o tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL \
         -j MASQUERADE --random-fully\n\
         -A cali-fip-dnat -d {floating} -j DNAT --to-destination {pod}\n\
         -A cali-fip-snat -s {pod} -d {pod} -j SNAT --to-source {floating} --random-fully\n\
         -A cali-nat-outgoing -s {pods} ! -d {pods} -j MASQUERADE --random-fully\n\
         COMMIT\n"
    )
    .expect("a String takes everything");
    text
}

/// The pods' prefix, multicast addresses, and the prefix outside.
const fn prefixes(family: Family) -> (&'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("10.1.0.0/16", "224.0.0.0/4", "192.0.2.0/24"),
        Family::V6 => ("fd01::/16", "ff00::/8", "2001:db8::/64"),
    }
}

/// Runs a command that reads `text`.
#[track_caller]
fn feed(command: &mut Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was there before");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}
