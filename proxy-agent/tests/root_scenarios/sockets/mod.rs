//! A world of sockets: namespaces for a node and what is around it, and the agent as users run it.

mod agent;
mod client;
mod server;
mod stage;
mod view;

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    iter,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use proxy_agent::{
    dataplane::{
        pins::Pins,
        pod_namespace::own_cookie,
        read_tables,
        status::device_index,
        tables::{HashTable, Tables, Writes},
    },
    explain::{Explanation, Hooks, Origin, Question},
    plan::{Capacities, memory::MemoryTables},
};
use proxy_common::{Counter, DropReason, Protocol, Settings, SettingsFlags, maps};
use serde_json::Value;

use self::{
    agent::{Agent, Home},
    client::{Answer, Connection, Task, Udp},
    stage::Stage,
    view::Reader,
};
use crate::{
    kernel::explained,
    scenario_table::{
        cast::{Client, Pod},
        control::{Control, Shared, settings},
        objects::{Objects, namespace, usual_node},
        row::{Mode, Row, Setting},
        runner::{Attempt, FlowId, Hope, Seen, Sight, World},
    },
    support::{eventually, patience, prompt},
};

/// The world. Fields are dropped in order: what runs before what it runs in.
pub struct SocketWorld {
    agent: Option<Agent>,
    flows: Vec<(Attempt, io::Result<Connection>)>,
    stage: Stage,
    home: Home,
    /// What the tables should hold.
    control: Control<MemoryTables>,
    tables: Option<Tables>,
    reader: Reader,
    node: Value,
    added: Vec<IpAddr>,
    namespace: String,
    next_port: u16,
}

impl SocketWorld {
    pub fn new() -> Self {
        let home = Home::new();
        home.write("node", iter::once(&usual_node()));
        Self {
            agent: None,
            flows: vec![],
            stage: Stage::new(),
            home,
            control: control(Setting::Default),
            tables: None,
            reader: Reader::default(),
            node: usual_node(),
            added: vec![],
            namespace: String::new(),
            next_port: 0,
        }
    }

    fn tables(&self) -> &Tables {
        self.tables.as_ref().expect("an agent has run")
    }

    /// Waits until the agent has the settings and addresses that follow from its configuration.
    fn wait_until_configured(&self, setting: Setting) {
        let wanted = settings(setting, 0);
        // Whether there ever was an external address is the former agents' affair, too.
        let flags = |settings: Settings| settings.flags().with(SettingsFlags::EXTERNAL_DATAGRAMS);
        let alike = |found: Settings| {
            (flags(found), found.v4(), found.v6()) == (flags(wanted), wanted.v4(), wanted.v6())
                && found.node_netns_cookie().is_some()
        };
        eventually("the settings follow the configuration", || {
            alike(self.tables().settings.read().expect("readable")).then_some(())
        });
        self.wait_for_addresses();
    }

    fn wait_for_addresses(&self) {
        let wanted = self.control.node_ports();
        eventually("the agent knows the node's addresses", || {
            let Tables { v4, v6, .. } = self.tables();
            let found = |address: &IpAddr| match address {
                IpAddr::V4(address) => v4.node_addresses.get(&address.octets()),
                IpAddr::V6(address) => v6.node_addresses.get(&address.octets()),
            };
            wanted.iter().all(|(address, kind)| found(address).expect("readable") == Some(*kind)).then_some(())
        });
    }

