//! One port of a client, several ways to one backend: each connection is what its client takes it for.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt::set_socket_reuseaddr};

use super::{
    stage::{Routers, everything, udp},
    support::patience,
};

const PORT: u16 = 5000;

/// A connection from this very port, which others may use too.
fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).expect("a socket");
    set_socket_reuseaddr(&socket, true).expect("sets");
    bind(&socket, &from).expect("binds");
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(patience())).expect("sets");
    stream.set_read_timeout(Some(patience())).expect("sets");
    connect(&stream, &to).unwrap_or_else(|error| panic!("{to} is served: {error}"));
    stream
}

/// To one nodePort, to another one, and to the backend itself.
#[test]
fn three_connections_from_one_port_all_work() {
    everything(Routers::None, |stage| {
        let (from, target) = ((stage.client_address, PORT).into(), stage.target());
        let ways = [stage.node_port(), stage.other_node_port(), target];
        let server = stage.backend.enter(|| TcpListener::bind(target).expect("binds"));
        let echo = thread::spawn(move || {
            let serve = |mut stream: TcpStream| {
                let mut buffer = [0; 64];
                while let Ok(len) = stream.read(&mut buffer)
                    && len > 0
                {
                    stream.write_all(&buffer[..len]).expect("the connection lives");
                }
            };
            let streams = ways.map(|_| server.accept().expect("a connection").0);
            for server in streams.map(|stream| thread::spawn(move || serve(stream))) {
                server.join().expect("the server lives");
            }
        });
        let mut streams = stage.client.enter(|| ways.map(|way| connect_from(from, way)));
        for round in 0..3 {
            for (number, stream) in (0..).zip(&mut streams) {
                stream.write_all(&[round, number]).expect("the connection lives");
            }
            for (number, stream) in (0..).zip(&mut streams) {
                let mut answer = [0; 2];
                stream.read_exact(&mut answer).expect("an answer");
                assert_eq!(answer, [round, number]);
            }
        }
        drop(streams);
        echo.join().expect("the server lives");
    });
}

#[test]
fn answers_to_one_socket_come_from_who_was_asked() {
    everything(Routers::None, |stage| {
        let server = udp(&stage.backend, stage.backend_address, stage.target().port());
        let client = udp(&stage.client, stage.client_address, PORT);
        let mut buffer = [0; 8];
        for _ in 0..3 {
            for way in [stage.node_port(), stage.other_node_port()] {
                client.send_to(b"question", way).expect("sends");
                let (len, source) = server.recv_from(&mut buffer).expect("the request arrives");
                server.send_to(&buffer[..len], source).expect("sends");
                assert_eq!(client.recv_from(&mut buffer).expect("the answer arrives"), (8, way));
            }
        }
    });
}
