//! Servers of the backends: threads of the test, on sockets of the backend's namespace. They greet with their name and
//! the client's address, and echo what they get over TCP.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{stage::Family, support::Netns};

/// A TCP and a UDP server on one port of a namespace; ended when dropped.
#[derive(Debug)]
pub struct Server {
    ended: Arc<AtomicBool>,
    listener: TcpListener,
}

/// How often the threads of UDP look whether they should end.
const TICK: Duration = Duration::from_millis(20);

impl Server {
    /// Serves in the namespace as `name`.
    pub fn new(namespace: &Netns, families: &[Family], name: &str, port: u16) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (listener, socket) = namespace.enter(|| {
            // An IPv6 socket is IPv4's too.
            let any: SocketAddr = if families.contains(&Family::V6) {
                (Ipv6Addr::UNSPECIFIED, port).into()
            } else {
                (Ipv4Addr::UNSPECIFIED, port).into()
            };
            (TcpListener::bind(any).expect("the port is free"), UdpSocket::bind(any).expect("the port is free"))
        });
        socket.set_read_timeout(Some(TICK)).expect("a timeout can be set");
        thread::spawn({
            let (listener, name) = (listener.try_clone().expect("a listener can be shared"), name.to_owned());
            move || serve_tcp(&listener, &name)
        });
        thread::spawn({
            let (ended, name) = (Arc::clone(&ended), name.to_owned());
            move || serve_udp(&socket, &name, &ended)
        });
        Self { ended, listener }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Ends the thread's waiting; nothing can be done if not.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

fn serve_tcp(listener: &TcpListener, name: &str) {
    for (stream, client) in std::iter::from_fn(|| listener.accept().ok()) {
        let name = name.to_owned();
        thread::spawn(move || greet_and_echo(stream, &name, client));
    }
}

fn greet_and_echo(mut stream: TcpStream, name: &str, client: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    writeln!(stream, "{name} {}", canonical(client))?;
    let mut reader = stream.try_clone()?;
    io::copy(&mut reader, &mut stream)?;
    Ok(())
}

fn serve_udp(socket: &UdpSocket, name: &str, ended: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        let Ok((_, client)) = socket.recv_from(&mut buffer) else { continue };
        // The client may be gone; that is its affair.
        drop(socket.send_to(format!("{name} {}", canonical(client)).as_bytes(), client));
    }
}

/// An IPv4 client of an IPv6 socket as what it is.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}
