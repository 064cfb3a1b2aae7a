//! What the specification demands of a server's replies, by the name of each demand (`server/nbd/MUSTS.md`), on an
//! overlay with data, zeros and holes.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use nbd::{
    Command, CommandFlags, ContextId, Cookie, HeaderStyle, IoError, Reply, ReplyBody, ReplyDecoder,
};
use overlay::{Durability, Store};

use super::*;
use crate::service::{
    Export,
    devices::{FileExport, OverlayExport, fixture::overlay_over_zeros},
    registry::Registry,
    transport::Socket,
};

const SIZE: u64 = 4 << 20;
const STYLES: [HeaderStyle; 3] = [
    HeaderStyle::Simple,
    HeaderStyle::Structured,
    HeaderStyle::Extended,
];

/// Data here and there between holes; what a client must read.
struct Disk {
    export: OverlayExport,
    content: Vec<u8>,
    _store: Store,
    _dir: tempfile::TempDir,
}

fn disk() -> Disk {
    let (dir, store, overlay) = overlay_over_zeros(SIZE);
    let attachment = overlay.attach();
    let mut content = vec![0; SIZE as usize];
    for (at, length) in [(5000, 60_000), (1 << 20, 100), (2_000_000, 1 << 20)] {
        let data = vec![(at % 251) as u8 | 1; length];
        content[at..at + length].copy_from_slice(&data);
        let written = attachment.write(&data, at as u64, Durability::Process);
        written.unwrap();
    }
    Disk {
        export: OverlayExport::new(overlay, SIZE),
        content,
        _store: store,
        _dir: dir,
    }
}

fn session(disk: &Disk, style: HeaderStyle) -> Session {
    let mut info = disk.export.info().unwrap();
    if style != HeaderStyle::Simple {
        info.flags = info.flags.with(nbd::TransmissionFlags::SEND_DF);
    }
    if style == HeaderStyle::Extended {
        let payload = nbd::TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        info.flags = info.flags.with(payload);
    }
    let context = |(id, name): (u32, &str)| MetaContext {
        id: ContextId(id),
        name: name.into(),
    };
    let contexts = [(1, "base:allocation"), (2, "qemu:allocation-depth")];
    Session {
        name: String::new(),
        info,
        style,
        contexts: contexts.map(context).to_vec(),
    }
}

fn request(command: Command, flags: u16, offset: u64, length: u64) -> Request {
    Request {
        flags: CommandFlags::from_bits(flags),
        command,
        cookie: Cookie(0x0123_4567_89ab_cdef ^ offset),
        offset,
        length,
    }
}

/// What a client gets for these requests and a goodbye.
fn talk(disk: &Disk, style: HeaderStyle, requests: &[(Request, &[u8])]) -> Vec<u8> {
    let device = disk.export.open().unwrap();
    serve_to_the_end(device, session(disk, style), requests)
}

/// Sends requests with their payloads and a goodbye; gives what comes back until the connection ends.
fn serve_to_the_end(
    device: Arc<dyn Device>,
    session: Session,
    requests: &[(Request, &[u8])],
) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let live = Registry::default().enter(Socket::Unix(theirs), 1, 1);
    let live = live.unwrap();
    let mut bytes = Vec::new();
    for (request, payload) in requests {
        request.encode(session.style, &mut bytes);
        bytes.extend_from_slice(payload);
    }
    request(Command::Disconnect, 0, 0, 0).encode(session.style, &mut bytes);
    let server = thread::spawn(move || {
        let pool = Pool::new(2, u64::MAX);
        let engine = Engine {
            live: &live,
            device: &device,
            pool: &pool,
            most_in_flight: 1 << 26,
            returns: false,
            on_error: &|_| {},
        };
        let mut transport = Transport::plain(&live.socket);
        serve(&engine, &mut transport, &session, &[]);
        transport.close();
    });
    let mut sender = ours.try_clone().unwrap();
    let sending = thread::spawn(move || sender.write_all(&bytes).unwrap());
    let mut answered = Vec::new();
    ours.read_to_end(&mut answered).unwrap();
    sending.join().unwrap();
    server.join().unwrap();
    answered
}

