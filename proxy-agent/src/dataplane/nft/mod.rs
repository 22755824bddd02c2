//! The one thing that netfilter does for the agent: masquerade the packets that carry the masquerade
//! mark, and drop those that carry the drop mark.
//!
//! Owns the table `inet proxy-agent` of the calling thread's network namespace, over netlink and
//! without the nft program. Touches no other table.

mod keep;
mod ruleset;

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, nftables::NfTablesMessage, none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde::Serialize;

pub(super) use self::keep::Masquerading;
pub use self::ruleset::TABLE;

/// Why the table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no netfilter socket.
    #[error("no netfilter socket: {0}")]
    Socket(io::Error),
    /// The kernel refused the table; nothing was changed.
    #[error("the kernel refused the nftables table {TABLE}, at its {step}: {error}")]
    Refused {
        /// The part that it refused.
        step: String,
        /// What it says.
        error: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("the kernel's answer about the nftables table {TABLE} cannot be read: {0}")]
    Answer(String),
}

impl NftError {
    /// Whether the kernel lacks `nf_tables` or a part of it that the table needs.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Socket(error) => error.raw_os_error() == Some(libc::EPROTONOSUPPORT),
            // A missing chain type or expression is ENOENT, a missing subsystem EINVAL or EOPNOTSUPP, a missing
            // family EAFNOSUPPORT.
            Self::Refused { error, .. } => matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
            ),
            Self::Answer(_) => false,
        }
    }
}

/// Writes the table, replacing one that is there in the same transaction. `masquerade_mark` is the
/// mark bit that asks for masquerading.
///
/// # Errors
/// The kernel refuses, or lacks what the table needs; the old table is then still there.
pub fn install(masquerade_mark: u32) -> Result<(), NftError> {
    transaction(&ruleset::install(masquerade_mark))
}

/// Whether the table is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It is.
    Installed,
    /// It is not.
    Missing,
    /// The kernel has no `nf_tables`.
    Unsupported,
}

/// Looks whether the table is there.
///
/// # Errors
/// The kernel does not say.
pub fn presence() -> Result<Presence, NftError> {
    match exchange(&[ruleset::query()], Framing::Single) {
        Ok(()) => Ok(Presence::Installed),
        Err(NftError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Presence::Missing),
        Err(error) if error.is_unsupported() => Ok(Presence::Unsupported),
        Err(error) => Err(error),
    }
}

/// Removes the table, if it is there.
///
/// # Errors
/// The kernel refuses.
pub fn remove() -> Result<(), NftError> {
    match transaction(&ruleset::remove()) {
        Err(error) if error.is_unsupported() => Ok(()),
        result => result,
    }
}

/// One message of a transaction, with the name by which errors call it.
struct Step {
    name: &'static str,
    message: NfTablesMessage,
}

/// How messages are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// As one transaction: the kernel carries out all of them or none.
    Batch,
    /// One by one, for queries.
    Single,
}

fn transaction(steps: &[Step]) -> Result<(), NftError> {
    exchange(steps, Framing::Batch)
}

/// Sends all steps and waits until each is acknowledged.
fn exchange(steps: &[Step], framing: Framing) -> Result<(), NftError> {
    let socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(NftError::Socket)?;

    let mut buffer = Vec::new();
    if framing == Framing::Batch {
        append(&mut buffer, 0, 0, control(ControlMessage::BatchBegin));
    }
    for (sequence, step) in (1..).zip(steps) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let flags = if framing == Framing::Batch { NLM_F_ACK | NLM_F_CREATE } else { NLM_F_ACK };
        append(&mut buffer, sequence, flags, NetfilterMessage::new(header, step.message.clone()));
    }
    if framing == Framing::Batch {
        append(&mut buffer, 0, 0, control(ControlMessage::BatchEnd));
    }
    socket.send(&buffer, 0).map_err(NftError::Socket)?;

    // Each step is acknowledged or refused; the first refusal ends it.
    let mut acknowledged = 0;
    while acknowledged < steps.len() {
        let mut answer = Vec::with_capacity(1 << 16);
        socket.recv(&mut answer, 0).map_err(NftError::Socket)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .map_err(|error| NftError::Answer(error.to_string()))?;
            if let NetlinkPayload::Error(result) = message.payload {
                if result.code.is_some() {
                    let step = usize::try_from(message.header.sequence_number).unwrap_or(0);
                    let step = step.checked_sub(1).and_then(|step| steps.get(step)).map_or("batch", |step| step.name);
                    return Err(NftError::Refused { step: step.to_owned(), error: result.to_io() });
                }
                acknowledged += 1;
            }
            let length = usize::try_from(message.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(())
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
