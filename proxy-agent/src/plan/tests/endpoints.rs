//! Which endpoints are used: a table of cases in the manner of kube-proxy's `topology_test.go`.

use crate::{
    model::{
        Conditions, Hints,
        testing::{NODE, ZONE, hints},
    },
    plan::endpoints::{Candidate, Choice, Place},
};

/// An endpoint of a case: a letter, what it is, and the lists it is expected in.
struct Row {
    name: char,
    conditions: Conditions,
    local: bool,
    hints: Option<Hints>,
}

/// An endpoint in the given state, elsewhere and without hints.
const fn row(name: char, ready: bool, serving: bool, terminating: bool) -> Row {
    Row { name, conditions: Conditions { ready, serving, terminating }, local: false, hints: None }
}

const fn ready(name: char) -> Row {
    row(name, true, true, false)
}

/// Serving and terminating.
const fn terminating(name: char) -> Row {
    row(name, false, true, true)
}

/// Serving, but neither ready nor terminating.
const fn serving(name: char) -> Row {
    row(name, false, true, false)
}

/// Terminating, and no longer serving.
const fn ending(name: char) -> Row {
    row(name, false, false, true)
}

const fn broken(name: char) -> Row {
    row(name, false, false, false)
}

impl Row {
    const fn local(mut self) -> Self {
        self.local = true;
        self
    }

    fn zones(self, zones: &[&str]) -> Self {
        let nodes = self.hints.map(|hints| hints.nodes).unwrap_or_default();
        Self { hints: Some(Hints { nodes, ..hints(zones, &[]) }), ..self }
    }

    fn nodes(self, nodes: &[&str]) -> Self {
        let zones = self.hints.map(|hints| hints.zones).unwrap_or_default();
        Self { hints: Some(Hints { zones, ..hints(&[], nodes) }), ..self }
    }
}

/// Asserts which of the endpoints the node uses: letters of the cluster list, of the local list.
fn check(what: &str, zone: Option<&str>, rows: &[Row], cluster: &str, local: &str) {
    let candidate = |row: &'_ Row| Candidate { conditions: row.conditions, local: row.local, hints: None };
    let candidates: Vec<Candidate<'_>> =
        rows.iter().map(|row| Candidate { hints: row.hints.as_ref(), ..candidate(row) }).collect();
    let choice = Choice::among(candidates.iter().copied(), Place { node: NODE, zone });
    let letters = |is_in: &dyn Fn(Candidate<'_>) -> bool| -> String {
        rows.iter().zip(&candidates).filter(|&(_, &candidate)| is_in(candidate)).map(|(row, _)| row.name).collect()
    };
    assert_eq!(letters(&|candidate| choice.is_in_cluster_list(candidate)), cluster, "{what}: cluster list");
    assert_eq!(letters(&|candidate| choice.is_in_local_list(candidate)), local, "{what}: local list");
}

const OTHER: &str = "zone-b";

#[test]
fn readiness() {
    for (what, rows, cluster, local) in [
        ("no endpoint", vec![], "", ""),
        ("one ready elsewhere", vec![ready('a')], "a", ""),
        ("one ready here", vec![ready('a').local()], "a", "a"),
        ("ready here and elsewhere", vec![ready('a'), ready('b').local(), ready('c')], "abc", "b"),
        ("not ready is not used", vec![ready('a').local(), broken('b').local()], "a", "a"),
        ("serving alone is not enough", vec![serving('a').local()], "", ""),
        ("ready counts though it does not serve", vec![row('a', true, false, false).local()], "a", "a"),
        ("published though not ready", vec![row('a', true, false, true).local()], "a", "a"),
    ] {
        check(what, Some(ZONE), &rows, cluster, local);
    }
}

#[test]
fn terminating_endpoints() {
    for (what, rows, cluster, local) in [
        ("only terminating ones", vec![terminating('a'), terminating('b').local()], "ab", "b"),
        ("not while one is ready", vec![ready('a'), terminating('b')], "a", ""),
        (
            "here only terminating, elsewhere ready: each list falls back by itself",
            vec![ready('a'), terminating('b').local()],
            "a",
            "b",
        ),
        ("here ready and terminating", vec![ready('a').local(), terminating('b').local(), ready('c')], "ac", "a"),
        ("no longer serving", vec![ending('a').local(), broken('b').local()], "", ""),
        ("terminating, serving or not", vec![terminating('a').local(), ending('b').local()], "a", "a"),
        ("serving but not terminating is no fallback", vec![serving('a').local(), terminating('b')], "b", ""),
        ("ready elsewhere, nothing of use here", vec![ready('a'), ending('b').local()], "a", ""),
    ] {
        check(what, Some(ZONE), &rows, cluster, local);
    }
}

