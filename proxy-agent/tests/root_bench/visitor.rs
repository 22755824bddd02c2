//! Clients that measure, in processes of their own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    net::sockopt::set_socket_linger,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use super::{client::Place, figure::Sorted};

/// The first argument of such a process.
pub const COMMAND: &str = "--visit";
/// Requests to one address before the other one has its turn.
pub const BLOCK: usize = 50;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Visit {
    /// Round trips of a byte over a connection to each.
    RoundTrips { to: [SocketAddr; 2], count: usize },
    /// Connections to each.
    Connections { to: [SocketAddr; 2], count: usize },
    /// Datagrams, each from a port of its own.
    Datagrams { to: SocketAddr, count: usize },
}

impl Visit {
    /// Does it, and returns the time at the first address divided by that at the second, of each pair of blocks; and the
    /// median time at the second in microseconds.
    #[track_caller]
    pub fn run(&self, place: &Place<'_>) -> (Vec<f64>, f64) {
        let mut command: Command = place.program(COMMAND);
        command.arg(serde_json::to_string(self).expect("it is serializable")).stdout(Stdio::piped());
        let output = command.output().expect("the client runs");
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it prints figures")
    }
}

/// Does something on the first processor, and threads that it starts stay there: where client and server happen to be on two, waking the other
/// one takes a multiple of what is measured, and in some runs they are and in others not.
pub fn on_one_processor<T>(work: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(None).expect("readable");
    let first = (0..CpuSet::MAX_CPU).find(|&processor| all.is_set(processor)).expect("this runs on one");
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).expect("it may run there");
    let done = work();
    sched_setaffinity(None, &all).expect("it might run there");
    done
}

pub fn main(arguments: &[String]) -> ExitCode {
    let visit: Visit = serde_json::from_str(&arguments[0]).expect("a visit");
    let figures = on_one_processor(|| match visit {
        Visit::RoundTrips { to, count } => {
            let mut streams = to.map(greeted);
            compare(count, |place| round_trip(&mut streams[place]))
        }
        Visit::Connections { to, count } => compare(count, |place| connection(to[place])),
        Visit::Datagrams { to, count } => {
            datagrams(to, count);
            (Vec::new(), 0.0)
        }
    });
    println!("{}", serde_json::to_string(&figures).expect("it is serializable"));
    ExitCode::SUCCESS
}

/// Measures at both in turns, a block each.
fn compare(count: usize, mut measure: impl FnMut(usize) -> Duration) -> (Vec<f64>, f64) {
    let mut block = |place: usize| block(|| measure(place));
    // Caches and neighbours get warm.
    block(0);
    block(1);
    let pairs: Vec<(f64, f64)> = (0..count.div_ceil(BLOCK))
        .map(|round| {
            // Who is first changes, so that neither profits.
            if round % 2 == 0 {
                let first = block(0);
                (first, block(1))
            } else {
                let second = block(1);
                (block(0), second)
            }
        })
        .collect();
    let ratios = pairs.iter().map(|(first, second)| first / second).collect();
    (ratios, Sorted::new(pairs.iter().map(|(_, second)| *second).collect()).at(0.5))
}

/// Median of a block in microseconds.
pub fn block(mut measure: impl FnMut() -> Duration) -> f64 {
    Sorted::new((0..BLOCK).map(|_| measure().as_secs_f64() * 1e6).collect()).at(0.5)
}

/// A connection after its server's greeting.
pub fn greeted(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("the server listens");
    stream.set_nodelay(true).expect("it is TCP");
    let mut greeting = String::new();
    BufReader::with_capacity(1, &stream).read_line(&mut greeting).expect("it greets");
    stream
}

/// A byte there and back.
pub fn round_trip(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"x").expect("the server lives");
    stream.read_exact(&mut [0]).expect("the server lives");
    start.elapsed()
}

/// The system call that connects, up to its return.
pub fn connection(to: SocketAddr) -> Duration {
    let start = Instant::now();
    let stream = TcpStream::connect(to).expect("the server listens");
    let took = start.elapsed();
    // It ends at once and for good: thousands that wait for their end would take all ports.
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("it is TCP");
    took
}

fn datagrams(to: SocketAddr, count: usize) {
    for _ in 0..count {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
        // An ICMP error that is about another one is nobody's affair.
        drop(socket.send_to(b"x", to));
    }
}
