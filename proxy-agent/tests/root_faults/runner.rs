//! Lets one fault follow another, and says what they cost.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;

use super::{
    Orders,
    client::Place,
    fault::Fault,
    flood,
    load::{self, Attempt, Report, Task, now},
    manifests,
    stage::{Family, NODE, Pod, Stage},
    support::{Netns, eventually, run as run_command, slowness},
};

/// Port of every Service.
const PORT: u16 = 80;
/// Rooms for flows.
const SIZES: [&str; 3] = ["65536", "131072", "262144"];
/// How many Services come and go.
const OTHERS: u32 = 100;

/// A backend that no new connection may reach, from and until.
struct Absence {
    server: String,
    from: u64,
    until: u64,
}

/// The node, its load, and what happened to it.
struct Runner {
    stage: Stage,
    random: Rng,
    absences: Vec<Absence>,
    /// How many flows the agent's tables have room for.
    flows: &'static str,
    /// How often each fault was, and how long it took altogether.
    told: BTreeMap<&'static str, (u32, Duration)>,
}

/// Carries out the orders.
///
/// # Panics
/// Something was lost.
pub fn run(orders: &Orders) {
    let Orders { rounds, seed, connections, faults } = orders;
    let mut stage = Stage::new(&["--flow-table-size", SIZES[0]]);
    write(&stage, "web", 1, &stage.backends.iter().collect::<Vec<_>>());
    foreign(&stage.node);
    let before = foreign_state(&stage.node);
    stage.start();
    let half = connections.div_ceil(2);
    let mut loads = [("outside, by TC", stage.outside_client()), ("a pod, at its sockets", stage.ordinary_pod())]
        .map(|(who, place)| (who, Load::start(place, half)));
    let mut runner =
        Runner { stage, random: Rng::with_seed(*seed), absences: Vec::new(), flows: SIZES[0], told: BTreeMap::new() };
    for _ in 0..*rounds {
        let fault = faults[runner.random.usize(..faults.len())];
        runner.carry_out(fault);
    }
    // What the last one broke would not show at once.
    thread::sleep(Duration::from_millis(500));
    for (fault, (count, took)) in &runner.told {
        println!("{fault}: {count} times, {took:.1?}");
    }
    let mut complaints = Vec::new();
    for (who, load) in &mut loads {
        let report = load.end();
        println!(
            "{who}: {half} connections held, {} lost; {} messages on them; {} new connections, {} lost; {} datagrams, {} lost",
            report.broken.len(),
            report.exchanges,
            report.connections.len(),
            lost(&report.connections).count(),
            report.datagrams.len(),
            lost(&report.datagrams).count(),
        );
        assert!(report.exchanges > u64::from(half), "{who}: the connections were used");
        assert!(report.connections.len() > 10 && report.datagrams.len() > 10, "{who}: there was load");
        complaints.extend(complaints_of(who, &report));
        for attempt in report.connections.iter().chain(&report.datagrams) {
            complaints.extend(runner.wrong(attempt).map(|why| format!("{who}: {why}: {attempt:?}")));
        }
    }
    if foreign_state(&runner.stage.node) != before {
        complaints.push("something that others made has changed".to_owned());
    }
    complaints.truncate(30);
    assert!(complaints.is_empty(), "seed {seed}:\n{}", complaints.join("\n"));
}

/// What a client's report says that it should not.
pub fn complaints_of(who: &str, report: &Report) -> Vec<String> {
    let broken = report.broken.iter().map(|broken| format!("{who}: broken: {broken}"));
    let lost = lost(&report.connections).chain(lost(&report.datagrams));
    broken.chain(lost.map(|attempt| format!("{who}: lost: {attempt:?}"))).collect()
}

/// How much of something an emulated machine gets, whose one processor moves both the packets and the agent: a fifth.
pub fn on_this_machine(count: u32) -> u32 {
    if slowness() == 1 { count } else { count.div_ceil(5) }
}

fn lost(attempts: &[Attempt]) -> impl Iterator<Item = &Attempt> {
    attempts.iter().filter(|attempt| attempt.result.is_err())
}

