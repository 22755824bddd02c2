//! Runs a row in a world, whichever way that works.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use proxy_agent::explain::{Chance, Explanation, Outcome as Explained, SourceAddress, Translation};
use proxy_common::{DropReason, Protocol};
use serde_json::Value;

use super::{
    cast::{CROWD, Client, Family, Pod, To},
    objects::{Objects, node, usual_node},
    row::{Held, Memory, Mode, Next, Outcome, OutcomeKind, Row, Source, Step},
};

/// A node, what is around it, and a way of making connections.
pub trait World {
    /// Which one.
    const MODE: Mode;

    /// Configures the node for the row.
    fn begin(&mut self, row: &Row);

    /// The row's objects and the Node are these from now on; returns when that has taken effect.
    fn set(&mut self, row: &Row, objects: &Objects, node: &Value);

    /// The node has one more address of its own.
    fn add_address(&mut self, address: IpAddr);

    /// A new connection.
    fn connect(&mut self, attempt: &Attempt) -> Sight;

    /// What `proxy-agent explain` says of it.
    fn explain(&mut self, attempt: &Attempt) -> Explanation;

    /// A new connection that stays.
    fn open(&mut self, attempt: &Attempt) -> (FlowId, Sight);

    /// The connection sends more.
    fn again(&mut self, flow: FlowId) -> Sight;

    /// What was dropped and refused so far.
    fn drops(&mut self) -> BTreeMap<DropReason, u64>;

    fn wait(&mut self, seconds: u32);

    /// The agent ends and starts again, with the same objects.
    fn restart(&mut self);

    /// Whether a problem was told in words that contain these.
    fn tells(&mut self, words: &str) -> bool;

    /// Removes what is the row's.
    fn end(&mut self, row: &Row);
}

/// A new connection, or a datagram of a new flow.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub client: Client,
    /// Which host of a crowd.
    pub number: u32,
    pub family: Family,
    pub protocol: Protocol,
    pub to: SocketAddr,
    /// What should come back.
    pub hope: Hope,
}

/// What should come back from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    Answer,
    Error,
    Silence,
}

impl Attempt {
    /// The client's address, as far as it does not depend on where it goes.
    pub fn source(&self) -> IpAddr {
        self.client.ip(self.family, self.number)
    }

    /// Whether a socket hook sees it first.
    pub fn is_at_socket(&self) -> bool {
        self.client.is_at_socket() && self.protocol != Protocol::Sctp
    }
}

/// A connection that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub usize);

/// What came of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was led to this address.
    Reached { at: SocketAddr, source: Seen },
    /// The client was told that nobody is there.
    Refused,
    /// Nothing came back.
    Nothing,
    /// It went where it was sent.
    Passed,
}

/// What the other end sees of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Itself,
    TheNode,
}

/// Runs a row, which the mode must be able to run, and panics at what is wrong.
pub fn run<W: World>(world: &mut W, row: &Row) {
    assert_eq!(row.unable(W::MODE), None, "{}", row.name);
    world.begin(row);
    let mut run = Run {
        world,
        row,
        objects: Objects::new(),
        node: usual_node(),
        memory: BTreeMap::new(),
        flows: BTreeMap::new(),
        checks: 0,
    };
    for (number, step) in (1..).zip(&row.steps) {
        run.step(step, number);
    }
    assert!(run.checks > 0, "{}: nothing was checked", row.name);
    run.world.end(row);
}

struct Run<'a, W> {
    world: &'a mut W,
    row: &'a Row,
    objects: Objects,
    node: Value,
    /// Which pod a client was led to.
    memory: BTreeMap<(Client, u32, Family, u8, u8, u16), Pod>,
    flows: BTreeMap<(&'static str, Family, u8), (FlowId, Attempt, Sight)>,
    checks: usize,
}

