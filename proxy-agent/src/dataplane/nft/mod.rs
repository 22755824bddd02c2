//! The one thing that netfilter does for the agent: masquerade the packets that carry the masquerade
//! mark, and drop those that carry the drop mark.
//!
//! Owns the table `inet proxy-agent` of the calling thread's network namespace, over netlink and
//! without the nft program. Touches no other table.

mod keep;
pub(super) mod netlink;
mod ruleset;

use std::io;

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
/// mark bit that asks for masquerading; if it is [`proxy_common::DROP_MARK`], nothing asks for dropping.
///
/// # Errors
/// The kernel refuses, or lacks what the table needs; the old table is then still there.
pub fn install(masquerade_mark: u32) -> Result<(), NftError> {
    netlink::transaction(&ruleset::install(masquerade_mark))
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

/// Looks whether the table is there with all that [`install`] puts into it; a part of it counts as missing.
///
/// # Errors
/// The kernel does not say.
pub(super) fn completeness(masquerade_mark: u32) -> Result<Presence, NftError> {
    match presence()? {
        Presence::Installed => {
            let rules = netlink::dump(&ruleset::rules())?.len();
            Ok(if rules == ruleset::rule_count(masquerade_mark) { Presence::Installed } else { Presence::Missing })
        }
        presence => Ok(presence),
    }
}

/// Looks whether the table is there.
///
/// # Errors
/// The kernel does not say.
pub fn presence() -> Result<Presence, NftError> {
    match netlink::ask(&ruleset::query()) {
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
    match netlink::transaction(&ruleset::remove()) {
        Err(error) if error.is_unsupported() => Ok(()),
        result => result,
    }
}

/// How many packets the table dropped because they carried the drop mark, since it was made; `None` if it is not there.
///
/// # Errors
/// The kernel does not say.
pub fn dropped() -> Result<Option<u64>, NftError> {
    match netlink::dump(&ruleset::rules()) {
        // The list of a table that is not there is empty; the agent's table always has rules.
        Ok(rules) => Ok((!rules.is_empty()).then(|| ruleset::dropped(&rules))),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}