/// The replies in `bytes`, each with its data.
fn replies(style: HeaderStyle, asked: &[Request], bytes: &[u8]) -> Vec<(Reply, Vec<u8>)> {
    let decoder = ReplyDecoder::new(style, 32 << 20);
    let expects = |cookie| {
        let request = asked.iter().find(|request| request.cookie == cookie)?;
        let data = request.command == Command::Read;
        Some(if data { request.length as u32 } else { 0 })
    };
    let (mut rest, mut all) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (reply, used) = decoder
            .decode(rest, expects)
            .unwrap()
            .expect("a whole reply");
        rest = &rest[used..];
        let length = match reply.body {
            ReplyBody::Data { length, .. } => length as usize,
            _ => 0,
        };
        let (data, next) = rest.split_at(length);
        all.push((reply, data.to_vec()));
        rest = next;
    }
    all
}

/// All replies to one request.
fn ask(disk: &Disk, style: HeaderStyle, one: Request, payload: &[u8]) -> Vec<(Reply, Vec<u8>)> {
    let replies = replies(style, &[one], &talk(disk, style, &[(one, payload)]));
    let (last, before) = replies.split_last().expect("an answer");
    assert!(last.0.last && before.iter().all(|(reply, _)| !reply.last));
    assert!(replies.iter().all(|(reply, _)| reply.cookie == one.cookie));
    replies
}

fn error_of(replies: &[(Reply, Vec<u8>)]) -> Option<IoError> {
    replies.iter().find_map(|(reply, _)| match reply.body {
        ReplyBody::Error(error) => Some(error),
        _ => None,
    })
}

/// Puts the chunks of a read together; each byte must come once and lie in what was asked for.
fn gather(read: &Request, replies: &[(Reply, Vec<u8>)]) -> Vec<u8> {
    let mut got = vec![None; read.length as usize];
    for (reply, data) in replies {
        let (at, bytes) = match reply.body {
            ReplyBody::Data { offset, .. } => (offset.unwrap_or(read.offset), data.clone()),
            ReplyBody::Hole { offset, length } => (offset, vec![0; length as usize]),
            ReplyBody::Done => continue,
            _ => panic!("{reply:?} answers a read"),
        };
        assert!(!bytes.is_empty(), "a chunk must hold at least one byte");
        let start = (at - read.offset) as usize;
        for (slot, byte) in got[start..start + bytes.len()].iter_mut().zip(bytes) {
            assert!(slot.replace(byte).is_none(), "chunks must not overlap");
        }
    }
    let whole = got.into_iter().collect::<Option<Vec<u8>>>();
    whole.expect("chunks must cover the request")
}

const READS: [(u64, u64); 5] = [
    (0, SIZE),
    (4999, 70_001),
    (5000, 512),
    (100_000, 900_000),
    (SIZE - 1, 1),
];

#[test]
fn chunks_must_cover_a_read_once_and_nothing_else() {
    let disk = disk();
    for style in STYLES {
        for (offset, length) in READS {
            let read = request(Command::Read, 0, offset, length);
            let got = gather(&read, &ask(&disk, style, read, &[]));
            let expected = &disk.content[offset as usize..(offset + length) as usize];
            assert!(got == expected, "{style:?}, {length} bytes at {offset}");
        }
    }
}

#[test]
fn without_negotiation_replies_must_be_simple() {
    let disk = disk();
    for (command, flags) in [
        (Command::Read, 0),
        (Command::Read, 1 << 9),
        (Command::Flush, 0),
    ] {
        let length = if command == Command::Flush {
            0
        } else {
            1 << 20
        };
        let one = request(command, flags, 0, length);
        let bytes = talk(&disk, HeaderStyle::Simple, &[(one, &[])]);
        assert_eq!(bytes[..4], 0x6744_6698u32.to_be_bytes());
        let data = if flags == 0 { length as usize } else { 0 };
        assert_eq!(bytes.len(), 16 + data, "no payload goes with an error");
    }
}

