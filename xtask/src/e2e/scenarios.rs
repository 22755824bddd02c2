//! Our own scenarios, against the Services of deploy/e2e/workloads.yaml.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{
    cluster::{Cluster, NAMESPACE, fetch_on_node},
    report::Report,
};

/// The page that tells the name of the pod and the address that it sees.
const WHO: &str = "cgi-bin/who";
/// The ports of the Services `web` and `web-local`.
const NODE_PORT: u16 = 30080;
const LOCAL_NODE_PORT: u16 = 30081;
const REPLICAS: usize = 3;
/// With three backends, one of them is missed by 40 requests less often than once in a million runs.
const ENOUGH: usize = 40;

type Scenario = fn(&Cluster) -> anyhow::Result<String>;

pub(super) fn run(cluster: &Cluster, report: &mut Report) {
    let scenarios: [(&str, Scenario); 8] = [
        ("a pod reaches all backends of a clusterIP, by IPv4 and IPv6", cluster_ip_from_pod),
        ("a process of each node reaches all backends of a clusterIP", cluster_ip_from_nodes),
        ("a nodePort of each node reaches all backends, from another node", node_port),
        ("policy Local keeps the client's address, and drops where there is no endpoint", local_node_port),
        ("a client with session affinity stays at one backend", affinity),
        ("a Service without endpoints refuses at once", refused),
        ("no request fails while the agents are replaced", agents_replaced),
        ("no request fails while the backends are replaced", backends_replaced),
    ];
    for (name, scenario) in scenarios {
        report.add(name, scenario(cluster));
    }
}

/// Who answered, and whom it saw.
struct Answer {
    pod: String,
    client: IpAddr,
}

fn answer(text: &str) -> anyhow::Result<Answer> {
    let (pod, client) = text.trim().split_once(' ').with_context(|| format!("{text:?} is no answer"))?;
    // An IPv6 socket sees IPv4 clients as mapped addresses, and httpd puts IPv6 ones into brackets.
    let client: IpAddr =
        client.trim_matches(['[', ']']).parse().with_context(|| format!("{client:?} is no address"))?;
    Ok(Answer { pod: pod.to_owned(), client: client.to_canonical() })
}

fn url(address: IpAddr, port: u16) -> String {
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    format!("http://{host}:{port}/{WHO}")
}

fn cluster_ips(cluster: &Cluster, service: &str) -> anyhow::Result<Vec<IpAddr>> {
    let service = cluster.get(&["service", service, "--namespace", NAMESPACE])?;
    let addresses = texts(&service["spec"]["clusterIPs"]);
    ensure!(addresses.len() == 2, "the Service is not dual-stack: {addresses:?}");
    addresses.iter().map(|address| address.parse().with_context(|| format!("{address:?} is no address"))).collect()
}

