//! Which devices get programs, and behind which pods live. Pure.
//!
//! By default programs go on every device through which packets enter or leave this network namespace:
//! physical ones, bonds, teams, VLANs, macvlans, veths, netkits, tuns, `WireGuard`, PPP and Open vSwitch
//! ports. Not on:
//!
//! - the loopback device: its packets come from local sockets, which the socket hooks serve;
//! - members of a bond or team: the master sees their packets;
//! - a bridge one of whose ports has programs. They must be on the ports, because the replies of a pod
//!   to another pod on the same bridge never reach the bridge device itself. A bridge without ports
//!   carries nothing;
//! - tunnels between nodes (VXLAN, Geneve, GRE, IPIP, SIT): what comes out of them was translated where
//!   it entered the cluster;
//! - dummies and other sinks.
//!
//! A list of names given by the user replaces all of this, but for the loopback device.

use std::{collections::BTreeSet, fmt};

use wildmatch::WildMatch;

use super::{Device, Devices, LinkLayer};

/// Which devices get programs.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Selection {
    /// Those that the module's documentation lists.
    #[default]
    Automatic,
    /// Those with these names.
    Named(Vec<NamePattern>),
}

/// A device name, or a pattern for names with `*` and `?`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamePattern {
    text: String,
    pattern: WildMatch,
}

/// Why a selection of devices cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No device can have this name.
    #[error("--devices {name:?}: a device name has 1 to 15 bytes, and no slash, colon or blank")]
    Invalid {
        /// The name.
        name: String,
    },
    /// There is no such device.
    #[error("--devices {name}: there is no such device (for those that appear later, give a pattern such as {name}*)")]
    Unknown {
        /// The name.
        name: String,
    },
}

impl Selection {
    /// A selection from the names or patterns that a user gives; none selects automatically.
    ///
    /// # Errors
    /// A name that no device can have.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, SelectionError> {
        if names.is_empty() {
            return Ok(Self::Automatic);
        }
        names.iter().map(|name| NamePattern::parse(name.as_ref())).collect::<Result<_, _>>().map(Self::Named)
    }

    /// The devices that get programs.
    #[must_use]
    pub fn select(&self, devices: &Devices) -> BTreeSet<u32> {
        let wanted = |(&index, device): (&u32, &Device)| {
            let wanted = match self {
                Self::Automatic => qualifies(index, device, devices),
                Self::Named(patterns) => patterns.iter().any(|pattern| pattern.pattern.matches(&device.name)),
            };
            (wanted && device.link_layer != LinkLayer::Loopback).then_some(index)
        };
        devices.iter().filter_map(wanted).collect()
    }

    /// Checks that each device exists that is named without a pattern.
    ///
    /// # Errors
    /// Names the first one that does not exist.
    pub fn check(&self, exists: impl Fn(&str) -> bool) -> Result<(), SelectionError> {
        let Self::Named(patterns) = self else { return Ok(()) };
        match patterns.iter().find(|pattern| !pattern.is_glob() && !exists(&pattern.text)) {
            Some(unknown) => Err(SelectionError::Unknown { name: unknown.text.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Automatic => formatter.write_str("automatic"),
            Self::Named(patterns) => {
                let names: Vec<&str> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
                formatter.write_str(&names.join(","))
            }
        }
    }
}

impl NamePattern {
    /// `IFNAMSIZ` without the final zero.
    const MAX_LEN: usize = 15;

    fn parse(text: &str) -> Result<Self, SelectionError> {
        let valid = !text.is_empty()
            && text.len() <= Self::MAX_LEN
            && !text.chars().any(|char| char == '/' || char == ':' || char.is_whitespace());
        if valid {
            Ok(Self { text: text.to_owned(), pattern: WildMatch::new(text) })
        } else {
            Err(SelectionError::Invalid { name: text.to_owned() })
        }
    }

    fn is_glob(&self) -> bool {
        self.text.contains(['*', '?'])
    }
}

/// The devices behind which pods of this cluster live, for the detectors that tell pods by device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodDevices {
    /// Pods are not told by device.
    #[default]
    None,
    /// A bridge and its ports (`BridgeInterface`).
    Bridge(String),
    /// The devices whose name begins so (`InterfaceNamePrefix`).
    Prefix(String),
}

impl PodDevices {
    /// The devices behind which pods live.
    #[must_use]
    pub fn select(&self, devices: &Devices) -> BTreeSet<u32> {
        let named = |name: &str| devices.iter().find(|(_, device)| device.name == name).map(|(&index, _)| index);
        let all = |wanted: &dyn Fn(u32, &Device) -> bool| {
            devices.iter().filter(|&(&index, device)| wanted(index, device)).map(|(&index, _)| index).collect()
        };
        match self {
            Self::None => BTreeSet::new(),
            Self::Bridge(name) => match named(name) {
                Some(bridge) => all(&|index, device| index == bridge || device.master == Some(bridge)),
                None => BTreeSet::new(),
            },
            Self::Prefix(prefix) => all(&|_, device| device.name.starts_with(prefix)),
        }
    }
}

/// To the other end of which devices packets may be handed, past the devices themselves (`bpf_redirect_peer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// Of none.
    #[default]
    Nobody,
    /// Of virtual Ethernet devices whose other end is in another network namespace. The kernel drops what is handed to another.
    VirtualEthernet,
}

impl Peers {
    /// Those devices.
    #[must_use]
    pub fn select(self, devices: &Devices) -> BTreeSet<u32> {
        let is_one = |device: &Device| {
            self == Self::VirtualEthernet && device.kind.as_deref() == Some("veth") && device.leads_elsewhere
        };
        devices.iter().filter(|(_, device)| is_one(device)).map(|(&index, _)| index).collect()
    }
}

/// Whether a device gets programs when the user names none.
fn qualifies(index: u32, device: &Device, devices: &Devices) -> bool {
    match device.kind.as_deref() {
        _ if device.link_layer == LinkLayer::Loopback || has_aggregate_master(device, devices) => false,
        None
        | Some(
            "bond" | "team" | "vlan" | "macvlan" | "veth" | "netkit" | "tun" | "wireguard" | "ppp" | "openvswitch",
        ) => true,
        Some("bridge") => {
            let mut ports = devices.iter().filter(|(_, port)| port.master == Some(index)).peekable();
            ports.peek().is_some() && !ports.any(|(&index, port)| qualifies_as_port(index, port, devices))
        }
        Some(_) => false,
    }
}

/// A bridge cannot be the port of a bridge, so this ends.
fn qualifies_as_port(index: u32, port: &Device, devices: &Devices) -> bool {
    port.kind.as_deref() != Some("bridge") && qualifies(index, port, devices)
}

fn has_aggregate_master(device: &Device, devices: &Devices) -> bool {
    let master = device.master.and_then(|master| devices.get(&master));
    master.and_then(|master| master.kind.as_deref()).is_some_and(|kind| kind == "bond" || kind == "team")
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
