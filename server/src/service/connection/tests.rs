use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use nbd::{Command, CommandFlags, Cookie, HeaderStyle};

use parking_lot::Mutex;

use super::*;
use crate::service::{
    Export, Mapped,
    devices::{CowExport, FileExport},
    jobs::Finished,
    registry::Registry,
    transport::Socket,
};

pub(super) const DEADLINE: Duration = Duration::from_secs(10);
const SIZE: usize = 8192;

/// A disk of `SIZE` bytes, all 7, and what a client agreed on about it.
pub(super) struct Disk {
    _file: tempfile::NamedTempFile,
    pub(super) device: Arc<dyn Device>,
    pub(super) session: Session,
}

pub(super) fn disk(style: HeaderStyle) -> Disk {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; SIZE]).unwrap();
    let export = FileExport::open(file.path(), false, None).unwrap();
    let session = Session {
        name: String::new(),
        info: export.info().unwrap(),
        style,
        contexts: Vec::new(),
    };
    Disk {
        _file: file,
        device: export.open().unwrap(),
        session,
    }
}

fn request(command: Command, length: usize) -> Request {
    Request {
        flags: CommandFlags::from_bits(0),
        command,
        cookie: Cookie(1),
        offset: 0,
        length: length as u64,
    }
}

pub(super) fn connect() -> (UnixStream, Arc<Live>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let live = Registry::default().enter(Socket::Unix(theirs), 1, 1);
    (ours, live.unwrap())
}

pub(super) fn engine<'a>(live: &'a Arc<Live>, disk: &'a Disk, pool: &'a Arc<Pool>) -> Engine<'a> {
    Engine {
        live,
        device: &disk.device,
        pool,
        most_in_flight: 1 << 20,
        returns: false,
        on_error: &|_| {},
    }
}

/// Sends `requests` all at once; gives all that is answered until the connection ends.
fn answers(style: HeaderStyle, requests: &[Request]) -> Vec<u8> {
    let (mut ours, live) = connect();
    let mut bytes = Vec::new();
    requests
        .iter()
        .for_each(|request| request.encode(style, &mut bytes));
    ours.write_all(&bytes).unwrap();
    let server = thread::spawn(move || {
        let (disk, pool) = (disk(style), Pool::new(2, u64::MAX));
        let mut transport = Transport::plain(&live.socket);
        serve(
            &engine(&live, &disk, &pool),
            &mut transport,
            &disk.session,
            &[],
        );
        transport.close();
    });
    let mut answered = Vec::new();
    ours.read_to_end(&mut answered).unwrap();
    server.join().unwrap();
    answered
}

#[test]
fn what_was_answered_before_the_goodbye_is_sent() {
    let requests = [request(Command::Read, 512), request(Command::Disconnect, 0)];
    let answered = answers(HeaderStyle::Simple, &requests);
    assert_eq!(answered.len(), 16 + 512);
    assert_eq!(answered[16..], [7; 512]);
}

#[test]
fn a_read_of_nothing_gets_no_data_chunk() {
    let requests = [request(Command::Read, 0), request(Command::Disconnect, 0)];
    let answered = answers(HeaderStyle::Structured, &requests);
    let mut expected = 0x668e_33efu32.to_be_bytes().to_vec();
    expected.extend([0, 1, 0, 0]); // the last chunk, of no kind
    expected.extend(1u64.to_be_bytes());
    expected.extend([0; 4]);
    assert_eq!(answered, expected);
}

#[test]
fn every_job_counts_also_when_the_export_is_gone() {
    let (disk, pool) = (disk(HeaderStyle::Simple), Pool::new(2, u64::MAX));
    let (_ours, live) = connect();
    let engine = engine(&live, &disk, &pool);
    let mut transmission = Transmission::new(&engine, &disk.session, &[], true).unwrap();
    transmission.jobs = 3;
    for reply in [Err(Fault::Gone), Ok(Vec::new()), Err(Fault::Gone)] {
        transmission.mailbox.put(Finished {
            reply,
            error: None,
            weight: 0,
            flushed: None,
            sent: false,
        });
    }
    assert!(matches!(transmission.collect(), Err(End::Gone)));
    assert_eq!(transmission.jobs, 0);
}

/// Over the bound on all connections each has one request at a time, and what it held is free when it ends.
#[test]
fn all_connections_share_one_bound() {
    const BOUND: u64 = 1000;
    let (disk, pool) = (disk(HeaderStyle::Simple), Pool::new(2, BOUND));
    let (_ours, live) = connect();
    let engine = engine(&live, &disk, &pool);
    pool.take(BOUND - 512);
    let mut transmission = Transmission::new(&engine, &disk.session, &[], true).unwrap();
    let operation = Operation::Read { whole: true };
    transmission.submit(request(Command::Read, 512), operation, Vec::new(), 0);
    assert!(transmission.is_crowded());
    drop(transmission);
    assert!(!pool.is_full());
    let transmission = Transmission::new(&engine, &disk.session, &[], true).unwrap();
    pool.take(BOUND);
    assert!(!transmission.is_crowded(), "the first is always let in");
}

