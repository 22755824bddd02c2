//! The namespaces of `cast`, and threads in them that are the clients.

use std::{
    net::IpAddr,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use super::server;
use crate::{
    scenario_table::{
        cast::{self, CROWD, Client, Family, NodeAddress, ORDINARY_POD, Pod, SANDBOXED_POD, pod_gateway, pod_ip},
        objects::{OTHER_TARGET, TARGET},
    },
    support::{Cgroup, Netns},
};

/// Everything around the agent.
pub struct Stage {
    /// In the order of dropping: clients before what they are in.
    workers: Vec<(Place, Worker)>,
    pub node: Arc<Netns>,
    /// The processes that the socket hooks serve.
    pub cgroup: Arc<Cgroup>,
    outside: Arc<Netns>,
    elsewhere: Arc<Netns>,
    pods: Vec<(u8, Arc<Netns>)>,
    _others: Vec<Arc<Netns>>,
}

/// A namespace, and whether the hooks serve its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Node,
    Outside,
    Elsewhere,
    Pod(u8),
    PodAtSocket(u8),
}

impl Stage {
    pub fn new() -> Self {
        let [node, outside, home, beyond, elsewhere] = std::array::from_fn(|_| namespace());
        for router in [&node, &home] {
            router.sysctl("net/ipv4/ip_forward", "1");
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        for (other, device, address) in [
            (&outside, "eth0", NodeAddress::Primary),
            (&home, "eth1", NodeAddress::Inner),
            (&beyond, "eth2", NodeAddress::Outer),
            (&elsewhere, "eth3", NodeAddress::Side),
        ] {
            other.veth("eth0", &node, device);
            node.sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0");
            for family in Family::ALL {
                let near = address.ip(family);
                node.ip(&format!("addr add {near}/{} dev {device}", length(family)));
                other.ip(&format!("addr add {}/{} dev eth0", opposite(near), length(family)));
                other.ip(&format!("route add default via {near}"));
            }
        }
        for family in Family::ALL {
            node.ip(&format!("route add default via {}", opposite(NodeAddress::Outer.ip(family))));
            for number in 0..CROWD {
                outside.ip(&format!("addr add {}/{} dev eth0", cast::crowd_ip(number, family), length(family)));
            }
        }
        // Whatever is sent to an address that is nobody's, comes to its end there.
        for prefix in ["10.96.0.0/16", "198.18.0.0/15", "203.0.0.0/16", "fd96::/16", "2001:db8:a::/48"] {
            beyond.ip(&format!("route add local {prefix} dev lo"));
        }
        for prefix in ["2001:db8:e::/48", "2001:db8:f::/48"] {
            beyond.ip(&format!("route add local {prefix} dev lo"));
        }
        let mut pods = vec![];
        for number in [ORDINARY_POD, SANDBOXED_POD] {
            pods.push((number, pod(&node, number)));
        }
        for pod_of_table in Pod::ALL {
            let number = pod_of_table.number();
            let is_here = pod_of_table.node() == cast::NODE;
            let namespace = pod(if is_here { &node } else { &home }, number);
            for port in [TARGET, OTHER_TARGET] {
                server::serve(&namespace, pod_of_table, port);
            }
            if !is_here {
                behind(&home, &node, number);
            }
            pods.push((number, namespace));
        }
        Self {
            workers: vec![],
            node,
            cgroup: Arc::new(Cgroup::new()),
            outside,
            elsewhere,
            pods,
            _others: vec![home, beyond],
        }
    }

    /// Runs a function as the client.
    pub fn run<T: Send + 'static>(&mut self, client: Client, function: impl FnOnce() -> T + Send + 'static) -> T {
        let place = match client {
            Client::Outside | Client::Crowd => Place::Outside,
            Client::OtherNode => Place::Elsewhere,
            Client::Node => Place::Node,
            Client::Pod => Place::PodAtSocket(ORDINARY_POD),
            Client::Sandboxed => Place::Pod(SANDBOXED_POD),
            Client::From(pod) => Place::Pod(pod.number()),
            Client::AtSocket(pod) => Place::PodAtSocket(pod.number()),
        };
        if let Some((_, worker)) = self.workers.iter().find(|(other, _)| *other == place) {
            return worker.run(function);
        }
        let worker = self.worker(place);
        self.workers.push((place, worker));
        self.workers[self.workers.len() - 1].1.run(function)
    }

    fn worker(&self, place: Place) -> Worker {
        let pod = |number| {
            let found = self.pods.iter().find(|(other, _)| *other == number);
            Arc::clone(&found.expect("every pod has a namespace").1)
        };
        let at_socket = || Some(Arc::clone(&self.cgroup));
        match place {
            Place::Node => Worker::new(Arc::clone(&self.node), at_socket()),
            Place::Outside => Worker::new(Arc::clone(&self.outside), None),
            Place::Elsewhere => Worker::new(Arc::clone(&self.elsewhere), None),
            Place::Pod(number) => Worker::new(pod(number), None),
            Place::PodAtSocket(number) => Worker::new(pod(number), at_socket()),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that stays where it is and does what it is told.
struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new(namespace: Arc<Netns>, cgroup: Option<Arc<Cgroup>>) -> Self {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let work = move || receiver.into_iter().for_each(|job| job());
        let thread = thread::spawn(move || match cgroup {
            Some(cgroup) => cgroup.enter(|| namespace.enter(work)),
            None => namespace.enter(work),
        });
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    fn run<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let job = Box::new(move || drop(sender.send(function())));
        self.jobs.as_ref().expect("it is there until the end").send(job).expect("the thread lives");
        receiver.recv().expect("the client does not panic")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // A client that panicked has said so.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A namespace in which routes need not be the same both ways, and errors come as often as they are asked for.
fn namespace() -> Arc<Netns> {
    let namespace = Netns::new();
    for (name, value) in [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        // No type of error is limited, neither to a destination nor altogether. (IPv6: echo requests only, which are none.)
        ("net/ipv4/icmp_ratemask", "0"),
        ("net/ipv6/icmp/ratemask", "128"),
    ] {
        namespace.sysctl(name, value);
    }
    Arc::new(namespace)
}

/// A pod on a link of its own.
fn pod(node: &Netns, number: u8) -> Arc<Netns> {
    let namespace = namespace();
    let device = format!("pod{number}");
    node.veth(&device, &namespace, "eth0");
    for family in Family::ALL {
        let gateway = pod_gateway(number, family);
        node.ip(&format!("addr add {gateway}/{} dev {device}", length(family)));
        namespace.ip(&format!("addr add {}/{} dev eth0", pod_ip(number, family), length(family)));
        namespace.ip(&format!("route add default via {gateway}"));
    }
    namespace
}

/// A pod of the other node. What it sends goes by way of the node, like everything that the node has translated.
fn behind(home: &Netns, node: &Netns, number: u8) {
    for (family, option) in [(Family::V4, ""), (Family::V6, "-6 ")] {
        let via = NodeAddress::Inner.ip(family);
        node.ip(&format!("route add {}/{} via {}", pod_ip(number, family), host_length(family), opposite(via)));
        home.ip(&format!("{option}rule add iif pod{number} lookup 100"));
        home.ip(&format!("{option}route replace default via {via} table 100"));
    }
}

/// The other end of a link of the node's.
fn opposite(near: IpAddr) -> IpAddr {
    let text = near.to_string();
    let network = text.strip_suffix('1').expect("the node's end has number 1");
    format!("{network}2").parse().expect("a well-formed address")
}

fn length(family: Family) -> &'static str {
    match family {
        Family::V4 => "24",
        Family::V6 => "64 nodad",
    }
}

fn host_length(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}
