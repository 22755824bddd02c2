//! Decisions that are followed while they are made: `proxy-agent trace` beside real connections. Needs root.

mod support;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use clap::Parser;
use proxy_agent::{
    cli::TableCommand,
    dataplane::{
        pins::Pins,
        read_tables,
        trace::{TraceError, Tracing},
    },
    plan::Changes,
};
use proxy_common::{
    Backend, BackendId, Decided, Direction, DropReason, Port, PortName, Protocol, ServiceEntry, ServiceFlags,
    ServiceId, ServiceKey, SlotRange, TRACES, Trace, Traffic, V4, maps,
};
use serde_json::Value;
use support::{Netns, Node, eventually, slowness};

const IN_CLUSTER_LIST: u16 = Backend::<[u8; 4]>::IN_CLUSTER_LIST;
const WEB: ServiceId = ServiceId::new(7);
const IDLE: ServiceId = ServiceId::new(8);
const LOCAL: ServiceId = ServiceId::new(9);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: TableCommand,
}

/// What a command has printed so far.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A node with an address for clients outside, and three Services: one with an endpoint on the node itself, one
/// without any, and one whose only endpoint is elsewhere, under policy Local.
struct Stage {
    node: Node,
    outside: Netns,
    listener: TcpListener,
}

fn stage() -> Stage {
    let (node, outside) = (Node::default(), Netns::new());
    node.netns.veth("eth0", &outside, "eth1");
    node.netns.ip("addr add 192.0.2.1/24 dev eth0");
    node.netns.ip("addr add 10.0.0.2/32 dev lo");
    node.netns.ip("route add 10.96.0.0/16 dev lo");
    outside.ip("addr add 192.0.2.9/24 dev eth1");
    outside.ip("route add 10.96.0.0/16 via 192.0.2.1");
    node.netns.sysctl("net/ipv4/ip_forward", "1");
    let mut changes = Changes::default();
    let external = ServiceFlags::EXTERNAL.with(ServiceFlags::LOCAL);
    for (id, name, last, flags, cluster) in [
        (WEB, "web", 1, ServiceFlags::NONE, SlotRange::new(16, 1)),
        (IDLE, "idle", 2, ServiceFlags::NONE, SlotRange::EMPTY),
        (LOCAL, "local", 3, external, SlotRange::new(16, 1)),
    ] {
        changes.names.push((id, PortName::new("shop", name, "http", Protocol::Tcp).expect("short names")));
        let entry = ServiceEntry::new(id, flags, cluster, SlotRange::EMPTY);
        changes.v4.services.push((ServiceKey::new([10, 96, 0, last], Port::new(80), Protocol::Tcp), entry));
    }
    changes.v4.backends.push((BackendId::new(5), Backend::new([10, 0, 0, 2], Port::new(8080), IN_CLUSTER_LIST, WEB)));
    changes.v4.slots.push((16, vec![BackendId::new(5)]));
    drop(node.start(&changes));
    let listener = node.netns.enter(|| TcpListener::bind("10.0.0.2:8080").expect("binds"));
    listener.set_nonblocking(true).expect("can be set");
    Stage { node, outside, listener }
}

impl Stage {
    /// A client outside connects.
    fn connect_from_outside(&self, to: &str) -> Result<SocketAddr, ErrorKind> {
        let to = to.parse().expect("an address");
        let connected = self.outside.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
        while self.listener.accept().is_ok() {}
        connected.and_then(|stream| stream.local_addr()).map_err(|error| error.kind())
    }

    /// A process of the node connects.
    fn connect_from_node(&self, to: &str) -> bool {
        let (host, port) = to.split_once(':').expect("a port");
        let connect = format!("exec 3<>/dev/tcp/{host}/{port}");
        let mut client = self.node.netns.command_in(&self.node.cgroup, "bash");
        client.args(["-c", &connect]).stderr(Stdio::null()).status().expect("runs").success()
    }

    fn pins(&self) -> Pins {
        Pins::new(self.node.pins.path())
    }

    /// Whether anybody asks for decisions. Nobody's place is taken to find out, which the command might want.
    fn is_asked(&self) -> bool {
        let traces = MapData::from_pin(self.pins().map(maps::TRACES)).expect("pinned");
        let traces: Array<_, Trace> = Map::from_map_data(traces).expect("a map").try_into().expect("an array");
        traces.iter().any(|trace| trace.expect("readable").is_on())
    }

