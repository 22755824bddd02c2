//! The `names` table: what a [`ServiceId`](crate::ServiceId) stands for. The programs never read it;
//! the command line does, also while the agent is down, and the agent gives the same Service port
//! the same id again after a restart.

use crate::Protocol;

/// Room for a name: Kubernetes names of these kinds have at most 63 bytes (RFC 1123 labels).
pub const NAME_LEN: usize = 64;

/// Namespace, name, port name and protocol of a Service port; names are UTF-8, padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortName {
    namespace: [u8; NAME_LEN],
    name: [u8; NAME_LEN],
    port: [u8; NAME_LEN],
    protocol: u8,
    pad: [u8; 7],
}

impl PortName {
    /// `None` if a part is longer than [`NAME_LEN`].
    #[must_use]
    pub fn new(namespace: &str, name: &str, port: &str, protocol: Protocol) -> Option<Self> {
        Some(Self {
            namespace: padded(namespace)?,
            name: padded(name)?,
            port: padded(port)?,
            protocol: protocol.number(),
            pad: [0; 7],
        })
    }

    /// Namespace of the Service.
    #[must_use]
    pub fn namespace(&self) -> &str {
        text(&self.namespace)
    }

    /// Name of the Service.
    #[must_use]
    pub fn name(&self) -> &str {
        text(&self.name)
    }

    /// Name of the port; empty for the one port of a Service that does not name it.
    #[must_use]
    pub fn port(&self) -> &str {
        text(&self.port)
    }

    /// Protocol; `None` for a number that no Service can have.
    #[must_use]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol)
    }
}

fn padded(text: &str) -> Option<[u8; NAME_LEN]> {
    let mut bytes = [0; NAME_LEN];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

fn text(bytes: &[u8; NAME_LEN]) -> &str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(NAME_LEN);
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
}