impl Runner {
    fn carry_out(&mut self, fault: Fault) {
        let start = Instant::now();
        println!("{} {}", now(), fault.name());
        match fault {
            Fault::Kill => {
                self.stage.kill();
                self.pause(300);
                self.stage.start();
            }
            Fault::Stop => {
                self.stage.stop();
                self.stage.start();
            }
            Fault::KillAtStart => {
                self.stage.kill();
                // Sometimes the kernel has to verify its programs.
                if self.random.bool() {
                    self.stage.pins.forget_programs();
                }
                let mut agent = self.stage.spawn();
                self.pause(700);
                // It may have given up by itself: then the next one says why.
                drop(agent.kill());
                agent.wait().expect("it is ours");
                self.stage.start();
            }
            Fault::KillInUpdate => {
                self.write_others(1);
                self.pause(60);
                self.stage.kill();
                self.stage.start();
                self.remove_others();
            }
            Fault::Upgrade => {
                self.stage.kill();
                self.stage.pins.forget_programs();
                let verbosity = if self.random.bool() { "6" } else { "0" };
                self.stage.replace_arguments(&["--flow-table-size", self.flows, "-v", verbosity]);
                self.stage.start();
            }
            Fault::Resize => {
                self.stage.kill();
                let others: Vec<_> = SIZES.into_iter().filter(|size| *size != self.flows).collect();
                self.flows = others[self.random.usize(..others.len())];
                self.stage.replace_arguments(&["--flow-table-size", self.flows]);
                self.stage.start();
            }
            Fault::Flood => self.flood(),
            Fault::Backend => self.take_backend_away(),
            Fault::Services => {
                self.write_others(1);
                self.write_others(2);
                self.remove_others();
            }
            Fault::Device => {
                let pod = Netns::new();
                // Devices of earlier faults may still be going.
                pod.veth("eth0", &self.stage.node, &format!("late{}", self.times(fault)));
                self.pause(100);
            }
            Fault::Rules => {
                run_command(self.stage.node.command("nft").args(["delete", "table", "inet", "proxy-agent"]));
                self.stage.kill();
                self.stage.start();
            }
            Fault::Pins => self.remove_pins(),
            Fault::Devices => {
                let (pod, times) = (Netns::new(), self.times(fault));
                let add = |number| {
                    format!("link add many{times}-{number} type veth peer name peer{number} netns {}", pod.name())
                };
                self.stage.node.ip_batch(&(0..50).map(add).collect::<Vec<_>>());
                self.pause(300);
            }
        }
        let (count, took) = self.told.entry(fault.name()).or_default();
        *count += 1;
        *took += start.elapsed();
    }

    /// How often a fault has been.
    fn times(&self, fault: Fault) -> u32 {
        self.told.get(fault.name()).map_or(0, |(times, _)| *times)
    }

    /// As many SYNs and datagrams to a Service of its own, from as many addresses.
    fn flood(&mut self) {
        let (last, seed) = (250, self.random.u16(..));
        let closed = |pod: &Pod| SocketAddr::new(pod.ip(Family::V4), 9);
        let endpoints: Vec<_> = self.stage.backends.iter().map(|pod| (closed(pod), NODE)).collect();
        let frontend = cluster_ips(last)[0];
        let service = manifests::service("flooded", &[frontend.ip()], PORT, &serde_json::json!({}));
        self.stage.write("flooded", &[service, manifests::slice("flooded", &endpoints)]);
        eventually("the Service is in the tables", || {
            self.stage.ask("backends").to_string().contains(":9\"").then_some(())
        });
        let flows = || self.stage.ask("status")["counters"]["flows"].as_u64().expect("a number");
        let before = flows();
        flood::from_invented_clients(&self.stage.outside, frontend, seed);
        eventually("TC programs have met the flood", || (flows() >= before + u64::from(flood::COUNT)).then_some(()));
        self.stage.remove("flooded");
    }

    /// Some pins of tables and links go; then the agent, too, at once or after it has put them back.
    fn remove_pins(&mut self) {
        let root = self.stage.pins.path().to_owned();
        let pins: Vec<_> = [&root, &root.join("links")]
            .into_iter()
            .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            // Devices of earlier faults may still be going, and their links with them.
            .filter(|path| !path.is_dir() && !path.to_string_lossy().contains("gress_"))
            .collect();
        let removed: Vec<_> = pins.iter().filter(|_| self.random.u8(..4) == 0).collect();
        for path in &removed {
            std::fs::remove_file(path).expect("it is pinned");
        }
        let mut number = 0;
        eventually("the pins are there again", || {
            number += 1;
            self.stage.node.ip(&format!("link set eth0 alias look-{number}"));
            removed.iter().all(|path| path.exists()).then_some(())
        });
        self.stage.kill();
        self.stage.start();
    }

