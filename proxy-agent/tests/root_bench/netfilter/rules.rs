//! Rules as kube-proxy 1.36 writes them for the same objects, IPv4 only.
//!
//! They have its chains, maps and matches; names of chains are numbers instead of hashes, and comments are shorter. The cluster's
//! address range is not told, so neither has rules for it.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    process::Stdio,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{sized, support::Netns};

/// The port of a Service over TCP. Each has one.
#[derive(Clone, Debug)]
pub struct ServicePort {
    number: usize,
    cluster_ip: Ipv4Addr,
    port: u16,
    node_port: Option<u16>,
    /// The load balancer's addresses, and who may use them.
    balanced: Vec<Ipv4Addr>,
    ranges: Vec<String>,
    /// Whether what comes from outside keeps its source, and stays on the node.
    is_local: bool,
    endpoints: Vec<SocketAddrV4>,
}

impl ServicePort {
    /// Nothing, if it is not IPv4's.
    fn of(number: usize, service: &Service, slice: &EndpointSlice) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let port = spec.ports.as_ref()?.first()?;
        let target = slice.ports.as_ref()?.first()?.port?;
        let IpAddr::V4(cluster_ip) = spec.cluster_ip.as_ref()?.parse().ok()? else { return None };
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let address = |text: &String| text.parse::<Ipv4Addr>().expect("an IPv4 Service has IPv4 endpoints");
        let small = |number: i32| u16::try_from(number).expect("a port");
        let endpoints = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        Some(Self {
            number,
            cluster_ip,
            port: small(port.port),
            node_port: port.node_port.map(small),
            balanced: status.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect(),
            ranges: spec.load_balancer_source_ranges.clone().unwrap_or_default(),
            is_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            endpoints: endpoints.map(|text| SocketAddrV4::new(address(text), small(target))).collect(),
        })
    }

    /// Of manifests.
    pub fn of_manifests(number: usize, service: &Value, slice: &Value) -> Self {
        fn object<T: DeserializeOwned>(value: &Value) -> T {
            serde_json::from_value(value.clone()).expect("a sound manifest")
        }
        Self::of(number, &object(service), &object(slice)).expect("it is IPv4's")
    }

    /// One of many, with the endpoints of a round.
    fn sized(number: u32, round: u32) -> Option<Self> {
        // The first numbers are the manifests'.
        Self::of(number as usize + 10, &sized::service(number), &sized::slice(number, round))
    }
}

/// All IPv4 Services of so many.
pub fn sized(services: u32) -> Vec<ServicePort> {
    (0..services).filter_map(|number| ServicePort::sized(number, 0)).collect()
}

/// How kube-proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mode nftables.
    Nftables,
    /// Mode iptables, with iptables' own tables in the kernel.
    Iptables,
}

