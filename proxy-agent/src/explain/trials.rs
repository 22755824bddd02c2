//! Runs the pipeline, once for each endpoint that can be hit.

use std::net::SocketAddr;

use proxy_common::{Port, Protocol, ServiceId};
use proxy_ebpf::{
    Packet as _, Tables, Verdict,
    host::{self, Hook},
    socket,
};

use super::{
    Chance, Explanation, Hooks, IpFamily, Origin, Outcome, Place, Program, Question, SourceAddress, Step, Translation,
    chosen_among, packet, recorder::Recorder, socket_address,
};

/// Packets have no link header.
const L3: usize = 0;
/// Cookie of a socket that nobody has: the kernel counts from 1.
const NEW_SOCKET: u64 = 0;
/// Cookie of a network namespace that nobody has.
const NOBODYS_NAMESPACE: u64 = u64::MAX;
/// A port that no flow has.
const NO_PORT: Port = Port::new(0);

/// All that can happen.
pub(super) fn all<F: IpFamily, T: Tables<F>>(
    question: &Question,
    source: F::Address,
    destination: F::Address,
    tables: &impl Fn() -> T,
) -> Explanation {
    let run = |random| Trial::<F, T>::new(question, source, destination, tables(), random).run();
    let (steps, outcome) = run(0);
    let Some((_, range)) = chosen_among(&steps) else {
        return Explanation { steps, chances: vec![Chance { outcome, probability: 1.0 }] };
    };
    let mut outcomes = vec![outcome];
    outcomes.extend((1..range.count()).map(|index| run(choosing(index, range.count())).1));
    Explanation { steps, chances: chances(outcomes) }
}

/// The smallest random number by which [`proxy_common::SlotRange::choose`] takes the slot with this index.
fn choosing(index: u32, count: u32) -> u32 {
    let number = (u64::from(index) << 32).div_ceil(u64::from(count));
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// How likely each is, if one of these happens.
fn chances(mut outcomes: Vec<Outcome>) -> Vec<Chance> {
    outcomes.sort_unstable();
    let all = outcomes.len();
    #[expect(clippy::cast_precision_loss, reason = "a table has fewer slots than a mantissa has values")]
    let chance = |alike: &[Outcome]| Chance { outcome: alike[0], probability: alike.len() as f64 / all as f64 };
    let mut chances: Vec<Chance> = outcomes.chunk_by(|one, other| one == other).map(chance).collect();
    chances.sort_by(|one, other| other.probability.total_cmp(&one.probability));
    chances
}

/// One run of the pipeline.
struct Trial<'a, F: IpFamily, T> {
    question: &'a Question,
    source: (F::Address, Port),
    destination: (F::Address, Port),
    tables: Recorder<T>,
}

impl<'a, F: IpFamily, T: Tables<F>> Trial<'a, F, T> {
    fn new(question: &'a Question, source: F::Address, destination: F::Address, tables: T, random: u32) -> Self {
        Self {
            question,
            source: (source, question.source_port.unwrap_or(NO_PORT)),
            destination: (destination, Port::new(question.destination.port())),
            tables: Recorder::new(tables, random),
        }
    }

    fn run(mut self) -> (Vec<Step>, Outcome) {
        let outcome = self.at_socket().unwrap_or_else(|| self.in_packets());
        (self.tables.into_steps(), outcome)
    }

    /// What the socket hooks do; `None` if they leave it to packets.
    fn at_socket(&mut self) -> Option<Outcome> {
        let Question { protocol, origin, hooks, .. } = *self.question;
        // No hook sees SCTP.
        if hooks == Hooks::Absent || protocol == Protocol::Sctp {
            return None;
        }
        let (program, namespace) = match origin {
            Origin::Node => (Program::NodeSocket, self.settings().node_netns_cookie()),
            Origin::Pod { namespace, .. } => (Program::PodSocket, Some(namespace.unwrap_or(NOBODYS_NAMESPACE))),
            Origin::Packets { .. } => return None,
        };
        self.tables.begin(program);
        let call = socket::Call { cookie: NEW_SOCKET, namespace, protocol, peer: self.destination };
        match socket::connect::<F, _>(&mut self.tables, &call) {
            socket::Verdict::Pass => None,
            socket::Verdict::Refuse => Some(Outcome::Refused(self.service(), Place::Socket)),
            socket::Verdict::Rewrite(backend) => Some(Outcome::Translated(Translation {
                place: Place::Socket,
                backend: socket_address::<F>(backend),
                mark: 0,
                source: SourceAddress::Kept,
                source_port: None,
            })),
        }
    }

