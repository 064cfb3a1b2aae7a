//! Bugs that panic: what they take with them, and what goes on.

use std::{
    io::{Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::mpsc,
};

use nbd::{
    ClientConfig, ClientHandshake, ClientStep, Command, CommandFlags, Cookie, ExportInfo, Refusal,
    Request, TransmissionFlags,
};

use super::*;
use crate::service::device::{Device, Export, Extent, Fault, Peer};
use crate::service::tls::TlsState;

const DEADLINE: Duration = Duration::from_secs(10);
const BLOCK: u64 = 4096;

/// A disk with a bug: block 0 panics where a disk thread reads it, block 1 already on the connection's thread. It
/// tells when it is let go.
struct Buggy {
    gone: mpsc::Sender<()>,
}

impl Drop for Buggy {
    fn drop(&mut self) {
        let _ = self.gone.send(());
    }
}

impl Device for Buggy {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        assert!(offset > 0, "meant by the test");
        buf.fill(7);
        Ok(())
    }

    fn try_read(&self, _buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        assert!(offset != BLOCK, "meant by the test");
        Ok(false)
    }

    fn write(&self, _data: &[u8], _offset: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn trim(&self, _range: Range<u64>) -> Result<(), Fault> {
        Ok(())
    }

    fn zero(&self, _range: Range<u64>, _may_hole: bool, _only_fast: bool) -> Result<(), Fault> {
        Ok(())
    }

    fn status(&self, _range: Range<u64>, _most: usize) -> Result<Vec<Extent>, Fault> {
        panic!("meant by the test")
    }
}

struct BuggyExport {
    gone: mpsc::Sender<()>,
}

impl Export for BuggyExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        Ok(ExportInfo::new(16 * BLOCK, TransmissionFlags::SEND_FLUSH))
    }

    /// One connection at a time, as a client's disk.
    fn owner(&self) -> Option<String> {
        Some("pc".into())
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        let gone = self.gone.clone();
        Ok(Arc::new(Buggy { gone }))
    }
}

struct One(Arc<dyn Export>);

impl Exports for One {
    fn list(&self, _peer: &Peer) -> Vec<(String, Option<String>)> {
        Vec::new()
    }

    fn find(&self, _name: &str, _peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        Ok(self.0.clone())
    }
}

struct Place {
    service: Service,
    path: PathBuf,
    gone: mpsc::Receiver<()>,
    _dir: tempfile::TempDir,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    let (tell, gone) = mpsc::channel();
    let service = Service::start(ServiceOptions {
        listeners: vec![(
            Listener::unix(&path).unwrap(),
            Arc::new(Tls::new(TlsState::off())),
        )],
        exports: Arc::new(One(Arc::new(BuggyExport { gone: tell }))),
        limits: Limits {
            disk_threads: 2,
            ..Limits::default()
        },
        events: Box::new(|_| {}),
    });
    Place {
        service: service.unwrap(),
        path,
        gone,
        _dir: dir,
    }
}

/// A client in the transmission phase.
fn client(place: &Place) -> UnixStream {
    let mut socket = UnixStream::connect(&place.path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut handshake = ClientHandshake::new(ClientConfig::default());
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer).unwrap();
        assert!(count > 0, "the handshake was cut off");
        let step = handshake.feed(&buffer[..count]).unwrap();
        if let ClientStep::Done(_) = step {
            return socket;
        }
        socket.write_all(&handshake.take_output()).unwrap();
    }
}

fn ask(socket: &mut UnixStream, block: u64) {
    let request = Request {
        flags: CommandFlags::from_bits(0),
        command: Command::Read,
        cookie: Cookie(block),
        offset: block * BLOCK,
        length: BLOCK,
    };
    let mut bytes = Vec::new();
    request.encode(nbd::HeaderStyle::Simple, &mut bytes);
    socket.write_all(&bytes).unwrap();
}

/// The error of the next reply, whose data are read as well.
fn answer(socket: &mut UnixStream) -> u32 {
    let mut head = [0; 16];
    socket.read_exact(&mut head).unwrap();
    let error = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if error == 0 {
        let mut data = [0; BLOCK as usize];
        socket.read_exact(&mut data).unwrap();
        assert_eq!(data, [7; BLOCK as usize]);
    }
    error
}

#[test]
fn a_request_that_panics_gets_eio_and_the_rest_go_on() {
    let place = place();
    let mut socket = client(&place);
    // More than jobs that one connection may have under way, and than threads that there are.
    for _ in 0..300 {
        ask(&mut socket, 0);
        assert_eq!(answer(&mut socket), 5);
    }
    ask(&mut socket, 2);
    assert_eq!(answer(&mut socket), 0);
    drop(socket);
    assert!(place.service.drain(DEADLINE), "a slot was lost");
}

#[test]
fn a_connection_that_panics_is_closed_and_lets_its_successor_in() {
    let place = place();
    for _ in 0..3 {
        let mut socket = client(&place);
        // Some are under way on the disk threads when it happens.
        [2, 2, 2, 1]
            .into_iter()
            .for_each(|block| ask(&mut socket, block));
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        place
            .gone
            .recv_timeout(DEADLINE)
            .expect("it holds the disk");
    }
    let mut socket = client(&place);
    ask(&mut socket, 2);
    assert_eq!(answer(&mut socket), 0);
    drop(socket);
    assert!(place.service.drain(DEADLINE), "a connection was left over");
}