    /// Waits until the tables hold what the plan says for the row.
    fn wait_for_tables(&mut self) {
        let (wanted, endpoints) = view::planned(&self.control.snapshot(), &self.namespace);
        let start = Instant::now();
        let (mut found, mut reached) = Default::default();
        while start.elapsed() < patience() {
            (found, reached) =
                self.reader.read(self.tables.as_ref().expect("an agent has run"), &self.namespace).expect("readable");
            // An endpoint that is gone is taken away after the Services have left it.
            if found == wanted && reached.is_subset(&endpoints) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let log = self.home.log();
        panic!("the tables do not become {wanted:#?} {endpoints:?}\nbut are {found:#?} {reached:?}\n{log}");
    }

    fn task(&mut self, attempt: &Attempt, udp: Udp) -> Task {
        if attempt.protocol == Protocol::Udp {
            self.next_port += 1;
        }
        assert!(self.next_port < 50_000, "a datagram from a port that was used may be one of another flow");
        // Not the numbers of nodePorts.
        let port = if self.next_port < 18_000 { 2000 + self.next_port } else { 15_000 + self.next_port };
        let patience = match attempt.hope {
            Hope::Answer | Hope::Error => prompt() * 3,
            // What is dropped is counted as well, so it need not be waited for long.
            Hope::Silence => prompt() / 16,
        };
        // The others have one address each, or the kernel's choice is what counts.
        let source = matches!(attempt.client, Client::Crowd | Client::Outside).then(|| attempt.source());
        Task { protocol: attempt.protocol, to: attempt.to, source, port, udp, patience }
    }

    /// What an answer, or none, says.
    fn sight(&mut self, attempt: &Attempt, answer: io::Result<Answer>, refusals: u64) -> Sight {
        let Answer { at, seen } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied if self.refusals() > refusals => {
                        Sight::Refused
                    }
                    // Whoever was asked refused by itself.
                    ErrorKind::ConnectionRefused => Sight::Passed,
                    ErrorKind::TimedOut | ErrorKind::WouldBlock => Sight::Nothing,
                    _ => panic!("{attempt:?}: {error}"),
                };
            }
        };
        if at == attempt.to {
            assert_eq!(seen.ip(), Self::own_address(attempt, at.ip()), "{attempt:?}: whom {at} sees");
            return Sight::Passed;
        }
        let gateway = Pod::at(at.ip()).expect("a pod's").gateway(attempt.family);
        let source = if seen.ip() == Self::own_address(attempt, at.ip()) {
            Seen::Itself
        } else {
            assert_eq!(seen.ip(), gateway, "{attempt:?}: {at} sees neither the client nor the node");
            Seen::TheNode
        };
        Sight::Reached { at, source }
    }

    /// The client's address on the way to a pod.
    fn own_address(attempt: &Attempt, at: IpAddr) -> IpAddr {
        match (attempt.client, Pod::at(at)) {
            (Client::Node, Some(pod)) => pod.gateway(attempt.family),
            _ => attempt.source(),
        }
    }

    fn refusals(&mut self) -> u64 {
        self.drops().get(&DropReason::NoEndpoint).copied().unwrap_or(0)
    }
}

fn control(setting: Setting) -> Control<MemoryTables> {
    Control::new(setting, Shared::new(MemoryTables::new(Capacities::default().services)))
}

/// The row's file of manifests.
fn file(row: &Row) -> String {
    format!("row-{}", row.number)
}

impl World for SocketWorld {
    const MODE: Mode = Mode::Sockets;

    fn begin(&mut self, row: &Row) {
        self.namespace = namespace(row.number);
        self.control = control(row.setting);
        self.reader = Reader::default();
        let arguments = row.setting.arguments();
        if self.agent.as_ref().is_none_or(|agent| agent.arguments() != arguments) {
            // One agent at a time.
            self.agent = None;
            self.agent = Some(self.home.start(&self.stage, arguments));
            self.tables = Some(read_tables(self.home.pins.path()).expect("the agent has pinned them"));
            self.wait_until_configured(row.setting);
        }
    }

    fn set(&mut self, row: &Row, objects: &Objects, node: &Value) {
        self.control.set(objects, node);
        if *node != self.node {
            self.home.write("node", iter::once(node));
            self.node = node.clone();
        }
        self.home.write(&file(row), objects.values());
        self.wait_for_addresses();
        self.wait_for_tables();
    }

    fn add_address(&mut self, address: IpAddr) {
        let length = if address.is_ipv4() { "32" } else { "128 nodad" };
        self.stage.node.ip(&format!("addr add {address}/{length} dev lo"));
        self.added.push(address);
        self.control.add_address(address);
    }

