//! The client process under whose load everything happens.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// First argument that makes this program such a client.
pub const COMMAND: &str = "load";

/// How long a client waits for an answer before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Each broken connection is waited for; so many are enough to see.
const ENOUGH: usize = 10;
/// Between two new connections, between two datagrams, and between two rounds on those that are held, on a real machine.
const PAUSE: Duration = Duration::from_millis(5);
/// How many times as long as its slowness a slow machine's clients pause. It would do little else otherwise, and what happens to the agent
/// would last for minutes.
const SPARING: u32 = 4;

#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Where held connections go, a list of all addresses of the Service.
    pub services: Vec<SocketAddr>,
    /// How many are held.
    pub held: u32,
    /// How long to wait for answers and between requests, times as long as on a real machine.
    pub slowness: u32,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Messages that went to and fro on held connections.
    pub exchanges: u64,
    /// What befell those that are no more.
    pub broken: Vec<String>,
    pub connections: Vec<Attempt>,
    pub datagrams: Vec<Attempt>,
}

/// A new connection, or a datagram on a new socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began and ended, in milliseconds of the machine's monotonic clock.
    pub began: u64,
    pub ended: u64,
    /// Who answered, or why nobody did.
    pub result: Result<String, String>,
}

/// Milliseconds of the clock that all processes share.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Says `ready` when all connections are held; at the end of its standard input, prints the report.
pub fn main(arguments: &[String]) -> ExitCode {
    let task: Task = serde_json::from_str(&arguments[0]).expect("the test gives a task");
    let sparing = if task.slowness == 1 { 1 } else { SPARING };
    let (patience, pause) = (PATIENCE * task.slowness, PAUSE * task.slowness * sparing);
    let mut held: Vec<Held> = (0..task.held)
        .zip(task.services.iter().cycle())
        .map(|(_, &service)| Held::open(service, patience).expect("the connections begin"))
        .collect();
    let servers: BTreeSet<&str> = held.iter().map(|held| held.server.as_str()).collect();
    println!("ready {}", servers.len());
    let done = AtomicBool::new(false);
    let goes_on = || !done.load(Ordering::Relaxed);
    let mut report = Report::default();
    thread::scope(|scope| {
        let chat = scope.spawn(|| {
            let mut exchanges = 0;
            let mut broken = Vec::new();
            while goes_on() {
                held.retain_mut(|held| match held.exchange() {
                    Ok(()) => {
                        exchanges += 1;
                        true
                    }
                    Err(error) => {
                        broken.push(format!("{} to {}: {error}", now(), held.server));
                        false
                    }
                });
                if broken.len() >= ENOUGH {
                    break;
                }
                thread::sleep(pause);
            }
            (exchanges, broken)
        });
        let connect = scope.spawn(|| attempts(&task.services, pause, goes_on, |to| greeting(to, patience)));
        let send = scope.spawn(|| attempts(&task.services, pause, goes_on, |to| datagram(to, patience)));
        io::stdin().lines().for_each(drop);
        done.store(true, Ordering::Relaxed);
        (report.exchanges, report.broken) = chat.join().expect("the thread ends");
        report.connections = connect.join().expect("the thread ends");
        report.datagrams = send.join().expect("the thread ends");
    });
    println!("{}", serde_json::to_string(&report).expect("a report is serializable"));
    ExitCode::SUCCESS
}

fn attempts(
    services: &[SocketAddr],
    pause: Duration,
    goes_on: impl Fn() -> bool,
    attempt: impl Fn(SocketAddr) -> io::Result<String>,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for &to in services.iter().cycle().take_while(|_| goes_on()) {
        let began = now();
        let result = attempt(to).map_err(|error| format!("{to}: {error}"));
        attempts.push(Attempt { began, ended: now(), result });
        thread::sleep(pause);
    }
    attempts
}

struct Held {
    stream: BufReader<TcpStream>,
    server: String,
    count: u64,
}

impl Held {
    fn open(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let server = server(&mut stream)?;
        Ok(Self { stream, server, count: 0 })
    }

    /// Says something and hears it back.
    fn exchange(&mut self) -> io::Result<()> {
        self.count += 1;
        let said = format!("{} {}\n", self.server, self.count);
        self.stream.get_mut().write_all(said.as_bytes())?;
        let mut heard = String::new();
        self.stream.read_line(&mut heard)?;
        if heard == said { Ok(()) } else { Err(io::Error::other(format!("said {said:?}, heard {heard:?}"))) }
    }
}

fn greeting(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    server(&mut BufReader::new(stream))
}

fn datagram(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let any: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    socket.send(b"who")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    name(&String::from_utf8_lossy(&buffer[..length]))
}

fn server(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    name(&line)
}

/// The first word of a greeting.
fn name(greeting: &str) -> io::Result<String> {
    let name = greeting.split_whitespace().next();
    name.map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