    /// What is told while `action` runs, until as many decisions have come as were asked for.
    fn trace(&self, count: usize, rest: &[&str], action: impl FnOnce()) -> Vec<Value> {
        let root = self.node.pins.path().to_str().expect("UTF-8");
        let wanted = count.to_string();
        let arguments = ["proxy-agent", "trace", "-ojson", "--count", &wanted, "--bpffs-root", root].into_iter();
        let command = Arguments::try_parse_from(arguments.chain(rest.iter().copied())).expect("valid").command;
        let printed = Printed::default();
        std::thread::scope(|scope| {
            let mut out = printed.clone();
            let following = scope.spawn(move || self.node.netns.enter(|| command.run(&mut out)));
            // One that cannot ask ends at once.
            eventually("the command asks", || (following.is_finished() || self.is_asked()).then_some(()));
            if !following.is_finished() {
                action();
            }
            following.join().expect("does not panic").unwrap_or_else(|error| panic!("{error}"));
        });
        let text = String::from_utf8(printed.0.lock().expect("nobody panics").clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object on each line")).collect()
    }
}

#[test]
fn connections_that_begin_are_told_where_they_are_decided() {
    let stage = stage();
    let mut client = None;
    let told = stage.trace(2, &[], || {
        client = stage.connect_from_outside("10.96.0.1:80").ok();
        assert!(stage.connect_from_node("10.96.0.1:80"));
    });
    let [packet, socket] = told.as_slice() else { panic!("{told:?}") };
    let client = client.expect("connects").to_string();
    assert_eq!((&packet["at"], &packet["client"]), (&"ingress".into(), &client.into()), "{packet}");
    assert_eq!((&packet["device"], &packet["decision"]), (&"eth0".into(), &"begins".into()), "{packet}");
    assert_eq!(socket["at"], "connect", "{socket}");
    for decision in [packet, socket] {
        assert_eq!((&decision["service"], &decision["protocol"]), (&"shop/web:http".into(), &"TCP".into()));
        assert_eq!((&decision["destination"], &decision["backend"]), (&"10.96.0.1:80".into(), &"10.0.0.2:8080".into()));
    }
    let established = stage.trace(1, &["--service", "shop/web"], || {
        assert!(stage.connect_from_node("10.96.0.1:80"));
    });
    assert_eq!(established.len(), 1, "packets of connections that go on are not told: {established:?}");
}

#[test]
fn refusals_and_drops_are_told_with_their_reason() {
    let stage = stage();
    let told = stage.trace(3, &[], || {
        assert_eq!(stage.connect_from_outside("10.96.0.2:80"), Err(ErrorKind::ConnectionRefused));
        assert!(!stage.connect_from_node("10.96.0.2:80"));
        assert_eq!(stage.connect_from_outside("10.96.0.3:80"), Err(ErrorKind::TimedOut));
    });
    let seen: Vec<_> = told.iter().map(|one| [&one["at"], &one["decision"], &one["reason"], &one["service"]]).collect();
    assert_eq!(
        seen,
        [
            ["ingress", "refused", "no_endpoint", "shop/idle:http"],
            ["connect", "refused", "no_endpoint", "shop/idle:http"],
            ["ingress", "dropped", "no_local_endpoint", "shop/local:http"],
        ]
    );
}

#[test]
fn only_what_is_asked_for_is_told() {
    let stage = stage();
    let everything = || {
        assert!(stage.connect_from_outside("10.96.0.2:80").is_err());
        assert!(stage.connect_from_node("10.96.0.1:80"));
        assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
    };
    for (arguments, at, service) in [
        (["--service", "shop/idle"], "ingress", "shop/idle:http"),
        (["--address", "10.0.0.2"], "connect", "shop/web:http"),
        (["--address", "192.0.2.9"], "ingress", "shop/idle:http"),
        (["--address", "10.96.0.1"], "connect", "shop/web:http"),
        (["--protocol", "tcp"], "ingress", "shop/idle:http"),
    ] {
        let told = stage.trace(1, &arguments, everything);
        assert_eq!((&told[0]["at"], &told[0]["service"]), (&at.into(), &service.into()), "{arguments:?}");
    }
}

#[test]
fn several_follow_at_a_time_and_no_more_than_there_is_room_for() {
    let stage = stage();
    let mut followers: Vec<Tracing> =
        (0..TRACES).map(|_| Tracing::begin(&stage.pins(), |all| all).expect("there is room")).collect();
    let refused = Tracing::begin(&stage.pins(), |all| all).map(drop);
    assert!(matches!(refused, Err(TraceError::Taken)), "{refused:?}");
    assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
    for follower in &mut followers {
        let decision = follower.next_decision().expect("told");
        assert_eq!((decision.service(), decision.decided()), (WEB, Some(Decided::Begins)));
        assert_eq!(follower.next_decision(), None, "told once");
    }
    followers.pop();
    Tracing::begin(&stage.pins(), |all| all).expect("a place is given back");
}

/// A process that is killed gives nothing back. What it asked for ends with its time.
#[test]
fn what_a_killed_process_asked_for_ends_by_itself() {
    let stage = stage();
    let mut killed = Tracing::begin(&stage.pins(), |all| all.of_services([WEB, LOCAL])).expect("there is room");
    assert!(stage.connect_from_outside("10.96.0.3:80").is_err());
    let told = killed.next_decision().and_then(|decision| decision.decided());
    assert_eq!(told, Some(Decided::Dropped(DropReason::NoLocalEndpoint)));
    killed.extend().expect("it is still asking");
    // It does nothing any more, and sooner or later nothing is told.
    eventually("nobody is told", || {
        while killed.next_decision().is_some() {}
        assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
        killed.next_decision().is_none().then_some(())
    });
    let mut successors: Vec<Tracing> =
        (0..TRACES).map(|_| Tracing::begin(&stage.pins(), |all| all).expect("there is room")).collect();
    assert!(matches!(killed.extend(), Err(TraceError::Lost)), "somebody else has the place");
    drop(killed);
    assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
    assert!(
        successors.iter_mut().all(|one| one.next_decision().is_some()),
        "the place is not taken from its new owner"
    );
}

/// One CPU tells a thousand in a second. What nobody reads is not told either, and counted.
#[test]
fn what_is_too_much_is_counted() {
    let stage = stage();
    let of_nobody = Tracing::begin(&stage.pins(), |all| all.of_address::<V4>([203, 0, 113, 1])).expect("there is room");
    let mut follower = Tracing::begin(&stage.pins(), |all| all).expect("there is room");
    let mut asked = 0;
    // So few that the place is kept meanwhile.
    let batch = (250 / slowness()).max(1);
    let refused = format!("for i in $(seq {batch}); do (exec 3<>/dev/tcp/10.96.0.2/80) 2>/dev/null; done; exit 0");
    eventually("something is left out", || {
        follower.extend().expect("it is still asking");
        let mut clients = stage.node.netns.command_in(&stage.node.cgroup, "bash");
        assert!(clients.args(["-c", &refused]).status().expect("runs").success());
        asked += u64::from(batch);
        (follower.untold().expect("readable") > 0).then_some(())
    });
    let told = std::iter::from_fn(|| follower.next_decision()).count() as u64;
    let untold = follower.untold().expect("readable");
    // On a machine that is very busy the place may be lost for a moment; then nobody asks.
    assert!(told + untold <= asked, "told {told}, not told {untold}, of {asked}");
    assert!(told >= 1_000, "told {told}");
    assert_eq!(of_nobody.untold().expect("readable"), 0);
}

#[test]
fn nobody_is_told_where_nobody_asks() {
    let stage = stage();
    drop(Tracing::begin(&stage.pins(), |all| all).expect("there is room"));
    assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
    let late = Tracing::begin(&stage.pins(), |_| Trace::OFF);
    assert_eq!(late.expect("there is room").next_decision(), None, "what was before is not told");
}

/// What is counted for a Service at sockets and in packets.
#[test]
fn what_is_translated_is_counted_for_its_service() {
    let stage = stage();
    let counted = || {
        let tables = read_tables(stage.node.pins.path()).expect("pinned");
        tables.traffic.read().expect("readable").services.get(&WEB).copied().expect("it has an element of its own")
    };
    let ways = [Direction::Original, Direction::Reply];
    assert_eq!(counted(), Traffic::default());
    assert!(stage.connect_from_node("10.96.0.1:80"));
    let of_socket = counted();
    let packets = ways.map(|way| of_socket.packets(way));
    assert_eq!((of_socket.connections(), packets), (1, [0, 0]), "a socket's packets are not seen");

    assert!(stage.connect_from_outside("10.96.0.1:80").is_ok());
    let of_packets = counted();
    assert_eq!(of_packets.connections(), 2);
    for way in ways {
        // At least a SYN, or the answer to it.
        let (packets, bytes) = (of_packets.packets(way), of_packets.bytes(way));
        assert!(packets >= 1 && bytes >= 40 * packets, "{way:?}: {of_packets:?}");
    }
}
