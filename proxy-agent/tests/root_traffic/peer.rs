//! What clients do, and what they see: at once on a thread, or for as long as they are asked to as a process, which takes its
//! orders from its argument and prints what it sees as JSON.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// First argument that makes this program a client.
pub const COMMAND: &str = "peer";

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a client does, `count` times.
#[derive(Clone, Debug)]
pub enum Task {
    /// Connects, asks who is there, closes.
    Tcp { to: SocketAddr, count: u32 },
    /// Sends as many bytes, reads them back, closes.
    Bulk { to: SocketAddr, bytes: usize },
    /// Connects a UDP socket, sends, receives; a new socket each time.
    UdpConnected { to: SocketAddr, count: u32 },
    /// Sends and receives on one socket that is not connected.
    UdpUnconnected { to: SocketAddr, count: u32 },
    /// As [`Self::UdpUnconnected`], with a new socket each time.
    UdpSockets { to: SocketAddr, count: u32 },
}

/// What a client goes on doing: once more for each line of standard input, until that ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Talk {
    /// Connects, and sends a line each time.
    Tcp { to: SocketAddr },
    /// Sends a datagram on one unconnected socket.
    Udp { to: SocketAddr },
    /// Sends a datagram on one connected socket. After an error it connects anew.
    UdpConnected { to: SocketAddr },
}

/// What came of one connection or datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sight {
    /// An answer.
    Answer {
        /// What the server calls itself.
        server: String,
        /// The client's address as the server saw it.
        seen: SocketAddr,
        /// The server's address as the client was told: the peer's name, or the sender of the datagram.
        from: SocketAddr,
        /// The peer's name of a connected socket.
        peer: Option<SocketAddr>,
    },
    /// The system call failed with this kind of error.
    Failed(String),
}

/// Does what a task says, and returns what came of each connection or datagram.
pub fn perform(task: &Task) -> Vec<Sight> {
    match *task {
        Task::Tcp { to, count } => (0..count).map(|_| seen(tcp(to))).collect(),
        Task::Bulk { to, bytes } => vec![seen(bulk(to, bytes))],
        Task::UdpConnected { to, count } => (0..count).map(|_| seen(udp_connected(to))).collect(),
        Task::UdpUnconnected { to, count } => {
            let socket = udp_socket(to);
            (0..count).map(|_| seen(udp(&socket, to))).collect()
        }
        Task::UdpSockets { to, count } => (0..count).map(|_| seen(udp(&udp_socket(to), to))).collect(),
    }
}

/// Runs a client that goes on.
pub fn main(arguments: &[String]) -> ExitCode {
    match serde_json::from_str(&arguments[0]).expect("the test says what to do") {
        Talk::Tcp { to } => hold(to),
        Talk::UdpConnected { to } => hold_udp_connected(to),
        Talk::Udp { to } => {
            let socket = udp_socket(to);
            for _ in io::stdin().lines() {
                print(udp(&socket, to));
            }
        }
    }
    ExitCode::SUCCESS
}

fn seen(sight: io::Result<Sight>) -> Sight {
    sight.unwrap_or_else(|error| Sight::Failed(format!("{:?}", error.kind())))
}

fn print(sight: io::Result<Sight>) {
    println!("{}", serde_json::to_string(&seen(sight)).expect("a sight is serializable"));
}

fn tcp(to: SocketAddr) -> io::Result<Sight> {
    let stream = connect(to)?;
    let peer = stream.peer_addr()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    answer(&line, peer, Some(peer))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn bulk(to: SocketAddr, bytes: usize) -> io::Result<Sight> {
    let mut stream = connect(to)?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    // Repeated and not counted out byte by byte, which takes an emulated machine longer than the transfer.
    let mut sent = (0..=250).collect::<Vec<u8>>().repeat(bytes.div_ceil(251));
    sent.truncate(bytes);
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            stream.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        }
    });
    let mut received = Vec::with_capacity(bytes);
    reader.read_to_end(&mut received)?;
    writer.join().expect("the writer does not panic")?;
    if received != sent {
        return Ok(Sight::Failed(format!("{} of {bytes} bytes came back, or others", received.len())));
    }
    answer(&line, peer, Some(peer))
}

fn udp_socket(to: SocketAddr) -> UdpSocket {
    let local: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

fn udp_connected(to: SocketAddr) -> io::Result<Sight> {
    let socket = udp_socket(to);
    socket.connect(to)?;
    let sight = udp_on(&socket)?;
    // Naming the peer again, which Linux allows, is no reason for another one to answer.
    let again = match udp(&socket, to)? {
        Sight::Answer { server, seen, from, peer: _ } => {
            Sight::Answer { server, seen, from, peer: Some(socket.peer_addr()?) }
        }
        failed @ Sight::Failed(_) => failed,
    };
    Ok(if again == sight { sight } else { Sight::Failed(format!("{again:?} when named again, and {sight:?} before")) })
}

fn hold_udp_connected(to: SocketAddr) {
    let mut socket = None;
    for _ in io::stdin().lines() {
        let connected = socket.get_or_insert_with(|| {
            let socket = udp_socket(to);
            socket.connect(to).expect("UDP connects");
            socket
        });
        // A call that sends does not say what the socket itself does.
        let sight = udp_on(connected).map_err(|error| connected.take_error().ok().flatten().unwrap_or(error));
        if sight.is_err() {
            socket = None;
        }
        print(sight);
    }
}

fn udp_on(socket: &UdpSocket) -> io::Result<Sight> {
    socket.send(b"who")?;
    let peer = socket.peer_addr()?;
    let mut buffer = [0; 512];
    let (len, from) = socket.recv_from(&mut buffer)?;
    answer(&String::from_utf8_lossy(&buffer[..len]), from, Some(peer))
}

fn udp(socket: &UdpSocket, to: SocketAddr) -> io::Result<Sight> {
    socket.send_to(b"who", to)?;
    let mut buffer = [0; 512];
    let (len, from) = socket.recv_from(&mut buffer)?;
    answer(&String::from_utf8_lossy(&buffer[..len]), from, None)
}

fn hold(to: SocketAddr) {
    let stream = connect(to).expect("the held connection begins");
    let peer = stream.peer_addr().expect("it has a peer");
    let mut reader = BufReader::new(&stream);
    let mut greeting = String::new();
    reader.read_line(&mut greeting).expect("the server greets");
    print(answer(&greeting, peer, Some(peer)));
    for _ in io::stdin().lines() {
        print((&stream).write_all(b"again\n").and_then(|()| {
            let mut echo = String::new();
            reader.read_line(&mut echo)?;
            if echo == "again\n" {
                answer(&greeting, peer, Some(peer))
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }));
    }
}

/// Reads `NAME ADDRESS`.
fn answer(line: &str, from: SocketAddr, peer: Option<SocketAddr>) -> io::Result<Sight> {
    let (server, seen) = line.trim_end().split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
    let seen = seen.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Sight::Answer { server: server.to_owned(), seen, from, peer })
}
