//! A connection, as the tables know it: compact, because there may be hundreds of thousands.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use proxy_common::{
    BackendId, Direction, Family, Flow, FlowFlags, FlowKey, PlainAddress, Port, Protocol, ServiceId, SocketEntry,
    SocketKey, TcpState,
};
use serde::Serialize;

use crate::{
    cli::text::{IntoIp, socket_address},
    dataplane::tables::{FamilyTables, TableError},
};

/// A flow of packets, or a socket and its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Record {
    pub(in crate::cli) service: ServiceId,
    /// `None` for a number that this version does not know.
    pub(in crate::cli) protocol: Option<Protocol>,
    pub(in crate::cli) client: Client,
    pub(in crate::cli) frontend: SocketAddr,
    pub(in crate::cli) backend: SocketAddr,
    /// The backend's number.
    pub(in crate::cli) backend_id: BackendId,
    pub(in crate::cli) state: State,
    /// When the newest packet was seen, in seconds since boot; `None` for connected sockets, which are translated once.
    pub(in crate::cli) last_seen: Option<u32>,
    /// What the packets are marked with.
    pub(in crate::cli) flags: FlowFlags,
    /// The port by which the backend knows the client, if it is another.
    pub(in crate::cli) client_port: Option<Port>,
}

/// Who uses a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::cli) enum Client {
    /// The sender of packets, which are translated on a device.
    Packets(SocketAddr),
    /// A socket whose calls are translated, by its cookie.
    Socket(u64),
}

/// What was seen of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum State {
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

/// Where connections are found.
pub(in crate::cli) trait Source<F: Family> {
    /// Shows all entries of flows.
    fn visit_flows(&self, visit: impl FnMut(FlowKey<F::Address>, Flow<F::Address>)) -> Result<(), TableError>;

    /// The entry of a flow.
    fn flow(&self, key: &FlowKey<F::Address>) -> Result<Option<Flow<F::Address>>, TableError>;

    /// Shows all entries of sockets.
    fn visit_sockets(
        &self,
        visit: impl FnMut(SocketKey<F::Address>, SocketEntry<F::Address>),
    ) -> Result<(), TableError>;

    /// The entry of a socket.
    fn socket(&self, key: &SocketKey<F::Address>) -> Result<Option<SocketEntry<F::Address>>, TableError>;
}

impl<F: Family<Address: PlainAddress>> Source<F> for FamilyTables<F> {
    fn visit_flows(&self, visit: impl FnMut(FlowKey<F::Address>, Flow<F::Address>)) -> Result<(), TableError> {
        Self::visit_flows(self, visit)
    }

    fn flow(&self, key: &FlowKey<F::Address>) -> Result<Option<Flow<F::Address>>, TableError> {
        Self::flow(self, key)
    }

    fn visit_sockets(
        &self,
        visit: impl FnMut(SocketKey<F::Address>, SocketEntry<F::Address>),
    ) -> Result<(), TableError> {
        self.sockets.visit(visit)
    }

    fn socket(&self, key: &SocketKey<F::Address>) -> Result<Option<SocketEntry<F::Address>>, TableError> {
        self.sockets.get(key)
    }
}

/// Adds the connections that pass. What is held of the others is some thousands of entries at a time.
pub(in crate::cli) fn read<F: Family<Address: IntoIp>, S: Source<F>>(
    source: &S,
    passes: &impl Fn(&Record) -> bool,
    records: &mut Vec<Record>,
) -> Result<(), TableError> {
    let mut error = None;
    let mut add = |record: Result<Option<Record>, TableError>| match record {
        Ok(record) => records.extend(record.filter(|record| passes(record))),
        Err(first) => drop(error.get_or_insert(first)),
    };
    source.visit_flows(|key, flow| {
        // What only keeps answers from being translated is no flow of a Service.
        if key.direction() == Some(Direction::Original) && !flow.flags().contains(FlowFlags::OWN) {
            add(flow_record(source, &key, &flow));
        }
    })?;
    source.visit_sockets(|key, entry| {
        // A connected socket has this entry alone. An unconnected one has another, the other way round, that each datagram
        // notes.
        if key.direction() == Some(Direction::Reply) {
            add(socket_record(source, &key, &entry));
        }
    })?;
    error.map_or(Ok(()), Err)
}

fn flow_record<F: Family<Address: IntoIp>, S: Source<F>>(
    source: &S,
    key: &FlowKey<F::Address>,
    flow: &Flow<F::Address>,
) -> Result<Option<Record>, TableError> {
    let client = (key.source().0, flow.client_port().unwrap_or(key.source().1));
    let reply = match key.protocol() {
        Some(protocol) => source.flow(&FlowKey::new(flow.to(), client, protocol, Direction::Reply))?,
        None => None,
    };
    Ok(Some(Record {
        service: flow.service(),
        protocol: key.protocol(),
        client: Client::Packets(socket_address(key.source())),
        frontend: socket_address(key.destination()),
        backend: socket_address(flow.to()),
        backend_id: flow.backend(),
        state: match key.protocol() {
            Some(Protocol::Tcp | Protocol::Sctp) => State::of_tcp(flow.state(), reply.map(|reply| reply.state())),
            _ => State::Active,
        },
        last_seen: Some(reply.map_or(0, |reply| reply.last_seen()).max(flow.last_seen())),
        flags: flow.flags(),
        client_port: flow.client_port(),
    }))
}

fn socket_record<F: Family<Address: IntoIp>, S: Source<F>>(
    source: &S,
    key: &SocketKey<F::Address>,
    entry: &SocketEntry<F::Address>,
) -> Result<Option<Record>, TableError> {
    let original = match key.protocol() {
        Some(protocol) => source.socket(&SocketKey::new(key.cookie(), entry.to(), protocol, Direction::Original))?,
        None => None,
    };
    Ok(Some(Record {
        service: entry.service(),
        protocol: key.protocol(),
        client: Client::Socket(key.cookie()),
        frontend: socket_address(entry.to()),
        backend: socket_address(key.peer()),
        backend_id: entry.backend(),
        state: State::Active,
        last_seen: original.map(|original| original.last_used()),
        flags: FlowFlags::NONE,
        client_port: None,
    }))
}

impl Record {
    /// Whether one of the ends has the address.
    pub(in crate::cli) fn has(&self, address: IpAddr) -> bool {
        let client = match self.client {
            Client::Packets(client) => Some(client.ip()),
            Client::Socket(_) => None,
        };
        client == Some(address) || self.frontend.ip() == address || self.backend.ip() == address
    }
}

impl State {
    /// As it is written.
    pub(in crate::cli) const fn name(self) -> &'static str {
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
