//! From a watch event to the kernel, and from the complete lists: index, plan and the writes of real tables, in this process.

use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1 as discovery;
use proxy_agent::{
    dataplane::{Dataplane, tables::KernelTables},
    model::{Change, EndpointSlice, NodeFacts, Service, Update},
    plan::{Capacities, Changes},
    run::Engine,
};

use super::{
    Size,
    figure::{Figure, Sorted},
    sized,
    support::Node,
};

fn engine(node: &Node) -> Engine<KernelTables> {
    let tables = Dataplane::open(&node.config()).unwrap_or_else(|error| panic!("{error}")).tables;
    Engine::new(tables, sized::NODE.to_owned(), Capacities::default())
}

/// The complete lists; what it takes to parse them is not part of any figure.
fn lists(size: Size) -> [Update; 4] {
    let services = (0..size.services).filter_map(|number| Service::from_api(&sized::service(number)).object).collect();
    let slices = (0..size.services).filter_map(|number| EndpointSlice::from_api(&sized::slice(number, 0)).object);
    [
        Update::Service(Change::Reset(services)),
        Update::Slice(Change::Reset(slices.collect())),
        Update::Node(Change::Reset(Vec::new())),
        Update::Facts(NodeFacts::default()),
    ]
}

fn complete(engine: &mut Engine<KernelTables>, lists: [Update; 4]) -> (usize, Duration) {
    let start = Instant::now();
    for list in lists {
        engine.take(list);
    }
    let synced = engine.sync().expect("the tables can be written");
    (synced.writes, start.elapsed())
}

/// From the text of the event on, as the watch gets it: until the change is in force, and until the next one can be taken.
fn change(engine: &mut Engine<KernelTables>, event: &[u8]) -> (Duration, Duration) {
    let start = Instant::now();
    let slice: discovery::EndpointSlice = serde_json::from_slice(event).expect("it is a slice");
    let slice = EndpointSlice::from_api(&slice).object.expect("it is a sound one");
    engine.take(Update::Slice(Change::Apply(slice)));
    let synced = engine.sync().expect("the tables can be written");
    let took = start.elapsed();
    assert!(synced.writes > 0, "one endpoint is another one each time");
    (synced.in_force.duration_since(start), took)
}

/// From the start of an agent until its programs are attached, to a cgroup and two devices: of a first one, and of the next one.
fn starts() -> [Duration; 2] {
    let node = Node::default();
    node.netns.ip("link add veth1 type veth peer name veth2");
    [(); 2].map(|()| {
        let start = Instant::now();
        drop(node.start(&Changes::default()));
        start.elapsed()
    })
}

/// What was measured at one size.
pub struct Times {
    /// From the complete lists to all programmed.
    pub start: Duration,
    /// Table writes of that.
    pub written: usize,
    /// In milliseconds, until a changed slice is in force.
    pub in_force: Sorted,
    /// In milliseconds, until the next change can be taken.
    pub ready: Sorted,
    /// The next engine's start with the same lists, and its writes.
    pub restart: Duration,
    pub unchanged: usize,
}

/// Starts, changes slices, and starts again.
pub fn measure(size: Size) -> Times {
    let node = Node::default();
    let mut first = engine(&node);
    let (written, start) = complete(&mut first, lists(size));
    let times = (1..=size.changes).map(|round| {
        let event = serde_json::to_vec(&sized::slice(round * 7 % size.services, round)).expect("it is serializable");
        change(&mut first, &event)
    });
    let (in_force, ready): (Vec<Duration>, Vec<Duration>) = times.unzip();
    let [in_force, ready] = [in_force, ready].map(|times| Sorted::new(times.into_iter().map(milliseconds).collect()));
    // The tables go back to what the lists say, so that the next engine finds nothing to do.
    let (_, _) = complete(&mut first, lists(size));
    drop(first);
    let (unchanged, restart) = complete(&mut engine(&node), lists(size));
    Times { start, written, in_force, ready, restart, unchanged }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "few writes")]
pub fn run(size: Size) -> Vec<Figure> {
    let Times { start, written, in_force, ready, restart, unchanged } = measure(size);
    let [first, next] = starts();
    vec![
        Figure::single("from an agent's start to attached programs, the first", "ms", milliseconds(first), None),
        Figure::single("the same, the next agent", "ms", milliseconds(next), None),
        Figure::single("a changed EndpointSlice is in force, median", "ms", in_force.at(0.5), Some(2.0)),
        Figure::single("a changed EndpointSlice is in force, 99th percentile", "ms", in_force.at(0.99), Some(20.0)),
        Figure::single("the next change can be taken, median", "ms", ready.at(0.5), None),
        Figure::single("from complete lists to all programmed", "ms", milliseconds(start), Some(1_000.0)),
        Figure::single("writes of that", "", written as f64, None),
        Figure::single("a restart with nothing changed", "ms", milliseconds(restart), Some(1_000.0)),
        Figure::single("writes of a restart with nothing changed", "", unchanged as f64, Some(0.0)),
    ]
}
