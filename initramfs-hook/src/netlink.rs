//! Netlink messages as bytes: writing requests of the kernel's `nbd` generic netlink family, reading its answers.
//!
//! Layouts are those of `linux/netlink.h`, `linux/genetlink.h` and `linux/nbd-netlink.h`; all integers are in the
//! machine's own byte order. Nothing here talks to the kernel, so all of it is tested as plain bytes.

use crate::cmdline::DeviceIndex;

const NLMSG_HEADER: usize = 16;
const GENL_HEADER: usize = 4;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

/// The generic netlink controller's fixed id.
pub const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const FAMILY: &str = "nbd";
const GROUP: &str = "nbd_mc_group";
const NBD_VERSION: u8 = 1;

const CMD_CONNECT: u8 = 1;
const CMD_DISCONNECT: u8 = 2;
const CMD_RECONFIGURE: u8 = 3;
const CMD_LINK_DEAD: u8 = 4;

const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const ATTR_BACKEND_IDENTIFIER: u16 = 10;
/// The kernel never ends a connection over an unanswered request, but sends the request again as soon as it finds that
/// the connection has been replaced. It looks when the queue's own `io_timeout` is over; this attribute resets that to
/// 30 s, so it is sent only once, before `io_timeout` is set.
const NO_TIMEOUT: u64 = 0;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// The kernel's numbers for the `nbd` family; they differ from boot to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Message type of requests.
    pub id: u16,
    /// Multicast group that announces dead links.
    pub group: u32,
}

/// What the kernel is told when a disk is attached for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup<'a> {
    /// Which device.
    pub device: DeviceIndex,
    /// Size in bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block: u64,
    /// Transmission flags as the server sent them.
    pub flags: u16,
    /// Seconds for which the kernel lets I/O wait when it has no socket.
    pub dead_timeout: u64,
    /// Bound to the device; the kernel refuses to reconfigure it under another one.
    pub identity: &'a str,
}

/// What a message from the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The answer to the request with this sequence number: 0 or an errno.
    Ack {
        /// Sequence number of the request.
        seq: u32,
        /// 0, or a positive errno.
        errno: i32,
    },
    /// The kernel has given up the socket of this device.
    LinkDead(DeviceIndex),
    /// Anything else.
    Other,
}

