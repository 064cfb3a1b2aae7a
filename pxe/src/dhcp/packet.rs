//! The DHCP packet: decoded with care, encoded the way firmware wants it.
//!
//! Layout (RFC 2131 §2): 236 bytes of fixed fields, the cookie 99.130.83.99, then options as `code length value`
//! (RFC 2132 §2); 0 is padding, 255 the end. Decoding joins the parts of a split option wherever they stand
//! (RFC 3396), and reads options out of `file` and `sname` when option 52 says that they are there. Encoding never
//! puts options into those two fields, since firmware that reads `file` as a path would take them for one.

use std::net::Ipv4Addr;

use bytes::Bytes;

use crate::machine::Mac;

/// The numbers of the options that the crate reads or writes.
pub mod code {
    #![allow(missing_docs)]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const BROADCAST: u8 = 28;
    pub const NTP: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY: u8 = 82;
    pub const ARCH: u8 = 93;
    pub const UUID: u8 = 97;
    pub const SUBNET_SELECTION: u8 = 118;
    pub const IPXE: u8 = 175;
    pub const END: u8 = 255;
}

const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP's smallest packet; some firmware and relays drop shorter ones.
const MIN_ENCODED: usize = 300;
/// No packet that UDP can carry has more; also bounds what options may add up to.
pub const MAX_PACKET: usize = 65_507;
const ETHERNET: u8 = 1;

/// What option 53 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum MessageType {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl MessageType {
    fn from_code(code: u8) -> Option<Self> {
        use MessageType::*;
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform]
            .into_iter()
            .find(|t| *t as u8 == code)
    }
}

/// Why bytes are no DHCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer bytes than the fixed fields and the cookie.
    #[error("{0} bytes are too few for a DHCP packet")]
    Short(usize),
    /// No DHCP cookie: plain BOOTP or something else.
    #[error("no DHCP cookie (plain BOOTP is not served)")]
    Cookie,
    /// A hardware address longer than its field.
    #[error("hardware address of {0} bytes")]
    HardwareLength(u8),
    /// An option runs over the end of its field.
    #[error("option {0} runs over the end")]
    Truncated(u8),
    /// No valid option 53.
    #[error("no message type")]
    MessageType,
}

/// A packet's options: in order of first appearance, split ones joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// The value of option `code`.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(c, _)| *c == code)
            .map(|(_, v)| v.as_slice())
    }

    /// The value of option `code` if it is exactly `N` bytes long.
    pub fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// The value of option `code` as one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// Sets option `code`, replacing what it was.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some(option) => option.1 = value,
            None => self.0.push((code, value)),
        }
    }

    /// Whether option `code` is there.
    pub fn has(&self, code: u8) -> bool {
        self.get(code).is_some()
    }

    /// All options in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(c, v)| (*c, v.as_slice()))
    }

    fn append(&mut self, code: u8, part: &[u8]) {
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some(option) => option.1.extend_from_slice(part),
            None => self.0.push((code, part.to_vec())),
        }
    }

    fn read(&mut self, mut field: &[u8]) -> Result<(), PacketError> {
        while let [code, rest @ ..] = field {
            match (*code, rest) {
                (0, _) => field = rest,
                (code::END, _) => return Ok(()),
                (code, [len, rest @ ..]) if rest.len() >= usize::from(*len) => {
                    let (value, after) = rest.split_at(usize::from(*len));
                    self.append(code, value);
                    field = after;
                }
                (code, _) => return Err(PacketError::Truncated(code)),
            }
        }
        Ok(())
    }
}

