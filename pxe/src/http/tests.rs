//! Peers that mean no good, over real connections: what each costs the others is nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::service::PER_PEER;
use super::{Http, HttpConfig};
use crate::dhcp::{Leases, NoLog};
use crate::files::Roots;
use crate::machine::{Machine, Stage};
use crate::policy::*;

/// Long enough for a test that holds, short enough for one that does not.
const LIMIT: Duration = Duration::from_secs(60);
/// More than the kernel takes into its buffers.
const BIG: usize = 64 << 20;

/// Serves `big` and `small`, and passes on what happens.
struct Files(Mutex<Sender<Happening>>);

impl Policy for Files {
    fn identify(&self, _: &Machine) -> Option<Identity> {
        None
    }

    fn boot(&self, _: &Machine, _: Stage) -> Option<BootAnswer> {
        None
    }

    fn file(&self, request: &FileRequest) -> Option<Content> {
        let size = if request.path == "big" { BIG } else { 5 };
        Some(Content::Bytes(vec![b'x'; size].into()))
    }

    fn report(&self, _: &Report) -> bool {
        false
    }

    fn event(&self, event: Event) {
        // The test may have seen enough.
        let _ = self.0.lock().send(event.what);
    }
}

/// A server that runs until it is dropped, its port, and what happens at it.
struct Running {
    port: u16,
    events: Receiver<Happening>,
    _runtime: tokio::runtime::Runtime,
}

fn serve(patience: Duration) -> Running {
    let (sender, events) = channel();
    let config = HttpConfig {
        interface: None,
        port: 0,
        roots: Roots::none(),
        read_timeout: patience,
        write_timeout: patience,
        ..HttpConfig::new("", Ipv4Addr::LOCALHOST)
    };
    let leases = Leases::open(Box::new(NoLog)).unwrap();
    let http = Http::bind(config, leases, Arc::new(Files(Mutex::new(sender)))).unwrap();
    let port = http.port();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(http.run(std::future::pending()));
    Running {
        port,
        events,
        _runtime: runtime,
    }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn is_serving(&self) {
        answers(&mut self.ask("small"));
    }
}

fn answers(stream: &mut TcpStream) {
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
}

/// Hung up on: nothing comes any more, or the connection is reset.
fn is_over(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_reader_that_takes_nothing_is_hung_up_on_and_holds_up_nobody() {
    let server = serve(Duration::from_millis(300));
    let slow = server.ask("big");
    server.is_serving();
    let ended = std::iter::from_fn(|| server.events.recv_timeout(LIMIT).ok());
    let ended = ended.filter_map(|what| match what {
        Happening::TransferEnd { path, outcome, .. } if path == "big" => Some(outcome),
        _ => None,
    });
    assert_eq!(ended.take(1).next(), Some(Outcome::TimedOut));
    server.is_serving();
    drop(slow);
}

#[test]
fn a_request_that_does_not_end_is_hung_up_on() {
    let server = serve(Duration::from_millis(300));
    let mut slow = server.connect();
    slow.write_all(b"GET /small HTT").unwrap();
    server.is_serving();
    assert!(is_over(&mut slow));
}

#[test]
fn one_address_holds_so_many_connections_and_no_more() {
    let server = serve(LIMIT);
    let mut held: Vec<_> = (0..PER_PEER).map(|_| server.ask("small")).collect();
    // All are admitted once the last one is answered: they are accepted in order.
    held.iter_mut().for_each(answers);
    assert!(is_over(&mut server.connect()));
    drop(held);
    // The places are free again as soon as the server has noticed.
    while is_over(&mut server.ask("small")) {}
}
