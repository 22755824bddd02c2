//! What the pipeline did, in sentences.

use std::net::SocketAddr;

use proxy_common::{DropReason, Protocol, ServiceEntry, ServiceFlags};

use crate::{
    cli::{Names, text::service},
    explain::{
        Allowed, Explanation, FlowKind, LeadsToPods, Locality, Note, Outcome, Place, Program, Step, Translation,
        chosen_among,
    },
};

/// A sentence for each step that says something.
pub(super) fn steps(explanation: &Explanation, protocol: Protocol, names: &Names) -> Vec<String> {
    let steps = &explanation.steps;
    let sentence = |(index, step): (usize, &Step)| match *step {
        Step::Program(program) => Some(begins(program)),
        Step::Frontend(address, None) if address.ip().is_unspecified() => {
            Some(format!("port {} is no nodePort of {protocol}", address.port()))
        }
        Step::Frontend(address, None) => {
            Some(format!("{address} {protocol} is no frontend with an address of its own"))
        }
        Step::Frontend(address, Some(entry)) => Some(frontend(address, &entry, names)),
        Step::NodeAddress(address, Some(kind)) => Some(format!(
            "{address} is the node's own{}",
            if kind.serves_node_ports() { ", and serves nodePorts" } else { ", and serves no nodePorts" }
        )),
        Step::NodeAddress(address, None) => Some(format!("{address} is not the node's")),
        Step::SourceRange(_, source, Allowed::Yes) => {
            Some(format!("{source} is in one of the loadBalancerSourceRanges"))
        }
        Step::SourceRange(_, source, Allowed::No) => {
            Some(format!("{source} is in none of the loadBalancerSourceRanges"))
        }
        Step::PodDevice(device, LeadsToPods::Yes) => Some(format!("the device with index {device} leads to pods")),
        Step::PodDevice(_, LeadsToPods::No) => Some("the device leads to no pods".to_owned()),
        Step::Affinity(_, None) => Some("session affinity: the client has no backend yet".to_owned()),
        Step::Affinity(_, Some((_, idle))) => {
            Some(format!("session affinity: the client has a backend, last used {idle} s ago"))
        }
        Step::Slot(..) => Some(choice(&steps[..=index])),
        Step::Backend(id, Some((address, locality))) => {
            let place = match locality {
                Locality::ThisNode => "on this node",
                Locality::Elsewhere => "elsewhere",
            };
            // Of several endpoints that may be chosen, the first is as good as any.
            let is_example =
                explanation.chances.len() > 1 && steps[..index].iter().any(|step| matches!(step, Step::Slot(..)));
            (!is_example).then(|| format!("backend {} is {address}, {place}", id.get()))
        }
        Step::Backend(id, None) => Some(format!("backend {} has just been removed", id.get())),
        Step::Flow(kind, from, to, Some(flow)) => Some(format!(
            "there is a connection from {from} to {to}, {} {}, idle for {} s, of {}",
            match kind {
                FlowKind::Original => "which goes to",
                FlowKind::Reply => "whose packets seem to come from",
            },
            flow.to,
            flow.idle,
            service(flow.service, names)
        )),
        Step::Flow(..) | Step::Notes(Note::Socket | Note::Flow) => None,
        Step::Notes(Note::Affinity) => Some("the backend is remembered for the client".to_owned()),
        Step::Counts(id, reason) => Some(format!("counted for {}: {}", service(id, names), reason.name())),
    };
    steps.iter().enumerate().filter_map(sentence).collect()
}

fn begins(program: Program) -> String {
    match program {
        Program::NodeSocket => "connect(2) in the node's network namespace: the socket hook".to_owned(),
        Program::PodSocket => "connect(2) in a pod's network namespace: the socket hook".to_owned(),
        Program::Ingress(0) => "the packet enters the node: the TC program at the device's ingress".to_owned(),
        Program::Ingress(device) => {
            format!("the packet enters the node by the device with index {device}: the TC program at its ingress")
        }
        Program::Egress => "if the packet leaves the node: the TC program at the device's egress".to_owned(),
    }
}

fn frontend(address: SocketAddr, entry: &ServiceEntry, names: &Names) -> String {
    let flags = entry.flags();
    let kind = if flags.contains(ServiceFlags::NODE_PORT) {
        format!("port {} is a nodePort", address.port())
    } else if flags.contains(ServiceFlags::EXTERNAL) {
        format!("{address} is an external frontend")
    } else {
        format!("{address} is a clusterIP frontend")
    };
    let policy = if flags.contains(ServiceFlags::LOCAL) { "Local" } else { "Cluster" };
    let affinity = if flags.contains(ServiceFlags::AFFINITY) {
        format!(", session affinity for {} s", entry.affinity_timeout())
    } else {
        String::new()
    };
    let guard = if flags.contains(ServiceFlags::SOURCE_RANGES) { ", guarded by loadBalancerSourceRanges" } else { "" };
    format!(
        "{kind} of {}: policy {policy}, {} in the cluster, {} for policy Local{affinity}{guard}",
        service(entry.id(), names),
        endpoints(entry.cluster().count()),
        endpoints(entry.local().count()),
    )
}

fn endpoints(count: u32) -> String {
    match count {
        1 => "1 endpoint".to_owned(),
        count => format!("{count} endpoints"),
    }
}

fn choice(steps: &[Step]) -> String {
    let Some((entry, range)) = chosen_among(steps) else { return "an endpoint is chosen at random".to_owned() };
    let list = if range == entry.cluster() { "in the cluster" } else { "for policy Local" };
    match range.count() {
        1 => format!("the one endpoint {list} is taken"),
        count => format!("one of {count} endpoints {list} is chosen at random"),
    }
}

/// What becomes of the connection, in a sentence.
pub(super) fn outcome(outcome: &Outcome, names: &Names) -> String {
    let of = |id| service(id, names);
    match *outcome {
        Outcome::Translated(Translation { place: Place::Socket, backend, .. }) => {
            format!("sent to {backend} at the socket")
        }
        Outcome::Translated(Translation { place: Place::Packets, backend, .. }) => {
            format!("sent to {backend} packet by packet")
        }
        Outcome::Answers(frontend) => format!("an answer: it leaves with the source {frontend}"),
        Outcome::Refused(id, Place::Socket) => format!("refused at the socket: {} has no endpoint", of(id)),
        Outcome::Refused(id, Place::Packets) => format!("refused with an answer: {} has no endpoint", of(id)),
        Outcome::Dropped(id, reason) => {
            let whose = id.map_or_else(String::new, |id| format!(" for {}", of(id)));
            format!("dropped{whose}: {}", because(reason))
        }
        Outcome::Passes => "passes unchanged".to_owned(),
    }
}

/// Why something is dropped.
pub(in crate::cli) const fn because(reason: DropReason) -> &'static str {
    match reason {
        DropReason::NoEndpoint => "there is no endpoint, and the refusal could not be sent",
        DropReason::NoLocalEndpoint => "the traffic policy is Local, and no endpoint is on this node",
        DropReason::TupleClash => "no endpoint and port was free that the backend could tell from other connections",
        DropReason::Malformed => "the packet is not whole",
        DropReason::FlowTableFull => "the table of flows is full",
        DropReason::SourceNotAllowed => "the source is in none of the loadBalancerSourceRanges",
        DropReason::FragmentOutOfOrder => "the fragment came before the first one of its datagram",
    }
}
