//! The list of connections, as it is printed.

use std::io::{self, Write};

use proxy_common::{FlowFlags, Protocol};
use serde::{Serialize, Serializer};

use super::{
    Names,
    record::{Client, Record, State},
};
use crate::{
    cli::{
        pods::PodNames,
        print::{Detail, View, or_dash, stream},
        text::service,
    },
    model::IpFamily,
};

/// What is being translated, ordered by Service. Rows are made one at a time, as they are printed.
#[derive(Debug)]
pub(super) struct FlowsView<P> {
    records: Vec<Record>,
    names: Names,
    pods: P,
    /// The time, in seconds since boot.
    now: u32,
}

/// A connection.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    service: String,
    kind: Kind,
    protocol: &'static str,
    /// The client's address and port; of a socket, its cookie.
    client: String,
    frontend: String,
    backend: String,
    /// The pod that the backend is, in the Service's namespace; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    state: State,
    /// Seconds since the newest packet; absent for connected sockets, which are translated once.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_seconds: Option<u32>,
    /// Whether the packets are marked for masquerading.
    masqueraded: bool,
    /// The port by which the backend knows the client, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_port: Option<u16>,
}

/// Where the translation happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// In packets, on a device.
    Packets,
    /// In the calls of a socket.
    Socket,
}

const HEADINGS: [&str; 8] = ["SERVICE", "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "POD", "STATE", "IDLE"];
const MORE_HEADINGS: [&str; 3] = ["AT", "MASQUERADED", "CLIENT PORT"];

impl<P: PodNames> FlowsView<P> {
    pub(super) fn new(mut records: Vec<Record>, names: Names, pods: P, now: u32) -> Self {
        let order = |record: &Record| {
            let Record { service, protocol, client, frontend, backend, .. } = record;
            (
                names.get(service).map(|name| (name.namespace(), name.name(), name.port())),
                *service,
                *protocol,
                *client,
                *frontend,
                *backend,
            )
        };
        records.sort_unstable_by(|one, other| order(one).cmp(&order(other)));
        // Where a table is read one element at a time, some may be shown twice.
        records.dedup();
        Self { records, names, pods, now }
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.records.iter().map(|record| {
            let Record {
                service: id,
                protocol,
                client,
                frontend,
                backend,
                backend_id,
                state,
                last_seen,
                flags,
                client_port,
            } = record;
            Row {
                service: service(*id, &self.names),
                kind: match client {
                    Client::Packets(_) => Kind::Packets,
                    Client::Socket(_) => Kind::Socket,
                },
                protocol: protocol.map_or("?", Protocol::name),
                client: match client {
                    Client::Packets(address) => address.to_string(),
                    Client::Socket(cookie) => format!("socket {cookie}"),
                },
                frontend: frontend.to_string(),
                backend: backend.to_string(),
                pod: self.pods.pod(IpFamily::of(backend.ip()), *backend_id),
                state: *state,
                idle_seconds: last_seen.map(|last_seen| self.now.saturating_sub(last_seen)),
                masqueraded: flags.contains(FlowFlags::MASQUERADE),
                client_port: client_port.map(proxy_common::Port::get),
            }
        })
    }
}

impl<P: PodNames> Serialize for FlowsView<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows())
    }
}

impl<P: PodNames> View for FlowsView<P> {
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()> {
        let headings = match detail {
            Detail::Usual => HEADINGS.to_vec(),
            Detail::Wide => [HEADINGS.as_slice(), &MORE_HEADINGS].concat(),
        };
        stream(&headings, || self.rows().map(|row| row.cells(detail)), out)
    }
}

impl Row {
    fn cells(self, detail: Detail) -> Vec<String> {
        let Self {
            service,
            kind,
            protocol,
            client,
            frontend,
            backend,
            pod,
            state,
            idle_seconds,
            masqueraded,
            client_port,
        } = self;
        let pod = or_dash(pod);
        let idle = or_dash(idle_seconds.map(|seconds| format!("{seconds}s")));
        let mut cells =
            vec![service, protocol.to_owned(), client, frontend, backend, pod, state.name().to_owned(), idle];
        if detail == Detail::Wide {
            let at = match kind {
                Kind::Packets => "device",
                Kind::Socket => "socket",
            };
            cells.extend([at.to_owned(), if masqueraded { "yes" } else { "no" }.to_owned(), or_dash(client_port)]);
        }
        cells
    }
}