/// Reads `code length value` as relays (82), iPXE (175) and vendors (43) nest them; what does not fit is dropped.
pub fn suboptions(field: &[u8]) -> Options {
    let mut options = Options::default();
    // A tail that runs over is the sender's fault and no reason to lose what came before it.
    let _ = options.read(field);
    options
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whether a server sent it (BOOTREPLY).
    pub reply: bool,
    /// Hardware type; 1 is Ethernet.
    pub htype: u8,
    /// Hardware address length, at most 16.
    pub hlen: u8,
    /// Relays passed.
    pub hops: u8,
    /// Transaction id.
    pub xid: [u8; 4],
    /// Seconds since the client began.
    pub secs: u16,
    /// Whether the client wants its answer broadcast (the flags' top bit; the rest must be zero).
    pub broadcast: bool,
    /// The address the client has.
    pub ciaddr: Ipv4Addr,
    /// The address the client gets.
    pub yiaddr: Ipv4Addr,
    /// The server to boot from.
    pub siaddr: Ipv4Addr,
    /// The first relay.
    pub giaddr: Ipv4Addr,
    /// Hardware address.
    pub chaddr: [u8; 16],
    /// The boot file, without its NUL.
    pub file: Vec<u8>,
    /// Option 53.
    pub kind: MessageType,
    /// The options.
    pub options: Options,
}

impl Packet {
    /// Reads a packet; never panics, and holds no more than the bytes given.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        if bytes.len() < FIXED + COOKIE.len() {
            return Err(PacketError::Short(bytes.len()));
        }
        if bytes[FIXED..FIXED + 4] != COOKIE {
            return Err(PacketError::Cookie);
        }
        if bytes[2] > 16 {
            return Err(PacketError::HardwareLength(bytes[2]));
        }
        let (sname, file) = (&bytes[44..108], &bytes[108..236]);
        let mut options = Options::default();
        options.read(&bytes[FIXED + 4..])?;
        let overload = options.fixed::<1>(code::OVERLOAD).map_or(0, |[v]| v);
        for (bit, field) in [(1, file), (2, sname)] {
            if overload & bit != 0 {
                options.read(field)?;
            }
        }
        let kind = options
            .fixed::<1>(code::MESSAGE_TYPE)
            .and_then(|[v]| MessageType::from_code(v));
        let address =
            |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Ok(Self {
            reply: bytes[0] == 2,
            htype: bytes[1],
            hlen: bytes[2],
            hops: bytes[3],
            xid: [bytes[4], bytes[5], bytes[6], bytes[7]],
            secs: u16::from_be_bytes([bytes[8], bytes[9]]),
            broadcast: bytes[10] & 0x80 != 0,
            ciaddr: address(12),
            yiaddr: address(16),
            siaddr: address(20),
            giaddr: address(24),
            chaddr: std::array::from_fn(|i| bytes[28 + i]),
            file: if overload & 1 == 0 {
                until_nul(file)
            } else {
                Vec::new()
            },
            kind: kind.ok_or(PacketError::MessageType)?,
            options,
        })
    }

    /// A client's first packet, that wants its answer broadcast.
    pub fn discover(mac: Mac, xid: u32) -> Self {
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&mac.0);
        let none = Ipv4Addr::UNSPECIFIED;
        let (kind, options) = (MessageType::Discover, Options::default());
        let (reply, htype, hlen, hops, secs, broadcast) = (false, ETHERNET, 6, 0, 0, true);
        let (ciaddr, yiaddr, siaddr, giaddr, file) = (none, none, none, none, Vec::new());
        let xid = xid.to_be_bytes();
        Self {
            reply,
            htype,
            hlen,
            hops,
            xid,
            secs,
            broadcast,
            ciaddr,
            yiaddr,
            siaddr,
            giaddr,
            chaddr,
            file,
            kind,
            options,
        }
    }

    /// An answer to `request` of type `kind`, with its addresses and options still to be set.
    pub fn answer(request: &Packet, kind: MessageType) -> Self {
        Self {
            reply: true,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            file: Vec::new(),
            kind,
            options: Options::default(),
            ..request.clone()
        }
    }

    /// The client's Ethernet address, if it is on Ethernet.
    pub fn mac(&self) -> Option<Mac> {
        let ethernet = self.htype == ETHERNET && self.hlen == 6;
        let mac = Mac(std::array::from_fn(|i| self.chaddr[i]));
        // A group or zero address is nobody's.
        (ethernet && mac.0[0] & 1 == 0 && mac.0 != [0; 6]).then_some(mac)
    }

    /// The bytes, padded to 300, at most `limit` long: options that come last and do not fit are left out, but never
    /// option 82, which a relay needs back. The order is: 53, 54, the rest as set, 82, end.
    pub fn encode(&self, limit: usize) -> Bytes {
        let mut out = Vec::with_capacity(MIN_ENCODED);
        self.encode_fixed(&mut out);
        out.extend([code::MESSAGE_TYPE, 1, self.kind as u8]);
        let relay = self.options.get(code::RELAY);
        let reserved = relay.map_or(0, encoded_len) + 1;
        let limit = limit
            .clamp(MIN_ENCODED, MAX_PACKET)
            .saturating_sub(reserved);
        let first = |c: u8| c != code::SERVER_ID;
        let mut options: Vec<_> = self.options.iter().filter(|(c, _)| is_free(*c)).collect();
        options.sort_by_key(|(c, _)| first(*c));
        for (code, value) in options {
            if out.len() + encoded_len(value) <= limit {
                put(&mut out, code, value);
            }
        }
        if let Some(value) = relay {
            put(&mut out, code::RELAY, value);
        }
        out.push(code::END);
        out.resize(out.len().max(MIN_ENCODED), 0);
        out.into()
    }

    fn encode_fixed(&self, out: &mut Vec<u8>) {
        out.extend([
            if self.reply { 2 } else { 1 },
            self.htype,
            self.hlen,
            self.hops,
        ]);
        out.extend(self.xid);
        out.extend(self.secs.to_be_bytes());
        out.extend([if self.broadcast { 0x80 } else { 0 }, 0]);
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.chaddr);
        out.resize(108, 0);
        // One byte is left for the NUL that readers look for.
        out.extend(&self.file[..self.file.len().min(127)]);
        out.resize(FIXED, 0);
        out.extend(COOKIE);
    }
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|b| *b != 0).collect()
}