    fn connect(&mut self, attempt: &Attempt) -> Sight {
        let unconnected = attempt.hope == Hope::Answer && attempt.number.is_multiple_of(2);
        let task = self.task(attempt, if unconnected { Udp::Unconnected } else { Udp::Connected });
        let refusals = self.refusals();
        let answer = self.stage.run(attempt.client, move || client::open(&task)?.answer());
        self.sight(attempt, answer, refusals)
    }

    fn explain(&mut self, attempt: &Attempt) -> Explanation {
        let client = attempt.client;
        let device = client.device().and_then(|name| self.stage.node.enter(|| device_index(&name))).unwrap_or(0);
        let origin = match client {
            Client::Node => Origin::Node,
            _ if client.is_at_socket() => {
                let namespace = self.stage.run(client, || own_cookie().expect("hooks know it"));
                Origin::Pod { namespace: Some(namespace), device }
            }
            _ => Origin::Packets { device },
        };
        let question = Question {
            source: attempt.source(),
            source_port: None,
            destination: attempt.to,
            protocol: attempt.protocol,
            origin,
            hooks: Hooks::Attached,
        };
        let pod_devices = Pins::new(self.home.pins.path()).map(maps::POD_DEVICES);
        let pod_devices = HashTable::open(&pod_devices, Writes::Single).expect("it is pinned");
        explained(&question, self.tables(), &pod_devices)
    }

    fn open(&mut self, attempt: &Attempt) -> (FlowId, Sight) {
        let task = self.task(attempt, Udp::Unconnected);
        let refusals = self.refusals();
        let (connection, answer) = self.stage.run(attempt.client, move || {
            let connection = client::open(&task);
            let answer = connection.as_ref().map_err(copy).and_then(Connection::answer);
            (connection, answer)
        });
        self.flows.push((*attempt, connection));
        let sight = self.sight(attempt, answer, refusals);
        (FlowId(self.flows.len() - 1), sight)
    }

    fn again(&mut self, flow: FlowId) -> Sight {
        let refusals = self.refusals();
        let (attempt, connection) = &self.flows[flow.0];
        let attempt = *attempt;
        let mut answer = Err(ErrorKind::TimedOut.into());
        let start = Instant::now();
        // What was begun in vain waits for a short time only.
        while start.elapsed() < prompt() * 3 {
            answer = connection.as_ref().map_err(copy).and_then(Connection::again);
            let is_lost = attempt.protocol == Protocol::Udp
                && answer.as_ref().is_err_and(|error: &io::Error| error.kind() == ErrorKind::WouldBlock);
            if !is_lost {
                break;
            }
        }
        self.sight(&attempt, answer, refusals)
    }

    fn drops(&mut self) -> BTreeMap<DropReason, u64> {
        let counters = self.tables().counters.read().expect("readable");
        let drops = counters.into_iter().filter_map(|(counter, count)| match counter {
            Counter::Drop(reason) if count > 0 => Some((reason, count)),
            _ => None,
        });
        drops.collect()
    }

    fn wait(&mut self, seconds: u32) {
        thread::sleep(Duration::from_secs(seconds.into()));
    }

    fn restart(&mut self) {
        let arguments = self.agent.as_ref().expect("it runs").arguments();
        self.agent = None;
        self.agent = Some(self.home.start(&self.stage, arguments));
        self.wait_for_tables();
    }

    fn tells(&mut self, words: &str) -> bool {
        let log = self.home.log();
        let object = format!("{}/", self.namespace);
        log.lines().any(|line| line.contains(&object) && line.contains(words))
    }

    fn end(&mut self, row: &Row) {
        self.flows.clear();
        self.home.remove(&file(row));
        if self.node != usual_node() {
            self.node = usual_node();
            self.home.write("node", iter::once(&usual_node()));
        }
        for address in self.added.drain(..) {
            self.stage.node.ip(&format!("addr del {address} dev lo"));
        }
    }
}

/// The same error again: those of the system cannot be copied.
fn copy(error: &io::Error) -> io::Error {
    error.kind().into()
}
