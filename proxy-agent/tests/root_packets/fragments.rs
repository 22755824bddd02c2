//! Datagrams that are larger than any link's MTU, to a nodePort and back.

use super::stage::{Policy, Routers, everything, udp};

const LEN: usize = 8000;

#[test]
fn a_large_datagram_and_its_answer_arrive_whole() {
    everything(Routers::None, |stage| {
        let server = udp(&stage.backend, stage.backend_address, stage.target().port());
        let client = udp(&stage.client, stage.client_address, 4000);
        for round in 0..3 {
            let request = vec![round; LEN];
            client.send_to(&request, stage.node_port()).expect("sends");
            let mut buffer = vec![0; LEN + 1];
            let (len, source) = server.recv_from(&mut buffer).expect("the request arrives");
            assert!(buffer[..len] == request, "the request is whole");
            assert_eq!(
                source.ip() == stage.client_address,
                stage.policy == Policy::Local,
                "masqueraded or not: {source}"
            );
            server.send_to(&buffer[..len], source).expect("sends");
            let (len, source) = client.recv_from(&mut buffer).expect("the answer arrives");
            assert!(buffer[..len] == request, "the answer is whole");
            assert_eq!(source, stage.node_port());
        }
    });
}