#[test]
fn zone_hints() {
    for (what, zone, rows, cluster) in [
        ("only this zone's", Some(ZONE), vec![ready('a').zones(&[ZONE]), ready('b').zones(&[OTHER])], "a"),
        ("several zones", Some(ZONE), vec![ready('a').zones(&[OTHER, ZONE]), ready('b').zones(&[OTHER])], "a"),
        ("all for this zone", Some(ZONE), vec![ready('a').zones(&[ZONE]), ready('b').zones(&[ZONE])], "ab"),
        ("none for this zone", Some(ZONE), vec![ready('a').zones(&[OTHER]), ready('b').zones(&[OTHER])], "ab"),
        ("one without a hint", Some(ZONE), vec![ready('a').zones(&[ZONE]), ready('b')], "ab"),
        ("one with no zone in its hint", Some(ZONE), vec![ready('a').zones(&[ZONE]), ready('b').zones(&[])], "ab"),
        ("a node without a zone", None, vec![ready('a').zones(&[ZONE]), ready('b').zones(&[OTHER])], "ab"),
        (
            "not ready ones need no hint",
            Some(ZONE),
            vec![ready('a').zones(&[ZONE]), ready('b').zones(&[OTHER]), broken('c'), terminating('d')],
            "a",
        ),
        (
            "a not ready one for this zone does not count",
            Some(ZONE),
            vec![ready('a').zones(&[OTHER]), broken('b').zones(&[ZONE])],
            "a",
        ),
        (
            "terminating ones are used whatever their hints",
            Some(ZONE),
            vec![terminating('a').zones(&[OTHER]), terminating('b').zones(&[ZONE])],
            "ab",
        ),
    ] {
        check(what, zone, &rows, cluster, "");
    }
}

#[test]
fn node_hints() {
    for (what, zone, rows, cluster) in [
        ("only this node's", Some(ZONE), vec![ready('a').nodes(&[NODE]), ready('b').nodes(&["node-2"])], "a"),
        ("for several nodes", None, vec![ready('a').nodes(&["node-2", NODE]), ready('b').nodes(&["node-2"])], "a"),
        ("none for this node", Some(ZONE), vec![ready('a').nodes(&["node-2"]), ready('b').nodes(&["node-3"])], "ab"),
        ("one without a hint", Some(ZONE), vec![ready('a').nodes(&[NODE]), ready('b')], "ab"),
        ("a node without a zone", None, vec![ready('a').nodes(&[NODE]), ready('b').nodes(&["node-2"])], "a"),
        (
            "they go before zone hints",
            Some(ZONE),
            vec![
                ready('a').nodes(&[NODE]).zones(&[ZONE]),
                ready('b').nodes(&["node-2"]).zones(&[ZONE]),
                ready('c').nodes(&["node-3"]).zones(&[OTHER]),
            ],
            "a",
        ),
        (
            "none for this node, but zone hints",
            Some(ZONE),
            vec![ready('a').nodes(&["node-2"]).zones(&[ZONE]), ready('b').nodes(&["node-3"]).zones(&[OTHER])],
            "a",
        ),
        (
            "one without a node hint, but all with zone hints",
            Some(ZONE),
            vec![ready('a').nodes(&[NODE]).zones(&[OTHER]), ready('b').zones(&[ZONE])],
            "b",
        ),
        (
            "not ready ones need no hint",
            Some(ZONE),
            vec![ready('a').nodes(&[NODE]), ready('b').nodes(&["node-2"]), broken('c')],
            "a",
        ),
        (
            "terminating ones are used whatever their hints",
            Some(ZONE),
            vec![terminating('a').nodes(&["node-2"]), terminating('b').nodes(&[NODE])],
            "ab",
        ),
    ] {
        check(what, zone, &rows, cluster, "");
    }
}

#[test]
fn hints_never_apply_to_the_local_list() {
    let rows = [
        ready('a').local().zones(&[OTHER]).nodes(&["node-2"]),
        ready('b').local().zones(&[ZONE]).nodes(&[NODE]),
        ready('c').zones(&[ZONE]).nodes(&[NODE]),
    ];
    check("hinted elsewhere", Some(ZONE), &rows, "bc", "ab");
}
