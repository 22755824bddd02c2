//! What counts as the same: everything but what a node makes up by itself.

use std::{collections::BTreeMap, net::IpAddr};

use super::addresses::{Addresses, REFUSED};

/// What came out on one side, with what is allowed to differ taken away. Fragments are put together: netfilter does that, and
/// cuts anew.
pub fn canonical(packets: Vec<Vec<u8>>, addresses: &Addresses) -> Vec<Vec<u8>> {
    let mut canonical: Vec<Vec<u8>> =
        reassemble(packets).into_iter().map(|packet| without_inventions(packet, addresses)).collect();
    // Answers of the node and what it forwards may pass each other.
    canonical.sort();
    canonical
}

/// Who sent an IP packet.
pub fn source(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).expect("four bytes"))
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes"))
    }
}

/// Whether the node advises a neighbour to use another way (RFC 792, RFC 4861).
pub fn is_redirect(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        packet[9] == 1 && packet.get(usize::from(packet[0] & 15) * 4) == Some(&5)
    } else {
        packet[6] == 58 && packet.get(40) == Some(&137)
    }
}

/// Whether a packet is an ICMP error, about which nobody complains (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub fn is_error(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        packet[9] == 1 && matches!(packet.get(usize::from(packet[0] & 15) * 4), Some(3 | 11 | 12))
    } else {
        packet[6] == 58 && packet.get(40).is_some_and(|&kind| kind < 128)
    }
}

/// Identification, time to live and class of what the node itself sends are its own choice, as is the address by which it
/// refuses. The kernel leaves the checksum of its own resets to the device.
fn without_inventions(mut packet: Vec<u8>, addresses: &Addresses) -> Vec<u8> {
    let from = source(&packet);
    let error = is_error(&packet);
    let upper = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let refusal = from == addresses.cluster_ip
        && (error || packet.get(upper..upper + 2).is_some_and(|port| port == REFUSED.to_be_bytes()));
    let is_nodes = error && (from == addresses.outside || from == addresses.inside);
    if !is_nodes && !refusal {
        return packet;
    }
    if !error && packet.len() >= upper + 20 {
        packet[upper + 16..upper + 18].fill(0);
    }
    if packet[0] >> 4 == 4 {
        packet[1] = 0;
        packet[4..9].fill(0);
        packet[10..12].fill(0);
        if error {
            packet[12..16].fill(0);
            packet.truncate(20 + 8 + 20 + 8);
            packet[2..4].fill(0);
            packet[22..24].fill(0);
            packet[28 + 8] = 0;
            packet[28 + 10..28 + 12].fill(0);
        }
    } else {
        packet[0] = 0x60;
        packet[1..4].fill(0);
        packet[7] = 0;
        if error {
            packet[8..24].fill(0);
            // The kernel quotes what it has begun to forward, and more of it.
            packet.truncate(40 + 8 + 40 + 8);
            packet[4..6].fill(0);
            packet[42..44].fill(0);
            packet[48 + 7] = 0;
        }
    }
    packet
}

/// Source, destination, identification and protocol, and the fragments by offset.
type Fragments = BTreeMap<Vec<u8>, BTreeMap<usize, (bool, Vec<u8>)>>;

fn reassemble(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let mut parts = Fragments::new();
    for packet in packets {
        match fragment(&packet) {
            Some((key, offset, more, payload)) => {
                parts.entry(key).or_default().insert(offset, (more, payload));
            }
            None => whole.push(packet),
        }
    }
    for (key, parts) in parts {
        let mut payload = Vec::new();
        let mut complete = false;
        for (offset, (more, part)) in parts {
            // A gap shows in what is compared.
            payload.resize(offset.max(payload.len()), 0xee);
            payload.truncate(offset);
            payload.extend(part);
            complete = !more;
        }
        let mut packet = key;
        packet.push(u8::from(complete));
        packet.extend(payload);
        whole.push(packet);
    }
    whole
}

/// What is the same for all fragments of a packet, the fragment's place, whether more follow, and its bytes.
fn fragment(packet: &[u8]) -> Option<(Vec<u8>, usize, bool, Vec<u8>)> {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        let place = word(6);
        let is_fragment = place & 0x3fff != 0;
        let header = usize::from(packet[0] & 15) * 4;
        // Header without lengths, places and sums; time to live and class are those of the first.
        let key = [&packet[..2], &packet[4..6], &packet[8..10], &packet[12..20]].concat();
        let offset = usize::from(place & 0x1fff) * 8;
        is_fragment.then(|| (key, offset, place & 0x2000 != 0, packet[header..].to_vec()))
    } else {
        let is_fragment = packet[6] == 44;
        if !is_fragment {
            return None;
        }
        let place = word(42);
        // The node that puts together and cuts anew may number anew.
        let key = [&packet[..4], &packet[7..41]].concat();
        Some((key, usize::from(place & 0xfff8), place & 1 != 0, packet[48..].to_vec()))
    }
}
