//! The servers of the pods. They tell a client where it is and how it is seen, and echo what they get over TCP.

use std::{
    io::{self, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::{
    scenario_table::cast::{Family, Pod},
    support::Netns,
};

/// Serves TCP and UDP on a port of the pod until the process ends.
pub fn serve(namespace: &Netns, pod: Pod, port: u16) {
    let (listener, socket) = namespace.enter(|| {
        // An IPv6 socket is IPv4's too.
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
        (TcpListener::bind(any).expect("the port is free"), UdpSocket::bind(any).expect("the port is free"))
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || greet_and_echo(stream, pod, port));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            match socket.recv_from(&mut buffer) {
                // The client may be gone; that is its affair.
                Ok((_, client)) => drop(socket.send_to(greeting(pod, port, client).as_bytes(), client)),
                Err(error) => eprintln!("{pod:?}, UDP port {port}: {error}"),
            }
        }
    });
}

fn greet_and_echo(mut stream: TcpStream, pod: Pod, port: u16) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    stream.write_all(greeting(pod, port, client).as_bytes())?;
    let mut reader = stream.try_clone()?;
    io::copy(&mut reader, &mut stream)?;
    Ok(())
}

fn greeting(pod: Pod, port: u16, client: SocketAddr) -> String {
    // An IPv4 client of an IPv6 socket as what it is.
    let ip = client.ip().to_canonical();
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    format!("{} {}\n", SocketAddr::new(pod.ip(family), port), SocketAddr::new(ip, client.port()))
}