impl Mode {
    /// Whether the machine's programs and the namespace's kernel can do it.
    pub fn works_in(self, namespace: &Netns) -> bool {
        let words: &[&str] = match self {
            Self::Nftables => &["nft", "add table inet test"],
            Self::Iptables => &["iptables-legacy", "-t", "nat", "-S"],
        };
        namespace.command(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
    }

    /// Hands rules to the kernel, the way kube-proxy does.
    pub fn load(self, namespace: &Netns, rules: &str) {
        let mut command = match self {
            Self::Nftables => {
                let mut command = namespace.command("nft");
                command.args(["-f", "-"]);
                command
            }
            Self::Iptables => {
                let mut command = namespace.command("iptables-legacy-restore");
                command.args(["--noflush", "--counters"]);
                command
            }
        };
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was there before");
        // What a failed command leaves unread is told by the exit code.
        drop(child.stdin.take().expect("it is piped").write_all(rules.as_bytes()));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The rules for all Services.
    pub fn all(self, services: &[ServicePort]) -> String {
        let text = match self {
            Self::Nftables => nftables(services),
            Self::Iptables => iptables(services, services),
        };
        text.expect("a String takes everything")
    }

    /// What has to be written when one endpoint of one of `services` has become another: `number` is that of [`sized::slice`].
    pub fn change(self, services: &[ServicePort], number: u32, round: u32) -> String {
        let changed = [ServicePort::sized(number, round).expect("it is one of IPv4")];
        let text = match self {
            Self::Nftables => nftables_change(&changed[0], round),
            // The chains of Services that are as they were are left alone; the rules that lead to them are all written.
            Self::Iptables => iptables(services, &changed),
        };
        text.expect("a String takes everything")
    }
}

fn iptables(services: &[ServicePort], changed: &[ServicePort]) -> Result<String, fmt::Error> {
    let mut filter = String::new();
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        let ServicePort { number, cluster_ip, port, .. } = service;
        let about = format!("-m comment --comment \"shop/{number}:http\" -m tcp -p tcp");
        writeln!(rules, "-A KUBE-SERVICES {about} -d {cluster_ip} --dport {port} -j KUBE-SVC-{number:016}")?;
        for address in &service.balanced {
            writeln!(rules, "-A KUBE-SERVICES {about} -d {address} --dport {port} -j KUBE-FW-{number:016}")?;
            writeln!(filter, "-A KUBE-PROXY-FIREWALL {about} -d {address} --dport {port} -j DROP")?;
        }
        if let Some(node_port) = service.node_port {
            writeln!(rules, "-A KUBE-NODEPORTS {about} --dport {node_port} -j KUBE-EXT-{number:016}")?;
        }
    }
    for service in changed {
        let ServicePort { number, .. } = service;
        writeln!(chains, ":KUBE-SVC-{number:016} - [0:0]")?;
        if !service.balanced.is_empty() {
            writeln!(chains, ":KUBE-FW-{number:016} - [0:0]")?;
            for range in &service.ranges {
                writeln!(rules, "-A KUBE-FW-{number:016} -s {range} -j KUBE-EXT-{number:016}")?;
            }
        }
        if service.node_port.is_some() {
            writeln!(chains, ":KUBE-EXT-{number:016} - [0:0]")?;
            if service.is_local {
                writeln!(
                    rules,
                    "-A KUBE-EXT-{number:016} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{number:016} -m addrtype --src-type LOCAL -j KUBE-SVC-{number:016}"
                )?;
            } else {
                writeln!(rules, "-A KUBE-EXT-{number:016} -j KUBE-MARK-MASQ")?;
            }
            writeln!(rules, "-A KUBE-EXT-{number:016} -j KUBE-SVC-{number:016}")?;
        }
        let count = service.endpoints.len();
        for (index, endpoint) in service.endpoints.iter().enumerate() {
            let left = u32::try_from(count - index).expect("few endpoints");
            let choice = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / f64::from(left))
            } else {
                String::new()
            };
            write!(
                rules,
                "-A KUBE-SVC-{number:016} {choice}-j KUBE-SEP-{number:010}-{index:05}\n\
                 -A KUBE-SEP-{number:010}-{index:05} -s {} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{number:010}-{index:05} -m tcp -p tcp -j DNAT --to-destination {endpoint}\n",
                endpoint.ip()
            )?;
            writeln!(chains, ":KUBE-SEP-{number:010}-{index:05} - [0:0]")?;
        }
    }
    Ok(format!(
        "*filter\n:KUBE-NODEPORTS - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
         :KUBE-FORWARD - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n{filter}\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n{rules}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
    ))
}

/// The rules that lead to kube-proxy's chains; it makes them once.
pub const IPTABLES_JUMPS: &str = "*filter\n:KUBE-NODEPORTS - [0:0]\n:KUBE-SERVICES - [0:0]\n\
     :KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
     -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
     -A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A INPUT -j KUBE-NODEPORTS\n\
     -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n-A FORWARD -j KUBE-FORWARD\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\nCOMMIT\n\
     *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
     -A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n";

/// A Service's chain and those of its endpoints.
fn nftables_chains(text: &mut String, service: &ServicePort, round: u32) -> fmt::Result {
    let ServicePort { number, .. } = service;
    let mut choices = Vec::new();
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        // The first is another one in each round.
        let name = if index == 0 { format!("{number}-{index}-{round}") } else { format!("{number}-{index}") };
        if index == 0 || round == 0 {
            write!(
                text,
                "add chain ip kube-proxy endpoint-{name}\n\
                 add rule ip kube-proxy endpoint-{name} ip saddr {} jump mark-for-masquerade\n\
                 add rule ip kube-proxy endpoint-{name} meta l4proto tcp dnat to {endpoint}\n",
                endpoint.ip()
            )?;
        }
        choices.push(format!("{index} : goto endpoint-{name}"));
    }
    let (count, choices) = (choices.len(), choices.join(" , "));
    writeln!(text, "add rule ip kube-proxy service-{number} numgen random mod {count} vmap {{ {choices} }}")
}