/// Options that `encode` does not place itself.
fn is_free(code: u8) -> bool {
    !matches!(
        code,
        0 | code::END | code::MESSAGE_TYPE | code::RELAY | code::OVERLOAD
    )
}

fn encoded_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(255).max(1)
}

fn put(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        out.extend([code, 0]);
    }
    for part in value.chunks(255) {
        out.extend([code, part.len() as u8]);
        out.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::{Decodable, Decoder, v4};
    use proptest::prelude::*;

    fn packet(options: &[(u8, &[u8])]) -> Packet {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        bytes.extend(COOKIE);
        bytes.extend([53, 1, 1]);
        let mut packet = Packet::decode(&bytes).unwrap();
        for (code, value) in options {
            packet.options.set(*code, *value);
        }
        packet
    }

    #[test]
    fn split_options_join_wherever_they_stand() {
        let mut bytes = packet(&[]).encode(1500).to_vec();
        let end = bytes.iter().rposition(|b| *b == 255).unwrap();
        bytes.truncate(end);
        bytes.extend([67, 2, b'a', b'b', 12, 1, b'x', 67, 2, b'c', b'd']);
        let packet = Packet::decode(&bytes).unwrap();
        assert_eq!(packet.options.get(67), Some(&b"abcd"[..]));
        assert_eq!(packet.options.get(12), Some(&b"x"[..]));
    }

    #[test]
    fn overloaded_fields_are_read_as_options() {
        let mut bytes = packet(&[(52, &[3])]).encode(1500).to_vec();
        // `encode` never writes option 52, so it is put in by hand.
        let end = bytes.iter().rposition(|b| *b == 255).unwrap();
        bytes.splice(end..end, [52, 1, 3]);
        bytes[108..112].copy_from_slice(&[12, 1, b'f', 255]);
        bytes[44..48].copy_from_slice(&[15, 1, b's', 255]);
        let packet = Packet::decode(&bytes).unwrap();
        assert_eq!(packet.options.get(12), Some(&b"f"[..]));
        assert_eq!(packet.options.get(15), Some(&b"s"[..]));
        assert!(packet.file.is_empty());
    }

    #[test]
    fn bad_packets_are_named() {
        let good = packet(&[]).encode(1500).to_vec();
        let broken = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Packet::decode(&bytes).unwrap_err()
        };
        assert_eq!(Packet::decode(&good[..239]), Err(PacketError::Short(239)));
        assert_eq!(broken(2, 17), PacketError::HardwareLength(17));
        assert_eq!(broken(237, 0), PacketError::Cookie);
        assert_eq!(broken(242, 9), PacketError::MessageType);
        assert_eq!(broken(241, 200), PacketError::Truncated(53));
    }

    #[test]
    fn answers_are_padded_and_end_with_option_82() {
        let bytes = packet(&[(82, b"circuit"), (12, b"name"), (54, &[1, 2, 3, 4])]).encode(1500);
        assert_eq!(bytes.len(), 300);
        assert_eq!(&bytes[240..243], &[53, 1, 1]);
        assert_eq!(&bytes[243..249], &[54, 4, 1, 2, 3, 4]);
        let relay = bytes.iter().position(|b| *b == 82).unwrap();
        assert_eq!(&bytes[relay + 2..relay + 10], b"circuit\xff");
        assert!(bytes[relay + 10..].iter().all(|b| *b == 0));
    }

    #[test]
    fn what_does_not_fit_is_left_out_but_never_option_82() {
        let long = vec![b'x'; 200];
        let packet = packet(&[(12, b"name"), (56, &long), (15, b"lab"), (82, b"port7")]);
        let small = Packet::decode(&packet.encode(300)).unwrap();
        assert_eq!(small.options.get(56), None);
        for code in [12, 15, 82] {
            assert_eq!(small.options.get(code), packet.options.get(code));
        }
    }

    #[test]
    fn group_and_foreign_hardware_addresses_are_nobodys() {
        let mut packet = packet(&[]);
        assert!(packet.mac().is_some());
        packet.htype = 32;
        assert_eq!(packet.mac(), None);
        packet.htype = 1;
        packet.chaddr[0] = 1;
        assert_eq!(packet.mac(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Packet::decode(&bytes);
            let mut bytes = bytes;
            if bytes.len() >= 240 {
                bytes[236..240].copy_from_slice(&COOKIE);
                if let Ok(packet) = Packet::decode(&bytes) {
                    packet.encode(1500);
                }
            }
        }

        #[test]
        fn encoding_then_decoding_changes_nothing(
            values in proptest::collection::btree_map(1u8..=254, proptest::collection::vec(any::<u8>(), 0..700), 0..8),
        ) {
            let mut packet = packet(&[]);
            for (code, value) in values.iter().filter(|(c, _)| is_free(**c) || **c == 82) {
                packet.options.set(*code, value.clone());
            }
            let back = Packet::decode(&packet.encode(MAX_PACKET)).unwrap();
            for (code, value) in packet.options.iter() {
                prop_assert_eq!(back.options.get(code), Some(value));
            }
        }

        /// An independent decoder reads the same fields out of what we write.
        #[test]
        fn dhcproto_agrees(xid in any::<[u8; 4]>(), address in any::<[u8; 4]>(), long in proptest::collection::vec(any::<u8>(), 1..600)) {
            let mut packet = packet(&[(1, &[255, 255, 255, 0]), (43, &long), (97, b"\0uuid"), (54, &address)]);
            packet.xid = xid;
            packet.yiaddr = address.into();
            packet.file = b"undionly.kpxe".to_vec();
            let bytes = packet.encode(MAX_PACKET);
            let theirs = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
            prop_assert_eq!(theirs.xid(), u32::from_be_bytes(xid));
            prop_assert_eq!(theirs.yiaddr(), packet.yiaddr);
            prop_assert_eq!(theirs.fname(), Some(&b"undionly.kpxe\0"[..]));
            prop_assert_eq!(theirs.opts().get(v4::OptionCode::VendorExtensions), Some(&v4::DhcpOption::VendorExtensions(long)));
            prop_assert_eq!(theirs.opts().get(v4::OptionCode::ServerIdentifier), Some(&v4::DhcpOption::ServerIdentifier(address.into())));
        }
    }
}
