//! A row of the table: objects, clients, and what must come of their connections.

use proxy_common::{DropReason, Protocol};

use super::{
    cast::{Client, Family, PROTOCOLS, Pod, To},
    objects::{Object, TARGET},
    rules::Rule,
};

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number in the table, from which its addresses follow.
    pub number: u16,
    /// A sentence about it.
    pub name: &'static str,
    /// The rules that it checks.
    pub rules: Vec<Rule>,
    /// How the agent is configured.
    pub setting: Setting,
    /// The families that it is run for.
    pub families: Vec<Family>,
    /// The protocols that it is run for.
    pub protocols: Vec<Protocol>,
    /// What happens, one after the other.
    pub steps: Vec<Step>,
    /// Ways of running that cannot run it, beside those that follow from its clients.
    pub unable: Vec<(Mode, Reason)>,
}

/// How the agent is configured, where it is not as by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Nothing is configured: there is no detector.
    Default,
    /// Pods are told by the cluster's prefixes.
    ClusterCidr,
    /// Pods are told by the Node's prefixes, which are those of its own pods.
    NodeCidr,
    /// Pods are told by the names of their devices.
    PodDevices,
    /// `masqueradeAll`, without a detector.
    MasqueradeAll,
    /// `masqueradeAll`, and pods are told by the cluster's prefixes.
    MasqueradeAllClusterCidr,
    /// nodePorts at the prefixes of the primary addresses.
    NodePortPrefixes,
    /// nodePorts at a prefix of IPv4.
    NodePortPrefixV4,
    /// nodePorts at the primary addresses.
    NodePortPrimary,
    /// No nodePorts at loopback addresses.
    NoLoopback,
}

impl Setting {
    /// Flags of the agent.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::ClusterCidr => &["--cluster-cidr", "10.1.0.0/16,fd01::/16"],
            Self::NodeCidr => &["--detect-local-mode", "NodeCIDR"],
            Self::PodDevices => &["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "pod"],
            Self::MasqueradeAll => &["--masquerade-all"],
            Self::MasqueradeAllClusterCidr => &["--masquerade-all", "--cluster-cidr", "10.1.0.0/16,fd01::/16"],
            Self::NodePortPrefixes => &["--nodeport-addresses", "192.0.2.0/24,2001:db8:2::/64"],
            Self::NodePortPrefixV4 => &["--nodeport-addresses", "192.0.2.0/24"],
            Self::NodePortPrimary => &["--nodeport-addresses", "primary"],
            Self::NoLoopback => &["--iptables-localhost-nodeports=false"],
        }
    }
}

/// A way of running the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pipeline on the host, with tables in memory.
    Host,
    /// The TC programs in the kernel, one packet at a time.
    Kernel,
    /// Sockets in namespaces, and the agent as users run it.
    Sockets,
}

/// Why a row cannot be run in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has no `BPF_PROG_TEST_RUN` for the hooks of sockets.
    HooksCannotBeRun,
    /// Many kernels have no SCTP.
    NoSctp,
    /// It would take hours.
    Clock,
}

impl Reason {
    /// In a few words, for the documentation and the list of tests.
    pub const fn text(self) -> &'static str {
        match self {
            Self::HooksCannotBeRun => "socket hooks only",
            Self::NoSctp => "SCTP only",
            Self::Clock => "takes hours",
        }
    }
}