/// Has `requests` with their payloads served from `device` while `feed` brings them; gives what is answered.
fn served(
    device: Arc<dyn Device>,
    info: nbd::ExportInfo,
    feed: impl FnOnce(UnixStream) + Send + 'static,
) -> Vec<u8> {
    let (mut ours, live) = connect();
    let session = Session {
        name: String::new(),
        info,
        style: HeaderStyle::Simple,
        contexts: Vec::new(),
    };
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
    let sender = ours.try_clone().unwrap();
    let sending = thread::spawn(move || feed(sender));
    let mut answered = Vec::new();
    ours.read_to_end(&mut answered).unwrap();
    sending.join().unwrap();
    server.join().unwrap();
    answered
}

/// Keeps what is written to it, and where the pieces began and ended.
#[derive(Default)]
struct Recorder {
    content: Mutex<Vec<u8>>,
    pieces: Mutex<Vec<(u64, u64)>>,
}

impl Device for Recorder {
    fn read(&self, _buf: &mut [u8], _offset: u64) -> Result<(), Fault> {
        unreachable!("nothing is read")
    }

    fn try_read(&self, _buf: &mut [u8], _offset: u64) -> Result<bool, Fault> {
        unreachable!("nothing is read")
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Fault> {
        let end = offset + data.len() as u64;
        let mut content = self.content.lock();
        let length = content.len().max(end as usize);
        content.resize(length, 0);
        content[offset as usize..end as usize].copy_from_slice(data);
        self.pieces.lock().push((offset, end));
        Ok(())
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn status(
        &self,
        _range: std::ops::Range<u64>,
        _most: usize,
    ) -> Result<Vec<crate::service::Extent>, Fault> {
        unreachable!("nobody asks")
    }
}

/// However its payload is cut on the way, a long write is stored in pieces that end where the host's pages do.
#[test]
fn long_writes_are_stored_in_pieces_of_their_own() {
    const OFFSET: usize = 1000;
    const LENGTH: usize = (1 << 20) + 5000;
    for cut in [1 << 20, 70_001, 4096] {
        let recorder = Arc::new(Recorder::default());
        let flags = nbd::TransmissionFlags::SEND_FLUSH;
        let info = nbd::ExportInfo::new(4 << 20, flags);
        let data: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
        let mut bytes = Vec::new();
        let mut write = request(Command::Write, LENGTH);
        write.offset = OFFSET as u64;
        for request in [write, write] {
            request.encode(HeaderStyle::Simple, &mut bytes);
            bytes.extend_from_slice(&data);
        }
        request(Command::Disconnect, 0).encode(HeaderStyle::Simple, &mut bytes);
        let feed = move |mut socket: UnixStream| {
            bytes
                .chunks(cut)
                .for_each(|part| socket.write_all(part).unwrap());
        };
        assert_eq!(served(recorder.clone(), info, feed).len(), 2 * 16);
        assert!(recorder.content.lock()[OFFSET..] == data);
        let ends: Vec<u64> = recorder.pieces.lock().iter().map(|(_, end)| *end).collect();
        let last = (OFFSET + LENGTH) as u64;
        let once = [256 << 10, 512 << 10, 768 << 10, 1 << 20, last];
        assert_eq!(ends, [once, once].concat(), "cut at {cut}");
    }
}

/// Short reads come from the mapped base, or from the overlay where something was written.
#[test]
fn reads_find_what_base_and_client_put_there() {
    const DISK: usize = 1 << 20;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = dir.path().join("image");
    let mut content: Vec<u8> = (0..DISK).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let id = overlay::BaseId {
        version: uuid::Uuid::nil(),
        digest: overlay::Digest([7; 32]),
    };
    let base = Arc::new(overlay::FileBase::open(&path, id).unwrap());
    let export = CowExport::new(dir.path(), base, None, 0).unwrap();
    let device = export.open().unwrap();
    device.write(&[9; 5000], 10_000).unwrap();
    content[10_000..15_000].fill(9);
    assert!(matches!(device.mapped(0..4096), Ok(Some(Mapped::Base(_)))));
    let own = device.mapped(12_288..14_000);
    assert!(matches!(own, Ok(Some(Mapped::Own(_)))));
    let places = [
        (0, 4096),
        (9000, 10_000),
        (12_300, 2048),
        (20_480, 512),
        (DISK - 1, 1),
    ];
    let mut bytes = Vec::new();
    for (offset, length) in places {
        let mut read = request(Command::Read, length);
        read.offset = offset as u64;
        read.encode(HeaderStyle::Simple, &mut bytes);
    }
    request(Command::Disconnect, 0).encode(HeaderStyle::Simple, &mut bytes);
    let feed = move |mut socket: UnixStream| socket.write_all(&bytes).unwrap();
    let answered = served(device, export.info().unwrap(), feed);
    let expected: usize = places.iter().map(|(_, length)| 16 + length).sum();
    assert_eq!(answered.len(), expected);
    let mut rest = &answered[..];
    for (offset, length) in places {
        assert!(rest[16..16 + length] == content[offset..offset + length]);
        rest = &rest[16 + length..];
    }
}
