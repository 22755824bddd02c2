//! What kube-proxy's ipvs mode has besides chains: sets of addresses (ipset), and a device that makes Service addresses the
//! node's own.
//!
//! Virtual servers stay: the kernel does not say whose they are. Without the device no packet from outside reaches those of
//! clusterIPs. How many there are can be told.

use std::{fs, io};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use crate::dataplane::{status, tc::clsact};

/// The device that has the addresses of Services.
pub(super) const DEVICE: &str = "kube-ipvs0";

/// How many virtual servers there are in this network namespace, kube-proxy's or not; none where the kernel has no IPVS.
#[must_use]
pub fn virtual_servers() -> usize {
    count(&fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default())
}

/// Virtual servers begin a line with their protocol, or with that they go by a mark; real servers with an arrow.
fn count(table: &str) -> usize {
    let kinds = ["TCP ", "UDP ", "SCTP ", "FWM "];
    table.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).count()
}

/// The names of kube-proxy's sets; those for IPv6 begin with `KUBE-6-`.
const SETS: [&str; 19] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "NODE-PORT-SCTP",
    "NODE-PORT-LOCAL-SCTP",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// `NFNL_SUBSYS_IPSET`, and of `linux/netfilter/ipset/ip_set.h` the protocol's version since 2.6.39, commands and attributes.
const SUBSYSTEM: u8 = 6;
const PROTOCOL: u8 = 6;
const DESTROY: u8 = 3;
const LIST: u8 = 7;
const ATTRIBUTE_PROTOCOL: u16 = 1;
const ATTRIBUTE_SETNAME: u16 = 2;

/// The sets of kube-proxy's that are there.
pub(super) fn sets() -> io::Result<Vec<String>> {
    let mut names: Vec<String> = exchange(LIST, NLM_F_DUMP, None)?;
    names.retain(|name| is_kube_proxys(name));
    // A long set is told of in several messages.
    names.dedup();
    Ok(names)
}

/// Destroys a set, which no rule may use any more.
pub(super) fn destroy(name: &str) -> io::Result<()> {
    exchange(DESTROY, NLM_F_ACK, Some(name)).map(drop)
}

/// Removes the device, and says how many there were.
pub(super) fn remove_device() -> io::Result<usize> {
    if status::device_index(DEVICE).is_none() {
        return Ok(0);
    }
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(DEVICE.to_owned()));
    clsact::request(RouteNetlinkMessage::DelLink(link), NLM_F_ACK).map(|_| 1)
}

fn is_kube_proxys(name: &str) -> bool {
    let name = name.strip_prefix("KUBE-").map(|rest| rest.strip_prefix("6-").unwrap_or(rest));
    name.is_some_and(|name| SETS.contains(&name))
}

/// Sends a command and returns the names of the sets in the answer.
fn exchange(command: u8, flags: u16, set: Option<&str>) -> io::Result<Vec<String>> {
    let mut attributes = vec![DefaultNla::new(ATTRIBUTE_PROTOCOL, vec![PROTOCOL])];
    attributes.extend(set.map(|name| DefaultNla::new(ATTRIBUTE_SETNAME, [name.as_bytes(), &[0]].concat())));
    let inner = NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Other(SUBSYSTEM),
        message_type: command,
        attributes,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), inner);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&buffer, 0)?;

    let mut names = Vec::new();
    loop {
        let mut received = Vec::with_capacity(1 << 16);
        socket.recv(&mut received, 0)?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::Error(result) if result.code.is_some() => return Err(result.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(names),
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Other { attributes, .. },
                    ..
                }) => {
                    names.extend(attributes.iter().filter(|attribute| attribute.kind() == ATTRIBUTE_SETNAME).map(text));
                }
                _ => {}
            }
            let length = usize::try_from(answer.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn text(attribute: &DefaultNla) -> String {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_others_are_not_kube_proxys() {
        for name in ["KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "KUBE-LOOP-BACK", "KUBE-NODE-PORT-LOCAL-SCTP-HASH"] {
            assert!(is_kube_proxys(name), "{name}");
        }
        for name in ["CLUSTER-IP", "KUBE-", "KUBE-6-", "KUBE-MINE", "cali40all-ipam-pools", "KUBE-NWPLCY"] {
            assert!(!is_kube_proxys(name), "{name}");
        }
    }

    #[test]
    fn virtual_servers_are_counted_and_what_is_behind_them_is_not() {
        let table = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0050 rr
  -> 0A010002:1F90      Masq    1      0          0
UDP  0A60000A:0035 rr
TCP  [fd96:0000:0000:0000:0000:0000:0000:0001]:0050 rr
FWM  00000001 rr
";
        assert_eq!((count(table), count("")), (4, 0));
    }
}