impl<W: World> Run<'_, W> {
    fn step(&mut self, step: &Step, number: usize) {
        let row = self.row;
        let what = format!("{}, step {number}", row.name);
        match step {
            Step::Apply(objects) => {
                for object in objects {
                    object.add(row.number, &mut self.objects);
                }
                self.set();
            }
            Step::Remove(objects) => {
                for object in objects {
                    object.remove(&mut self.objects);
                }
                self.set();
            }
            Step::Zone(zone) => {
                self.node = node(zone);
                self.set();
            }
            Step::Address(to) => {
                for &family in &row.families {
                    self.world.add_address(to.address(row.number, family).ip());
                }
                self.set();
            }
            Step::Expect(clients, to, outcome) => {
                for attempt in self.attempts(clients, *to, outcome.hope()) {
                    self.expect(&attempt, *to, outcome, &format!("{what}: {attempt:?}"));
                }
            }
            Step::Open(name, client, to, held) => {
                let hope = if matches!(held, Held::Nowhere) { Hope::Silence } else { Hope::Answer };
                for attempt in self.attempts(&[*client], *to, hope) {
                    let (flow, sight) = self.world.open(&attempt);
                    let is_right = match held {
                        Held::At(pods) => is_at(sight, pods),
                        Held::Nowhere => !matches!(sight, Sight::Reached { .. }),
                    };
                    assert!(is_right, "{what}: {attempt:?}: {sight:?}; dropped so far: {:?}", self.world.drops());
                    self.flows.insert((name, attempt.family, attempt.protocol.number()), (flow, attempt, sight));
                }
            }
            Step::Goes(name, next) => self.goes(name, next, &what),
            Step::Wait(seconds) => self.world.wait(*seconds),
            Step::Restart => self.world.restart(),
            Step::Told(words) => {
                assert!(self.world.tells(words), "{what}: nobody is told of {words}");
                self.checks += 1;
            }
        }
    }

    fn set(&mut self) {
        self.world.set(self.row, &self.objects, &self.node);
    }

    /// One attempt for each client, family and protocol that can be tried here.
    fn attempts(&self, clients: &[Client], to: To, hope: Hope) -> Vec<Attempt> {
        let row = self.row;
        let mut attempts = vec![];
        for &client in clients {
            for &family in &row.families {
                for &protocol in &row.protocols {
                    let cannot = match W::MODE {
                        // Packets of the node's own processes leave by a way that begins no SCTP association.
                        Mode::Host => client == Client::Node && protocol == Protocol::Sctp,
                        Mode::Kernel => client.is_at_socket(),
                        Mode::Sockets => protocol == Protocol::Sctp,
                    };
                    if !cannot {
                        let to = to.address(row.number, family);
                        attempts.push(Attempt { client, number: 0, family, protocol, to, hope });
                    }
                }
            }
        }
        attempts
    }

    fn expect(&mut self, attempt: &Attempt, to: To, outcome: &Outcome, what: &str) {
        self.checks += 1;
        let before = self.world.drops();
        self.explained(attempt, outcome, what);
        match &outcome.kind {
            OutcomeKind::Reaches(pods) => {
                let tries = if pods.len() == 1 { 2 } else { 20 * pods.len() };
                let counts = self.count(attempt, outcome, tries, what);
                assert!(counts.keys().eq(sorted(pods).iter()), "{what}: {counts:?} and not {pods:?}");
            }
            OutcomeKind::Evenly(pods) => {
                let tries = 100 * pods.len();
                let counts = self.count(attempt, outcome, tries, what);
                assert!(counts.keys().eq(sorted(pods).iter()), "{what}: {counts:?} and not {pods:?}");
                // More than five standard deviations, which are less than ten.
                assert!(counts.values().all(|count| (50..150).contains(count)), "{what}: {counts:?}");
            }
            OutcomeKind::Sticks(pods, memory) => self.sticks(attempt, to, outcome, pods, *memory, what),
            OutcomeKind::Refused => self.all_are(attempt, Sight::Refused, 2, what),
            OutcomeKind::Dropped(_) => self.all_are(attempt, Sight::Nothing, 1, what),
            OutcomeKind::Passes => self.all_are(attempt, Sight::Passed, 2, what),
        }
        let mut after = self.world.drops();
        after.retain(|reason, count| {
            *count -= before.get(reason).copied().unwrap_or(0);
            *count > 0
        });
        let reason = match &outcome.kind {
            OutcomeKind::Refused => Some(DropReason::NoEndpoint),
            OutcomeKind::Dropped(reason) => Some(*reason),
            _ => None,
        };
        assert!(after.keys().eq(&reason), "{what}: counted {after:?} and not {reason:?}");
    }

    /// How often each pod is reached.
    fn count(&mut self, attempt: &Attempt, outcome: &Outcome, tries: usize, what: &str) -> BTreeMap<Pod, usize> {
        let mut counts = BTreeMap::new();
        for number in (0..).take(tries) {
            let attempt = Attempt { number, ..*attempt };
            *counts.entry(self.reached(&attempt, outcome, what)).or_default() += 1;
        }
        counts
    }

    /// The pod that a connection reaches, which must see what it should.
    fn reached(&mut self, attempt: &Attempt, outcome: &Outcome, what: &str) -> Pod {
        let sight = self.world.connect(attempt);
        let Sight::Reached { at, source } = sight else {
            panic!("{what}: {sight:?}; dropped so far: {:?}", self.world.drops())
        };
        let pod = Pod::at(at.ip()).unwrap_or_else(|| panic!("{what}: {at} is no pod's"));
        assert!(outcome.port.is_none_or(|port| port == at.port()), "{what}: {pod:?} at {}", at.port());
        assert_eq!(source, seen_by(pod, attempt, outcome), "{what}: whom {pod:?} sees");
        pod
    }

    /// The explanation agrees with what must come of the attempt.
    fn explained(&mut self, attempt: &Attempt, outcome: &Outcome, what: &str) {
        let explanation = self.world.explain(attempt);
        let what = format!("{what}: explained as {explanation:?}");
        let single = |expected: fn(&Explained) -> bool| {
            let [Chance { outcome, probability: 1.0 }] = explanation.chances.as_slice() else { panic!("{what}") };
            assert!(expected(outcome), "{what}");
        };
        match &outcome.kind {
            OutcomeKind::Reaches(pods) => {
                assert!(explained_pods(&explanation, attempt, outcome, &what).keys().eq(sorted(pods).iter()), "{what}");
            }
            OutcomeKind::Evenly(pods) => {
                let found = explained_pods(&explanation, attempt, outcome, &what);
                assert!(found.keys().eq(sorted(pods).iter()), "{what}");
                let (least, most) = found.values().fold((1.0_f64, 0.0_f64), |(least, most), &probability| {
                    (least.min(probability), most.max(probability))
                });
                assert!(most - least < 1e-9, "{what}");
            }
            // Who remembers a backend is told it, see `sticks`.
            OutcomeKind::Sticks(pods, _) => {
                let found = explained_pods(&explanation, attempt, outcome, &what);
                assert!(!found.is_empty() && found.keys().all(|pod| pods.contains(pod)), "{what}");
            }
            OutcomeKind::Refused => single(|outcome| matches!(outcome, Explained::Refused(..))),
            OutcomeKind::Passes => single(|outcome| matches!(outcome, Explained::Passes)),
            OutcomeKind::Dropped(DropReason::NoLocalEndpoint) => {
                single(|outcome| matches!(outcome, Explained::Dropped(Some(_), DropReason::NoLocalEndpoint)));
            }
            OutcomeKind::Dropped(reason) => {
                assert_eq!(*reason, DropReason::SourceNotAllowed, "{what}: no row drops for another reason");
                single(|outcome| matches!(outcome, Explained::Dropped(Some(_), DropReason::SourceNotAllowed)));
            }
        }
    }

    fn sticks(&mut self, attempt: &Attempt, to: To, outcome: &Outcome, pods: &[Pod], memory: Memory, what: &str) {
        let (clients, tries) = if attempt.client == Client::Crowd { (CROWD, 2) } else { (1, 10) };
        let (mut lost, mut reached) = (0, vec![]);
        for number in 0..clients {
            let attempt = Attempt { number, ..*attempt };
            let first = self.reached(&attempt, outcome, what);
            let explanation = self.world.explain(&attempt);
            let told = explained_pods(&explanation, &attempt, outcome, what);
            assert_eq!(told, BTreeMap::from([(first, 1.0)]), "{what}: explained as {explanation:?}");
            for _ in 1..tries {
                let again = self.reached(&attempt, outcome, what);
                assert_eq!(again, first, "{what}: the same each time");
            }
            assert!(pods.contains(&first), "{what}: {first:?} is none of {pods:?}");
            let Attempt { client, number, family, protocol, .. } = attempt;
            let key = (client, number, family, protocol.number(), to.service, to.port);
            let former = self.memory.insert(key, first);
            match memory {
                Memory::New => {}
                Memory::Same => assert_eq!(former, Some(first), "{what}: the same as before"),
                Memory::Lost => lost += u32::from(former != Some(first)),
            }
            reached.push(first);
        }
        if memory == Memory::Lost {
            assert!(lost > 0, "{what}: all reach whom they reached before");
        }
        if attempt.client == Client::Crowd {
            assert_eq!(sorted(&reached), sorted(pods), "{what}: different clients reach different pods");
        }
    }

    fn all_are(&mut self, attempt: &Attempt, expected: Sight, tries: u32, what: &str) {
        for number in 0..tries {
            let sight = self.world.connect(&Attempt { number, ..*attempt });
            assert_eq!(sight, expected, "{what}");
        }
    }

    fn goes(&mut self, name: &'static str, next: &Next, what: &str) {
        let mut found: Vec<_> = self.flows.iter().filter(|((other, ..), _)| *other == name).collect();
        found.sort_unstable_by_key(|(key, _)| **key);
        let flows: Vec<_> = found.into_iter().map(|(&key, &value)| (key, value)).collect();
        for (key, (flow, attempt, before)) in flows {
            self.checks += 1;
            let sight = self.world.again(flow);
            let what = format!("{what}: {attempt:?}");
            match next {
                Next::Moves(pods, port) if attempt.protocol == Protocol::Udp => {
                    assert!(is_at(sight, pods), "{what}: {sight:?}");
                    assert!(matches!(sight, Sight::Reached { at, .. } if at.port() == *port), "{what}: {sight:?}");
                }
                Next::Works(pods) => assert!(is_at(sight, pods), "{what}: {sight:?}"),
                Next::On | Next::Moves(..) => assert_eq!(sight, before, "{what}"),
            }
            self.flows.insert(key, (flow, attempt, sight));
        }
    }
}