    /// What the TC programs do.
    fn in_packets(&mut self) -> Outcome {
        let device = match self.question.origin {
            // It enters by no device.
            Origin::Node => return self.leaving(),
            Origin::Pod { device, .. } | Origin::Packets { device } => device,
        };
        self.tables.begin(Program::Ingress(device));
        let (source, destination) = self.ends();
        let mut packet = packet::first(source, destination, self.question.protocol, device);
        match host::run::<F, _, _>(&mut packet, &mut self.tables, Hook::Ingress, L3) {
            Verdict::Drop(reason) => return Outcome::Dropped(self.counted(), reason),
            Verdict::Answer => return Outcome::Refused(self.service(), Place::Packets),
            Verdict::Pass | Verdict::SendOn | Verdict::Continue(_) => {}
        }
        match packet::ends(&packet) {
            Some((after, backend)) if backend != destination => {
                let masquerades = packet.mark() & self.settings().masquerade_mark() != 0;
                Outcome::Translated(Translation {
                    place: Place::Packets,
                    backend,
                    mark: packet.mark(),
                    source: if masquerades { SourceAddress::Masqueraded } else { SourceAddress::Kept },
                    source_port: (after.port() != source.port()).then_some(after.port()),
                })
            }
            _ => self.leaving(),
        }
    }

    /// What the TC program does with it where it leaves the node, not translated so far.
    fn leaving(&mut self) -> Outcome {
        self.tables.begin(Program::Egress);
        let (source, destination) = self.ends();
        let mut packet = packet::first(source, destination, self.question.protocol, 0);
        match host::run::<F, _, _>(&mut packet, &mut self.tables, Hook::Egress, L3) {
            Verdict::Drop(reason) => Outcome::Dropped(self.counted(), reason),
            Verdict::Pass | Verdict::Answer | Verdict::SendOn | Verdict::Continue(_) => match packet::ends(&packet) {
                Some((after, _)) if after != source => Outcome::Answers(after),
                _ => Outcome::Passes,
            },
        }
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        (socket_address::<F>(self.source), socket_address::<F>(self.destination))
    }

    fn settings(&self) -> proxy_common::Settings {
        *Tables::<F>::settings(&self.tables)
    }

    /// The Service for which something was counted last.
    fn counted(&self) -> Option<ServiceId> {
        self.tables.last(|step| match step {
            Step::Counts(service, _) => Some(*service),
            _ => None,
        })
    }

    /// The same, which was counted.
    fn service(&self) -> ServiceId {
        self.counted().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{DropReason, SlotRange};

    use super::*;

    #[test]
    fn every_slot_can_be_chosen() {
        for count in [1, 2, 3, 7, 1000, 65_537] {
            let range = SlotRange::new(50, count);
            for index in [0, 1, count / 2, count - 1].into_iter().filter(|index| *index < count) {
                assert_eq!(range.choose(choosing(index, count)), Some(50 + index), "{index} of {count}");
            }
        }
    }

    #[test]
    fn what_happens_in_more_cases_is_likelier() {
        let dropped = Outcome::Dropped(None, DropReason::TupleClash);
        let chances = chances(vec![dropped, Outcome::Passes, Outcome::Passes, Outcome::Passes]);
        let expected = [(Outcome::Passes, 0.75), (dropped, 0.25)];
        assert_eq!(chances, expected.map(|(outcome, probability)| Chance { outcome, probability }));
    }
}