/// Something that happens in a row.
#[derive(Clone, Debug)]
pub enum Step {
    /// Objects appear or change.
    Apply(Vec<Object>),
    /// Objects go.
    Remove(Vec<Object>),
    /// Each of the clients makes new connections.
    Expect(Vec<Client>, To, Outcome),
    /// A client begins a connection that stays, under this name.
    Open(&'static str, Client, To, Held),
    /// The connection sends more.
    Goes(&'static str, Next),
    /// The node gets another zone.
    Zone(&'static str),
    /// The node gets an address.
    Address(To),
    /// So many seconds pass.
    Wait(u32),
    /// The agent ends and starts again.
    Restart,
    /// Somebody is told of a problem, in words that contain these.
    Told(&'static str),
}

/// What must come of new connections.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kind: OutcomeKind,
    /// The address that the pods see.
    pub source: Source,
    /// The port at which the pods are reached, if it is the same for all.
    pub port: Option<u16>,
}

#[derive(Clone, Debug)]
pub enum OutcomeKind {
    /// Each of these pods is reached, and nobody else.
    Reaches(Vec<Pod>),
    /// Each of these pods is reached about equally often.
    Evenly(Vec<Pod>),
    /// A client reaches one of these pods, the same each time.
    Sticks(Vec<Pod>, Memory),
    /// The client is told that nobody is there.
    Refused,
    /// Nothing comes back, and this is counted.
    Dropped(DropReason),
    /// Nobody does anything about it: it goes where it would go without an agent.
    Passes,
}

/// What a client's connections have to do with former ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Nothing.
    New,
    /// They reach the same pod.
    Same,
    /// Of many clients, some reach another pod.
    Lost,
}

/// Which source address pods see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's.
    Kept,
    /// The node's. Where a client is served at its socket nothing is masqueraded, and the pod sees the client's.
    Masqueraded,
    /// The node's, also where sockets are served: they leave it to TC programs.
    MasqueradedByPackets,
    /// The client's, but for a pod that reaches itself through a TC program.
    KeptUnlessItself,
}

/// What must come of a connection that is to stay.
#[derive(Clone, Debug)]
pub enum Held {
    /// It reaches one of these pods.
    At(Vec<Pod>),
    /// It does not reach anybody.
    Nowhere,
}

/// Where a connection that is there goes on.
#[derive(Clone, Debug)]
pub enum Next {
    /// Where it went before.
    On,
    /// TCP and SCTP go where they went before, UDP to one of these pods, at this port.
    Moves(Vec<Pod>, u16),
    /// UDP reaches one of these pods, whatever it did before.
    Works(Vec<Pod>),
}

/// These pods and nobody else, by their usual port and with the client's own address.
pub fn reaches(pods: impl Into<Vec<Pod>>) -> Outcome {
    outcome(OutcomeKind::Reaches(pods.into()))
}

/// The same, about equally often.
pub fn evenly(pods: impl Into<Vec<Pod>>) -> Outcome {
    outcome(OutcomeKind::Evenly(pods.into()))
}

/// One of these pods, the same each time.
pub fn sticks(pods: impl Into<Vec<Pod>>) -> Outcome {
    outcome(OutcomeKind::Sticks(pods.into(), Memory::New))
}

/// The same pod as before, which is one of these.
pub fn still_sticks(pods: impl Into<Vec<Pod>>) -> Outcome {
    outcome(OutcomeKind::Sticks(pods.into(), Memory::Same))
}

/// One pod for each client, for some another one than before.
pub fn sticks_anew(pods: impl Into<Vec<Pod>>) -> Outcome {
    outcome(OutcomeKind::Sticks(pods.into(), Memory::Lost))
}

pub fn refused() -> Outcome {
    outcome(OutcomeKind::Refused)
}

/// Dropped, because no endpoint is on this node.
pub fn dropped() -> Outcome {
    outcome(OutcomeKind::Dropped(DropReason::NoLocalEndpoint))
}

/// Dropped, because the source is in none of the ranges.
pub fn shut_out() -> Outcome {
    outcome(OutcomeKind::Dropped(DropReason::SourceNotAllowed))
}

pub fn passes() -> Outcome {
    outcome(OutcomeKind::Passes)
}

fn outcome(kind: OutcomeKind) -> Outcome {
    Outcome { kind, source: Source::Kept, port: Some(TARGET) }
}

impl Outcome {
    /// The pods see the node's address.
    pub fn masqueraded(self) -> Self {
        Self { source: Source::Masqueraded, ..self }
    }

    /// The pods see the node's address, because the connection is left to TC programs.
    pub fn masqueraded_by_packets(self) -> Self {
        Self { source: Source::MasqueradedByPackets, ..self }
    }

    /// A pod that reaches itself sees the node's address.
    pub fn masqueraded_if_itself(self) -> Self {
        Self { source: Source::KeptUnlessItself, ..self }
    }