impl Outcome {
    fn hope(&self) -> Hope {
        match self.kind {
            OutcomeKind::Reaches(_) | OutcomeKind::Evenly(_) | OutcomeKind::Sticks(..) => Hope::Answer,
            OutcomeKind::Refused | OutcomeKind::Passes => Hope::Error,
            OutcomeKind::Dropped(_) => Hope::Silence,
        }
    }
}

/// Which source address the pod must see.
fn seen_by(pod: Pod, attempt: &Attempt, outcome: &Outcome) -> Seen {
    let itself = matches!(attempt.client, Client::From(client) | Client::AtSocket(client) if client == pod);
    match outcome.source {
        Source::MasqueradedByPackets => Seen::TheNode,
        _ if attempt.is_at_socket() => Seen::Itself,
        Source::Masqueraded => Seen::TheNode,
        Source::KeptUnlessItself if itself => Seen::TheNode,
        Source::Kept | Source::KeptUnlessItself => Seen::Itself,
    }
}

/// The pods that the explanation names, with their probabilities: all that can happen, at the port and with the source that must
/// be seen.
fn explained_pods(explanation: &Explanation, attempt: &Attempt, outcome: &Outcome, what: &str) -> BTreeMap<Pod, f64> {
    let mut pods = BTreeMap::new();
    for Chance { outcome: explained, probability } in &explanation.chances {
        let Explained::Translated(Translation { backend, source, .. }) = explained else {
            panic!("{what}: {explanation:?}")
        };
        let pod = Pod::at(backend.ip()).unwrap_or_else(|| panic!("{what}: {backend} is no pod's"));
        assert!(outcome.port.is_none_or(|port| port == backend.port()), "{what}: {explanation:?}");
        let source = match source {
            SourceAddress::Kept => Seen::Itself,
            SourceAddress::Masqueraded => Seen::TheNode,
        };
        assert_eq!(source, seen_by(pod, attempt, outcome), "{what}: {explanation:?}");
        *pods.entry(pod).or_insert(0.0) += probability;
    }
    pods
}

fn is_at(sight: Sight, pods: &[Pod]) -> bool {
    matches!(sight, Sight::Reached { at, .. } if Pod::at(at.ip()).is_some_and(|pod| pods.contains(&pod)))
}

fn sorted(pods: &[Pod]) -> Vec<Pod> {
    let mut pods = pods.to_vec();
    pods.sort_unstable();
    pods.dedup();
    pods
}
