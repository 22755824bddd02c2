//! An end of a cable to the node, in a namespace that answers nothing by itself.

use std::{io::ErrorKind, time::Duration};

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, MacAddr};

use super::support::Netns;

/// Where Ethernet's payload begins.
const HEADER: usize = 14;

pub struct Wire {
    _namespace: Netns,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    own: MacAddr,
    node: MacAddr,
}

impl Wire {
    /// A cable from a namespace of its own to the node's `device`.
    pub fn new(node: &Netns, device: &str) -> Self {
        let namespace = Netns::new();
        // Neither neighbours nor routers are asked for.
        namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        namespace.veth("eth0", node, device);
        let config = Config {
            read_timeout: Some(Duration::from_millis(20)),
            read_buffer_size: 1 << 16,
            write_buffer_size: 1 << 16,
            ..Config::default()
        };
        let (own, (sender, receiver)) = namespace.enter(|| {
            let interface = interface("eth0");
            match pnet_datalink::channel(&interface, config) {
                Ok(Channel::Ethernet(sender, receiver)) => (mac(&interface), (sender, receiver)),
                other => panic!("no packet socket: {:?}", other.err()),
            }
        });
        let node = node.enter(|| mac(&interface(device)));
        Self { _namespace: namespace, sender, receiver, own, node }
    }

    pub fn mac(&self) -> String {
        self.own.to_string()
    }

    /// Sends an IP packet to the node.
    pub fn send(&mut self, packet: &[u8]) {
        let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&self.node.octets()[..], &self.own.octets(), &ethertype, packet].concat();
        self.sender.send_to(&frame, None).expect("there is a socket").expect("the cable takes it");
    }

    /// The next IP packet from the node, if there is one within some milliseconds. Talk about neighbours and groups is
    /// left out.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.receiver.next() {
                Ok(frame) => {
                    let to_us = frame[..6] == self.own.octets();
                    let is_ip = matches!(frame[12..HEADER], [0x08, 0x00] | [0x86, 0xdd]);
                    if to_us && is_ip {
                        return Some(without_padding(&frame[HEADER..]).to_vec());
                    }
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return None,
                Err(error) => panic!("the cable: {error}"),
            }
        }
    }
}

fn interface(name: &str) -> pnet_datalink::NetworkInterface {
    pnet_datalink::interfaces().into_iter().find(|interface| interface.name == name).expect("the device is there")
}

fn mac(interface: &pnet_datalink::NetworkInterface) -> MacAddr {
    interface.mac.expect("it is an Ethernet device")
}

fn without_padding(packet: &[u8]) -> &[u8] {
    let word = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let length = if packet[0] >> 4 == 4 { word(2) } else { 40 + word(4) };
    packet.get(..length).unwrap_or(packet)
}
