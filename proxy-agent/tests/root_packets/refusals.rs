//! A datagram to a backend that does not listen: the backend's own ICMP error reaches the client's socket.

use std::io::ErrorKind;

use super::stage::{Routers, everything, udp};

#[test]
fn a_client_learns_that_the_backend_does_not_listen() {
    everything(Routers::None, |stage| {
        let client = udp(&stage.client, stage.client_address, 4000);
        client.connect(stage.node_port()).expect("connects");
        client.send(b"question").expect("sends");
        let error = client.recv(&mut [0; 64]).expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}
