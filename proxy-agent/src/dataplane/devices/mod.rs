//! Network devices: which get programs, and behind which pods live.
//!
//! [`policy`] decides, without IO; [`Watcher`] keeps the list of devices up to date from rtnetlink.
//! Attaches nothing.

mod policy;
mod watch;

use std::collections::BTreeMap;

pub use self::{
    policy::{Peers, PodDevices, Selection, SelectionError},
    watch::{WatchError, Watcher},
};

/// The devices of a network namespace, by index.
pub type Devices = BTreeMap<u32, Device>;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name; unique at any one time, but it can change.
    pub name: String,
    /// What its packets begin with.
    pub link_layer: LinkLayer,
    /// What the driver calls this sort of device (`IFLA_INFO_KIND`); physical devices have none.
    pub kind: Option<String>,
    /// Index of the bridge, bond, team or VRF that it belongs to.
    pub master: Option<u32>,
    /// What it is linked to, such as its other end, is in another network namespace (`IFLA_LINK_NETNSID`).
    pub leads_elsewhere: bool,
}

/// What the packets of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header (`ARPHRD_ETHER`).
    Ethernet,
    /// The loopback device, which has an Ethernet header of zeros (`ARPHRD_LOOPBACK`).
    Loopback,
    /// The IP header itself: `ARPHRD_NONE` and everything else.
    Ip,
}
