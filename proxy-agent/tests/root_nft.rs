//! The nftables table, in namespaces of its own: what the kernel shows of it, and what it does to
//! packets. Needs root and the nft program.

mod support;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use proxy_agent::dataplane::nft;
use support::{Netns, eventually, run};

const MARK: u32 = 0x4000;
/// A bit of somebody else's.
const FOREIGN: u32 = 0x1_0000;

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

    /// Marks what the client sends before any chain of the agent's sees it. At the very end others count what still has a
    /// bit of `asking`, and what has no other bit than the foreign one.
    fn mark(&self, mark: u32, asking: u32) {
        let rules = format!(
            "add table inet test; delete table inet test; add table inet test; \
             add chain inet test first {{ type filter hook prerouting priority raw; }}; \
             add rule inet test first iifname inside meta mark set {mark}; \
             add chain inet test last {{ type filter hook postrouting priority 500; }}; \
             add rule inet test last meta mark & {asking} != 0 counter comment asking; \
             add rule inet test last meta mark == {FOREIGN} counter comment foreign"
        );
        run(self.router.command("nft").arg(rules));
    }

    /// What the rule with this comment counted.
    fn counted(&self, table: &str, comment: &str) -> u64 {
        let listed = run(self.router.command("nft").args(["list", "table", "inet", table]));
        let rule = listed.lines().find(|line| line.contains(comment));
        packets(rule.unwrap_or_else(|| panic!("no rule with {comment}: {listed}")))
    }

    /// Connects as often from the client to the server, and returns the source addresses that the server saw.
    fn connect(&self, server: &str, count: usize) -> Vec<IpAddr> {
        let server: SocketAddr = server.parse().expect("an address");
        let listener = self.server.enter(|| TcpListener::bind(server).expect("binds"));
        let mut seen = Vec::new();
        for _ in 0..count {
            let connect = || TcpStream::connect_timeout(&server, support::patience());
            let _stream = self.client.enter(connect).expect("the server is there");
            seen.push(listener.accept().expect("a connection").1.ip());
        }
        seen
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
            let answer = client_socket.recv_from(&mut buffer);
            answers += usize::from(answer.is_ok_and(|(_, from)| from == server));
        }
        (seen, answers)
    }
}

/// The number of packets that a rule shows.
fn packets(rule: &str) -> u64 {
    let count = rule.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter: {rule}"))
}

/// Servers of both families, and how the router and the client look to them.
const SERVERS: [(&str, &str, &str); 2] =
    [("10.2.0.2:5000", "10.2.0.1", "10.1.0.2"), ("[fd02::2]:5000", "fd02::1", "fd01::2")];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn marked_connections_are_masqueraded_and_lose_the_mark_on_every_packet() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    path.mark(MARK | FOREIGN, MARK);
    for (server, router, _) in SERVERS {
        assert_eq!(path.exchange(server, 3), (vec![ip(router); 3], 3), "{server}");
    }
    assert_eq!(path.counted("test", "asking"), 0, "no packet leaves with the mark, not even later ones");
    assert_eq!(path.counted("test", "foreign"), 6, "other bits of the mark are somebody else's and stay");
    assert_eq!(path.counted(nft::TABLE, "masquerade fully-random"), 2, "once for each connection");
    for (server, router, _) in SERVERS {
        assert_eq!(path.connect(server, 2), [ip(router); 2], "{server}");
    }
    assert_eq!(path.counted("test", "asking"), 0, "the same over TCP");
    assert_eq!(path.counted(nft::TABLE, "masquerade fully-random"), 6, "once for each connection");
}

#[test]
fn any_bit_can_be_the_mark() {
    let path = Path::new();
    // The sixteenth asks for dropping where it does not ask for masquerading.
    for bit in [0, 13, 15, 31] {
        path.router.enter(|| nft::install(1 << bit)).expect("installs");
        path.mark((1 << bit) | FOREIGN, 1 << bit);
        for (server, router, _) in SERVERS {
            assert_eq!(path.exchange(server, 2), (vec![ip(router); 2], 2), "bit {bit}, {server}");
            assert_eq!(path.connect(server, 1), [ip(router)], "bit {bit}, {server}");
        }
        assert_eq!(path.counted("test", "asking"), 0, "bit {bit}");
        // The former mark means nothing any more.
        path.mark(1 << (bit ^ 1), 0);
        for (server, _, client) in SERVERS {
            assert_eq!(path.exchange(server, 1), (vec![ip(client)], 1), "bit {bit}, {server}");
        }
    }
}

/// CNIs keep marks with connections and put them back on answers.
#[test]
fn answers_that_carry_the_mark_are_not_translated_for_it() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    path.mark(MARK | FOREIGN, MARK);
    run(path.router.command("nft").arg(
        "add chain inet test save { type filter hook forward priority mangle; }; \
         add rule inet test save iifname inside ct mark set meta mark; \
         add chain inet test restore { type filter hook prerouting priority mangle; }; \
         add rule inet test restore iifname outside meta mark set ct mark counter comment restored",
    ));
    for (server, router, _) in SERVERS {
        assert_eq!(path.exchange(server, 3), (vec![ip(router); 3], 3), "{server}: answers come from the server");
        assert_eq!(path.connect(server, 1), [ip(router)], "{server}");
    }
    assert!(path.counted("test", "restored") >= 6, "the answers carried it");
    assert_eq!(path.counted("test", "asking"), 0, "and lose it");
    assert_eq!(path.counted(nft::TABLE, "masquerade fully-random"), 4, "once for each connection");
}

#[test]
fn unmarked_connections_keep_their_source() {
    let path = Path::new();
    path.router.enter(|| nft::install(MARK)).expect("installs");
    path.mark(FOREIGN, MARK);
    for (server, _, client) in SERVERS {
        assert_eq!(path.exchange(server, 2), (vec![ip(client); 2], 2), "{server}");
        assert_eq!(path.connect(server, 1), [ip(client)], "{server}");
    }
    assert!(path.counted("test", "foreign") >= 4, "nobody touched the mark");
}

#[test]
fn packets_with_the_drop_mark_are_dropped_and_counted() {
    let path = Path::new();
    let dropped = || path.router.enter(nft::dropped).expect("the kernel says");
    assert_eq!(dropped(), None, "there is no table");
    path.router.enter(|| nft::install(MARK)).expect("installs");
    assert_eq!(dropped(), Some(0));
    // Who asks for both asks for dropping.
    for mark in [0x8000, 0x8000 | MARK, 0x8000 | FOREIGN] {
        path.mark(mark, MARK);
        for (server, ..) in SERVERS {
            assert_eq!(path.exchange(server, 1), (vec![], 0), "{mark:#x}, {server}");
        }
    }
    // Six datagrams, the last of which may be on its way; neighbour discovery of the client may add some.
    eventually("all are dropped", || (dropped() >= Some(6)).then_some(()));
    assert_eq!(path.counted(nft::TABLE, "masquerade fully-random"), 0);
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
    assert_eq!(namespace.enter(nft::dropped).expect("the kernel says"), Some(1));
}
