//! What clients do with their sockets.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use proxy_common::Protocol;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketType, bind, connect, socket,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    pub protocol: Protocol,
    pub to: SocketAddr,
    /// The client's address, where it has several.
    pub source: Option<IpAddr>,
    /// The client's port for UDP. Each is used once, so that nobody takes a datagram for another flow's.
    pub port: u16,
    pub udp: Udp,
    /// How long anything may take.
    pub patience: Duration,
}

/// How a UDP socket is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    Connected,
    Unconnected,
}

/// A connection that was made.
#[derive(Debug)]
pub enum Connection {
    Tcp { stream: TcpStream, answer: Answer },
    Udp { socket: UdpSocket, task: Task },
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the server is.
    pub at: SocketAddr,
    /// The client, as the server sees it.
    pub seen: SocketAddr,
}

/// Connects. For UDP, this says only what the first datagram will say.
pub fn open(task: &Task) -> io::Result<Connection> {
    match task.protocol {
        Protocol::Tcp => {
            let stream = connected(task)?;
            let peer = stream.peer_addr()?;
            assert_eq!(peer, task.to, "the name of the peer");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            Ok(Connection::Tcp { answer: answer(&line)?, stream })
        }
        Protocol::Udp => {
            let source = task.source.unwrap_or_else(|| unspecified(task.to));
            let socket = UdpSocket::bind(SocketAddr::new(source, task.port))?;
            socket.set_read_timeout(Some(task.patience))?;
            if task.udp == Udp::Connected {
                socket.connect(task.to)?;
                // The kernel takes the unspecified address for the loopback address, if nobody else takes it for something.
                let peer = socket.peer_addr()?;
                assert!(peer == task.to || task.to.ip().is_unspecified(), "{peer} is not who was connected to");
            }
            Ok(Connection::Udp { socket, task: *task })
        }
        Protocol::Sctp => unreachable!("no row asks for SCTP here"),
    }
}

impl Connection {
    /// What the other end says: at once over TCP, when it is asked over UDP.
    pub fn answer(&self) -> io::Result<Answer> {
        match self {
            Self::Tcp { answer, .. } => Ok(*answer),
            Self::Udp { socket, task } => ask(socket, task),
        }
    }

    /// The same after something was sent.
    pub fn again(&self) -> io::Result<Answer> {
        match self {
            Self::Tcp { stream, answer } => {
                let mut sender = stream;
                sender.write_all(b"again\n")?;
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line)?;
                if line == "again\n" { Ok(*answer) } else { Err(ErrorKind::UnexpectedEof.into()) }
            }
            Self::Udp { socket, task } => ask(socket, task),
        }
    }
}

fn ask(socket: &UdpSocket, task: &Task) -> io::Result<Answer> {
    match task.udp {
        Udp::Connected => socket.send(b"who")?,
        Udp::Unconnected => socket.send_to(b"who", task.to)?,
    };
    let mut buffer = [0; 512];
    let (len, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, task.to, "the sender of the answer");
    answer(&String::from_utf8_lossy(&buffer[..len]))
}

/// A TCP socket with the source that the task asks for, and timeouts.
fn connected(task: &Task) -> io::Result<TcpStream> {
    let family = if task.to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd: OwnedFd = socket(family, SocketType::STREAM, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&fd, timeout, Some(task.patience))?;
    }
    if let Some(source) = task.source {
        bind(&fd, &SocketAddr::new(source, 0))?;
    }
    connect(&fd, &task.to).map_err(|error| match error {
        // The time that the socket has to send anything is over.
        Errno::INPROGRESS => ErrorKind::TimedOut.into(),
        error => io::Error::from(error),
    })?;
    Ok(fd.into())
}

fn unspecified(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// Reads `SERVER CLIENT`.
fn answer(line: &str) -> io::Result<Answer> {
    let (at, seen) = line.trim_end().split_once(' ').ok_or(ErrorKind::UnexpectedEof)?;
    let parse = |text: &str| text.parse().map_err(|_| io::Error::from(ErrorKind::InvalidData));
    Ok(Answer { at: parse(at)?, seen: parse(seen)? })
}
