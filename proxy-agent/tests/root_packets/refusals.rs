//! A datagram to a backend that does not listen: the backend's own ICMP error reaches the client's socket.

use std::io::ErrorKind;

use super::stage::{Routers, Stage, udp, variants};

#[test]
fn a_client_learns_that_the_backend_does_not_listen() {
    for (family, policy) in variants() {
        let stage = Stage::new(family, Routers::None, policy);
        let client = udp(&stage.client, stage.client_address, 4000);
        client.connect(stage.node_port()).expect("connects");
        client.send(b"question").expect("sends");
        let error = client.recv(&mut [0; 64]).expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
