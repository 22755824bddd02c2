//! Who a client is.

use std::{convert::Infallible, net::IpAddr, str::FromStr};

use proxy_common::{Detector, NodeAddress, PlainAddress, V4, V6};

use super::AskError;
use crate::{
    cli::CommandError,
    dataplane::{
        pins::{Direction, SocketHook},
        pod_namespace,
        status::{self, AttachedDevice, AttachedSocketHook},
        tables::{FamilyTables, HashTable, TableError, Tables},
    },
    explain::{Hooks, IpFamily, Origin},
    near::near,
};

/// Who the user says the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    Pod,
    Node,
    Outside,
    Device(String),
}

impl FromStr for From {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "pod" => Self::Pod,
            "node" => Self::Node,
            "outside" => Self::Outside,
            device => Self::Device(device.to_owned()),
        })
    }
}

/// What is attached where.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) sockets: Vec<AttachedSocketHook>,
    pub(super) devices: Vec<AttachedDevice>,
}

/// Who the client is, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) origin: Origin,
    /// In a few words.
    pub(super) text: String,
    /// What the answer depends on that is not known.
    pub(super) notes: Vec<String>,
    /// Nothing of ours sees what the client sends.
    pub(super) is_unattached: bool,
}

impl Attached {
    /// Whether calls of connect are seen.
    pub(super) fn hooks(&self) -> Hooks {
        let sees = |hook: &AttachedSocketHook| matches!(hook.hook, SocketHook::Connect4 | SocketHook::Connect6);
        if self.sockets.iter().any(sees) { Hooks::Attached } else { Hooks::Absent }
    }

    fn sees_packets_of(&self, device: u32) -> bool {
        self.devices.iter().any(|attached| attached.index == device && attached.direction == Direction::Ingress)
    }
}

/// Finds out who has the address `client`, unless the user says it.
pub(super) fn find(
    from: Option<&From>,
    client: IpAddr,
    tables: &Tables,
    pod_devices: &HashTable<u32, u32>,
    attached: &Attached,
) -> Result<Who, AskError> {
    let settings = tables.settings.read()?;
    let (guess, why) = if client.is_ipv4() {
        guess::<V4>(client, &tables.v4, settings.v4())?
    } else {
        guess::<V6>(client, &tables.v6, settings.v6())?
    };
    let (from, why) = from.map_or((guess, why), |from| (from.clone(), ""));
    let mut notes = Vec::new();
    if attached.hooks() == Hooks::Absent && !matches!(from, From::Outside | From::Device(_)) {
        notes.push("no program is attached to a cgroup, so nothing is done at sockets".to_owned());
    }
    if attached.devices.is_empty() {
        notes.push("no device of this network namespace has a program, so nothing is done about packets".to_owned());
    }
    let (origin, name) = match &from {
        From::Node => (Origin::Node, "a process of the node".to_owned()),
        From::Pod => {
            let namespace = pod_namespace::cookie_of(client);
            let mut device = None;
            pod_devices.visit(|index, _| device = device.or(Some(index)))?;
            (Origin::Pod { namespace, device: device.unwrap_or(0) }, "a process of a pod".to_owned())
        }
        From::Outside => {
            (Origin::Packets { device: 0 }, "somebody outside, by a device that leads to no pod".to_owned())
        }
        From::Device(name) => {
            let device = status::device_index(name).ok_or_else(|| unknown_device(name))?;
            if !attached.sees_packets_of(device) {
                notes.push(format!(
                    "{name} has no program for packets that enter the node, so nothing is done about them"
                ));
            }
            (Origin::Packets { device }, format!("somebody behind the device {name}"))
        }
    };
    let is_unattached = match origin {
        Origin::Packets { device: 0 } => attached.devices.is_empty(),
        Origin::Packets { device } => !attached.sees_packets_of(device),
        Origin::Node | Origin::Pod { .. } => attached.hooks() == Hooks::Absent && attached.devices.is_empty(),
    };
    Ok(Who { origin, text: format!("{name}{why}"), notes, is_unattached })
}

fn guess<F: IpFamily<Address: PlainAddress + Ord>>(
    client: IpAddr,
    tables: &FamilyTables<F>,
    settings: &proxy_common::FamilySettings<F::Address>,
) -> Result<(From, &'static str), TableError> {
    let Some(address) = F::octets(client) else { return Ok((From::Outside, "")) };
    let own: Option<NodeAddress> = tables.node_addresses.get(&address)?;
    if own.is_some() || client.is_loopback() {
        return Ok((From::Node, " (its address is the node's)"));
    }
    let (mask, prefix) = (settings.mask(), settings.prefix());
    let mut bytes = address.as_ref().iter().zip(mask.as_ref()).zip(prefix.as_ref());
    let is_in_prefix = bytes.all(|((byte, mask), prefix)| byte & mask == *prefix);
    if settings.detector() == Detector::Prefix && is_in_prefix {
        return Ok((From::Pod, " (its address is in the pods' prefix)"));
    }
    let is_local_endpoint =
        tables.snapshot()?.backends.values().any(|backend| backend.is_local() && backend.address() == address);
    if is_local_endpoint {
        return Ok((From::Pod, " (its address is that of an endpoint on this node)"));
    }
    Ok((From::Outside, " (nothing is known of its address)"))
}

fn unknown_device(name: &str) -> AskError {
    let all = status::device_names().into_iter().chain(["pod", "node", "outside"].map(str::to_owned));
    let near = near(name, all.map(|name| (name.clone(), name)));
    let advice = if near.is_empty() {
        "it is pod, node, outside, or the name of a device".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    CommandError::Nothing(format!("--from {name}: there is no such device in this network namespace; {advice}")).into()
}
