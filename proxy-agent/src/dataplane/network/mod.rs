//! What the kernel knows of this node's network: its own addresses, and the source addresses that it gives to what the node
//! sends.
//!
//! Reads and watches; decides nothing.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use netlink_packet_core::NetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How often everything is read anew even if nothing is reported.
const RESYNC: Duration = Duration::from_secs(30);

/// Reports come in crowds, as when a device goes up.
const GATHER: Duration = Duration::from_millis(10);

/// Why the node's network cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No rtnetlink socket.
    #[error("cannot watch this node's addresses: {0}")]
    Socket(#[from] io::Error),
    /// The kernel did not list the addresses.
    #[error("cannot list this node's addresses: {0}")]
    List(#[from] rtnetlink::Error),
    /// The kernel closed the socket.
    #[error("the kernel closed the socket that reports this node's addresses")]
    Closed,
}

/// Follows the addresses and routes of the network namespace in which it was started (rtnetlink(7)).
pub struct NetworkWatcher {
    handle: Handle,
    reports: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    connection: JoinHandle<()>,
}

impl NetworkWatcher {
    /// Subscribes to changes. What is read afterwards misses none.
    ///
    /// # Errors
    /// There is no rtnetlink socket to be had.
    pub fn start() -> Result<Self, NetworkError> {
        let groups = [
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, reports) = new_multicast_connection(&groups)?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, reports: reports.map(|(message, _)| message).boxed(), connection })
    }

    /// The addresses of all devices, both families, those of the loopback device too.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, NetworkError> {
        let messages: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await?;
        Ok(messages.iter().filter_map(address).collect())
    }

    /// The source address of what this node's own processes send to `destination`, as the kernel chooses it for a socket
    /// that is not bound; `None` if there is no route.
    pub async fn source_to(&mut self, destination: IpAddr) -> Option<IpAddr> {
        let route = RouteMessageBuilder::<IpAddr>::new();
        let route = match destination {
            IpAddr::V4(_) => route.destination_prefix(destination, 32),
            IpAddr::V6(_) => route.destination_prefix(destination, 128),
        };
        let answers = self.handle.route().get(route.ok()?.build()).execute();
        let answer: RouteMessage = std::pin::pin!(answers).try_next().await.ok()??;
        answer.attributes.into_iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => Some(address.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => Some(address.into()),
            _ => None,
        })
    }

    /// Waits until something may have changed, or it is time to look again. All reports that have come so far are taken
    /// together. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The socket is gone.
    pub async fn changed(&mut self) -> Result<(), NetworkError> {
        if let Ok(None) = timeout(RESYNC, self.reports.next()).await {
            return Err(NetworkError::Closed);
        }
        sleep(GATHER).await;
        while let Some(Some(_)) = self.reports.next().now_or_never() {}
        Ok(())
    }
}

impl Drop for NetworkWatcher {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The address of this node in a message. On a point-to-point device `IFA_ADDRESS` is the other end's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_this_ends() {
        let (own, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(other), AddressAttribute::Local(own)];
        assert_eq!(address(&message), Some(own));
        message.attributes = vec![AddressAttribute::Address(own)];
        assert_eq!(address(&message), Some(own));
        assert_eq!(address(&AddressMessage::default()), None);
    }
}
