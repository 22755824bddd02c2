//! A decision, as it is printed: a line.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proxy_common::{Decided, DecidedAt, Decision, DropReason, Port, Protocol};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    cli::{
        Names,
        explain::because,
        print::{Detail, HEADING, View},
        text::service,
    },
    dataplane::status::device_name,
};

/// What time it was when the programs' clock showed something.
pub(super) struct MonotonicClock {
    /// When that clock showed zero.
    zero: Timestamp,
}

impl MonotonicClock {
    /// By both clocks as they are now.
    pub(super) fn now() -> Self {
        let monotonic = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        Self::at(Timestamp::now(), monotonic)
    }

    /// By what both clocks show at one moment.
    pub(super) fn at(now: Timestamp, monotonic: Duration) -> Self {
        let since = SignedDuration::try_from(monotonic).unwrap_or_default();
        Self { zero: now.checked_sub(since).unwrap_or(now) }
    }

    fn time(&self, nanoseconds: u64) -> Timestamp {
        let since = SignedDuration::from_nanos(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
        self.zero.checked_add(since).unwrap_or(self.zero)
    }
}

/// What was decided about a connection or packet.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct DecisionView {
    /// RFC 3339, in UTC, with microseconds.
    time: String,
    /// Which program decided: `connect`, `sendmsg`, `ingress`, `egress`.
    at: &'static str,
    /// Where the packet passed; absent at a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    protocol: String,
    /// Address and port; of a socket, its cookie.
    client: String,
    destination: String,
    service: String,
    /// `begins`, `refused`, `dropped`.
    decision: &'static str,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    /// Why it goes nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    masqueraded: bool,
    /// The packet's mark, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    /// By which port the backend knows the client, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_port: Option<u16>,
    #[serde(skip)]
    text: String,
}

impl DecisionView {
    pub(super) fn new(decision: &Decision, names: &Names, clock: &MonotonicClock) -> Self {
        let version = decision.version();
        let write = |(address, port)| endpoint(version, address, port);
        let backend = Some(decision.backend()).filter(|(_, port)| port.get() != 0).map(write);
        let masqueraded = decision.is_masqueraded();
        let client_port = decision.client_port().map(Port::get);
        let (name, reason, text) = match decision.decided() {
            Some(Decided::Begins) => {
                let to = backend.as_deref().unwrap_or("?");
                let from = client_port.map_or_else(String::new, |port| format!(", from port {port}"));
                let source = if masqueraded { ", masqueraded" } else { "" };
                ("begins", None, format!("to {to}{from}{source}"))
            }
            Some(Decided::Refused) => {
                ("refused", Some(DropReason::NoEndpoint.name()), "refused: there is no endpoint".to_owned())
            }
            Some(Decided::Dropped(reason)) => ("dropped", Some(reason.name()), format!("dropped: {}", because(reason))),
            None => ("unknown", None, "?".to_owned()),
        };
        Self {
            time: format!("{:.6}", clock.time(decision.time())),
            at: decision.at().map_or("unknown", DecidedAt::name),
            device: Some(decision.device())
                .filter(|&index| index != 0)
                .map(|index| device_name(index).unwrap_or_else(|| index.to_string())),
            protocol: protocol(decision),
            client: decision.socket().map_or_else(|| write(decision.source()), |cookie| format!("socket {cookie}")),
            destination: write(decision.destination()),
            service: service(decision.service(), names),
            decision: name,
            backend,
            reason,
            masqueraded,
            mark: Some(decision.mark()).filter(|&mark| mark != 0).map(|mark| format!("{mark:#x}")),
            client_port,
            text,
        }
    }
}

fn protocol(decision: &Decision) -> String {
    const ICMP: [u8; 2] = [1, 58];
    let number = decision.protocol_number();
    match decision.protocol() {
        Some(protocol) => Protocol::name(protocol).to_owned(),
        None if ICMP.contains(&number) => "ICMP".to_owned(),
        None => number.to_string(),
    }
}

fn endpoint(version: u8, address: [u8; 16], port: Port) -> String {
    let [a, b, c, d, ..] = address;
    let address: IpAddr = if version == 4 { [a, b, c, d].into() } else { address.into() };
    // What has no ports, an ICMP error or a fragment, has none here either.
    if port.get() == 0 { address.to_string() } else { SocketAddr::new(address, port.get()).to_string() }
}

/// The time of day, without the date.
const TIME: std::ops::Range<usize> = 11..26;

fn write_cells(detail: Detail, cells: [&str; 8], out: &mut dyn Write) -> io::Result<()> {
    let [time, at, device, protocol, client, destination, service, decision] = cells;
    write!(out, "{time:<15}  {at:<7}  ")?;
    if detail == Detail::Wide {
        write!(out, "{device:<15}  ")?;
    }
    writeln!(out, "{protocol:<8}  {client:<21}  {destination:<21}  {service:<32}  {decision}")
}

impl View for DecisionView {
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()> {
        let Self { time, at, device, protocol, client, destination, service, mark, text, .. } = self;
        let time = time.get(TIME).unwrap_or(time);
        let device = device.as_deref().unwrap_or("-");
        let mark = mark.as_ref().filter(|_| detail == Detail::Wide);
        let text = mark.map_or_else(|| text.clone(), |mark| format!("{text}, mark {mark}"));
        write_cells(detail, [time, at, device, protocol, client, destination, service, &text], out)
    }
}

/// The headings of the columns.
#[derive(Serialize)]
pub(super) struct Header;

impl View for Header {
    fn write_text(&self, detail: Detail, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{HEADING}")?;
        let headings = ["TIME", "AT", "DEVICE", "PROTOCOL", "CLIENT", "DESTINATION", "SERVICE", "DECISION"];
        write_cells(detail, headings, out)?;
        write!(out, "{HEADING:#}")
    }
}

/// Decisions that were not shown because there were too many.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct LeftOut {
    pub(super) not_shown: u64,
}

impl View for LeftOut {
    fn write_text(&self, _: Detail, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "({} more in a second than are shown)", self.not_shown)
    }
}
