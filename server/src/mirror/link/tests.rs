use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use mirror::{Body, Hello, Incarnation, Item, Message, Op, Seq, SessionId, Term, VolumeId};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

enum Heard {
    Messages(Vec<Message>),
    Silent,
}

struct Ears(mpsc::Sender<Heard>);

impl Doors for Ears {
    fn messages(&self, messages: Vec<Message>) {
        let _ = self.0.send(Heard::Messages(messages));
    }

    fn silent(&self) {
        let _ = self.0.send(Heard::Silent);
    }

    fn images(&self, _: Taken) -> anyhow::Result<()> {
        Ok(())
    }
}

fn hello(term: u64) -> Message {
    Message {
        from: NodeId::A,
        term: Term(term),
        body: Body::Hello(Hello::default()),
    }
}

fn free_port() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    probe.local_addr().unwrap()
}

fn secret(dir: &std::path::Path, name: &str) -> Arc<PairSecret> {
    let path = dir.join(name);
    if !path.exists() {
        PairSecret::make(&path).unwrap();
    }
    Arc::new(PairSecret::read(&path).unwrap())
}

/// Server B listens; what it hears.
fn hear(secret: Arc<PairSecret>) -> (SocketAddr, mpsc::Receiver<Heard>) {
    let place = free_port();
    let ends = Ends {
        me: NodeId::B,
        secret,
        peer: place,
        settings: 1,
    };
    let (tell, heard) = mpsc::channel();
    listen(place, ends, Arc::new(Ears(tell))).unwrap();
    (place, heard)
}

fn dial(peer: SocketAddr, secret: Arc<PairSecret>) -> (Arc<Outgoing>, mpsc::Receiver<bool>) {
    let (tell, changed) = mpsc::channel();
    let ends = Ends {
        me: NodeId::A,
        secret,
        peer,
        settings: 1,
    };
    let outgoing = Outgoing::start(ends, move |up| {
        let _ = tell.send(up);
    })
    .unwrap();
    (outgoing, changed)
}

fn terms(heard: &mpsc::Receiver<Heard>, count: usize) -> Vec<u64> {
    let mut terms = Vec::new();
    while terms.len() < count {
        if let Heard::Messages(messages) = heard.recv_timeout(DEADLINE).unwrap() {
            terms.extend(messages.iter().map(|message| message.term.0));
        }
    }
    terms
}

#[test]
fn everything_arrives_in_order_whoever_sends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (place, heard) = hear(secret(dir.path(), "one"));
    let (outgoing, changed) = dial(place, secret(dir.path(), "one"));
    assert!(changed.recv_timeout(DEADLINE).unwrap());
    let number = parking_lot::Mutex::new(0);
    const EACH: u64 = 2000;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut number = number.lock();
                    *number += 1;
                    outgoing.put(&hello(*number)).unwrap();
                    drop(number);
                    outgoing.kick();
                }
            });
        }
    });
    let all: Vec<u64> = (1..=4 * EACH).collect();
    assert_eq!(terms(&heard, all.len()), all);
}

/// A write of so many bytes.
fn write(length: usize) -> Message {
    let data: Bytes = (0..length).map(|at| (at * 31 + length) as u8).collect();
    let op = Op::Write {
        volume: VolumeId(1),
        offset: 4096,
        length: length as u64,
        data,
    };
    let session = SessionId {
        of: Incarnation(1),
        number: 1,
    };
    let (seq, item) = (Seq(length as u64), Item::Op(op));
    Message {
        body: Body::Ship { session, seq, item },
        ..hello(1)
    }
}

/// Short content is copied, long content is not and may take several strides; some of it has to wait for the wire.
#[test]
fn content_of_any_length_arrives_between_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (place, heard) = hear(secret(dir.path(), "one"));
    let (outgoing, changed) = dial(place, secret(dir.path(), "one"));
    assert!(changed.recv_timeout(DEADLINE).unwrap());
    let lengths = [0, 1, 1023, 1024, 4096, 4096, 65_536, 200_001, 3, 8 << 20];
    let sent: Vec<_> = (0..6)
        .flat_map(|_| lengths.into_iter().map(write).chain([hello(7)]))
        .collect();
    for (number, message) in sent.iter().enumerate() {
        outgoing.put(message).unwrap();
        if number % 3 == 0 {
            outgoing.kick();
        }
    }
    outgoing.kick();
    let mut came = Vec::new();
    while came.len() < sent.len() {
        if let Heard::Messages(messages) = heard.recv_timeout(DEADLINE).unwrap() {
            came.extend(messages);
        }
    }
    assert!(came == sent, "not what was sent");
    assert_eq!(outgoing.waiting(), 0);
}

