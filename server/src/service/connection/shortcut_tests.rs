//! Changes that others end, and whoever ends them answers.

use std::{
    io::{Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    sync::mpsc,
    thread,
};

use nbd::{Command, CommandFlags, Cookie, HeaderStyle};
use parking_lot::Mutex;

use super::tests::{DEADLINE, connect, disk, engine};
use super::*;
use crate::service::device::{Deferred, Extent};

type Begun = mpsc::Receiver<(Change, Ended)>;

/// Gives its changes to the test to end.
struct Later {
    begun: Mutex<mpsc::Sender<(Change, Ended)>>,
    may: AtomicBool,
}

impl Deferred for Later {
    fn begin(&self, changes: Vec<(Change, Ended)>) {
        let begun = self.begun.lock();
        changes.into_iter().for_each(|one| begun.send(one).unwrap());
    }
}

impl Device for Later {
    fn read(&self, _: &mut [u8], _: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn try_read(&self, _: &mut [u8], _: u64) -> Result<bool, Fault> {
        Ok(true)
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn status(&self, range: Range<u64>, _: usize) -> Result<Vec<Extent>, Fault> {
        let length = range.end - range.start;
        Ok(vec![Extent {
            length,
            hole: false,
            zero: false,
            depth: 1,
        }])
    }

    fn deferred(&self) -> Option<&dyn Deferred> {
        Some(self)
    }

    fn before_replies(&self) -> Result<(), Fault> {
        while !self.may.load(SeqCst) {
            thread::yield_now();
        }
        Ok(())
    }

    fn may_reply_now(&self) -> bool {
        self.may.load(SeqCst)
    }
}

fn later(may: bool) -> (Arc<Later>, Begun) {
    let (tell, begun) = mpsc::channel();
    let later = Later {
        begun: Mutex::new(tell),
        may: AtomicBool::new(may),
    };
    (Arc::new(later), begun)
}

fn write(cookie: u64) -> Vec<u8> {
    let request = Request {
        flags: CommandFlags::from_bits(0),
        command: Command::Write,
        cookie: Cookie(cookie),
        offset: 0,
        length: 4,
    };
    let mut bytes = Vec::new();
    request.encode(HeaderStyle::Simple, &mut bytes);
    bytes.extend(b"data");
    bytes
}

/// Serves `device` while `client` does its part with the other end of the socket; then the client has gone.
fn served(device: &Arc<Later>, begun: Begun, client: impl FnOnce(UnixStream, Begun) + Send) {
    let (ours, live) = connect();
    let mut disk = disk(HeaderStyle::Simple);
    disk.device = device.clone();
    let pool = Pool::new(2, u64::MAX);
    thread::scope(|scope| {
        scope.spawn(move || client(ours, begun));
        let mut transport = Transport::plain(&live.socket);
        let engine = engine(&live, &disk, &pool);
        serve(&engine, &mut transport, &disk.session, &[]);
    });
}

fn end(ended: Ended) {
    ended(Ok(())).expect("somebody delivers").deliver();
}

fn cookies(bytes: &[u8]) -> Vec<u64> {
    let cookie = |reply: &[u8]| u64::from_be_bytes(reply[8..16].try_into().unwrap());
    bytes.chunks(16).map(cookie).collect()
}

#[test]
fn who_ends_a_change_answers_it() {
    let (device, begun) = later(true);
    served(&device, begun, |mut ours, begun| {
        for cookie in 1..=100 {
            ours.write_all(&write(cookie)).unwrap();
            let (change, ended) = begun.recv_timeout(DEADLINE).unwrap();
            assert!(matches!(change, Change::Write { offset: 0, .. }));
            end(ended);
            let mut reply = [0; 16];
            ours.read_exact(&mut reply).unwrap();
            assert_eq!(cookies(&reply), [cookie]);
        }
    });
}

#[test]
fn nobody_answers_while_answers_have_to_wait() {
    let (device, begun) = later(false);
    served(&device, begun, |mut ours, begun| {
        ours.write_all(&write(1)).unwrap();
        end(begun.recv_timeout(DEADLINE).unwrap().1);
        ours.set_nonblocking(true).unwrap();
        for _ in 0..1000 {
            let came = ours.read(&mut [0; 16]);
            assert_eq!(came.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            thread::yield_now();
        }
        ours.set_nonblocking(false).unwrap();
        device.may.store(true, SeqCst);
        let mut reply = [0; 16];
        ours.read_exact(&mut reply).unwrap();
        assert_eq!(cookies(&reply), [1]);
    });
}

/// Whoever ends changes never waits for the client, and no reply is lost, cut or sent twice where the two ways meet.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    const ALL: u64 = 2000;
    let (device, begun) = later(true);
    served(&device, begun, |mut ours, begun| {
        let mut writer = ours.try_clone().unwrap();
        let (told, all_ended) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || (1..=ALL).for_each(|n| writer.write_all(&write(n)).unwrap()));
            scope.spawn(move || {
                let mut ended = 0;
                while let Ok((_, one)) = begun.recv_timeout(Duration::from_millis(500)) {
                    end(one);
                    ended += 1;
                }
                told.send(ended).unwrap();
                while let Ok((_, one)) = begun.recv_timeout(DEADLINE) {
                    end(one);
                }
            });
            // As many as the socket takes, and then those that may be under way.
            let before: u64 = all_ended.recv_timeout(DEADLINE).unwrap();
            assert!(before >= MOST_JOBS as u64, "{before}");
            let mut replies = vec![0; 16 * ALL as usize];
            ours.read_exact(&mut replies).unwrap();
            let mut seen = cookies(&replies);
            seen.sort_unstable();
            assert_eq!(seen, (1..=ALL).collect::<Vec<_>>());
            ours.shutdown(std::net::Shutdown::Both).unwrap();
        });
    });
}

/// For what was answered the connection's thread was not woken: it must not wait for a bell when the client leaves.
#[test]
fn a_connection_ends_that_was_answered_for() {
    let (device, begun) = later(true);
    served(&device, begun, |mut ours, begun| {
        let all: Vec<u8> = (1..=32).flat_map(write).collect();
        ours.write_all(&all).unwrap();
        for _ in 0..32 {
            end(begun.recv_timeout(DEADLINE).unwrap().1);
        }
        ours.read_exact(&mut [0; 16 * 32]).unwrap();
    });
}
