//! Packets below UDP, made by hand for machines that have no address yet (RFC 791, 768, 826).

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::machine::Mac;

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;

const HEADERS: usize = 28;
const UDP: u8 = 17;

/// An IPv4 packet with one UDP datagram, checksums and all.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let total = (HEADERS + payload.len()) as u16;
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = Vec::with_capacity(HEADERS + payload.len());
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    // No identification, do not fragment, 64 hops.
    packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let header_sum = finish(sum(&packet, 0));
    packet[10..12].copy_from_slice(&header_sum.to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let pseudo = sum(&packet[12..20], u32::from(UDP) + u32::from(udp_len));
    // A checksum of zero means "none"; its other form says the same number.
    let check = match finish(sum(&packet[20..], pseudo)) {
        0 => 0xffff,
        check => check,
    };
    packet[26..28].copy_from_slice(&check.to_be_bytes());
    packet
}

/// What an unfragmented IPv4 packet carries to UDP port `port`, if it does.
pub fn udp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let whole = packet.get(6..8)?[0] & 0x3f == 0 && packet[7] == 0;
    let udp = packet
        .get(header.max(20)..)
        .filter(|_| packet[0] >> 4 == 4 && packet.get(9) == Some(&UDP) && whole)?;
    (udp.get(2..4)? == port.to_be_bytes()).then_some(udp.get(8..)?)
}

fn sum(bytes: &[u8], start: u32) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + (u32::from(pair[0]) << 8) + u32::from(*pair.get(1).unwrap_or(&0))
    })
}

fn finish(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// "Who has `target`?", asked by `mac` at `address`.
pub fn arp_request(mac: Mac, address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0, 1, 8, 0, 6, 4, 0, 1];
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Who says in this ARP frame that it has which address.
pub fn arp_sender(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let body = frame.strip_prefix(&[0, 1, 8, 0, 6, 4, 0])?;
    let (mac, rest) = body.get(1..)?.split_first_chunk::<6>()?;
    let (address, _) = rest.split_first_chunk::<4>()?;
    Some((Mac(*mac), Ipv4Addr::from(*address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 67);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 68);
        for payload in [&b""[..], b"odd", b"even", &[0xff; 301]] {
            let packet = udp(from, to, payload);
            assert_eq!(packet.len(), 28 + payload.len());
            assert_eq!(finish(sum(&packet[..20], 0)), 0);
            let pseudo = sum(&packet[12..20], 17 + 8 + payload.len() as u32);
            assert_eq!(finish(sum(&packet[20..], pseudo)), 0);
            assert_eq!(udp_payload(&packet, 68), Some(payload));
            assert_eq!(udp_payload(&packet, 67), None);
        }
    }

    #[test]
    fn arp_is_read_as_written_and_rubbish_is_not() {
        let (mac, address) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 1));
        let frame = arp_request(mac, address, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(frame.len(), 28);
        assert_eq!(arp_sender(&frame), Some((mac, address)));
        for len in 0..18 {
            assert_eq!(arp_sender(&frame[..len]), None);
        }
    }
}