/// A request under construction; the buffer is reused for every one.
struct Builder<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Builder<'a> {
    fn new(out: &'a mut Vec<u8>, family: u16, seq: u32, command: u8) -> Self {
        out.clear();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&family.to_ne_bytes());
        out.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[command, NBD_VERSION, 0, 0]);
        Self { out }
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.out.extend_from_slice(&length.to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// The list of sockets, with one in it: two would make the kernel write to two servers.
    fn socket(&mut self, fd: u32) -> &mut Self {
        let mut item = [0; 8];
        item[..2].copy_from_slice(&8u16.to_ne_bytes());
        item[2..4].copy_from_slice(&SOCK_FD.to_ne_bytes());
        item[4..].copy_from_slice(&fd.to_ne_bytes());
        let mut list = [0; 12];
        list[..2].copy_from_slice(&12u16.to_ne_bytes());
        list[2..4].copy_from_slice(&(SOCK_ITEM | NESTED).to_ne_bytes());
        list[4..].copy_from_slice(&item);
        self.bytes(ATTR_SOCKETS | NESTED, &list)
    }

    fn finish(&mut self) {
        let length = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        self.out[..4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Asks the controller for the `nbd` family.
pub fn get_family(out: &mut Vec<u8>, seq: u32) {
    Builder::new(out, GENL_ID_CTRL, seq, CTRL_CMD_GETFAMILY)
        .text(CTRL_ATTR_FAMILY_NAME, FAMILY)
        .finish();
}

/// Makes a device and hands it its first socket.
pub fn connect(out: &mut Vec<u8>, family: Family, seq: u32, setup: &Setup<'_>, fd: u32) {
    Builder::new(out, family.id, seq, CMD_CONNECT)
        .u32(ATTR_INDEX, setup.device.0)
        .u64(ATTR_SIZE_BYTES, setup.size)
        .u64(ATTR_BLOCK_SIZE_BYTES, setup.block)
        .u64(ATTR_TIMEOUT, NO_TIMEOUT)
        .u64(ATTR_SERVER_FLAGS, u64::from(setup.flags))
        .u64(ATTR_DEAD_CONN_TIMEOUT, setup.dead_timeout)
        .text(ATTR_BACKEND_IDENTIFIER, setup.identity)
        .socket(fd)
        .finish();
}

/// Replaces the dead socket of a device. The kernel answers 0 and does nothing when the old one is not dead yet,
/// so sending it once more for the same socket is harmless.
pub fn reconfigure(out: &mut Vec<u8>, family: Family, seq: u32, setup: &Setup<'_>, fd: u32) {
    Builder::new(out, family.id, seq, CMD_RECONFIGURE)
        .u32(ATTR_INDEX, setup.device.0)
        .u64(ATTR_DEAD_CONN_TIMEOUT, setup.dead_timeout)
        .text(ATTR_BACKEND_IDENTIFIER, setup.identity)
        .socket(fd)
        .finish();
}

/// Takes a device down; I/O on it fails from now on.
pub fn disconnect(out: &mut Vec<u8>, family: Family, seq: u32, device: DeviceIndex) {
    Builder::new(out, family.id, seq, CMD_DISCONNECT)
        .u32(ATTR_INDEX, device.0)
        .finish();
}

/// The messages in one datagram: (type, sequence number, payload).
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let payload = rest.get(NLMSG_HEADER..length)?;
        let found = (u16_at(rest, 4)?, u32_at(rest, 8)?, payload);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// The attributes in a payload: (type, value). Stops at the first that does not fit.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let found = (u16_at(rest, 2)? & TYPE_MASK, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// Reads one datagram and calls `each` for every message in it.
pub fn parse(datagram: &[u8], family: Family, mut each: impl FnMut(Message)) {
    for (kind, seq, payload) in messages(datagram) {
        each(match kind {
            NLMSG_ERROR => ack(seq, payload).unwrap_or(Message::Other),
            kind if kind == family.id => link_dead(payload).unwrap_or(Message::Other),
            _ => Message::Other,
        });
    }
}

fn ack(seq: u32, payload: &[u8]) -> Option<Message> {
    let errno = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?).checked_neg()?;
    Some(Message::Ack { seq, errno })
}

fn link_dead(payload: &[u8]) -> Option<Message> {
    let attrs = payload
        .get(GENL_HEADER..)
        .filter(|_| payload[0] == CMD_LINK_DEAD)?;
    let index = find(attrs, ATTR_INDEX).and_then(|value| u32_at(value, 0))?;
    Some(Message::LinkDead(DeviceIndex(index)))
}

/// Finds the family in the controller's answer.
pub fn parse_family(datagram: &[u8]) -> Option<Family> {
    let (_, _, payload) = messages(datagram).find(|(kind, ..)| *kind == GENL_ID_CTRL)?;
    let attrs = payload.get(GENL_HEADER..)?;
    let id = u16_at(find(attrs, CTRL_ATTR_FAMILY_ID)?, 0)?;
    let groups = find(attrs, CTRL_ATTR_MCAST_GROUPS)?;
    let named = |group: &[u8]| {
        find(group, CTRL_ATTR_MCAST_GRP_NAME)?
            .strip_suffix(b"\0")
            .map(|n| n == GROUP.as_bytes())
    };
    let (_, group) = attributes(groups).find(|(_, group)| named(group) == Some(true))?;
    Some(Family {
        id,
        group: u32_at(find(group, CTRL_ATTR_MCAST_GRP_ID)?, 0)?,
    })
}

fn find(payload: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(payload)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NBD: Family = Family { id: 27, group: 5 };

    fn setup() -> Setup<'static> {
        let device = DeviceIndex(3);
        Setup {
            device,
            size: 1 << 30,
            block: 512,
            flags: 5,
            dead_timeout: 99,
            identity: "abc",
        }
    }

    fn value(message: &[u8], kind: u16) -> Vec<u8> {
        find(&message[NLMSG_HEADER + GENL_HEADER..], kind)
            .unwrap()
            .to_vec()
    }

    #[test]
    fn connect_carries_everything() {
        let mut out = Vec::new();
        connect(&mut out, NBD, 7, &setup(), 42);
        let (kind, seq, payload) = messages(&out).next().unwrap();
        assert_eq!((kind, seq, payload[0]), (27, 7, CMD_CONNECT));
        assert_eq!(value(&out, ATTR_INDEX), 3u32.to_ne_bytes());
        assert_eq!(value(&out, ATTR_SIZE_BYTES), (1u64 << 30).to_ne_bytes());
        assert_eq!(value(&out, ATTR_DEAD_CONN_TIMEOUT), 99u64.to_ne_bytes());
        assert_eq!(value(&out, ATTR_BACKEND_IDENTIFIER), b"abc\0");
        let item = find(&value(&out, ATTR_SOCKETS), SOCK_ITEM)
            .unwrap()
            .to_vec();
        assert_eq!(find(&item, SOCK_FD).unwrap(), 42u32.to_ne_bytes());
    }

    #[test]
    fn reconfigure_never_touches_the_size() {
        let mut out = Vec::new();
        reconfigure(&mut out, NBD, 8, &setup(), 42);
        let attrs = &out[NLMSG_HEADER + GENL_HEADER..];
        assert!(find(attrs, ATTR_SIZE_BYTES).is_none());
        assert!(
            find(attrs, ATTR_TIMEOUT).is_none(),
            "it would reset io_timeout"
        );
    }

    #[test]
    fn reads_acks_and_events_from_one_datagram() {
        let mut datagram = Vec::new();
        datagram.extend_from_slice(&20u32.to_ne_bytes());
        datagram.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        datagram.extend_from_slice(&[0; 2]);
        datagram.extend_from_slice(&9u32.to_ne_bytes());
        datagram.extend_from_slice(&[0; 4]);
        datagram.extend_from_slice(&(-16i32).to_ne_bytes());
        let mut event = Vec::new();
        Builder::new(&mut event, NBD.id, 0, CMD_LINK_DEAD)
            .u32(ATTR_INDEX, 2)
            .finish();
        datagram.extend_from_slice(&event);
        let mut seen = Vec::new();
        parse(&datagram, NBD, |m| seen.push(m));
        assert_eq!(
            seen,
            [
                Message::Ack { seq: 9, errno: 16 },
                Message::LinkDead(DeviceIndex(2))
            ]
        );
    }

    #[test]
    fn finds_the_family() {
        let mut group = Vec::new();
        Builder { out: &mut group }
            .u32(CTRL_ATTR_MCAST_GRP_ID, 5)
            .text(CTRL_ATTR_MCAST_GRP_NAME, GROUP);
        let mut groups = Vec::new();
        Builder { out: &mut groups }.bytes(1 | NESTED, &group);
        let mut answer = Vec::new();
        Builder::new(&mut answer, GENL_ID_CTRL, 1, 1)
            .bytes(CTRL_ATTR_FAMILY_ID, &27u16.to_ne_bytes())
            .bytes(CTRL_ATTR_MCAST_GROUPS, &groups)
            .finish();
        assert_eq!(parse_family(&answer), Some(NBD));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes, NBD, |_| ());
            let _ = parse_family(&bytes);
        }

        #[test]
        fn damaged_answers_never_panic(at in 0usize..76, byte: u8) {
            let mut out = Vec::new();
            connect(&mut out, NBD, 1, &setup(), 1);
            out[at] = byte;
            parse(&out, NBD, |_| ());
            let _ = parse_family(&out);
        }
    }
}
