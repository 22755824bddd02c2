//! Rules shaped like kube-proxy's, for the Service `web` of the runner: clusterIP and nodePort, TCP and UDP, both families.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use super::{
    stage::{Family, Stage, TARGET_PORT},
    support::{Netns, run},
};

/// How kube-proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mode iptables, on top of nftables.
    IptablesNft,
    /// Mode iptables, with tables of its own.
    IptablesLegacy,
    /// Mode nftables.
    Nftables,
}

/// The Service's nodePort.
pub const NODE_PORT: u16 = 30_080;

impl Mode {
    pub const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Nftables];

    pub const fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables_nft",
            Self::IptablesLegacy => "iptables_legacy",
            Self::Nftables => "nftables",
        }
    }

    /// Whether the namespace's kernel and the machine's programs can do it.
    pub fn works_in(self, namespace: &Netns) -> bool {
        let succeeds = |words: &[&str]| {
            namespace.command(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
        };
        match self {
            Self::IptablesNft | Self::IptablesLegacy => Family::ALL.iter().all(|&family| {
                let program = self.program(family, "");
                let words = ["-t", "nat", "-A", "PREROUTING", "-m", "statistic", "--mode", "random"];
                succeeds(&[&[program.as_str()][..], &words, &["--probability", "0.5", "-j", "ACCEPT"]].concat())
            }),
            Self::Nftables => succeeds(&["nft", "add table inet test"]),
        }
    }

    fn program(self, family: Family, suffix: &str) -> String {
        let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let variant = if self == Self::IptablesLegacy { "legacy" } else { "nft" };
        format!("{program}-{variant}{suffix}")
    }

    /// What kubelet and a CNI have on the node, one of whose rules needs a chain of kube-proxy's.
    pub fn install_others(self, node: &Netns) {
        for family in Family::ALL {
            match self {
                Self::IptablesNft | Self::IptablesLegacy => feed(
                    node.command(self.program(family, "-restore")).arg("--noflush"),
                    "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n\
                     *filter\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
                     -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n\
                     *nat\n:KUBE-MARK-MASQ - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n\
                     -A POSTROUTING -m comment --comment \"not -j KUBE-POSTROUTING\" -j CNI-HOSTPORT-SETMARK\n\
                     -A CNI-HOSTPORT-SETMARK -p tcp --dport 9 -j KUBE-MARK-MASQ\n\
                     -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n",
                ),
                Self::Nftables => {
                    let ip = ip(family);
                    let text =
                        format!("table {ip} cni {{ chain nat-post {{ type nat hook postrouting priority 90; }}; }}");
                    run(node.command("nft").arg(text));
                }
            }
        }
    }

    /// Installs the rules; those that are there are replaced.
    pub fn install(self, stage: &Stage) {
        for family in Family::ALL {
            match self {
                Self::IptablesNft | Self::IptablesLegacy => {
                    let mut command = stage.node.command(self.program(family, "-restore"));
                    feed(command.arg("--noflush"), &iptables(stage, family));
                }
                Self::Nftables => feed(stage.node.command("nft").args(["-f", "-"]), &nftables(stage, family)),
            }
        }
    }

    /// All rules that are there, without counters.
    pub fn rules(self, node: &Netns) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            match self {
                Self::IptablesNft | Self::IptablesLegacy => {
                    for table in ["nat", "filter", "mangle"] {
                        let saved = run(node.command(self.program(family, "-save")).args(["-t", table]));
                        let lines = saved.lines().filter(|line| !line.starts_with('#'));
                        // Chains are told with counters.
                        lines.for_each(|line| {
                            writeln!(text, "{}", line.split(" [").next().unwrap_or(line)).expect("a String");
                        });
                    }
                }
                Self::Nftables => text += &run(node.command("nft").args(["list", "tables", ip(family)])),
            }
        }
        text
    }
}