#[test]
fn a_read_must_be_answered_in_chunks_also_when_it_is_wrong() {
    let disk = disk();
    for (offset, flags) in [(0, 0), (0, 1 << 9), (SIZE, 0)] {
        let read = request(Command::Read, flags, offset, 512);
        let bytes = talk(&disk, HeaderStyle::Structured, &[(read, &[])]);
        assert_eq!(bytes[..4], 0x668e_33efu32.to_be_bytes());
    }
}

#[test]
fn every_reply_must_be_extended_once_that_is_agreed_and_repeat_the_offset() {
    let disk = disk();
    let asked = [
        (request(Command::Read, 0, 4096, 512), &[][..]),
        (request(Command::Read, 0, SIZE, 512), &[]),
        (request(Command::Write, 32, 512, 4), &[1; 4]),
        (request(Command::Write, 33, 1024, 4), &[1; 4]),
        (request(Command::Trim, 0, 8192, 4096), &[]),
        (request(Command::Unknown(77), 0, 512, 0), &[]),
        (request(Command::BlockStatus, 0, 0, SIZE), &[]),
    ];
    for (one, payload) in asked {
        let bytes = talk(&disk, HeaderStyle::Extended, &[(one, payload)]);
        assert_eq!(bytes[..4], 0x6e8a_278cu32.to_be_bytes(), "{one:?}");
        assert_eq!(bytes[8..16], one.cookie.0.to_be_bytes());
        assert_eq!(bytes[16..24], one.offset.to_be_bytes());
    }
}

#[test]
fn df_must_bring_one_chunk_with_the_zeros_in_it() {
    let disk = disk();
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        for length in [512, 65_536, 1 << 20] {
            let read = request(Command::Read, 4, 0, length);
            let replies = ask(&disk, style, read, &[]);
            let content = |(reply, _): &&(Reply, Vec<u8>)| reply.body != ReplyBody::Done;
            let chunks: Vec<_> = replies.iter().filter(content).collect();
            assert_eq!(chunks.len(), 1, "{length} bytes");
            assert!(chunks[0].1 == disk.content[..length as usize]);
        }
    }
}

#[test]
fn block_status_must_answer_each_context_once_and_make_progress() {
    let disk = disk();
    for style in [HeaderStyle::Structured, HeaderStyle::Extended] {
        for (flags, offset, length) in [(0, 0, SIZE), (0, 4097, 9), (8, 0, SIZE), (8, 70_000, 10)] {
            let one = request(Command::BlockStatus, flags, offset, length);
            let mut contexts = Vec::new();
            for (reply, _) in ask(&disk, style, one, &[]) {
                let ReplyBody::Status { context, extents } = reply.body else {
                    panic!("{reply:?}")
                };
                contexts.push(context.0);
                assert!(!extents.is_empty() && extents.iter().all(|(length, _)| *length > 0));
                let all: u64 = extents.iter().map(|(length, _)| length).sum();
                let last = extents.last().unwrap().0;
                assert!(all - last < length, "but the last lie within the request");
                assert!(
                    flags == 0 || extents.len() == 1 && last <= length,
                    "REQ_ONE"
                );
            }
            assert_eq!(contexts, [1, 2]);
        }
    }
}

#[test]
fn a_filter_must_choose_contexts_and_a_bad_one_be_consumed() {
    let disk = disk();
    let filter = |ids: &[u32]| {
        let mut payload = 4096u64.to_be_bytes().to_vec();
        ids.iter().for_each(|id| payload.extend(id.to_be_bytes()));
        payload
    };
    let next = request(Command::Read, 0, 512, 512);
    let long = vec![2; 300_000];
    let bad = [filter(&[2, 2]), filter(&[7]), vec![0; 3], long];
    for (payload, good) in [(filter(&[2]), true)]
        .into_iter()
        .chain(bad.map(|b| (b, false)))
    {
        let one = request(Command::BlockStatus, 32, 0, payload.len() as u64);
        let both = [(one, &payload[..]), (next, &[])];
        let bytes = talk(&disk, HeaderStyle::Extended, &both);
        let replies = replies(HeaderStyle::Extended, &[one, next], &bytes);
        let of = |request: &Request| -> Vec<_> {
            let own = |(reply, _): &&(Reply, Vec<u8>)| reply.cookie == request.cookie;
            replies.iter().filter(own).cloned().collect()
        };
        let error = error_of(&of(&one));
        assert_eq!(error, (!good).then_some(IoError::Invalid));
        assert_eq!(of(&one).len(), 1);
        assert!(gather(&next, &of(&next)) == disk.content[512..1024]);
    }
}

