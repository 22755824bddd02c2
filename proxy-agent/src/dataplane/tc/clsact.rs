//! Filters on the clsact qdisc, for kernels without TCX.
//!
//! A filter is ours if it has our priority and handle and a name of ours. Filters are replaced in
//! place, and no pin is needed: they stay until they are deleted.
//!
//! A filter that shall take the place of another has a handle of its own (of filters with the same priority, the one that came last runs first:
//! `cls_bpf_change` puts it at the head of the list) or the next priority.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::Order;
use crate::dataplane::pins::Direction;

/// See the parent module for why.
const PRIORITY: u16 = 2;
/// "px".
const HANDLE: u32 = 0x7078;
/// What is different where a filter shall take the place of another, before or after it.
const NEXT_HANDLE: u32 = HANDLE + 1;
const NEXT_PRIORITY: u16 = PRIORITY + 1;
/// What the names of our filters begin with.
const NAME_PREFIX: &str = "proxy-agent:";

/// `ETH_P_ALL`, as the two bytes on the wire.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// A program for one of a device's directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter<'a> {
    /// The program.
    pub(crate) program: BorrowedFd<'a>,
    /// Its name.
    pub(crate) name: &'a str,
    /// The direction of the packets that it is for.
    pub(crate) direction: Direction,
}

/// Attaches programs to a device in the order given, making the qdisc if there is none. Ours that are there are replaced in place.
///
/// # Errors
/// `AlreadyExists` if the device has a qdisc of another kind in that place (`ingress`); otherwise what the kernel says.
pub(crate) fn attach(index: u32, programs: &[Filter<'_>]) -> io::Result<()> {
    let mut qdisc = message(index);
    qdisc.header.handle = TcHandle::from(0xffff_0000);
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    match request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => {}
        // An `ingress` qdisc would take the filters of both directions for its own.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) && devices()?.contains(&index) => {}
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it has a qdisc in the place of clsact"));
        }
        Err(error) => return Err(error),
    }
    let filters = programs.iter().map(|filter| new_filter(index, Place::Present, *filter)).collect();
    requests(filters, NLM_F_ACK | NLM_F_CREATE)
}

/// Attaches a program that shall take the place of ours at a device, beside it. Where none of ours is, nothing is done.
///
/// # Errors
/// What the kernel says.
pub(crate) fn attach_next(index: u32, program: Filter<'_>) -> io::Result<()> {
    if attached(index, program.direction)?.is_none() {
        return Ok(());
    }
    requests(vec![new_filter(index, Place::Next, program)], NLM_F_ACK | NLM_F_CREATE)
}

fn new_filter(index: u32, place: Place, Filter { program, name, direction }: Filter<'_>) -> RouteNetlinkMessage {
    let mut filter = our_filter(index, direction, place);
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(format!("{NAME_PREFIX}{name}"))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    RouteNetlinkMessage::NewTrafficFilter(filter)
}

/// Detaches our programs from a device; they need not be there, nor the device. Removes the qdisc if
/// nothing uses it any more.
///
/// # Errors
/// What the kernel says.
pub(crate) fn detach(index: u32) -> io::Result<()> {
    if !detach_from(index, &[Place::Next, Place::Present])? {
        return Ok(());
    }
    let mut users = 0;
    for direction in Direction::ALL {
        users += filters(index, direction)?.len();
    }
    if users == 0 {
        let mut qdisc = message(index);
        qdisc.header.parent = TcHandle::CLSACT;
        request(RouteNetlinkMessage::DelQueueDiscipline(qdisc), NLM_F_ACK)?;
    }
    Ok(())
}

/// Detaches the programs that were to take the place of others; they need not be there.
///
/// # Errors
/// What the kernel says.
pub(crate) fn detach_next(index: u32) -> io::Result<()> {
    detach_from(index, &[Place::Next]).map(drop)
}

/// Whether any of ours was there.
fn detach_from(index: u32, places: &[Place]) -> io::Result<bool> {
    let mut ours = Vec::new();
    for direction in Direction::ALL {
        let filters = filters(index, direction)?;
        let here = places.iter().filter(|place| filters.iter().any(|filter| is_ours(filter, direction, **place)));
        ours.extend(here.map(|place| RouteNetlinkMessage::DelTrafficFilter(our_filter(index, direction, *place))));
    }
    let were_there = !ours.is_empty();
    if were_there {
        requests(ours, NLM_F_ACK)?;
    }
    Ok(were_there)
}