fn nftables(services: &[ServicePort]) -> Result<String, fmt::Error> {
    let mut text = String::from(
        "add table ip kube-proxy\n\
         add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }\n\
         add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
         add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }\n\
         add set ip kube-proxy cluster-ips { type ipv4_addr ; }\n\
         add set ip kube-proxy nodeport-ips { type ipv4_addr ; }\n\
         add element ip kube-proxy nodeport-ips { 192.0.2.1 }\n\
         add chain ip kube-proxy mark-for-masquerade\n\
         add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add chain ip kube-proxy masquerading\n\
         add rule ip kube-proxy masquerading mark and 0x4000 == 0 return\n\
         add rule ip kube-proxy masquerading mark set mark xor 0x4000\n\
         add rule ip kube-proxy masquerading masquerade fully-random\n\
         add chain ip kube-proxy services\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n\
         add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n\
         add chain ip kube-proxy firewall-check\n\
         add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips\n\
         add chain ip kube-proxy service-endpoints-check\n\
         add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services\n\
         add chain ip kube-proxy nodeport-endpoints-check\n\
         add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports\n\
         add chain ip kube-proxy reject-chain\nadd rule ip kube-proxy reject-chain reject\n\
         add chain ip kube-proxy cluster-ips-check\n\
         add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject\n",
    );
    for (chain, hook, rules) in [
        (
            "filter-prerouting-pre-dnat",
            "filter hook prerouting priority -110",
            &["ct state new jump firewall-check"][..],
        ),
        ("filter-output-pre-dnat", "filter hook output priority -110", &["ct state new jump firewall-check"]),
        (
            "filter-input",
            "filter hook input priority 0",
            &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
        ),
        (
            "filter-forward",
            "filter hook forward priority 0",
            &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        (
            "filter-output",
            "filter hook output priority 0",
            &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        ("nat-prerouting", "nat hook prerouting priority -100", &["jump services"]),
        ("nat-output", "nat hook output priority -100", &["jump services"]),
        ("nat-postrouting", "nat hook postrouting priority 100", &["jump masquerading"]),
    ] {
        writeln!(text, "add chain ip kube-proxy {chain} {{ type {hook} ; }}")?;
        for rule in rules {
            writeln!(text, "add rule ip kube-proxy {chain} {rule}")?;
        }
    }
    for service in services {
        let ServicePort { number, cluster_ip, port, .. } = service;
        writeln!(text, "add chain ip kube-proxy service-{number}")?;
        nftables_chains(&mut text, service, 0)?;
        let to = format!("{cluster_ip} . tcp . {port}");
        writeln!(text, "add element ip kube-proxy cluster-ips {{ {cluster_ip} }}")?;
        writeln!(text, "add element ip kube-proxy service-ips {{ {to} : goto service-{number} }}")?;
        if let Some(node_port) = service.node_port {
            writeln!(text, "add chain ip kube-proxy external-{number}")?;
            let masqueraded = if service.is_local { "fib saddr type local " } else { "" };
            writeln!(text, "add rule ip kube-proxy external-{number} {masqueraded}jump mark-for-masquerade")?;
            writeln!(text, "add rule ip kube-proxy external-{number} goto service-{number}")?;
            let to = format!("tcp . {node_port}");
            writeln!(text, "add element ip kube-proxy service-nodeports {{ {to} : goto external-{number} }}")?;
        }
        for address in &service.balanced {
            let (to, ranges) = (format!("{address} . tcp . {port}"), service.ranges.join(", "));
            writeln!(text, "add chain ip kube-proxy firewall-{number}")?;
            writeln!(text, "add rule ip kube-proxy firewall-{number} ip saddr != {{ {ranges} }} drop")?;
            writeln!(text, "add element ip kube-proxy firewall-ips {{ {to} : goto firewall-{number} }}")?;
            writeln!(text, "add element ip kube-proxy service-ips {{ {to} : goto external-{number} }}")?;
        }
    }
    Ok(text)
}

fn nftables_change(service: &ServicePort, round: u32) -> Result<String, fmt::Error> {
    let ServicePort { number, .. } = service;
    let mut text = format!("flush chain ip kube-proxy service-{number}\n");
    nftables_chains(&mut text, service, round)?;
    // It is the first change of this Service.
    writeln!(
        text,
        "flush chain ip kube-proxy endpoint-{number}-0-0\ndelete chain ip kube-proxy endpoint-{number}-0-0"
    )?;
    Ok(text)
}