fn node_addresses(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<IpAddr>> {
    let node = cluster.get(&["node", node])?;
    let addresses = node["status"]["addresses"].as_array().context("the node has no addresses")?;
    let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    internal.map(|address| Ok(address["address"].as_str().unwrap_or_default().parse()?)).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// All backends answer.
fn all_answer(request: impl Fn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let mut pods = BTreeSet::new();
    for _ in 0..ENOUGH {
        pods.insert(answer(&request()?)?.pod);
    }
    ensure!(pods.len() == REPLICAS, "of {REPLICAS} backends, these answered: {pods:?}");
    Ok(())
}

fn cluster_ip_from_pod(cluster: &Cluster) -> anyhow::Result<String> {
    for address in cluster_ips(cluster, "web")? {
        all_answer(|| cluster.fetch_in_pod(&url(address, 80))).with_context(|| format!("by {address}"))?;
    }
    Ok(format!("{REPLICAS} backends"))
}

fn cluster_ip_from_nodes(cluster: &Cluster) -> anyhow::Result<String> {
    let nodes = cluster.nodes()?;
    for address in cluster_ips(cluster, "web")? {
        for node in &nodes {
            all_answer(|| fetch_on_node(node, &url(address, 80))).with_context(|| format!("{node} by {address}"))?;
        }
    }
    Ok(format!("{} nodes", nodes.len()))
}

fn node_port(cluster: &Cluster) -> anyhow::Result<String> {
    let nodes = cluster.nodes()?;
    for (index, node) in nodes.iter().enumerate() {
        let from = &nodes[(index + 1) % nodes.len()];
        for address in node_addresses(cluster, node)? {
            all_answer(|| fetch_on_node(from, &url(address, NODE_PORT)))
                .with_context(|| format!("from {from} by {address}"))?;
        }
    }
    Ok(format!("{} nodes", nodes.len()))
}

fn local_node_port(cluster: &Cluster) -> anyhow::Result<String> {
    let pods = cluster.get(&["pods", "--namespace", NAMESPACE, "--selector", "app=web"])?;
    let hosts: BTreeSet<_> =
        pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    let nodes = cluster.nodes()?;
    let mut without = 0;
    for (index, node) in nodes.iter().enumerate() {
        let from = &nodes[(index + 1) % nodes.len()];
        let clients = node_addresses(cluster, from)?;
        for address in node_addresses(cluster, node)? {
            let got = fetch_on_node(from, &url(address, LOCAL_NODE_PORT));
            if hosts.contains(node.as_str()) {
                let Answer { client, .. } = answer(&got.with_context(|| format!("from {from} by {address}"))?)?;
                ensure!(clients.contains(&client), "{node} saw {client}, which is not {from} ({clients:?})");
            } else {
                without += 1;
                ensure!(got.is_err(), "{node} has no endpoint, and answered");
            }
        }
    }
    Ok(format!("{} nodes with an endpoint; {without} addresses of nodes without one", hosts.len()))
}

fn affinity(cluster: &Cluster) -> anyhow::Result<String> {
    for address in cluster_ips(cluster, "web-sticky")? {
        let mut pods = BTreeSet::new();
        for _ in 0..ENOUGH {
            pods.insert(answer(&cluster.fetch_in_pod(&url(address, 80))?)?.pod);
        }
        ensure!(pods.len() == 1, "by {address}, the client was sent to {pods:?}");
    }
    Ok(format!("{ENOUGH} requests by each family"))
}

fn refused(cluster: &Cluster) -> anyhow::Result<String> {
    for address in cluster_ips(cluster, "nobody")? {
        let begun = Instant::now();
        let got = cluster.fetch_in_pod(&url(address, 80));
        let Err(error) = got else { bail!("somebody answered by {address}") };
        let text = format!("{error:#}");
        // wget waits for five seconds if nobody refuses.
        ensure!(begun.elapsed() < Duration::from_secs(4), "it was not refused at once: {text}");
        ensure!(text.contains("refused") || text.contains("not permitted"), "it failed in another way: {text}");
    }
    Ok("by both families".to_owned())
}

/// Requests to `web` go on while `change` happens; none of them may fail.
fn under_load(cluster: &Cluster, change: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let addresses = cluster_ips(cluster, "web")?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = addresses
            .iter()
            .map(|&address| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let (mut count, mut failures) = (0, Vec::new());
                    while !is_over.load(Ordering::Relaxed) {
                        count += 1;
                        if let Err(error) = cluster.fetch_in_pod(&url(address, 80)) {
                            failures.push(format!("{error:#}"));
                        }
                    }
                    (count, failures)
                })
            })
            .collect();
        let changed = change();
        is_over.store(true, Ordering::Relaxed);
        let mut total = 0;
        let mut failures = Vec::new();
        for client in clients {
            let (count, failed) = client.join().expect("a client does not panic");
            total += count;
            failures.extend(failed);
        }
        changed?;
        ensure!(failures.is_empty(), "{} of {total} requests failed, the first: {}", failures.len(), failures[0]);
        Ok(format!("{total} requests"))
    })
}

fn replaced(cluster: &Cluster, namespace: &str, object: &str) -> anyhow::Result<()> {
    cluster.kubectl(&["rollout", "restart", "--namespace", namespace, object])?;
    cluster.kubectl(&["rollout", "status", "--timeout=5m", "--namespace", namespace, object])?;
    Ok(())
}

fn agents_replaced(cluster: &Cluster) -> anyhow::Result<String> {
    under_load(cluster, || replaced(cluster, "kube-system", "daemonset/proxy-agent"))
}

fn backends_replaced(cluster: &Cluster) -> anyhow::Result<String> {
    under_load(cluster, || replaced(cluster, NAMESPACE, "deployment/web"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_families_are_read() {
        let seen = |text: &str| answer(text).map(|Answer { pod, client }| (pod, client.to_string())).ok();
        let pair = |pod: &str, client: &str| Some((pod.to_owned(), client.to_owned()));
        assert_eq!(seen("web-1 ::ffff:10.1.2.3\n"), pair("web-1", "10.1.2.3"));
        assert_eq!(seen("web-1 [::ffff:10.1.2.3]\n"), pair("web-1", "10.1.2.3"));
        assert_eq!(seen("web-2 fd00::7\n"), pair("web-2", "fd00::7"));
        assert_eq!(seen("Not Found"), None);
    }

    #[test]
    fn addresses_of_both_families_make_urls() {
        assert_eq!(url(IpAddr::from([10, 0, 0, 1]), 80), "http://10.0.0.1:80/cgi-bin/who");
        assert_eq!(url("fd00::7".parse().expect("an address"), 30080), "http://[fd00::7]:30080/cgi-bin/who");
    }
}
