//! What is wrong with an object, in words for the person who wrote it.

use std::{fmt, net::IpAddr};

use super::{IpFamily, Kind, ObjectName};

/// A part of an object that cannot be used and was left out.
///
/// Displayed in one line: `Service default/web: spec.ports[1].port: 0 is not between 1 and 65535`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {object}: {field}: {reason}")]
pub struct Problem {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// Path of the field, as in `spec.ports[1].port`.
    pub field: String,
    /// Why it cannot be used.
    pub reason: Reason,
}

/// Why a field cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The field is empty or absent.
    #[error("is missing")]
    Missing,
    /// Not the text form of an IPv4 or IPv6 address.
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
    /// An address that no Service and no endpoint can have here.
    #[error("{address} is {class}")]
    UnusableAddress {
        /// The address.
        address: IpAddr,
        /// What makes it unusable.
        class: AddressClass,
    },
    /// An address of the other family.
    #[error("{address} is not an {expected} address")]
    WrongFamily {
        /// The address.
        address: IpAddr,
        /// The family that belongs here.
        expected: IpFamily,
    },
    /// Only one address of each family is possible here.
    #[error("{0} is a second address of its family")]
    SecondAddress(IpAddr),
    /// Two fields that must agree do not.
    #[error("{value:?} differs from {other}, which is used")]
    Differs {
        /// What the field says.
        value: String,
        /// Path of the field that is used.
        other: &'static str,
    },
    /// Not an address prefix in CIDR notation.
    #[error("{0:?} is not an address prefix such as 10.0.0.0/8")]
    NotAPrefix(String),
    /// A port number outside of 1 to 65535.
    #[error("{0} is not between 1 and 65535")]
    NotAPort(i32),
    /// A slice's port without a number, which would mean all ports.
    #[error("is missing; all ports of an endpoint cannot be served")]
    AllPorts,
    /// A protocol that Services cannot have.
    #[error("{0:?} is not TCP, UDP or SCTP")]
    UnknownProtocol(String),
    /// A value that is none of those that the API knows.
    #[error("{value:?} is not {expected}")]
    UnknownValue {
        /// The value.
        value: String,
        /// Those that are known.
        expected: &'static str,
    },
    /// A number outside of its bounds.
    #[error("{value} is not between {least} and {most}")]
    OutOfBounds {
        /// The number.
        value: i32,
        /// Least possible.
        least: i32,
        /// Greatest possible.
        most: i32,
    },
    /// An earlier field of the object says the same; that one is used.
    #[error("repeats {0}")]
    Repeats(String),
    /// A name with more bytes than Kubernetes allows.
    #[error("has more than {0} bytes")]
    TooLong(usize),
    /// A name with a character that no name can have.
    #[error("{0:?} holds a character that is not allowed")]
    BadCharacter(String),
    /// Not a time in RFC 3339 form.
    #[error("{0:?} is not a time such as 2006-01-02T15:04:05Z")]
    NotATime(String),
}

/// What kind of address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    Loopback,
    /// `224.0.0.0/4` or `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
}

impl fmt::Display for AddressClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
        })
    }
}

/// Text from an object as a message quotes it: no more than the start of what is very long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
