//! Messages to `nf_tables` and back, over netlink.
//!
//! Knows how they travel, not what they say.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, nftables::NfTablesMessage,
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::NftError;

/// One message of a transaction, with the name by which errors call it.
pub(in crate::dataplane) struct Step {
    pub(in crate::dataplane) name: &'static str,
    /// Which family's tables it is about.
    pub(in crate::dataplane) family: NetfilterProtoFamily,
    pub(in crate::dataplane) message: NfTablesMessage,
}

/// Carries out all steps or none.
///
/// # Errors
/// The kernel refuses one.
pub(in crate::dataplane) fn transaction(steps: &[Step]) -> Result<(), NftError> {
    let mut buffer = Vec::new();
    append(&mut buffer, 0, 0, control(ControlMessage::BatchBegin));
    for (sequence, step) in (1..).zip(steps) {
        append(&mut buffer, sequence, NLM_F_ACK | NLM_F_CREATE, of(step));
    }
    append(&mut buffer, 0, 0, control(ControlMessage::BatchEnd));
    // Each step is acknowledged or refused; the first refusal ends it.
    exchange(&buffer, steps, steps.len()).map(drop)
}

/// Asks whether something is there.
///
/// # Errors
/// It is not, or the kernel does not say.
pub(in crate::dataplane) fn ask(step: &Step) -> Result<(), NftError> {
    let mut buffer = Vec::new();
    append(&mut buffer, 1, NLM_F_ACK, of(step));
    exchange(&buffer, std::slice::from_ref(step), 1).map(drop)
}

/// Asks for a list.
///
/// # Errors
/// The kernel does not answer.
pub(in crate::dataplane) fn dump(step: &Step) -> Result<Vec<NfTablesMessage>, NftError> {
    let mut buffer = Vec::new();
    append(&mut buffer, 1, NLM_F_DUMP, of(step));
    exchange(&buffer, std::slice::from_ref(step), 1)
}

/// Sends the messages and reads until as many of them have been answered in full.
fn exchange(messages: &[u8], steps: &[Step], answers: usize) -> Result<Vec<NfTablesMessage>, NftError> {
    let socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(NftError::Socket)?;
    socket.send(messages, 0).map_err(NftError::Socket)?;

    let (mut answered, mut told) = (0, Vec::new());
    while answered < answers {
        let mut answer = Vec::with_capacity(1 << 16);
        socket.recv(&mut answer, 0).map_err(NftError::Socket)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .map_err(|error| NftError::Answer(error.to_string()))?;
            let length = usize::try_from(message.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Error(result) => {
                    if result.code.is_some() {
                        let step = usize::try_from(message.header.sequence_number).unwrap_or(0);
                        let step =
                            step.checked_sub(1).and_then(|step| steps.get(step)).map_or("batch", |step| step.name);
                        return Err(NftError::Refused { step: step.to_owned(), error: result.to_io() });
                    }
                    answered += 1;
                }
                NetlinkPayload::Done(_) => answered += 1,
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(message),
                    ..
                }) => told.push(message),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(told)
}

fn of(step: &Step) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(step.family, 0, 0), step.message.clone())
}

/// The messages around a batch name the subsystem that it is for.
fn control(message: ControlMessage) -> NetfilterMessage {
    const SUBSYSTEM_NFTABLES: u16 = 10;
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM_NFTABLES), message)
}

fn append(buffer: &mut Vec<u8>, sequence: u32, flags: u16, message: NetfilterMessage) {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = buffer.len();
    buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut buffer[start..]);
}
