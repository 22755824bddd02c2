//! What goes on while programs are replaced.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
};

use super::{
    scene::{NODE, NODE_PORT, Scene, VIP},
    support::eventually,
};

/// Both ends of a connection.
pub struct Connection {
    pub asking: TcpStream,
    pub answering: TcpStream,
}

impl Connection {
    pub fn go_on(&mut self) {
        let mut read = [0];
        self.asking.write_all(b"x").expect("sends");
        self.answering.read_exact(&mut read).expect("arrives");
        self.answering.write_all(&read).expect("sends");
        self.asking.read_exact(&mut read).expect("arrives");
    }
}

/// A client's flow of datagrams, and the endpoint that it has.
pub struct Datagrams {
    pub socket: UdpSocket,
    pub endpoint: Cell<Option<usize>>,
}

impl Datagrams {
    pub fn go_on(&self, scene: &Scene) {
        self.socket.send(b"question").expect("sends");
        let mut buffer = [0; 16];
        let ((number, from), _) = eventually("it comes to an endpoint", || {
            let mut endpoints = scene.udp.iter().enumerate();
            endpoints.find_map(|(number, endpoint)| Some((number, endpoint.recv_from(&mut buffer).ok()?.1)))
        });
        let before = self.endpoint.replace(Some(number));
        assert!(before.is_none_or(|before| before == number), "{number} and not {before:?}");
        scene.udp[number].send_to(b"answer", from).expect("sends");
        self.socket.recv(&mut buffer).expect("the answer arrives");
    }
}

/// What goes on at a time.
pub struct Flows<'a> {
    scene: &'a Scene,
    connections: Vec<Connection>,
    datagrams: Vec<Datagrams>,
    own: Vec<UdpSocket>,
}

impl<'a> Flows<'a> {
    pub fn begin(scene: &'a Scene) -> Self {
        let mut flows = Self { scene, connections: Vec::new(), datagrams: Vec::new(), own: Vec::new() };
        flows.extend();
        flows
    }

    /// Some of each kind begin; of the connections, one says nothing yet.
    pub fn extend(&mut self) {
        self.connections.push(self.scene.connect());
        let mut connection = self.scene.connect();
        connection.go_on();
        self.connections.push(connection);
        for frontend in [(VIP, 53), (NODE, NODE_PORT)] {
            for _ in 0..2 {
                let datagrams = self.scene.speak_to(frontend);
                datagrams.go_on(self.scene);
                self.datagrams.push(datagrams);
            }
        }
        self.own.push(self.scene.speak_from_node_port());
    }

    /// Each goes on, with the endpoint that it has.
    pub fn go_on(&mut self) {
        self.connections.iter_mut().for_each(Connection::go_on);
        self.datagrams.iter().for_each(|datagrams| datagrams.go_on(self.scene));
        for (number, socket) in self.own.iter().enumerate() {
            socket.send(b"answer").expect("sends");
            let mut buffer = [0; 16];
            let received = self.scene.own.recv_from(&mut buffer);
            let port = received.unwrap_or_else(|error| panic!("answer {number} to the node itself: {error}")).1.port();
            assert_eq!(port, socket.local_addr().expect("bound").port());
        }
    }
}
