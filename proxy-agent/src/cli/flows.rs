//! `proxy-agent flows`.

use std::collections::BTreeMap;

use proxy_common::{
    Direction, Family, Flow, FlowFlags, FlowKey, PlainAddress, PortName, Protocol, ServiceId, SocketEntry, SocketKey,
    TcpState, V4, V6,
};
use serde::Serialize;

use super::{
    print::Rows,
    text::{IntoIp, endpoint, service},
};
use crate::dataplane::tables::{FamilyTables, TableError, Tables};

/// The tables that this command reads.
#[derive(Debug, Default)]
pub(super) struct Contents {
    names: BTreeMap<ServiceId, PortName>,
    v4: FamilyContents<V4>,
    v6: FamilyContents<V6>,
}

#[derive(Debug)]
struct FamilyContents<F: Family> {
    flows: BTreeMap<FlowKey<F::Address>, Flow<F::Address>>,
    sockets: BTreeMap<SocketKey<F::Address>, SocketEntry<F::Address>>,
}

impl<F: Family> Default for FamilyContents<F> {
    fn default() -> Self {
        Self { flows: BTreeMap::new(), sockets: BTreeMap::new() }
    }
}

/// What is being translated, ordered by Service.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct FlowsView(Vec<Row>);

/// A flow of packets, or a socket and its peer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    service: String,
    kind: Kind,
    protocol: &'static str,
    /// The client's address and port; of a socket, its cookie.
    client: String,
    frontend: String,
    backend: String,
    state: State,
    /// Seconds since the newest packet; absent for connected sockets, which are translated once.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_seconds: Option<u32>,
}

/// Where the translation happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// In packets, on a device.
    Packets,
    /// In the calls of a socket.
    Socket,
}

/// What was seen of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A connection of which only one side was heard.
    Opening,
    /// A connection that both sides use.
    Established,
    /// A connection that one side has ended.
    Closing,
    /// A connection that both sides have ended, or one has reset.
    Closed,
    /// A datagram flow, or a socket: no state is kept.
    Active,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Active => "active",
        }
    }

    /// The state of a TCP connection or SCTP association from what was seen of either side; `None` if the other was not heard of.
    const fn of_tcp(client: TcpState, server: Option<TcpState>) -> Self {
        let Some(server) = server else { return Self::Opening };
        if client.contains(TcpState::RST)
            || server.contains(TcpState::RST)
            || client.is_closing() && server.is_closing()
        {
            Self::Closed
        } else if client.is_closing() || server.is_closing() {
            Self::Closing
        } else if client.contains(TcpState::DATA) && server.bits() != TcpState::NONE.bits() {
            Self::Established
        } else {
            Self::Opening
        }
    }
}

impl Contents {
    /// Reads the tables.
    pub(super) fn read(tables: &Tables) -> Result<Self, TableError> {
        let Tables { names, v4, v6, counters: _, drops: _, settings: _ } = tables;
        Ok(Self { names: names.all()?, v4: FamilyContents::read(v4)?, v6: FamilyContents::read(v6)? })
    }

    /// The flows at the time `now`, in seconds since boot.
    pub(super) fn view(&self, now: u32) -> FlowsView {
        let mut rows = Vec::new();
        self.v4.add_to(&mut rows, &self.names, now);
        self.v6.add_to(&mut rows, &self.names, now);
        rows.sort_unstable();
        FlowsView(rows)
    }
}

impl<F: Family<Address: IntoIp + PlainAddress>> FamilyContents<F> {
    fn read(tables: &FamilyTables<F>) -> Result<Self, TableError> {
        Ok(Self { flows: tables.flows.all()?, sockets: tables.sockets.all()? })
    }

    fn add_to(&self, rows: &mut Vec<Row>, names: &BTreeMap<ServiceId, PortName>, now: u32) {
        let name = |protocol: Option<Protocol>| protocol.map_or("?", Protocol::name);
        let originals = self.flows.iter().filter(|(key, _)| key.direction() == Some(Direction::Original));
        // What only keeps answers from being translated is no flow of a Service.
        for (key, flow) in originals.filter(|(_, flow)| !flow.flags().contains(FlowFlags::OWN)) {
            let (client, backend) = (key.source(), flow.to());
            let reply = key
                .protocol()
                .and_then(|protocol| self.flows.get(&FlowKey::new(backend, client, protocol, Direction::Reply)));
            let newest = reply.map_or(0, Flow::last_seen).max(flow.last_seen());
            rows.push(Row {
                service: service(flow.service(), names),
                kind: Kind::Packets,
                protocol: name(key.protocol()),
                client: endpoint(client),
                frontend: endpoint(key.destination()),
                backend: endpoint(backend),
                state: match key.protocol() {
                    Some(Protocol::Tcp | Protocol::Sctp) => State::of_tcp(flow.state(), reply.map(Flow::state)),
                    _ => State::Active,
                },
                idle_seconds: Some(now.saturating_sub(newest)),
            });
        }
        // A connected socket has this entry alone. An unconnected one has another, the other way round, that
        // each datagram notes.
        for (key, entry) in self.sockets.iter().filter(|(key, _)| key.direction() == Some(Direction::Reply)) {
            let original = key.protocol().and_then(|protocol| {
                self.sockets.get(&SocketKey::new(key.cookie(), entry.to(), protocol, Direction::Original))
            });
            rows.push(Row {
                service: service(entry.service(), names),
                kind: Kind::Socket,
                protocol: name(key.protocol()),
                client: format!("socket {}", key.cookie()),
                frontend: endpoint(entry.to()),
                backend: endpoint(key.peer()),
                state: State::Active,
                idle_seconds: original.map(|original| now.saturating_sub(original.last_used())),
            });
        }
    }
}

impl Rows for FlowsView {
    const HEADINGS: &'static [&'static str] =
        &["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE"];

    fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: &Row| {
            let Row { service, kind: _, protocol, client, frontend, backend, state, idle_seconds } = row;
            vec![
                service.clone(),
                (*protocol).to_owned(),
                client.clone(),
                frontend.clone(),
                backend.clone(),
                state.name().to_owned(),
                idle_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s")),
            ]
        };
        self.0.iter().map(cells).collect()
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
