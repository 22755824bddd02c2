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
}

/// How often the threads look whether they should end.
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
        listener.set_nonblocking(true).expect("a listener can be polled");
        socket.set_read_timeout(Some(TICK)).expect("a timeout can be set");
        thread::spawn({
            let (ended, name) = (Arc::clone(&ended), name.to_owned());
            move || serve_tcp(&listener, &name, &ended)
        });
        thread::spawn({
            let (ended, name) = (Arc::clone(&ended), name.to_owned());
            move || serve_udp(&socket, &name, &ended)
        });
        Self { ended }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let name = name.to_owned();
                thread::spawn(move || greet_and_echo(stream, &name, client));
            }
            Err(_) => thread::sleep(TICK),
        }
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
