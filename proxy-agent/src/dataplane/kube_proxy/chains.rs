//! Which chains and rules of a table are kube-proxy's. Pure.
//!
//! A chain is kube-proxy's by its name; kubelet's have names of their own (KEP-3178). A rule is kube-proxy's if it is in
//! such a chain, or in a chain of the kernel's hooks and leads to one of those by which kube-proxy is entered. A chain
//! into which a rule of somebody else leads (a CNI's into `KUBE-MARK-MASQ`, for one) stays, with all that it needs itself.

use std::collections::{BTreeMap, BTreeSet};

/// Chains that the kernel's hooks lead to, in iptables mode and in ipvs mode.
const ENTRIES: [&str; 9] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// The others of a fixed name.
const OTHERS: [&str; 4] = ["KUBE-MARK-MASQ", "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL"];
/// What the names of chains for single Services and endpoints begin with.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain<H> {
    /// Whether packets come to it from the kernel, and not from another chain.
    pub(super) is_base: bool,
    /// Its rules in their order.
    pub(super) rules: Vec<Rule<H>>,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule<H> {
    /// By what it is deleted.
    pub(super) handle: H,
    /// The chain to which it leads, or whatever else it does.
    pub(super) target: Option<String>,
}

/// What is to be removed: the rules first, then all chains together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal<H> {
    /// Rules in chains that stay: the chain and the rule.
    pub(super) rules: Vec<(String, H)>,
    /// Chains, with what is in them.
    pub(super) chains: Vec<String>,
}

/// What is kube-proxy's among the chains of a table.
pub(super) fn removal<H: Clone>(table: &BTreeMap<String, Chain<H>>) -> Removal<H> {
    let mut rules = Vec::new();
    let mut needed = Vec::new();
    for (name, chain) in table.iter().filter(|(name, _)| !is_kube_proxys(name)) {
        for rule in &chain.rules {
            match rule.target.as_deref() {
                Some(target) if chain.is_base && ENTRIES.contains(&target) => {
                    rules.push((name.clone(), rule.handle.clone()));
                }
                Some(target) if is_kube_proxys(target) => needed.push(target),
                Some(_) | None => {}
            }
        }
    }
    let mut kept = BTreeSet::new();
    while let Some(name) = needed.pop() {
        if is_kube_proxys(name) && kept.insert(name) {
            let rules = table.get(name).into_iter().flat_map(|chain| &chain.rules);
            needed.extend(rules.filter_map(|rule| rule.target.as_deref()));
        }
    }
    let is_removed = |name: &&String| is_kube_proxys(name) && !kept.contains(name.as_str());
    Removal { rules, chains: table.keys().filter(is_removed).cloned().collect() }
}

fn is_kube_proxys(name: &str) -> bool {
    ENTRIES.contains(&name) || OTHERS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chains and where their rules lead; those in capitals without a dash are the kernel's.
    fn table(chains: &[(&str, &[&str])]) -> BTreeMap<String, Chain<String>> {
        let chain = |(name, targets): &(&str, &[&str])| {
            let rule = |target: &&str| Rule { handle: format!("to {target}"), target: Some((*target).to_owned()) };
            let rules = targets.iter().map(rule).collect();
            ((*name).to_owned(), Chain { is_base: !name.contains('-'), rules })
        };
        chains.iter().map(chain).collect()
    }

    fn rules(removal: &Removal<String>) -> Vec<(&str, &str)> {
        removal.rules.iter().map(|(chain, rule)| (chain.as_str(), rule.as_str())).collect()
    }

    #[test]
    fn kube_proxys_chains_go_and_what_leads_there() {
        let removal = removal(&table(&[
            ("PREROUTING", &["KUBE-SERVICES", "CNI-HOSTPORT-DNAT"]),
            ("POSTROUTING", &["FLANNEL-POSTRTG", "KUBE-POSTROUTING"]),
            ("KUBE-SERVICES", &["KUBE-SVC-A", "KUBE-NODEPORTS"]),
            ("KUBE-NODEPORTS", &["KUBE-EXT-A"]),
            ("KUBE-EXT-A", &["KUBE-MARK-MASQ", "KUBE-SVC-A"]),
            ("KUBE-SVC-A", &["KUBE-SEP-A"]),
            ("KUBE-SEP-A", &["DNAT"]),
            ("KUBE-MARK-MASQ", &["MARK"]),
            ("KUBE-POSTROUTING", &["MASQUERADE"]),
            ("CNI-HOSTPORT-DNAT", &[]),
            ("FLANNEL-POSTRTG", &["MASQUERADE"]),
        ]));
        assert_eq!(
            rules(&removal),
            [("POSTROUTING", "to KUBE-POSTROUTING"), ("PREROUTING", "to KUBE-SERVICES")],
            "and no rule of others"
        );
        assert_eq!(
            removal.chains,
            [
                "KUBE-EXT-A",
                "KUBE-MARK-MASQ",
                "KUBE-NODEPORTS",
                "KUBE-POSTROUTING",
                "KUBE-SEP-A",
                "KUBE-SERVICES",
                "KUBE-SVC-A"
            ]
        );
    }

    #[test]
    fn kubelets_chains_stay() {
        let removal = removal(&table(&[
            ("INPUT", &["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL"]),
            ("KUBE-FIREWALL", &["DROP"]),
            ("KUBE-KUBELET-CANARY", &[]),
            ("KUBE-IPTABLES-HINT", &[]),
            ("KUBE-MARK-DROP", &["MARK"]),
            ("KUBE-PROXY-FIREWALL", &["KUBE-MARK-DROP"]),
            ("KUBE-PROXY-CANARY", &[]),
            ("KUBE-SOMETHING-ELSE", &[]),
        ]));
        assert_eq!(rules(&removal), [("INPUT", "to KUBE-PROXY-FIREWALL")]);
        assert_eq!(removal.chains, ["KUBE-PROXY-CANARY", "KUBE-PROXY-FIREWALL"]);
    }

    #[test]
    fn what_rules_of_others_lead_to_stays_with_what_it_needs() {
        let removal = removal(&table(&[
            ("PREROUTING", &["KUBE-SERVICES", "KUBE-MARK-MASQ", "MY-CHAIN"]),
            ("MY-CHAIN", &["KUBE-SVC-A"]),
            ("KUBE-SERVICES", &["KUBE-SVC-A", "KUBE-SVC-B"]),
            ("KUBE-SVC-A", &["KUBE-SEP-A"]),
            ("KUBE-SEP-A", &["KUBE-MARK-MASQ", "DNAT"]),
            ("KUBE-SVC-B", &["KUBE-SEP-A"]),
            ("KUBE-MARK-MASQ", &["MARK"]),
        ]));
        assert_eq!(rules(&removal), [("PREROUTING", "to KUBE-SERVICES")], "a rule of somebody's own marks");
        assert_eq!(removal.chains, ["KUBE-SERVICES", "KUBE-SVC-B"]);
    }

    #[test]
    fn nothing_of_kube_proxys_is_nothing_to_remove() {
        let removal = removal(&table(&[("OUTPUT", &["DOCKER-USER"]), ("DOCKER-USER", &["RETURN"])]));
        assert_eq!((removal.rules.len(), removal.chains.len()), (0, 0));
    }
}
