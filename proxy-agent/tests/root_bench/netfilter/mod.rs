//! The same Services in five ways, in one run: not at all (plain routing), by this agent, by it with host routing, and by the rules that
//! kube-proxy writes for nftables and for iptables.
//!
//! Each way has a node, a pod and a client outside of its own. Blocks of round trips or connections go each way in turn, and each
//! block's median is divided by that of plain routing in the same turn.

mod rules;

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use proxy_agent::dataplane::features::Feature;
use rules::{Mode, ServicePort};

use super::{
    Size,
    client::Place,
    figure::{Figure, Sorted},
    scene::{self, CLUSTER_IP, LOCAL_NODE_PORT, NODE_PORT},
    sized,
    stage::{Family, Stage},
    support::{self, run as execute},
    tables, visitor,
};

/// What takes care of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Agent,
    HostRouting,
    Rules(Mode),
}

impl Way {
    const ALL: [Self; 5] =
        [Self::Plain, Self::Agent, Self::HostRouting, Self::Rules(Mode::Nftables), Self::Rules(Mode::Iptables)];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Agent => "this",
            Self::HostRouting => "this, host routing",
            Self::Rules(Mode::Nftables) => "nftables",
            Self::Rules(Mode::Iptables) => "iptables",
        }
    }

    /// The node, with all Services; and how long it took to write kube-proxy's rules, if they are written.
    fn lay(self, size: Size) -> (Stage, Option<Duration>) {
        let arguments: &[&str] = if self == Self::HostRouting { &["--host-routing=peers"] } else { &[] };
        let mut stage = scene::lay(arguments);
        // On a node with a CNI that masquerades something, netfilter tracks each connection, also those that are nobody's Service's.
        let others = "table ip cni { chain nat-post { type nat hook postrouting priority 90; \
                      ip saddr 10.1.0.0/16 ip daddr 198.51.100.0/24 masquerade; }; }";
        execute(stage.node.command("nft").arg(others));
        // Netfilter sees what a process sends to a clusterIP once it is routed somewhere.
        stage.node.ip("route add default via 192.0.2.2");
        let mut took = None;
        match self {
            Self::Plain => {}
            Self::Agent | Self::HostRouting => {
                stage.start();
                scene::grow(&stage, size.services);
            }
            Self::Rules(mode) => {
                if mode == Mode::Iptables {
                    mode.load(&stage.node, rules::IPTABLES_JUMPS);
                }
                let text = mode.all(&services(&stage, size));
                let start = Instant::now();
                mode.load(&stage.node, &text);
                took = Some(start.elapsed());
            }
        }
        (stage, took)
    }

    /// Where the Service is; without one, the pod itself.
    fn address(self, stage: &Stage, service: ([u8; 4], u16)) -> SocketAddr {
        if self == Self::Plain { stage.backends[0].endpoint(Family::V4) } else { service.into() }
    }
}

fn services(stage: &Stage, size: Size) -> Vec<ServicePort> {
    let own = scene::services(stage);
    let own =
        own.iter().enumerate().map(|(number, [service, slice])| ServicePort::of_manifests(number, service, slice));
    own.chain(rules::sized(size.services)).collect()
}

/// What is done again and again.
#[derive(Clone, Copy, Debug)]
enum Deed {
    RoundTrips,
    Connections,
}

/// Who does it.
#[derive(Clone, Copy, Debug)]
enum From {
    Outside,
    Node,
}

/// A row of the comparison.
struct Row {
    what: &'static str,
    from: From,
    deed: Deed,
    /// The Service's frontend; none for the pod itself.
    to: Option<([u8; 4], u16)>,
}

const ROWS: [Row; 6] = [
    Row {
        what: "round trip from outside, nodePort, policy Cluster",
        from: From::Outside,
        deed: Deed::RoundTrips,
        to: Some(NODE_PORT),
    },
    Row {
        what: "round trip from outside, nodePort, policy Local",
        from: From::Outside,
        deed: Deed::RoundTrips,
        to: Some(LOCAL_NODE_PORT),
    },
    Row {
        what: "connect from outside, nodePort, policy Cluster",
        from: From::Outside,
        deed: Deed::Connections,
        to: Some(NODE_PORT),
    },
    Row {
        what: "connect from outside, nodePort, policy Local",
        from: From::Outside,
        deed: Deed::Connections,
        to: Some(LOCAL_NODE_PORT),
    },
    Row {
        what: "connect from a process of the node, clusterIP",
        from: From::Node,
        deed: Deed::Connections,
        to: Some(CLUSTER_IP),
    },
    Row { what: "connect from outside to a pod, no Service", from: From::Outside, deed: Deed::Connections, to: None },
];

/// A client on a thread of its own, that measures a block whenever it is asked.
struct Client {
    order: Sender<()>,
    median: Receiver<f64>,
}

