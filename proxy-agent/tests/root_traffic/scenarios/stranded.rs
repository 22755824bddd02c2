//! UDP sockets that are connected to an endpoint that is gone.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{
    super::{
        client::{Held, Place},
        peer::{Sight, Talk},
        stage::{Family, Stage},
        support::eventually,
    },
    cluster_ip, servers, write_service,
};

/// Those that the Service sent there are told, in every namespace, and reach another endpoint once they connect anew.
/// Nobody else is disturbed.
pub fn connected_sockets() {
    let mut stage = Stage::new(&[]);
    write_service(&stage, "web", 10, &[&stage.backends[0]]);
    write_service(&stage, "other", 11, &[&stage.backends[0]]);
    stage.start();
    let destroyed = {
        let mut stranded: Vec<Held> = Vec::new();
        let mut connected: Vec<Held> = Vec::new();
        let mut unconnected: Vec<Held> = Vec::new();
        for place in [stage.ordinary_pod(), stage.host()] {
            for family in Family::ALL {
                stranded.push(connect(place, cluster_ip(family, 10)));
                connected.push(connect(place, cluster_ip(family, 11)));
                connected.push(connect(place, stage.backends[0].endpoint(family)));
                unconnected.push(place.hold(&Talk::Udp { to: cluster_ip(family, 10) }));
            }
            stranded.push(connect(place, mapped(cluster_ip(Family::V4, 10))));
        }
        for client in stranded.iter_mut().chain(&mut connected).chain(&mut unconnected) {
            assert_eq!(served(client), "pod-11");
        }

        write_service(&stage, "web", 10, &[&stage.backends[1]]);
        for client in &mut stranded {
            let (error, _) = eventually("the client is told", || match client.again() {
                Sight::Failed(error) => Some(error),
                Sight::Answer { .. } => {
                    std::thread::sleep(Duration::from_millis(20));
                    None
                }
            });
            assert_eq!(error, "ConnectionAborted");
            assert_eq!(served(client), "pod-12", "once it has connected anew");
        }
        // All of one change are told in one go, so those who were not will not be.
        for client in &mut connected {
            assert_eq!(served(client), "pod-11", "whom the Service did not send there");
        }
        for client in &mut unconnected {
            assert_eq!(served(client), "pod-12", "who is not connected");
        }
        stranded.len()
    };
    let metrics = metrics(&stage);
    let line = format!("proxy_agent_sockets_destroyed_total {destroyed}");
    assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
}

fn connect(place: Place<'_>, to: SocketAddr) -> Held {
    place.hold(&Talk::UdpConnected { to })
}

#[track_caller]
fn served(client: &mut Held) -> String {
    let names: BTreeSet<String> = servers(&[client.again()]);
    names.into_iter().next().expect("one answer")
}

/// An IPv4 address as an IPv6 socket speaks to it.
fn mapped(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    (address.ip().to_ipv6_mapped(), address.port()).into()
}

fn metrics(stage: &Stage) -> String {
    stage.node.enter(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:10249").expect("the agent serves metrics");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    })
}
