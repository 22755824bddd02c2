//! The nftables table, in namespaces of its own: what the kernel shows of it, and what it does to
//! packets. Needs root and the nft program.

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use proxy_agent::dataplane::nft;
use support::{Netns, run};

const MARK: u32 = 0x4000;

fn list(namespace: &Netns) -> String {
    run(namespace.command("nft").args(["list", "table", "inet", nft::TABLE]))
}

#[test]
fn the_kernel_shows_the_table_that_was_meant() {
    let namespace = Netns::new();
    namespace.enter(|| nft::install(MARK)).expect("installs");
    let expected = "\
table inet proxy-agent {
	chain masquerade-marked {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 != 0x00000000 meta mark set meta mark & 0xffffbfff counter packets 0 bytes 0 masquerade fully-random
	}

	chain clear-mark {
		type filter hook postrouting priority srcnat + 1; policy accept;
		meta mark & 0x00004000 != 0x00000000 meta mark set meta mark & 0xffffbfff
	}

	chain drop-forwarded {
		type filter hook prerouting priority filter; policy accept;
		meta mark & 0x00008000 != 0x00000000 counter packets 0 bytes 0 drop
	}

	chain drop-local {
		type filter hook output priority filter; policy accept;
		meta mark & 0x00008000 != 0x00000000 counter packets 0 bytes 0 drop
	}
}
";
    // Older versions of nft do not name priorities relative to srcnat.
    assert_eq!(list(&namespace).replace("priority 101;", "priority srcnat + 1;"), expected);
}

#[test]
fn installing_again_replaces_and_foreign_tables_stay() {
    let namespace = Netns::new();
    run(namespace.command("nft").arg("add table inet other; add chain inet other c"));
    namespace.enter(|| {
        nft::install(MARK).expect("installs");
        nft::install(0x10).expect("replaces");
    });
    let listed = list(&namespace);
    assert!(listed.contains("0x00000010") && !listed.contains("0x00004000"), "{listed}");
    assert_eq!(listed.matches("chain ").count(), 4, "{listed}");

    namespace.enter(|| {
        nft::remove().expect("removes");
        nft::remove().expect("nothing to remove is fine");
    });
    assert_eq!(run(namespace.command("nft").args(["list", "tables"])), "table inet other\n");
}

/// A router between a client and a server; the router marks what the client sends.
struct Path {
    client: Netns,
    router: Netns,
    server: Netns,
}

impl Path {
    fn new() -> Self {
        let path = Self { client: Netns::new(), router: Netns::new(), server: Netns::new() };
        path.client.veth("eth0", &path.router, "inside");
        path.server.veth("eth0", &path.router, "outside");
        path.router.sysctl("net/ipv4/ip_forward", "1");
        path.router.sysctl("net/ipv6/conf/all/forwarding", "1");
        for (namespace, device, v4, v6) in [
            (&path.client, "eth0", "10.1.0.2/24", "fd01::2/64"),
            (&path.router, "inside", "10.1.0.1/24", "fd01::1/64"),
            (&path.router, "outside", "10.2.0.1/24", "fd02::1/64"),
            (&path.server, "eth0", "10.2.0.2/24", "fd02::2/64"),
        ] {
            namespace.ip(&format!("addr add {v4} dev {device}"));
            namespace.ip(&format!("addr add {v6} dev {device} nodad"));
        }
        for (namespace, v4, v6) in [(&path.client, "10.1.0.1", "fd01::1"), (&path.server, "10.2.0.1", "fd02::1")] {
            namespace.ip(&format!("route add default via {v4}"));
            namespace.ip(&format!("-6 route add default via {v6}"));
        }
        path
    }

    /// Marks in the raw table, before the agent's chains; others see the mark at the very end.
    fn mark(&self, mark: u32) {
        let rules = format!(
            "add table inet test; \
             add chain inet test first {{ type filter hook prerouting priority raw; }}; \
             add rule inet test first iifname inside meta mark set {mark}; \
             add chain inet test last {{ type filter hook postrouting priority 500; }}; \
             add rule inet test last meta mark & {MARK} != 0 counter"
        );
        run(self.router.command("nft").arg(rules));
    }

