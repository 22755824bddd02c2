//! Configures `WireGuard` devices over generic netlink, as `wg` does it (uapi/linux/wireguard.h).

use std::net::{IpAddr, SocketAddr};

use netlink_sys::{Socket, protocols::NETLINK_GENERIC};

/// One of the two ends of every tunnel here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    One,
    Other,
}

impl Side {
    const fn private_key(self) -> [u8; 32] {
        match self {
            Self::One => [1; 32],
            Self::Other => [2; 32],
        }
    }

    /// What X25519 (RFC 7748) makes of the other side's private key.
    const fn peers_public_key(self) -> [u8; 32] {
        match self {
            Self::Other => [
                164, 224, 146, 146, 182, 81, 194, 120, 185, 119, 44, 86, 159, 95, 169, 187, 19, 217, 6, 180, 106, 182,
                140, 157, 249, 220, 43, 68, 9, 248, 162, 9,
            ],
            Self::One => [
                206, 141, 58, 209, 204, 182, 51, 236, 123, 112, 193, 120, 20, 165, 199, 110, 205, 2, 150, 133, 5, 13,
                52, 71, 69, 186, 5, 135, 14, 88, 125, 89,
            ],
        }
    }
}

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `WG_CMD_SET_DEVICE`.
const SET_DEVICE: u8 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
/// Lengths of `nlmsghdr`, `genlmsghdr` and `nlattr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// Gives the device of this network namespace its key, its port, and its one peer, to which everything may go.
pub fn configure(device: &str, side: Side, port: u16, peer: SocketAddr) {
    let SocketAddr::V4(peer) = peer else { panic!("tunnels here run over IPv4: {peer}") };
    let socket = Socket::new(NETLINK_GENERIC).expect("generic netlink");
    let answer = ask(&socket, CONTROL, GET_FAMILY, &attribute(FAMILY_NAME, b"wireguard\0"));
    let family = attributes(&answer[HEADER + GENERIC_HEADER..])
        .find_map(|(kind, value)| (kind == FAMILY_ID).then(|| u16::from_ne_bytes([value[0], value[1]])))
        .expect("the kernel has WireGuard");

    // struct sockaddr_in
    let mut endpoint = [0; 16];
    endpoint[..2].copy_from_slice(&2_u16.to_ne_bytes());
    endpoint[2..4].copy_from_slice(&peer.port().to_be_bytes());
    endpoint[4..8].copy_from_slice(&peer.ip().octets());
    let everything = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|any| {
        let (family, octets) = match any {
            IpAddr::V4(any) => (2_u16, any.octets().to_vec()),
            IpAddr::V6(any) => (10, any.octets().to_vec()),
        };
        // WGALLOWEDIP_A_FAMILY, _IPADDR, _CIDR_MASK
        let fields = [attribute(1, &family.to_ne_bytes()), attribute(2, &octets), attribute(3, &[0])].concat();
        attribute(NESTED, &fields)
    });
    // WGPEER_A_PUBLIC_KEY, _ENDPOINT, _ALLOWEDIPS
    let peer =
        [attribute(1, &side.peers_public_key()), attribute(4, &endpoint), attribute(9 | NESTED, &everything.concat())];
    // WGDEVICE_A_IFNAME, _PRIVATE_KEY, _LISTEN_PORT, _PEERS
    let device = [
        attribute(2, format!("{device}\0").as_bytes()),
        attribute(3, &side.private_key()),
        attribute(6, &port.to_ne_bytes()),
        attribute(8 | NESTED, &attribute(NESTED, &peer.concat())),
    ];
    ask(&socket, family, SET_DEVICE, &device.concat());
}

/// Sends a request, and returns the answer to it.
fn ask(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + GENERIC_HEADER + attributes.len()).expect("a short message");
    let mut message = len.to_ne_bytes().to_vec();
    message.extend([family, REQUEST].map(u16::to_ne_bytes).as_flattened());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    socket.send_to(&message, &netlink_sys::SocketAddr::new(0, 0), 0).expect("the kernel is asked");
    let (answer, _) = socket.recv_from_full().expect("the kernel answers");
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(-error));
    }
    answer
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("a short attribute");
    let mut bytes = [len, kind].map(u16::to_ne_bytes).as_flattened().to_vec();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Kind and value of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<ATTRIBUTE_HEADER>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = bytes.get(ATTRIBUTE_HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]), value))
    })
}