/// Also what waits for a disk: writes that have to be durable before their reply.
#[test]
fn a_disconnect_must_let_what_is_outstanding_end() {
    let disk = disk();
    for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
        let write = |number: u64| request(Command::Write, 1, number * 4096, 4096);
        let asked: Vec<_> = (0..50).map(write).collect();
        let data = [9; 4096];
        let sent: Vec<_> = asked.iter().map(|one| (*one, &data[..])).collect();
        let bytes = talk(&disk, style, &sent);
        let replies = replies(style, &asked, &bytes);
        assert_eq!((replies.len(), error_of(&replies)), (50, None));
    }
}

#[test]
fn every_reply_must_carry_its_cookie_whatever_the_order() {
    let disk = disk();
    let reads: Vec<_> = (0..200)
        .map(|n| request(Command::Read, 0, n * 512, 512))
        .collect();
    let sent: Vec<_> = reads.iter().map(|read| (*read, &[][..])).collect();
    let bytes = talk(&disk, HeaderStyle::Simple, &sent);
    let replies = replies(HeaderStyle::Simple, &reads, &bytes);
    assert_eq!(replies.len(), reads.len());
    for read in reads {
        let is = |(reply, _): &&(Reply, Vec<u8>)| reply.cookie == read.cookie;
        let (_, data) = replies.iter().find(is).expect("each is answered");
        let at = read.offset as usize;
        assert!(data[..] == disk.content[at..at + 512]);
    }
}

#[test]
fn fast_zero_must_fail_at_once_or_zero_and_plain_zeroes_must_never_be_refused() {
    let disk = disk();
    let zero = |flags| request(Command::WriteZeroes, flags, 2_000_000, 5000);
    // NO_HOLE and FAST_ZERO together: an overlay would have to write.
    let refused = ask(&disk, HeaderStyle::Structured, zero(2 | 16), &[]);
    assert_eq!(error_of(&refused), Some(IoError::NotSupported));
    let read = request(Command::Read, 0, 2_000_000, 5000);
    let read = || gather(&read, &ask(&disk, HeaderStyle::Structured, read, &[]));
    assert!(
        read() == disk.content[2_000_000..2_005_000],
        "nothing changed"
    );
    for flags in [16, 2, 0] {
        assert_eq!(
            error_of(&ask(&disk, HeaderStyle::Structured, zero(flags), &[])),
            None
        );
        assert!(read().iter().all(|byte| *byte == 0));
    }
}

/// `/dev/null` takes everything and cannot be flushed: whatever must be durable first cannot succeed.
#[test]
fn fua_must_be_durable_before_the_reply_and_a_flush_too() {
    let asked = [
        (request(Command::Write, 1, 0, 512), &[1; 512][..]),
        (request(Command::Flush, 0, 0, 0), &[]),
        (request(Command::Trim, 1, 0, 512), &[]),
    ];
    for (one, payload) in asked {
        let null = FileExport::open(std::path::Path::new("/dev/null"), false, None).unwrap();
        let mut session = session(&disk(), HeaderStyle::Simple);
        session.info.size = 4096;
        let plain = request(Command::Write, 0, 1024, 512);
        let sent = [(plain, &[1; 512][..]), (one, payload)];
        let bytes = serve_to_the_end(null.open().unwrap(), session, &sent);
        let replies = replies(HeaderStyle::Simple, &[plain, one], &bytes);
        assert_eq!(error_of(&replies[..1]), None, "nothing was promised of it");
        assert!(error_of(&replies[1..]).is_some(), "{one:?}");
    }
}

#[test]
fn an_overlay_must_not_claim_that_connections_share_it() {
    let flags = disk().export.info().unwrap().flags;
    assert!(!flags.contains(nbd::TransmissionFlags::CAN_MULTI_CONN));
}