    fn pause(&mut self, up_to: u64) {
        thread::sleep(Duration::from_millis(self.random.u64(..=up_to)) * slowness());
    }

    /// Once the tables say that it is gone, nobody new may reach it, until it is to come back.
    fn take_backend_away(&mut self) {
        let gone = self.random.usize(..self.stage.backends.len());
        let left: Vec<&Pod> =
            self.stage.backends.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, pod)| pod).collect();
        let pod = &self.stage.backends[gone];
        write(&self.stage, "web", 1, &left);
        let addresses = Family::ALL.map(|family| pod.endpoint(family).to_string());
        eventually("the endpoint is out of the tables", || {
            let text = self.stage.ask("backends").to_string();
            (!addresses.iter().any(|address| text.contains(&format!("\"{address}\"")))).then_some(())
        });
        let from = now();
        let server = pod.name();
        thread::sleep(Duration::from_millis(200) * slowness());
        let until = now();
        self.absences.push(Absence { server, from, until });
        write(&self.stage, "web", 1, &self.stage.backends.iter().collect::<Vec<_>>());
    }

    fn write_others(&self, backends: usize) {
        for number in 0..OTHERS {
            let pods: Vec<&Pod> = self.stage.backends.iter().take(backends).collect();
            let last = u8::try_from(number + 10).expect("few Services");
            write(&self.stage, &format!("other-{number}"), last, &pods);
        }
    }

    fn remove_others(&self) {
        for number in 0..OTHERS {
            self.stage.remove(&format!("other-{number}"));
        }
    }

    /// Why this answer should not have been.
    fn wrong(&self, attempt: &Attempt) -> Option<String> {
        let server = attempt.result.as_ref().ok()?;
        let absence = |absence: &&Absence| {
            absence.server == *server && attempt.began >= absence.from && attempt.ended <= absence.until
        };
        let absence = self.absences.iter().find(absence)?;
        Some(format!("{server} was gone from {} to {}", absence.from, absence.until))
    }
}

/// The addresses of a Service, by its number.
pub fn cluster_ips(number: u8) -> [SocketAddr; 2] {
    [
        SocketAddr::new([10, 96, 0, number].into(), PORT),
        SocketAddr::new(format!("fd96::{number:x}").parse().expect("a well-formed address"), PORT),
    ]
}

/// Writes a Service with these pods as its endpoints.
pub fn write(stage: &Stage, name: &str, number: u8, pods: &[&Pod]) {
    let ips = cluster_ips(number).map(|address| address.ip());
    let mut objects = vec![manifests::service(name, &ips, PORT, &serde_json::json!({}))];
    for family in Family::ALL {
        let endpoints: Vec<_> = pods.iter().map(|pod| (pod.endpoint(family), NODE)).collect();
        objects.push(manifests::slice(name, &endpoints));
    }
    stage.write(name, &objects);
}

/// What another program might have made on the node: rules, and a filter on a device.
fn foreign(node: &Netns) {
    let rules = "table inet foreign { chain seen { type filter hook forward priority 0; meta mark 0x123 accept; }; }";
    run_command(node.command("nft").arg(rules));
    tc(node, "qdisc add dev pod1 clsact");
    // A program that matches nothing.
    tc(node, "filter add dev pod1 ingress protocol ip pref 100 handle 1 bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}0");
}

fn foreign_state(node: &Netns) -> [String; 2] {
    let rules = run_command(node.command("nft").args(["list", "table", "inet", "foreign"]));
    [rules, tc(node, "filter show dev pod1 ingress pref 100")]
}

/// Words are divided by blanks; a no-break space is a blank inside of one.
fn tc(node: &Netns, arguments: &str) -> String {
    let words = arguments.split(' ').map(|word| word.replace('\u{a0}', " "));
    run_command(Command::new("tc").args(["-n", node.name()]).args(words))
}

/// A client process.
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    pub fn start(place: Place<'_>, held: u32) -> Self {
        let task = Task { services: cluster_ips(1).into(), held, slowness: slowness() };
        let mut command = place.program(load::COMMAND);
        command.arg(serde_json::to_string(&task).expect("a task is serializable"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client runs");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the client lives");
        assert!(line.starts_with("ready"), "the client says {line:?}");
        Self { child, stdin, stdout }
    }

    pub fn end(&mut self) -> Report {
        self.stdin = None;
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("the client lives");
        serde_json::from_str(&text).expect("the client prints its report")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
