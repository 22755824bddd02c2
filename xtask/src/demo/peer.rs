//! The hidden `demo-peer`: the demo's backends and clients, small programs that run in its namespaces.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Subcommand, ValueEnum};

/// The ports that the EndpointSlices name.
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub(crate) enum Role {
    /// Answer each connection and each datagram with a name and with who asked.
    Backend {
        /// The name.
        name: String,
    },
    /// Ask a number of times, each time from a new socket, and print each answer on a line.
    Client {
        /// How to ask.
        protocol: Protocol,
        /// Whom.
        server: SocketAddr,
        /// How often.
        count: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// A connection, which the server closes.
    Tcp,
    /// One datagram from an unconnected socket.
    Udp,
}

pub(crate) fn run(role: &Role) -> anyhow::Result<()> {
    match role {
        Role::Backend { name } => backend(name),
        Role::Client { protocol, server, count } => {
            for _ in 0..*count {
                let answer = match protocol {
                    Protocol::Tcp => ask_tcp(*server),
                    Protocol::Udp => ask_udp(*server),
                };
                match answer {
                    Ok(answer) => println!("{answer}"),
                    Err(error) => println!("! {error:#}"),
                }
            }
            Ok(())
        }
    }
}

fn backend(name: &str) -> anyhow::Result<()> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let tcp = TcpListener::bind((any, TCP_PORT)).with_context(|| format!("cannot listen on TCP port {TCP_PORT}"))?;
    let udp = UdpSocket::bind((any, UDP_PORT)).with_context(|| format!("cannot listen on UDP port {UDP_PORT}"))?;
    println!("ready");
    let greeting = |client: SocketAddr| format!("{name} {}", client.ip().to_canonical());
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((mut connection, client)) = tcp.accept() {
                // A client that is gone already is its own affair.
                let _ = connection.write_all(greeting(client).as_bytes());
            }
        });
        let mut question = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut question) {
            let _ = udp.send_to(greeting(client).as_bytes(), client);
        }
    });
    Ok(())
}

fn ask_tcp(server: SocketAddr) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect_timeout(&server, TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    let peer = connection.peer_addr()?;
    ensure!(peer == server, "connected to {server}, and getpeername says {peer}");
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(server: SocketAddr) -> anyhow::Result<String> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send_to(b"who are you?", server)?;
    let mut answer = [0; 128];
    let (length, peer) = socket.recv_from(&mut answer)?;
    ensure!(peer == server, "sent to {server}, and {peer} answered");
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