impl Client {
    fn start<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        way: Way,
        place: Place<'scope>,
        deed: Deed,
        to: SocketAddr,
    ) -> Self {
        let (order, orders) = mpsc::channel();
        let (results, median) = mpsc::channel();
        // Profilers tell threads by their names.
        let thread = thread::Builder::new().name(way.name().to_owned());
        let measure = move || {
            place.enter(move || {
                let mut stream: Option<TcpStream> = None;
                for () in orders {
                    let median = visitor::block(|| match deed {
                        Deed::RoundTrips => visitor::round_trip(stream.get_or_insert_with(|| visitor::greeted(to))),
                        Deed::Connections => visitor::connection(to),
                    });
                    // Nobody wants it any more when the benchmark fails.
                    let _ = results.send(median);
                }
            });
        };
        thread.spawn_scoped(scope, measure).expect("a thread can be started");
        Self { order, median }
    }

    /// Median of a block in microseconds.
    fn block(&self) -> f64 {
        self.order.send(()).expect("the client lives");
        self.median.recv().expect("the client lives")
    }
}

/// For each way but the first, its times divided by those of the first; and the median time of the first in microseconds.
fn compare(row: &Row, lanes: &[(Way, Stage)], rounds: usize) -> (Vec<Vec<f64>>, f64) {
    let medians: Vec<Vec<f64>> = visitor::on_one_processor(|| {
        thread::scope(|scope| {
            let clients: Vec<Client> = lanes
                .iter()
                .map(|(way, stage)| {
                    let place = match row.from {
                        From::Outside => stage.outside_client(),
                        From::Node => stage.host(),
                    };
                    let pod = stage.backends[0].endpoint(Family::V4);
                    Client::start(
                        scope,
                        *way,
                        place,
                        row.deed,
                        row.to.map_or(pod, |service| way.address(stage, service)),
                    )
                })
                .collect();
            // Caches and neighbours get warm.
            for client in &clients {
                let _ = client.block();
            }
            let round = |first: usize| {
                let mut medians = vec![0.0; clients.len()];
                // Who is first changes, so that nobody profits.
                for index in (0..clients.len()).map(|offset| (first + offset) % clients.len()) {
                    medians[index] = clients[index].block();
                }
                medians
            };
            (0..rounds).map(round).collect()
        })
    });
    let ratios = (1..lanes.len()).map(|lane| medians.iter().map(|times| times[lane] / times[0]).collect());
    (ratios.collect(), Sorted::new(medians.iter().map(|times| times[0]).collect()).at(0.5))
}

const HOST_ROUTING: &str = "round trip from outside through a nodePort, with host routing ÷ plain routing";
const ALL_WRITTEN: &str = "all Services written";
const CHANGE_WRITTEN: &str = "a changed EndpointSlice written";

/// Milliseconds to write one changed slice, each time of another Service.
fn changes(mode: Mode, stage: &Stage, size: Size) -> Vec<f64> {
    let services = services(stage, size);
    (1..=size.changes.min(5))
        .map(|round| {
            // Even numbers are IPv4's.
            let text = mode.change(&services, round * 2, round);
            let start = Instant::now();
            mode.load(&stage.node, &text);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

/// Whether the machine can make the lanes at all.
pub fn is_possible() -> bool {
    Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success())
}

pub fn run(size: Size) -> Vec<Figure> {
    let host_routing = support::features().has(Feature::HostRouting);
    let probe = support::Netns::new();
    let can = |way: &Way| match way {
        Way::HostRouting => host_routing,
        Way::Rules(mode) => mode.works_in(&probe),
        Way::Plain | Way::Agent => true,
    };
    let mut lanes = Vec::new();
    let ours = tables::measure(Size { changes: size.changes / 10, ..size });
    let mut writes = vec![Figure::single(ALL_WRITTEN, "s", ours.start.as_secs_f64(), None).by(Way::Agent.name())];
    for way in Way::ALL.into_iter().filter(can) {
        let (stage, took) = way.lay(size);
        writes.extend(took.map(|took| Figure::single(ALL_WRITTEN, "s", took.as_secs_f64(), None).by(way.name())));
        lanes.push((way, stage));
    }
    let mut figures = Vec::new();
    for row in &ROWS {
        let (ratios, straight) = compare(row, &lanes, size.requests / 2 / visitor::BLOCK);
        figures.push(Figure::single(row.what, "µs", straight, None).by(Way::Plain.name()));
        for ((way, _), ratios) in lanes[1..].iter().zip(ratios) {
            if *way == Way::HostRouting && row.to == Some(LOCAL_NODE_PORT) && matches!(row.deed, Deed::RoundTrips) {
                figures.push(Figure::median(HOST_ROUTING, "", ratios.clone(), Some(0.95)));
            }
            figures.push(Figure::median(row.what, "", ratios, None).by(way.name()));
        }
    }
    figures.extend(writes);
    figures.push(Figure::single(CHANGE_WRITTEN, "ms", ours.in_force.at(0.5), None).by(Way::Agent.name()));
    for (way, stage) in &lanes {
        if let Way::Rules(mode) = way {
            let times = changes(*mode, stage, size);
            figures.push(Figure::median(CHANGE_WRITTEN, "ms", times, None).by(way.name()));
        }
    }
    figures
}
