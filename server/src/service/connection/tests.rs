use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use nbd::{Command, CommandFlags, Cookie, HeaderStyle};

use super::*;
use crate::service::{
    Export, devices::FileExport, jobs::Finished, registry::Registry, transport::Socket,
};

const DEADLINE: Duration = Duration::from_secs(10);
const SIZE: usize = 8192;

/// A disk of `SIZE` bytes, all 7, and what a client agreed on about it.
struct Disk {
    _file: tempfile::NamedTempFile,
    device: Arc<dyn Device>,
    session: Session,
}

fn disk(style: HeaderStyle) -> Disk {
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

fn connect() -> (UnixStream, Arc<Live>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let live = Registry::default().enter(Socket::Unix(theirs), 1, 1);
    (ours, live.unwrap())
}

fn engine<'a>(live: &'a Live, disk: &'a Disk, pool: &'a Arc<Pool>) -> Engine<'a> {
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