/// Reads what comes for images once it is told to.
struct Slow {
    begin: parking_lot::Mutex<mpsc::Receiver<()>>,
    read: mpsc::Sender<Vec<u8>>,
}

impl Doors for Slow {
    fn messages(&self, _: Vec<Message>) {}

    fn silent(&self) {}

    fn images(&self, mut stream: Taken) -> anyhow::Result<()> {
        self.begin.lock().recv()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        Ok(self.read.send(all)?)
    }
}

#[test]
fn what_is_written_again_after_a_time_has_run_out_arrives_once() {
    let dir = tempfile::tempdir().unwrap();
    let peer = free_port();
    let (secret, settings) = (secret(dir.path(), "one"), 1);
    let ends = |me| Ends {
        me,
        secret: secret.clone(),
        peer,
        settings,
    };
    let ((start, begin), (read, came)) = (mpsc::channel(), mpsc::channel());
    let begin = parking_lot::Mutex::new(begin);
    listen(peer, ends(NodeId::B), Arc::new(Slow { begin, read })).unwrap();
    let mut wire = connect(&ends(NodeId::A), Purpose::Images).unwrap();
    let short = Duration::from_millis(20);
    wire.socket().set_write_timeout(Some(short)).unwrap();
    let (mut sent, mut waited) = (Vec::new(), 0);
    while waited < 3 || sent.len() < 16 << 20 {
        let frame: Vec<u8> = (0..100_000).map(|at| (at + sent.len() / 7) as u8).collect();
        let mut left = &frame[..];
        while !left.is_empty() {
            match wire.write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    waited += 1;
                    if waited == 3 {
                        start.send(()).unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        sent.extend(frame);
    }
    let flushed = (0..1000).any(|_| wire.flush().is_ok());
    assert!(flushed);
    drop(wire);
    let came = came.recv_timeout(DEADLINE).unwrap();
    assert!(came == sent, "{} of {}", came.len(), sent.len());
}

#[test]
fn a_connection_that_ends_is_told_and_dialled_again() {
    let dir = tempfile::tempdir().unwrap();
    let (place, heard) = hear(secret(dir.path(), "one"));
    let (outgoing, changed) = dial(place, secret(dir.path(), "one"));
    assert!(changed.recv_timeout(DEADLINE).unwrap());
    outgoing.cut("a test");
    assert!(!changed.recv_timeout(DEADLINE).unwrap());
    let Heard::Silent = heard.recv_timeout(DEADLINE).unwrap() else {
        panic!("the end was not told");
    };
    assert!(changed.recv_timeout(DEADLINE).unwrap());
    outgoing.put(&hello(7)).unwrap();
    outgoing.kick();
    assert_eq!(terms(&heard, 1), [7]);
}

#[test]
fn the_last_word_of_a_server_that_stops_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (place, heard) = hear(secret(dir.path(), "one"));
    let (outgoing, changed) = dial(place, secret(dir.path(), "one"));
    assert!(changed.recv_timeout(DEADLINE).unwrap());
    outgoing.put(&hello(7)).unwrap();
    outgoing.stop();
    assert_eq!(terms(&heard, 1), [7]);
}

#[test]
fn who_has_another_secret_is_not_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (place, heard) = hear(secret(dir.path(), "one"));
    let ends = Ends {
        me: NodeId::A,
        secret: secret(dir.path(), "two"),
        peer: place,
        settings: 1,
    };
    assert!(connect(&ends, Purpose::Messages).is_err());
    let ends = Ends {
        secret: secret(dir.path(), "one"),
        ..ends
    };
    assert!(connect(&ends, Purpose::Messages).is_ok());
    assert!(matches!(
        heard.recv_timeout(DEADLINE).unwrap(),
        Heard::Silent
    ));
}

#[test]
fn servers_with_other_settings_do_not_talk() {
    let dir = tempfile::tempdir().unwrap();
    let (place, _heard) = hear(secret(dir.path(), "one"));
    let ends = Ends {
        me: NodeId::A,
        secret: secret(dir.path(), "one"),
        peer: place,
        settings: 2,
    };
    let error = connect(&ends, Purpose::Messages).err().unwrap();
    assert!(error.to_string().contains("[standby]"), "{error:#}");
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret(dir.path(), "one");
    let (peer, _heard) = hear(secret.clone());
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(peer).unwrap())
        .collect();
    let (me, settings) = (NodeId::A, 1);
    let ends = Ends {
        me,
        secret,
        peer,
        settings,
    };
    connect(&ends, Purpose::Messages).unwrap();
    drop(silent);
}
