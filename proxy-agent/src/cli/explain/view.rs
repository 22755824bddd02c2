//! The explanation, as it is printed.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
};

use proxy_common::{DropReason, Settings};
use serde::Serialize;

use super::{origin::Who, sentences};
use crate::{
    cli::{
        Names,
        print::{Detail, View, columns, or_dash},
        text::service,
    },
    explain::{Chance, Explanation, Origin, Outcome, Place, Question, SourceAddress, Step, Translation},
};

/// The names of pods, by their endpoints.
pub(super) type Pods = BTreeMap<SocketAddr, String>;

/// What becomes of a new connection, and why.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ExplainView {
    /// The client's address, with its port if one was given.
    source: String,
    destination: String,
    protocol: &'static str,
    /// Who the client is: `node`, `pod` or `packets`.
    from: &'static str,
    #[serde(skip)]
    who: String,
    /// The Service port whose frontend the destination is.
    service: Option<String>,
    /// What the pipeline did, a sentence each.
    steps: Vec<String>,
    /// What can happen, the likeliest first.
    outcomes: Vec<OutcomeView>,
    /// What the answer depends on that is not known, or that nothing is attached.
    notes: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct OutcomeView {
    outcome: Kind,
    /// From 0 to 1.
    probability: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    /// The pod that the backend is, in the Service's namespace, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    /// Whether the backend sees the node's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    masqueraded: Option<bool>,
    /// The mark of the packets, if they get one.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    /// The port by which the backend knows the client, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// Why it is dropped or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Translated,
    Answer,
    Refused,
    Dropped,
    Passes,
}

impl ExplainView {
    pub(super) fn new(
        question: &Question,
        who: &Who,
        explanation: &Explanation,
        names: &Names,
        pods: &Pods,
        settings: &Settings,
    ) -> Self {
        let Question { source, source_port, destination, protocol, origin, hooks: _ } = question;
        let id = explanation.frontend().map(|entry| entry.id());
        let source = match source_port {
            Some(port) => SocketAddr::new(*source, port.get()).to_string(),
            None => source.to_string(),
        };
        // Whose affinity it is, is the namespace's at a socket.
        let is_asked = explanation.steps.iter().any(|step| matches!(step, Step::Affinity(..)));
        let is_unknown = is_asked && matches!(origin, Origin::Pod { namespace: None, .. });
        let unknown = is_unknown.then(|| {
            "the network namespace with the client's address was not found: which backend session affinity has for it is not known"
                .to_owned()
        });
        Self {
            source,
            destination: destination.to_string(),
            protocol: protocol.name(),
            from: origin.name(),
            who: who.text.clone(),
            service: id.map(|id| service(id, names)),
            steps: sentences::steps(explanation, *protocol, names),
            outcomes: explanation
                .chances
                .iter()
                .map(|chance| OutcomeView::new(chance, names, pods, settings))
                .collect(),
            notes: who.notes.iter().cloned().chain(unknown).collect(),
        }
    }
}

impl OutcomeView {
    fn new(Chance { outcome, probability }: &Chance, names: &Names, pods: &Pods, settings: &Settings) -> Self {
        let kind = match outcome {
            Outcome::Translated(_) => Kind::Translated,
            Outcome::Answers(_) => Kind::Answer,
            Outcome::Refused(..) => Kind::Refused,
            Outcome::Dropped(..) => Kind::Dropped,
            Outcome::Passes => Kind::Passes,
        };
        let translation = match outcome {
            Outcome::Translated(translation) => Some(translation),
            _ => None,
        };
        let place = match outcome {
            Outcome::Translated(Translation { place, .. }) | Outcome::Refused(_, place) => Some(*place),
            Outcome::Answers(_) | Outcome::Dropped(..) => Some(Place::Packets),
            Outcome::Passes => None,
        };
        let mut text = sentences::outcome(outcome, names);
        let pod = translation.and_then(|translation| pods.get(&translation.backend)).cloned();
        if let Some(pod) = &pod {
            text += ", pod ";
            text += pod;
        }
        if translation.is_some_and(|translation| translation.mark & settings.local_node_port_mark() != 0) {
            text += ", with Kube-OVN's mark";
        }
        Self {
            outcome: kind,
            probability: *probability,
            at: place.map(|place| match place {
                Place::Socket => "socket",
                Place::Packets => "packets",
            }),
            backend: translation.map(|translation| translation.backend.to_string()),
            pod,
            masqueraded: translation.map(|translation| translation.source == SourceAddress::Masqueraded),
            mark: translation
                .and_then(|translation| (translation.mark != 0).then(|| format!("{:#x}", translation.mark))),
            source_port: translation.and_then(|translation| translation.source_port),
            reason: match outcome {
                Outcome::Refused(..) => Some(DropReason::NoEndpoint.name()),
                Outcome::Dropped(_, reason) => Some(reason.name()),
                Outcome::Translated(_) | Outcome::Answers(_) | Outcome::Passes => None,
            },
            text,
        }
    }

    fn cells(&self) -> Vec<String> {
        let Self {
            outcome: _,
            probability,
            at: _,
            backend: _,
            pod: _,
            masqueraded,
            mark,
            source_port,
            reason: _,
            text,
        } = self;
        let source = masqueraded.map(|masqueraded| if masqueraded { "the node's" } else { "kept" });
        let port = source_port.map_or_else(String::new, |port| format!(", port {port}"));
        let source = or_dash(source) + &port;
        vec![format!("{:.1}%", probability * 100.0), text.clone(), source, or_dash(mark.as_ref())]
    }
}

impl View for ExplainView {
    fn write_text(&self, _: Detail, out: &mut dyn Write) -> io::Result<()> {
        let Self { source, destination, protocol, from: _, who, service, steps, outcomes, notes } = self;
        writeln!(out, "{source} to {destination} {protocol}, from {who}")?;
        if service.is_none() {
            writeln!(out, "The destination is not a Service's.")?;
        }
        writeln!(out)?;
        for (number, step) in (1..).zip(steps) {
            writeln!(out, "{number:>3}. {step}")?;
        }
        if !steps.is_empty() {
            writeln!(out)?;
        }
        let rows = outcomes.iter().map(OutcomeView::cells).collect();
        writeln!(out, "{}", columns(&["PROBABILITY", "THEN", "SOURCE", "MARK"], rows))?;
        notes.iter().try_for_each(|note| writeln!(out, "Note: {note}."))
    }
}
