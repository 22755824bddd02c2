//! IPv4 and IPv6 as types: everything that handles addresses is generic over [`Family`].

use core::{fmt::Debug, hash::Hash};

use crate::{FamilySettings, Settings};

mod sealed {
    pub trait Sealed {}
}

/// An IP version: its address type and the constants that differ.
///
/// Implemented by [`V4`] and [`V6`] only.
pub trait Family: sealed::Sealed + Copy + Eq + Ord + Hash + Debug + Send + Sync + 'static {
    /// An address, bytes in network order.
    type Address: Copy + Eq + Ord + Hash + Debug + AsRef<[u8]> + AsMut<[u8]> + Send + Sync + 'static;

    /// `0.0.0.0` or `::`.
    const UNSPECIFIED: Self::Address;
    /// `127.0.0.1` or `::1`.
    const LOOPBACK: Self::Address;
    /// Length of an address in bytes.
    const ADDRESS_LEN: usize;
    /// `EtherType`, host order.
    const ETHERTYPE: u16;
    /// Offset of the source address from the start of the IP header.
    const SOURCE_OFFSET: usize;
    /// Offset of the destination address from the start of the IP header.
    const DESTINATION_OFFSET: usize;
    /// Length of the header without options or extension headers.
    const HEADER_LEN: usize;
    /// Offset of the header checksum from the start of the IP header; IPv6 has none.
    const HEADER_CHECKSUM_OFFSET: Option<usize>;
    /// What the family's map names end in: `v4` or `v6`.
    const SUFFIX: &'static str;
    /// `4` or `6`.
    const VERSION: u8;

    /// The part of the settings that is this family's.
    fn settings(settings: &Settings) -> &FamilySettings<Self::Address>;

    /// The address in 16 bytes: IPv4's are the first four, the others are zeros.
    fn widen(address: Self::Address) -> [u8; 16];

    /// Whether the address is the loopback device's: 127.0.0.0/8 (RFC 1122 §3.2.1.3) or `::1` (RFC 4291 §2.5.3).
    fn is_loopback(address: Self::Address) -> bool;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum V4 {}

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum V6 {}

impl sealed::Sealed for V4 {}
impl sealed::Sealed for V6 {}

impl Family for V4 {
    type Address = [u8; 4];

    const UNSPECIFIED: Self::Address = [0; 4];
    const LOOPBACK: Self::Address = [127, 0, 0, 1];
    const ADDRESS_LEN: usize = 4;
    const ETHERTYPE: u16 = 0x0800;
    const SOURCE_OFFSET: usize = 12;
    const DESTINATION_OFFSET: usize = 16;
    const HEADER_LEN: usize = 20;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);
    const SUFFIX: &'static str = "v4";
    const VERSION: u8 = 4;

    fn settings(settings: &Settings) -> &FamilySettings<Self::Address> {
        settings.v4()
    }

    fn widen([a, b, c, d]: Self::Address) -> [u8; 16] {
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    fn is_loopback(address: Self::Address) -> bool {
        address[0] == 127
    }
}

impl Family for V6 {
    type Address = [u8; 16];

    const UNSPECIFIED: Self::Address = [0; 16];
    const LOOPBACK: Self::Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ADDRESS_LEN: usize = 16;
    const ETHERTYPE: u16 = 0x86dd;
    const SOURCE_OFFSET: usize = 8;
    const DESTINATION_OFFSET: usize = 24;
    const HEADER_LEN: usize = 40;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;
    const SUFFIX: &'static str = "v6";
    const VERSION: u8 = 6;

    fn settings(settings: &Settings) -> &FamilySettings<Self::Address> {
        settings.v6()
    }

    fn widen(address: Self::Address) -> [u8; 16] {
        address
    }

    fn is_loopback(address: Self::Address) -> bool {
        address == Self::LOOPBACK
    }
}
