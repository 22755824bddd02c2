//! Sends the demo's traffic and keeps count of the answers.

use std::{collections::BTreeMap, env, io::BufRead, io::BufReader, net::SocketAddr, process::Stdio};

use anyhow::{Context, bail};

use super::{
    lab::{Lab, Sockets},
    network::{BACKENDS, Host},
    peer::Protocol,
    processes::Processes,
};

/// A place that traffic comes from.
pub(super) struct Client {
    /// What the reader calls it.
    pub(super) title: &'static str,
    /// Its namespace.
    pub(super) namespace: &'static str,
    /// Whether the socket hooks see it.
    pub(super) sockets: Sockets,
}

/// A frontend of the demo's Service.
#[derive(Clone, Copy)]
pub(super) struct Frontend {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Answers of each backend.
    pub(super) backends: BTreeMap<String, u32>,
    /// Whom the backends saw asking.
    pub(super) sources: BTreeMap<String, u32>,
    /// What went wrong, and how often.
    pub(super) errors: BTreeMap<String, u32>,
}

impl Tally {
    /// Answers of one backend.
    pub(super) fn of(&self, backend: &str) -> u32 {
        self.backends.get(backend).copied().unwrap_or_default()
    }

    /// Requests without a good answer.
    pub(super) fn failed(&self) -> u32 {
        self.errors.values().sum()
    }

    /// Adds what another round brought.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { backends, sources, errors } = other;
        for (into, from) in [(&mut self.backends, backends), (&mut self.sources, sources), (&mut self.errors, errors)] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
    }

    /// Adds a line that a client printed: `BACKEND SOURCE`, or `! ERROR`.
    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("!", error)) => *self.errors.entry(error.to_owned()).or_default() += 1,
            Some((backend, source)) => {
                *self.backends.entry(backend.to_owned()).or_default() += 1;
                *self.sources.entry(source.to_owned()).or_default() += 1;
            }
            None => *self.errors.entry(format!("answered {line:?}")).or_default() += 1,
        }
    }
}

/// Starts the backends and waits until they listen.
pub(super) fn start_backends(lab: &Lab, processes: &mut Processes) -> anyhow::Result<()> {
    for Host { name, .. } in &BACKENDS {
        let mut command = lab.command(name, Sockets::Hooked, &env::current_exe()?)?;
        command.args(["demo-peer", "backend", name]).stdout(Stdio::piped());
        let child = processes.start(&mut command)?;
        let output = child.stdout.take().with_context(|| format!("{name} has no output"))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim_end() != "ready" {
            bail!("{name} does not listen");
        }
    }
    Ok(())
}

/// Sends `count` requests from `client` to `frontend`, one after the other, each from a new socket.
pub(super) fn send(lab: &Lab, client: &Client, frontend: Frontend, count: u32) -> anyhow::Result<Tally> {
    let protocol = match frontend.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let mut command = lab.command(client.namespace, client.sockets, &env::current_exe()?)?;
    command.args(["demo-peer", "client", protocol, &frontend.address.to_string(), &count.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start a client")?;
    if !output.status.success() {
        bail!("{} cannot send", client.title);
    }
    let mut tally = Tally::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        tally.note(line);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_errors_are_told_apart() {
        let mut tally = Tally::default();
        for line in ["backend-1 10.0.0.1", "backend-2 10.0.0.1", "backend-1 10.0.0.2", "! Connection refused", ""] {
            tally.note(line);
        }
        assert_eq!((tally.of("backend-1"), tally.of("backend-2"), tally.of("backend-3")), (2, 1, 0));
        assert_eq!(tally.sources.len(), 2);
        assert_eq!(tally.failed(), 2);
    }
}