/// The devices with a program of ours, by index.
///
/// # Errors
/// What the kernel says.
pub(crate) fn served() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for index in devices()? {
        for direction in Direction::ALL {
            if attached(index, direction)?.is_some() && found.last() != Some(&index) {
                found.push(index);
            }
        }
    }
    Ok(found)
}

/// The number of our program at a device, if it is there.
pub(crate) fn attached(index: u32, direction: Direction) -> io::Result<Option<u32>> {
    let ours = filters(index, direction)?.into_iter().find(|filter| is_ours(filter, direction, Place::Present));
    let program = ours.and_then(|filter| {
        options(&filter).find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        })
    });
    Ok(program)
}

/// Whether a filter of a direction is ours, and at that place.
fn is_ours(filter: &TcMessage, direction: Direction, place: Place) -> bool {
    let has_name = |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name)) if name.starts_with(NAME_PREFIX));
    let (priority, handle) = place.numbers(direction);
    filter.header.handle == TcHandle::from(handle)
        && filter.header.info >> 16 == u32::from(priority)
        && options(filter).any(has_name)
}

/// The devices with a clsact qdisc, by index.
pub(crate) fn devices() -> io::Result<Vec<u32>> {
    let dump = request(RouteNetlinkMessage::GetQueueDiscipline(message(0)), NLM_F_DUMP)?;
    let is_clsact = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact");
    let clsact = dump.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) if qdisc.attributes.iter().any(is_clsact) => {
            u32::try_from(qdisc.header.index).ok()
        }
        _ => None,
    });
    Ok(clsact.collect())
}

/// All filters of a direction, our own and others; none if there is no qdisc.
fn filters(index: u32, direction: Direction) -> io::Result<Vec<TcMessage>> {
    let mut query = message(index);
    query.header.parent = parent(direction);
    let dump = match request(RouteNetlinkMessage::GetTrafficFilter(query), NLM_F_DUMP) {
        Ok(dump) => dump,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let filters = dump.into_iter().filter_map(|message| match message {
        // Each group of filters is announced by a message without a handle.
        RouteNetlinkMessage::NewTrafficFilter(filter) if filter.header.handle != TcHandle::UNSPEC => Some(filter),
        _ => None,
    });
    Ok(filters.collect())
}

fn options(filter: &TcMessage) -> impl Iterator<Item = &TcOption> {
    filter.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    })
}

/// Which of two filters of ours it is, while one takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Present,
    Next,
}

impl Place {
    /// Priority and handle.
    const fn numbers(self, direction: Direction) -> (u16, u32) {
        match (self, Order::of_next(direction)) {
            (Self::Present, _) => (PRIORITY, HANDLE),
            (Self::Next, Order::Before) => (PRIORITY, NEXT_HANDLE),
            (Self::Next, Order::After) => (NEXT_PRIORITY, HANDLE),
        }
    }
}

/// The message that names our filter.
fn our_filter(index: u32, direction: Direction, place: Place) -> TcMessage {
    let (priority, handle) = place.numbers(direction);
    let mut filter = message(index);
    filter.header.parent = parent(direction);
    filter.header.handle = TcHandle::from(handle);
    filter.header.info = u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS);
    filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    filter
}

fn message(index: u32) -> TcMessage {
    TcMessage::with_index(index.cast_signed())
}

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` or `…EGRESS`.
fn parent(direction: Direction) -> TcHandle {
    TcHandle::from(match direction {
        Direction::Ingress => 0xffff_fff2,
        Direction::Egress => 0xffff_fff3,
    })
}

/// Sends an rtnetlink request and returns the messages of the answer.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    exchange(vec![message], flags)
}

/// Sends rtnetlink requests, each of which is to be acknowledged, as one message; the kernel carries them out in their order. If it
/// refuses one, those after it may or may not have been carried out.
fn requests(messages: Vec<RouteNetlinkMessage>, flags: u16) -> io::Result<()> {
    exchange(messages, flags).map(drop)
}

/// Sends requests and returns the messages of the answers to all of them.
fn exchange(messages: Vec<RouteNetlinkMessage>, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut open = messages.len();
    let mut buffer = Vec::new();
    for message in messages {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..start + message.buffer_len()]);
    }
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&buffer, 0)?;

    let mut answers = Vec::new();
    while open > 0 {
        let mut received = Vec::with_capacity(1 << 16);
        socket.recv(&mut received, 0)?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::Error(result) if result.code.is_some() => return Err(result.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => open -= 1,
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                _ => {}
            }
            let length = usize::try_from(answer.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(answers)
}
