//! What the demo does with a running agent, and what it shows.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use super::{
    Interrupt,
    agent::{Agent, Served},
    lab::{Lab, Sockets},
    manifests,
    network::{BACKENDS, NODE, OUTSIDE, POD, SANDBOX},
    peer::Protocol,
    processes::Processes,
    report,
    traffic::{self, Client, Frontend, Tally},
};

/// Requests from each client to each frontend.
const REQUESTS: u32 = 150;
/// The backend that is taken away.
const REMOVED: &str = BACKENDS[2].name;
/// How long anything may take that happens at once.
const PATIENCE: Duration = Duration::from_secs(10);

const CLIENTS: [Client; 4] = [
    Client { title: "pod", namespace: POD.name, sockets: Sockets::Hooked },
    Client { title: "sandboxed pod", namespace: SANDBOX.name, sockets: Sockets::Unhooked },
    Client { title: "node", namespace: NODE, sockets: Sockets::Hooked },
    Client { title: "outside", namespace: OUTSIDE.name, sockets: Sockets::Unhooked },
];

/// The frontends in `deploy/demo/service.yaml`.
const FRONTENDS: [(Protocol, &str, u16); 4] = [
    (Protocol::Tcp, "10.96.0.10", 80),
    (Protocol::Tcp, "fd00:10:96::10", 80),
    (Protocol::Udp, "10.96.0.10", 53),
    (Protocol::Udp, "fd00:10:96::10", 53),
];