    /// Sends datagrams from one client socket to the server and returns the source addresses that the
    /// server saw, and how many answers the client got.
    fn exchange(&self, server: &str, count: usize) -> (Vec<IpAddr>, usize) {
        let server: SocketAddr = server.parse().expect("an address");
        let (any, timeout) = (if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, Some(Duration::from_millis(300)));
        let client_socket = self.client.enter(|| UdpSocket::bind(any).expect("binds"));
        let server_socket = self.server.enter(|| UdpSocket::bind(server).expect("binds"));
        client_socket.set_read_timeout(timeout).expect("sets");
        server_socket.set_read_timeout(timeout).expect("sets");
        let (mut seen, mut answers, mut buffer) = (Vec::new(), 0, [0; 16]);
        for _ in 0..count {
            client_socket.send_to(b"question", server).expect("sends");
            let Ok((_, source)) = server_socket.recv_from(&mut buffer) else { continue };
            seen.push(source.ip());
            server_socket.send_to(b"answer", source).expect("sends");
            answers += usize::from(client_socket.recv_from(&mut buffer).is_ok());
        }
        (seen, answers)
    }
}

#[test]
fn marked_connections_are_masqueraded_and_lose_the_mark_on_every_packet() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    // Other bits of the mark are somebody else's and stay.
    path.mark(MARK | 0x1_0000);
    for (server, router) in [("10.2.0.2:5000", "10.2.0.1"), ("[fd02::2]:5000", "fd02::1")] {
        let router: IpAddr = router.parse().expect("an address");
        let (seen, answers) = path.exchange(server, 3);
        assert_eq!((seen, answers), (vec![router; 3], 3), "{server}");
    }
    let last = run(path.router.command("nft").args(["list", "chain", "inet", "test", "last"]));
    assert!(last.contains("counter packets 0"), "no packet leaves with the mark, not even later ones: {last}");
    let masquerade = run(path.router.command("nft").args(["list", "chain", "inet", nft::TABLE, "masquerade-marked"]));
    assert!(masquerade.contains("counter packets 2"), "one for each connection: {masquerade}");
}

#[test]
fn unmarked_connections_keep_their_source() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    path.mark(0x1_0000);
    for (server, client) in [("10.2.0.2:5000", "10.1.0.2"), ("[fd02::2]:5000", "fd01::2")] {
        let client: IpAddr = client.parse().expect("an address");
        assert_eq!(path.exchange(server, 2), (vec![client; 2], 2), "{server}");
    }
}

#[test]
fn packets_with_the_drop_mark_are_dropped_and_counted() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    path.mark(0x8000);
    for server in ["10.2.0.2:5000", "[fd02::2]:5000"] {
        assert_eq!(path.exchange(server, 1), (vec![], 0), "{server}");
    }
    let dropped = run(path.router.command("nft").args(["list", "chain", "inet", nft::TABLE, "drop-forwarded"]));
    let packets = dropped.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    // Two datagrams; neighbour discovery of the client may add some.
    assert!(packets.is_some_and(|packets: u32| packets >= 2), "{dropped}");
}

#[test]
fn the_router_itself_is_dropped_too() {
    let namespace = Netns::new();
    namespace.enter(|| nft::install(MARK)).expect("installs");
    run(namespace.command("nft").arg(
        "add table inet test; add chain inet test c { type filter hook output priority raw; }; \
         add rule inet test c udp dport 7000 meta mark set 0x8000",
    ));
    let received = namespace.enter(|| {
        let receiver = UdpSocket::bind("127.0.0.1:7000").expect("binds");
        receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("sets");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let sent = sender.send_to(b"x", "127.0.0.1:7000");
        (sent.is_err(), receiver.recv(&mut [0; 8]).is_ok())
    });
    assert_eq!(received, (true, false), "a dropped local packet is EPERM for its sender");
}
