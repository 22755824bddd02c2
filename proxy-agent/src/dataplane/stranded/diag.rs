//! The kernel's list of sockets (`sock_diag`), as far as connected UDP sockets need it: list and destroy.

use std::{io, net::SocketAddr as PeerAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_UDP, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Which sockets are listed. IPv6's may be connected to an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The kernel does not list or destroy sockets.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiagError {
    /// It cannot be asked.
    #[error("the kernel's list of sockets: {0}")]
    Socket(io::Error),
    /// UDP sockets are not in its list.
    #[error("the kernel does not list UDP sockets (module udp_diag): {0}")]
    List(io::Error),
    /// It does not destroy them.
    #[error("the kernel does not destroy sockets (CONFIG_INET_DIAG_DESTROY): {0}")]
    Destroy(io::Error),
    /// Its answer makes no sense.
    #[error("the kernel's answer about sockets cannot be read: {0}")]
    Answer(String),
}

/// A connected UDP socket.
#[derive(Debug)]
pub(super) struct Connected {
    family: Family,
    id: SocketId,
}

impl Connected {
    /// The socket's cookie (`SO_COOKIE`), the same as in the tables.
    pub(super) fn cookie(&self) -> u64 {
        // Two words of the machine's byte order, the lower one first (sock_diag_save_cookie).
        let (words, _) = self.id.cookie.as_chunks::<4>();
        words.iter().rev().fold(0, |cookie, &word| cookie << 32 | u64::from(u32::from_ne_bytes(word)))
    }

    /// Whom it is connected to; an IPv4 address as what it is.
    pub(super) fn peer(&self) -> PeerAddr {
        PeerAddr::new(self.id.destination_address.to_canonical(), self.id.destination_port)
    }
}

/// The list of the network namespace in which this was opened.
pub(super) struct Diag(Socket);

impl Diag {
    pub(super) fn open() -> Result<Self, DiagError> {
        let socket = Socket::new(NETLINK_SOCK_DIAG).map_err(DiagError::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(DiagError::Socket)?;
        Ok(Self(socket))
    }

    /// All UDP sockets of the family that are connected.
    pub(super) fn connected(&self, family: Family) -> Result<Vec<Connected>, DiagError> {
        let any = match family {
            Family::V4 => SocketId::new_v4(),
            Family::V6 => SocketId::new_v6(),
        };
        self.send(NLM_F_DUMP, SockDiagMessage::InetRequest(request(family, any)))?;
        let mut found = Vec::new();
        let result = self.receive(|message| {
            if let SockDiagMessage::InetResponse(response) = message {
                found.push(Connected { family, id: response.header.socket_id });
            }
        })?;
        match result {
            Ok(()) => Ok(found),
            // No IPv6, no sockets of it.
            Err(error) if family == Family::V6 && error.raw_os_error() == Some(libc::ENOENT) => Ok(found),
            Err(error) => Err(DiagError::List(error)),
        }
    }

    /// Destroys a socket that is still what it was when it was listed; returns whether it was.
    pub(super) fn destroy(&self, socket: &Connected) -> Result<bool, DiagError> {
        let request = request(socket.family, socket.id.clone());
        self.send(NLM_F_ACK, SockDiagDestroy::new(SockDiagMessage::InetRequest(request)))?;
        match self.receive(|_| {})? {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(DiagError::Destroy(error)),
        }
    }

    fn send<T>(&self, flags: u16, message: T) -> Result<(), DiagError>
    where
        T: NetlinkSerializable + Into<NetlinkPayload<T>>,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.0.send(&buffer, 0).map(drop).map_err(DiagError::Socket)
    }

    /// Reads the answer to one request to its end; what the end says is the inner result.
    fn receive(&self, mut take: impl FnMut(SockDiagMessage)) -> Result<io::Result<()>, DiagError> {
        loop {
            let (answer, _) = self.0.recv_from_full().map_err(DiagError::Socket)?;
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(|error| DiagError::Answer(error.to_string()))?;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => take(message),
                    NetlinkPayload::Done(done) => return Ok(code(done.code)),
                    NetlinkPayload::Error(error) => return Ok(error.code.map_or(Ok(()), |_| Err(error.to_io()))),
                    other => return Err(DiagError::Answer(format!("{other:?}"))),
                }
                let length = usize::try_from(message.header.length).unwrap_or(rest.len()).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

/// Connected is what `TCP_ESTABLISHED` means for UDP.
fn request(family: Family, socket_id: SocketId) -> InetRequest {
    let family = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    let extensions = ExtensionFlags::empty();
    InetRequest { family, protocol: IPPROTO_UDP, extensions, states: StateFlags::ESTABLISHED, socket_id }
}

/// The end of a dump carries an error as a negative number.
fn code(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A socket's cookie as the kernel tells its owner.
    fn cookie(socket: &UdpSocket) -> u64 {
        rustix::net::sockopt::socket_cookie(socket).expect("sockets have cookies")
    }

    #[test]
    fn connected_sockets_are_listed_with_cookie_and_peer() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let peer = server.local_addr().expect("an address");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let diag = Diag::open().expect("anybody may ask");
        let listed = |socket: &UdpSocket| {
            let all = diag.connected(Family::V4).expect("UDP sockets are listed");
            all.into_iter().find(|found| found.cookie() == cookie(socket)).map(|found| found.peer())
        };
        assert_eq!(listed(&client), None, "it is not connected");
        client.connect(peer).expect("connects");
        assert_eq!(listed(&client), Some(peer));
        assert_eq!(listed(&server), None);
    }

    #[test]
    fn an_ipv4_address_at_an_ipv6_socket_is_ipv4() {
        let id = SocketId {
            destination_address: "::ffff:10.0.0.1".parse().expect("an address"),
            destination_port: 80,
            ..SocketId::new_v6()
        };
        let socket = Connected { family: Family::V6, id };
        assert_eq!(socket.peer(), "10.0.0.1:80".parse().expect("an address"));
    }
}