    /// The pods are reached at this port.
    pub fn at(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// The pods are reached at ports that differ.
    pub fn at_any_port(self) -> Self {
        Self { port: None, ..self }
    }
}

/// A row with this name that checks these rules.
pub fn row(name: &'static str, rules: impl Into<Vec<Rule>>) -> Row {
    Row {
        number: 0,
        name,
        rules: rules.into(),
        setting: Setting::Default,
        families: Family::ALL.to_vec(),
        protocols: PROTOCOLS.to_vec(),
        steps: vec![],
        unable: vec![],
    }
}

/// Several objects of different kinds.
#[macro_export]
macro_rules! objects {
    ($($object:expr),* $(,)?) => {
        [$($crate::scenario_table::objects::Object::from($object)),*]
    };
}

impl Row {
    /// With another configuration.
    pub fn with(mut self, setting: Setting) -> Self {
        self.setting = setting;
        self
    }

    /// For this family only.
    pub fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// For these protocols only.
    pub fn protocols(mut self, protocols: impl Into<Vec<Protocol>>) -> Self {
        self.protocols = protocols.into();
        self
    }

    /// Not in this mode.
    pub fn not_in(mut self, mode: Mode, reason: Reason) -> Self {
        self.unable.push((mode, reason));
        self
    }

    /// These objects appear or change.
    pub fn given(self, objects: impl Into<Vec<Object>>) -> Self {
        self.step(Step::Apply(objects.into()))
    }

    /// These objects go.
    pub fn without(self, objects: impl Into<Vec<Object>>) -> Self {
        self.step(Step::Remove(objects.into()))
    }

    /// Each of the clients connects.
    pub fn expect(self, clients: impl Into<Vec<Client>>, to: To, outcome: Outcome) -> Self {
        self.step(Step::Expect(clients.into(), to, outcome))
    }

    /// A client begins a connection that stays.
    pub fn open(self, name: &'static str, client: Client, to: To, pods: impl Into<Vec<Pod>>) -> Self {
        self.step(Step::Open(name, client, to, Held::At(pods.into())))
    }

    /// A client begins what is not served.
    pub fn open_in_vain(self, name: &'static str, client: Client, to: To) -> Self {
        self.step(Step::Open(name, client, to, Held::Nowhere))
    }

    /// The connection goes on where it went before.
    pub fn goes_on(self, name: &'static str) -> Self {
        self.step(Step::Goes(name, Next::On))
    }

    /// UDP goes to one of these pods from now on, all else where it went before.
    pub fn moves(self, name: &'static str, pods: impl Into<Vec<Pod>>) -> Self {
        self.moves_to(name, pods, TARGET)
    }

    /// The same, at this port.
    pub fn moves_to(self, name: &'static str, pods: impl Into<Vec<Pod>>, port: u16) -> Self {
        self.step(Step::Goes(name, Next::Moves(pods.into(), port)))
    }

    /// What was not served works.
    pub fn works(self, name: &'static str, pods: impl Into<Vec<Pod>>) -> Self {
        self.step(Step::Goes(name, Next::Works(pods.into())))
    }

    /// The node gets another zone.
    pub fn zone(self, zone: &'static str) -> Self {
        self.step(Step::Zone(zone))
    }

    /// The node gets an address of its own.
    pub fn address(self, to: To) -> Self {
        self.step(Step::Address(to))
    }

    /// Time passes.
    pub fn wait(self, seconds: u32) -> Self {
        self.step(Step::Wait(seconds))
    }

    /// The agent starts anew.
    pub fn restart(self) -> Self {
        self.step(Step::Restart)
    }

    /// Somebody is told.
    pub fn told(self, words: &'static str) -> Self {
        self.step(Step::Told(words))
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The clients, each once.
    pub fn clients(&self) -> Vec<Client> {
        let mut clients: Vec<Client> = self
            .steps
            .iter()
            .flat_map(|step| match step {
                Step::Expect(clients, ..) => clients.clone(),
                Step::Open(_, client, ..) => vec![*client],
                _ => vec![],
            })
            .collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    /// Why it cannot be run in this mode, if so.
    pub fn unable(&self, mode: Mode) -> Option<Reason> {
        if let Some(&(_, reason)) = self.unable.iter().find(|(unable, _)| *unable == mode) {
            return Some(reason);
        }
        let clients = self.clients();
        match mode {
            Mode::Host => None,
            Mode::Kernel => (!clients.is_empty() && clients.iter().all(|client| client.is_at_socket()))
                .then_some(Reason::HooksCannotBeRun),
            Mode::Sockets => (self.protocols == [Protocol::Sctp]).then_some(Reason::NoSctp),
        }
    }
}