/// What the demo shows of a running agent.
pub(super) fn tell(
    lab: &Lab,
    agent: &Agent<'_>,
    processes: &mut Processes,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let started = Instant::now();
    wait("the agent serves the Service", processes, interrupt, || {
        // Each way of serving must work, for each frontend.
        let mut failed = 0;
        for client in &CLIENTS {
            for frontend in frontends()? {
                failed += traffic::send(lab, client, frontend, 1)?.failed();
            }
            if failed > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    println!("  ready after {:.1} s\n", started.elapsed().as_secs_f64());
    print!("{}", report::excerpt(&agent.show("services")?, 12));

    report::heading(&format!("{REQUESTS} requests from each client to each address of the Service"));
    let total = everybody(lab, agent, interrupt)?;
    println!();
    print!("{}", distribution(&total));
    ensure!(total.failed() == 0, "{} requests failed", total.failed());
    for backend in &BACKENDS {
        ensure!(total.of(backend.name) > 0, "{} got nothing", backend.name);
    }

    report::heading(&format!("{REMOVED} is taken out of the EndpointSlices"));
    let removed = Instant::now();
    manifests::remove_backend(&lab.path("manifests"), REMOVED)?;
    wait("the traffic moved", processes, interrupt, || {
        let mut to_removed = 0;
        for frontend in frontends()? {
            to_removed += traffic::send(lab, &CLIENTS[0], frontend, 20)?.of(REMOVED);
        }
        Ok(to_removed == 0)
    })?;
    println!("  nothing goes there any more, after at most {} ms\n", removed.elapsed().as_millis());
    let total = everybody(lab, agent, interrupt)?;
    println!();
    print!("{}", distribution(&total));
    ensure!(total.failed() == 0, "{} requests failed", total.failed());
    ensure!(total.of(REMOVED) == 0, "{REMOVED} still gets connections");

    inspect(agent)?;
    refusal(lab, interrupt)
}

/// Sends from every client to every frontend and shows what went where.
fn everybody(lab: &Lab, agent: &Agent<'_>, interrupt: &Interrupt) -> anyhow::Result<Tally> {
    let mut total = Tally::default();
    let mut rows = Vec::new();
    for client in &CLIENTS {
        for frontend in frontends()? {
            interrupt.check()?;
            let before = agent.served()?;
            let tally = traffic::send(lab, client, frontend, REQUESTS)?;
            rows.push(row(client, frontend, &tally, before, agent.served()?));
            total.add(&tally);
        }
    }
    let names = BACKENDS.iter().map(|backend| backend.name);
    let header: Vec<_> = ["client", "served", "to", ""].into_iter().chain(names).chain(["failed", "seen as"]).collect();
    print!("{}", report::table(&header, &rows));
    for (error, count) in &total.errors {
        println!("  {count} times: {error}");
    }
    Ok(total)
}

fn row(client: &Client, frontend: Frontend, tally: &Tally, before: Served, after: Served) -> Vec<String> {
    let at_sockets = after.at_sockets - before.at_sockets;
    let at_devices = after.at_devices - before.at_devices;
    let served = match (at_sockets, at_devices) {
        (0, 0) => "not at all",
        (_, 0) => "at the socket",
        (0, _) => "by TC",
        (_, _) => "by both",
    };
    let protocol = match frontend.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let mut row = vec![client.title.to_owned(), served.to_owned(), frontend.address.to_string(), protocol.to_owned()];
    row.extend(BACKENDS.iter().map(|backend| tally.of(backend.name).to_string()));
    row.push(tally.failed().to_string());
    row.push(tally.sources.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
    row
}

fn distribution(total: &Tally) -> String {
    let counts = BACKENDS.map(|backend| (backend.name, total.of(backend.name)));
    report::bars(&counts)
}

/// Shows what is in the kernel's tables.
fn inspect(agent: &Agent<'_>) -> anyhow::Result<()> {
    report::heading(&format!("bpftool map dump pinned {}", agent.pins().join("services_v4").display()));
    print!("{}", report::excerpt(&agent.table("services_v4")?, 20));
    for subcommand in ["services", "backends", "flows"] {
        report::heading(&format!("proxy-agent {subcommand}"));
        print!("{}", report::excerpt(&agent.show(subcommand)?, 10));
    }
    Ok(())
}

/// Takes all backends away and shows that clients are told so instead of being left to wait.
fn refusal(lab: &Lab, interrupt: &Interrupt) -> anyhow::Result<()> {
    report::heading("No backend is left: a connection is refused at once");
    for backend in BACKENDS.iter().filter(|backend| backend.name != REMOVED) {
        manifests::remove_backend(&lab.path("manifests"), backend.name)?;
    }
    let mut rows = Vec::new();
    for client in &CLIENTS {
        for frontend in frontends()?.into_iter().filter(|frontend| frontend.protocol == Protocol::Tcp) {
            let answer = refused(lab, client, frontend, interrupt)?;
            rows.push(vec![client.title.to_owned(), frontend.address.to_string(), answer]);
        }
    }
    print!("{}", report::table(&["client", "to", "connect()"], &rows));
    Ok(())
}

/// What connecting ends with, once the last backend is gone.
fn refused(lab: &Lab, client: &Client, frontend: Frontend, interrupt: &Interrupt) -> anyhow::Result<String> {
    let started = Instant::now();
    loop {
        interrupt.check()?;
        let tally = traffic::send(lab, client, frontend, 1)?;
        match tally.errors.into_keys().next() {
            Some(error) if error.starts_with("Connection refused") => return Ok(error),
            Some(error) => bail!("{} is not refused: {error}", client.title),
            // The agent has not seen the change yet.
            None => ensure!(started.elapsed() < PATIENCE, "{} still gets answers", client.title),
        }
    }
}

fn frontends() -> anyhow::Result<Vec<Frontend>> {
    let frontend = |(protocol, address, port): (Protocol, &str, u16)| {
        let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        Ok(Frontend { protocol, address: SocketAddr::new(address, port) })
    };
    FRONTENDS.into_iter().map(frontend).collect()
}

/// Asks again and again until something is so.
fn wait(
    what: &str,
    processes: &mut Processes,
    interrupt: &Interrupt,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        interrupt.check()?;
        processes.all_run()?;
        if is_so()? {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::demo::network;

    #[test]
    fn the_manifests_name_what_the_demo_makes() {
        let read = |file: &str| fs::read_to_string(manifests::original().join(file)).expect("the manifest is there");
        let (service, endpoints, node) = (read("service.yaml"), read("endpoints.yaml"), read("node.yaml"));
        for (_, address, port) in FRONTENDS {
            assert!(service.contains(address) && service.contains(&format!("port: {port}\n")), "{address}:{port}");
        }
        for backend in &BACKENDS {
            for what in [backend.name, backend.v4, backend.v6] {
                assert!(endpoints.contains(what), "{what}");
            }
        }
        assert!(node.contains(&format!("name: {}\n", network::NODE_NAME)));
    }
}
