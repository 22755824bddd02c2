//! The `counted` and `traffic` tables: what is counted for single Service ports.

use core::ops::AddAssign;

use crate::Direction;

/// What was translated for a Service port; a per-CPU element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Traffic {
    connections: u64,
    packets: u64,
    bytes: u64,
    reply_packets: u64,
    reply_bytes: u64,
}

impl Traffic {
    /// Adds a connection, or a flow of datagrams.
    #[inline]
    pub const fn add_connection(&mut self) {
        self.connections += 1;
    }

    /// Adds a packet, whose IP header and payload have so many bytes. (One that a device will cut into segments is one.)
    #[inline]
    pub const fn add_packet(&mut self, direction: Direction, bytes: u64) {
        match direction {
            Direction::Original => {
                self.packets += 1;
                self.bytes += bytes;
            }
            Direction::Reply => {
                self.reply_packets += 1;
                self.reply_bytes += bytes;
            }
        }
    }

    /// Connections that began, at sockets and in packets.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// Packets that TC programs translated.
    #[must_use]
    pub const fn packets(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Original => self.packets,
            Direction::Reply => self.reply_packets,
        }
    }

    /// Bytes of these packets.
    #[must_use]
    pub const fn bytes(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Original => self.bytes,
            Direction::Reply => self.reply_bytes,
        }
    }

    /// How much more this is than `before`; nothing where it is less.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            packets: self.packets.saturating_sub(before.packets),
            bytes: self.bytes.saturating_sub(before.bytes),
            reply_packets: self.reply_packets.saturating_sub(before.reply_packets),
            reply_bytes: self.reply_bytes.saturating_sub(before.reply_bytes),
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { connections, packets, bytes, reply_packets, reply_bytes } = other;
        self.connections = self.connections.wrapping_add(connections);
        self.packets = self.packets.wrapping_add(packets);
        self.bytes = self.bytes.wrapping_add(bytes);
        self.reply_packets = self.reply_packets.wrapping_add(reply_packets);
        self.reply_bytes = self.reply_bytes.wrapping_add(reply_bytes);
    }
}
