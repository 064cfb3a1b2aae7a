//! A connection with `bootroom witness`, kept between questions.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use mirror::{FRAME_HEAD, NodeId, WitnessAnswer, WitnessRequest};
use rustls::{ClientConfig, ClientConnection, Stream};

use super::Way;
use crate::mirror::{
    secret::{PairRole, PairSecret, explain},
    witness::IDLE,
};

/// Longest answer, in bytes.
const ANSWER: usize = 256;
/// A connection that was not used for so long is not trusted: the witness is about to close it, or something in between
/// has forgotten it, and to find that out would take all of the time that there is.
const STALE: Duration = Duration::from_secs(IDLE.as_secs() / 2);

/// The way to one witness.
pub struct Dialled {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    kept: Option<Connection>,
}

impl Dialled {
    /// The witness at `address`, asked by `me`. Dials when there is something to ask.
    pub fn new(address: SocketAddr, secret: &PairSecret, me: NodeId) -> Self {
        Self {
            address,
            tls: secret.client(me.into(), PairRole::Witness),
            kept: None,
        }
    }

    fn dial(&self, deadline: Instant) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect_timeout(&self.address, left(deadline)?);
        let socket = socket.with_context(|| format!("cannot connect to {}", self.address))?;
        socket.set_nodelay(true)?;
        Ok(Connection {
            session: ClientConnection::new(self.tls.clone(), PairRole::Witness.name())?,
            socket,
            used: Instant::now(),
        })
    }

    /// Asks over the connection that there is, if it is any good. A witness that was started anew has closed it: then it
    /// is asked once more over another. If it has made the change already, it refuses it the second time, and says so.
    fn ask_kept(&mut self, request: &WitnessRequest, deadline: Instant) -> Option<WitnessAnswer> {
        let mut kept = self
            .kept
            .take()
            .filter(|kept| kept.used.elapsed() < STALE)?;
        let answer = kept.ask(request, deadline).ok()?;
        self.kept = Some(kept);
        Some(answer)
    }
}

impl Way for Dialled {
    fn ask(
        &mut self,
        request: &WitnessRequest,
        deadline: Instant,
    ) -> anyhow::Result<WitnessAnswer> {
        if let Some(answer) = self.ask_kept(request, deadline) {
            return Ok(answer);
        }
        let mut fresh = self.dial(deadline)?;
        let answer = fresh.ask(request, deadline);
        let answer = answer.with_context(|| format!("the witness at {}", self.address))?;
        self.kept = Some(fresh);
        Ok(answer)
    }
}

struct Connection {
    session: ClientConnection,
    socket: TcpStream,
    used: Instant,
}

impl Connection {
    fn ask(
        &mut self,
        request: &WitnessRequest,
        deadline: Instant,
    ) -> anyhow::Result<WitnessAnswer> {
        let mut socket = Timed {
            socket: &self.socket,
            deadline,
        };
        let mut stream = Stream::new(&mut self.session, &mut socket);
        let mut frame = Vec::new();
        request.encode(&mut frame)?;
        stream.write_all(&frame).map_err(explain)?;
        stream.flush().map_err(explain)?;
        let answer = read(&mut stream)?;
        if answer.number != request.number {
            bail!("an answer to another question");
        }
        self.used = Instant::now();
        Ok(answer)
    }
}

/// Reads one answer.
pub(super) fn read(stream: &mut impl Read) -> anyhow::Result<WitnessAnswer> {
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).map_err(explain)?;
    let length = mirror::frame_length(head)?;
    if length > ANSWER {
        bail!("an answer of {length} bytes");
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).map_err(explain)?;
    Ok(WitnessAnswer::decode(frame.into())?)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late());
    }
    Ok(left)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// A socket on which nothing takes longer than until the deadline.
struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

/// What the kernel calls a timeout.
fn timed<T>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(late()),
        result => result,
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(left(self.deadline)?))?;
        timed(self.socket.read(buf))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(left(self.deadline)?))?;
        timed(self.socket.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::{
        super::{
            DEADLINE,
            tests::{Site, relay},
        },
        *,
    };

    fn ask(way: &mut Dialled, number: u64) -> anyhow::Result<WitnessAnswer> {
        let request = WitnessRequest {
            number,
            from: NodeId::A,
            swap: None,
        };
        // On a busy machine an answer may be late.
        way.ask(&request, Instant::now() + 20 * DEADLINE)
    }

    #[test]
    fn a_connection_is_kept_but_not_trusted_for_ever() {
        let site = Site::new();
        let (_witness, address) = site.witness(0);
        let (between, _, connections) = relay(address);
        let secret = PairSecret::read(&site.secret).unwrap();
        let mut way = Dialled::new(between, &secret, NodeId::A);
        let dialled = || connections.load(Ordering::SeqCst);
        ask(&mut way, 1).unwrap();
        ask(&mut way, 2).unwrap();
        assert_eq!(dialled(), 1);
        way.kept.as_mut().unwrap().used -= STALE;
        ask(&mut way, 3).unwrap();
        assert_eq!(dialled(), 2);
    }

    #[test]
    fn no_question_is_lost_with_a_connection_that_died_while_nobody_asked() {
        let site = Site::new();
        let (mut witness, address) = site.witness(0);
        let secret = PairSecret::read(&site.secret).unwrap();
        let mut way = Dialled::new(address, &secret, NodeId::A);
        ask(&mut way, 1).unwrap();
        witness.kill();
        let (_witness, _) = site.witness(address.port());
        assert_eq!(ask(&mut way, 2).unwrap().number, 2);
    }
}
