//! The list of devices, kept up to date from rtnetlink(7).

use std::{collections::BTreeSet, io, time::Duration};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    },
};
use tokio::{task::JoinHandle, time::timeout};

use super::{Device, Devices, LinkLayer};

/// How often the list is read anew even if nothing is reported.
const RESYNC: Duration = Duration::from_secs(30);

/// Why devices cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No rtnetlink socket.
    #[error("cannot watch network devices: {0}")]
    Socket(#[from] io::Error),
    /// The kernel did not list the devices.
    #[error("cannot list network devices: {0}")]
    List(#[from] rtnetlink::Error),
    /// The kernel closed the socket.
    #[error("the kernel closed the socket that reports network devices")]
    Closed,
}

/// Follows the devices of the network namespace in which it was started.
pub struct Watcher {
    handle: Handle,
    reports: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    connection: JoinHandle<()>,
    devices: Devices,
    removed: BTreeSet<u32>,
    /// Reports were lost, so the list must be read anew.
    stale: bool,
}

impl Watcher {
    /// Subscribes to changes, then lists the devices, so that none is missed between the two.
    ///
    /// # Errors
    /// There is no rtnetlink socket to be had, or the devices cannot be listed.
    pub async fn start() -> Result<Self, WatchError> {
        let (connection, handle, reports) = new_multicast_connection(&[MulticastGroup::Link])?;
        let connection = tokio::spawn(connection);
        let reports = reports.map(|(message, _)| message).boxed();
        let mut watcher =
            Self { handle, reports, connection, devices: Devices::new(), removed: BTreeSet::new(), stale: false };
        watcher.devices = watcher.list().await?;
        Ok(watcher)
    }

    /// The devices as last reported.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The devices that went since the last call, by index; one of the same index may have come.
    pub fn take_removed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.removed)
    }

    /// Waits until the list may have changed: a report came, or it was time to read it anew. All
    /// reports that have come so far are taken together. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The socket is gone, or the devices cannot be listed.
    pub async fn changed(&mut self) -> Result<(), WatchError> {
        if !self.stale {
            match timeout(RESYNC, self.reports.next()).await {
                Ok(Some(report)) => self.take(report),
                Ok(None) => return Err(WatchError::Closed),
                Err(_) => self.stale = true,
            }
            while let Some(Some(report)) = self.reports.next().now_or_never() {
                self.take(report);
            }
        }
        if self.stale {
            self.devices = self.list().await?;
            self.stale = false;
        }
        Ok(())
    }

    fn take(&mut self, report: NetlinkMessage<RouteNetlinkMessage>) {
        match apply(&mut self.devices, report.payload) {
            Outcome::Nothing => {}
            Outcome::Removed(index) => drop(self.removed.insert(index)),
            Outcome::Lost => self.stale = true,
        }
    }

    async fn list(&mut self) -> Result<Devices, WatchError> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        Ok(links.into_iter().filter_map(|link| Some((link.header.index, device(link)?))).collect())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What a report means beyond the list.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Nothing,
    /// The device with this index went.
    Removed(u32),
    /// The kernel dropped reports because they were not read fast enough.
    Lost,
}

/// Carries out one report.
fn apply(devices: &mut Devices, payload: NetlinkPayload<RouteNetlinkMessage>) -> Outcome {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if is_about_the_device(&link) => {
            let index = link.header.index;
            if let Some(device) = device(link) {
                devices.insert(index, device);
            }
            Outcome::Nothing
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if is_about_the_device(&link) => {
            devices.remove(&link.header.index);
            Outcome::Removed(link.header.index)
        }
        NetlinkPayload::Overrun(_) => Outcome::Lost,
        _ => Outcome::Nothing,
    }
}

/// A bridge reports its ports in the same messages with family `AF_BRIDGE`; those say that a port left
/// the bridge, not that the device is gone.
fn is_about_the_device(link: &LinkMessage) -> bool {
    u8::from(link.header.interface_family) == 0
}

/// The device of a link message; `None` if it does not name it.
fn device(link: LinkMessage) -> Option<Device> {
    let mut name = None;
    let mut kind = None;
    let mut master = None;
    let mut leads_elsewhere = false;
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value),
            LinkAttribute::Controller(0) => {}
            LinkAttribute::Controller(value) => master = Some(value),
            LinkAttribute::LinkNetNsId(_) => leads_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                kind = kind.or_else(|| {
                    infos
                        .iter()
                        .find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None })
                });
            }
            _ => {}
        }
    }
    let link_layer = match link.header.link_layer_type {
        LinkLayerType::Ether => LinkLayer::Ethernet,
        LinkLayerType::Loopback => LinkLayer::Loopback,
        _ => LinkLayer::Ip,
    };
    Some(Device { name: name?, link_layer, kind, master, leads_elsewhere })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link
    }

    fn new(link: LinkMessage) -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
    }

    fn gone(link: LinkMessage) -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
    }

    fn names(devices: &Devices) -> Vec<&str> {
        devices.values().map(|device| device.name.as_str()).collect()
    }

    #[test]
    fn devices_come_are_renamed_and_go() {
        let mut devices = Devices::new();
        assert_eq!(apply(&mut devices, new(link(2, "eth0"))), Outcome::Nothing);
        assert_eq!(apply(&mut devices, new(link(3, "veth1"))), Outcome::Nothing);
        assert_eq!(names(&devices), ["eth0", "veth1"]);
        assert_eq!(apply(&mut devices, new(link(3, "cali1"))), Outcome::Nothing);
        assert_eq!(names(&devices), ["eth0", "cali1"]);
        assert_eq!(apply(&mut devices, gone(link(2, "eth0"))), Outcome::Removed(2));
        assert_eq!(names(&devices), ["cali1"]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut devices = Devices::new();
        apply(&mut devices, new(link(3, "veth1")));
        let mut report = link(3, "veth1");
        report.header.interface_family = 7.into();
        assert_eq!(apply(&mut devices, gone(report)), Outcome::Nothing);
        assert_eq!(names(&devices), ["veth1"]);
    }

    #[test]
    fn kind_master_and_namespace_of_the_other_end_are_read() {
        let mut message = link(4, "veth2");
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(rtnetlink::packet_route::link::InfoKind::Veth)]));
        message.attributes.push(LinkAttribute::Controller(9));
        let expected = Device {
            name: "veth2".to_owned(),
            link_layer: LinkLayer::Ethernet,
            kind: Some("veth".to_owned()),
            master: Some(9),
            leads_elsewhere: false,
        };
        assert_eq!(device(message.clone()), Some(expected.clone()));
        message.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(device(message), Some(Device { leads_elsewhere: true, ..expected }));
    }

    #[test]
    fn lost_reports_are_noticed() {
        assert_eq!(apply(&mut Devices::new(), NetlinkPayload::Overrun(Vec::new())), Outcome::Lost);
    }
}