fn ip(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

/// The Service's clusterIP, and its pods.
fn addresses(stage: &Stage, family: Family) -> (IpAddr, Vec<String>) {
    let cluster_ip = super::runner::cluster_ips(1)[usize::from(family == Family::V6)].ip();
    (cluster_ip, stage.backends.iter().map(|pod| pod.endpoint(family).to_string()).collect())
}

fn iptables(stage: &Stage, family: Family) -> String {
    let (cluster_ip, backends) = addresses(stage, family);
    let mut chains = String::new();
    let mut rules = String::new();
    for protocol in ["tcp", "udp"] {
        let tag = protocol.to_uppercase();
        let about = format!("-m comment --comment \"default/web:main-{protocol} -j x\" -p {protocol} -m {protocol}");
        write!(chains, ":KUBE-SVC-{tag} - [0:0]\n:KUBE-EXT-{tag} - [0:0]\n").expect("a String");
        write!(
            rules,
            "-A KUBE-SERVICES -d {cluster_ip} {about} --dport 80 -j KUBE-SVC-{tag}\n\
             -A KUBE-NODEPORTS {about} --dport {NODE_PORT} -j KUBE-EXT-{tag}\n\
             -A KUBE-EXT-{tag} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{tag} -j KUBE-SVC-{tag}\n"
        )
        .expect("a String");
        for (index, backend) in backends.iter().enumerate() {
            let left = backends.len() - index;
            let choice = match left {
                1 => String::new(),
                2 => "-m statistic --mode random --probability 0.50000000000".to_owned(),
                _ => "-m statistic --mode random --probability 0.33333333349".to_owned(),
            };
            let pod = backend.rsplit_once(':').expect("address and port").0.trim_matches(['[', ']']);
            writeln!(chains, ":KUBE-SEP-{tag}-{index} - [0:0]").expect("a String");
            write!(
                rules,
                "-A KUBE-SVC-{tag} {choice} -j KUBE-SEP-{tag}-{index}\n\
                 -A KUBE-SEP-{tag}-{index} -s {pod} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{tag}-{index} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}\n"
            )
            .expect("a String");
        }
    }
    format!(
        "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL\n\
         -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n\
         {chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         {rules}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n"
    )
}

fn nftables(stage: &Stage, family: Family) -> String {
    let (cluster_ip, backends) = addresses(stage, family);
    let ip = ip(family);
    let node_ip = if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" };
    let mut text = format!("add table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{\n");
    let count = backends.len();
    for protocol in ["tcp", "udp"] {
        for (index, backend) in backends.iter().enumerate() {
            writeln!(text, "chain endpoint-{protocol}-{index} {{ meta l4proto {protocol} dnat to {backend}; }}")
                .expect("a String");
        }
        let choices: Vec<String> =
            (0..count).map(|index| format!("{index} : goto endpoint-{protocol}-{index}")).collect();
        write!(
            text,
            "chain service-{protocol} {{ numgen random mod {count} vmap {{ {} }}; }}\n\
             chain external-{protocol} {{ meta mark set meta mark | 0x4000; goto service-{protocol}; }}\n",
            choices.join(", ")
        )
        .expect("a String");
    }
    write!(
        text,
        "map service-ips {{ type {ip}v_addr . inet_proto . inet_service : verdict; elements = {{ \
         {cluster_ip} . tcp . 80 : goto service-tcp, {cluster_ip} . udp . 80 : goto service-udp, \
         {node_ip} . tcp . {NODE_PORT} : goto external-tcp, {node_ip} . udp . {NODE_PORT} : goto external-udp }}; }}\n\
         chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; \
         meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade fully-random; }}\n}}\n"
    )
    .expect("a String");
    assert_eq!(TARGET_PORT, 8080, "the endpoints' port is part of their addresses");
    text.replace("ipv_addr", "ipv4_addr").replace("ip6v_addr", "ipv6_addr")
}

/// Runs a command that reads `text`.
#[track_caller]
fn feed(command: &mut Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was there before");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}
