//! The TFTP service: one socket for requests, one task and socket for each transfer.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::active::Active;
use super::config::TftpConfig;
use super::packet::{self, ErrorCode, FromClient, ReadRequest};
use super::session::Session;
use super::transfer::Terms;
use crate::dhcp::Leases;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{self, Source};
use crate::limit::Once;
use crate::net::{self, Interface, Sharing};
use crate::policy::{Event, FileRequest, Happening, Policy, Protocol};
use crate::stop;
use crate::sys::{self, Received};

/// Requests are short; longer ones are cut and then refused.
const LONGEST: usize = 2048;
/// How long transfers may go on once the service stops.
const GRACE: Duration = Duration::from_secs(3);
/// The largest file that is converted to network line ends.
const LARGEST_TEXT: u64 = 16 << 20;

/// The TFTP server.
pub struct Tftp {
    shared: Arc<Shared>,
    socket: socket2::Socket,
    port: u16,
}

/// What all transfers have in common.
pub(super) struct Shared {
    pub config: TftpConfig,
    pub leases: Arc<Leases>,
    pub policy: Arc<dyn Policy>,
    pub mtu: u32,
    active: Mutex<Active>,
    failed: Mutex<Once<Ipv4Addr>>,
}

impl Tftp {
    /// Takes the port.
    pub fn bind(config: TftpConfig, leases: Arc<Leases>, policy: Arc<dyn Policy>) -> Result<Self> {
        let mtu = match &config.interface {
            Some(name) => Interface::find(name)?.mtu,
            None => 1500,
        };
        let address = SocketAddrV4::new(config.address, config.port);
        let socket = net::udp(config.interface.as_deref(), address, Sharing::Alone)?;
        let bound = socket
            .local_addr()
            .map_err(|e| Error::io("cannot name the TFTP socket", e))?;
        let port = bound.as_socket().map_or(config.port, |a| a.port());
        let (active, failed) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared {
            config,
            leases,
            policy,
            mtu,
            active,
            failed,
        });
        Ok(Self {
            shared,
            socket,
            port,
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown` resolves; transfers then have a few seconds to end.
    ///
    /// On a thread of its own: in lock step every block waits for a wake-up, and those are cheapest where one thread
    /// both waits and works.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let failed = |e| Error::io("cannot start the TFTP thread", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = move || {
            let result = runtime.block_on(self.serve(async { drop(stopped.await) }));
            // The other end is gone only if `run` was dropped.
            let _ = done.send(result);
        };
        std::thread::Builder::new()
            .name("tftp".into())
            .spawn(work)
            .map_err(failed)?;
        tokio::pin!(ended);
        tokio::select! {
            result = &mut ended => return result.unwrap_or_else(|_| Err(thread_failed())),
            () = shutdown => drop(stop),
        }
        ended.await.unwrap_or_else(|_| Err(thread_failed()))
    }

    async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let (stopper, stop) = stop::pair();
        let mut transfers = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.shared.config.max_transfers));
        let socket = UdpSocket::from_std(self.socket.into());
        let socket = Arc::new(socket.map_err(|e| Error::io("cannot watch a socket", e))?);
        tokio::pin!(shutdown);
        loop {
            let mut buffer = [0; LONGEST];
            let received = tokio::select! {
                received = socket.async_io(Interest::READABLE, || sys::receive(socket.as_fd(), &mut buffer)) => received,
                Some(_) = transfers.join_next() => continue,
                () = &mut shutdown => break,
            };
            let Ok(received) = received.inspect_err(|error| debug!(%error, "cannot receive"))
            else {
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let (shared, socket, stop) = (self.shared.clone(), socket.clone(), stop.clone());
            let bytes: Box<[u8]> = buffer[..received.len].into();
            transfers.spawn(async move {
                shared.answer(&socket, &bytes, received, stop).await;
                drop(slot);
            });
        }
        let ended = async { while transfers.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            stopper.stop();
            while transfers.join_next().await.is_some() {}
        }
        Ok(())
    }
}

fn thread_failed() -> Error {
    Error::new(ErrorKind::Io, "the TFTP thread failed")
}

impl Shared {
    /// Whether there is no more than one transfer.
    pub fn is_alone(&self) -> bool {
        self.active.lock().len() <= 1
    }

    /// Whether so many of the places are taken that the rest may not do.
    pub fn is_crowded(&self) -> bool {
        self.active.lock().len() * 4 >= self.config.max_transfers * 3
    }

    async fn answer(
        self: Arc<Self>,
        socket: &UdpSocket,
        bytes: &[u8],
        from: Received,
        stop: stop::Stop,
    ) {
        let refusal = match packet::decode(bytes) {
            Ok(FromClient::Read(request)) => {
                if !self.active.lock().admit(from.source) {
                    return;
                }
                let refusal = self.clone().read(&request, from, stop).await;
                self.active.lock().leave(from.source);
                refusal
            }
            Ok(FromClient::Write) => Some((ErrorCode::Access, "this server is read-only")),
            // Strays of a transfer that is over.
            Ok(FromClient::Ack(_) | FromClient::Error(..)) => None,
            Err(error) => {
                self.complain(&from, &format!("malformed TFTP packet: {error}"));
                Some((ErrorCode::Illegal, "malformed request"))
            }
        };
        if let Some((code, words)) = refusal {
            let sent = sys::send_from(
                socket.as_fd(),
                &packet::error(code, words),
                from.source,
                from.local,
            );
            if let Err(error) = sent {
                debug!(peer = %from.source, %error, "cannot send a TFTP error");
            }
        }
    }

    async fn read(
        self: Arc<Self>,
        request: &ReadRequest<'_>,
        from: Received,
        stop: stop::Stop,
    ) -> Option<(ErrorCode, &'static str)> {
        let Some(path) = files::clean(request.path) else {
            self.complain(
                &from,
                &format!(
                    "TFTP path {:?} refused",
                    String::from_utf8_lossy(request.path)
                ),
            );
            return Some((ErrorCode::Access, "path not allowed"));
        };
        let (shared, asked, netascii) = (self.clone(), path.clone(), request.netascii);
        let found = tokio::task::spawn_blocking(move || shared.open(asked, from, netascii)).await;
        let source = match found {
            Ok(Ok(Some(source))) => source,
            Ok(Ok(None)) => {
                self.tell(
                    from,
                    Happening::NotFound {
                        protocol: Protocol::Tftp,
                        path,
                    },
                );
                return Some((ErrorCode::NotFound, "file not found"));
            }
            Ok(Err(error)) => {
                warn!(peer = %from.source, path, %error, "cannot open a file");
                return Some((ErrorCode::Undefined, "cannot read the file"));
            }
            Err(_) => return Some((ErrorCode::Undefined, "internal error")),
        };
        let terms = Terms::agree(request, source.len(), self.mtu);
        if let Err(error) = Session::new(self, from, path, source, terms)
            .run(stop)
            .await
        {
            warn!(peer = %from.source, %error, "cannot serve a TFTP transfer");
        }
        None
    }

    /// Finds the file. Blocks.
    fn open(
        &self,
        path: String,
        from: Received,
        netascii: bool,
    ) -> std::io::Result<Option<Source>> {
        let request = FileRequest {
            peer: *from.source.ip(),
            mac: self.leases.mac_of(*from.source.ip()),
            local: from.local,
            path,
            query: None,
            protocol: Protocol::Tftp,
        };
        match Source::find(&*self.policy, &self.config.roots, &request)? {
            Some(source) if netascii => to_netascii(&source).map(Some),
            source => Ok(source),
        }
    }

    pub fn tell(&self, from: Received, what: Happening) {
        let ip = *from.source.ip();
        self.policy.event(Event {
            at: Instant::now(),
            mac: self.leases.mac_of(ip),
            ip: Some(ip),
            what,
        });
    }

    fn complain(&self, from: &Received, words: &str) {
        if self.failed.lock().first(*from.source.ip(), Instant::now()) {
            warn!(peer = %from.source, "{words}");
        }
    }
}

/// Line ends as RFC 764 has them: CR LF for a newline, CR NUL for a bare CR.
fn to_netascii(source: &Source) -> std::io::Result<Source> {
    if source.len() > LARGEST_TEXT {
        return Err(std::io::Error::other(
            "too large for netascii; use mode octet",
        ));
    }
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(&mut bytes, 0)?;
    let mut text = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    for byte in bytes {
        match byte {
            b'\n' => text.extend(b"\r\n"),
            b'\r' => text.extend(b"\r\0"),
            byte => text.push(byte),
        }
    }
    Ok(Source::Bytes(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::NoLog;
    use crate::files::Roots;
    use crate::machine::{Machine, Stage};
    use crate::policy::{BootAnswer, Content, Identity, Report};

    /// Serves one text, whatever is asked for.
    struct OneText;

    impl Policy for OneText {
        fn identify(&self, _: &Machine) -> Option<Identity> {
            None
        }

        fn boot(&self, _: &Machine, _: Stage) -> Option<BootAnswer> {
            None
        }

        fn file(&self, _: &FileRequest) -> Option<Content> {
            Some(Content::Bytes(bytes::Bytes::from_static(b"boot")))
        }

        fn report(&self, _: &Report) -> bool {
            false
        }

        fn event(&self, _: Event) {}
    }

    fn asking(port: u16) -> std::net::UdpSocket {
        let client = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let patience = Duration::from_secs(10);
        client.set_read_timeout(Some(patience)).unwrap();
        ask(&client, port);
        client
    }

    fn ask(client: &std::net::UdpSocket, port: u16) {
        let request = b"\0\x01boot\0octet\0";
        client
            .send_to(request, (Ipv4Addr::LOCALHOST, port))
            .unwrap();
    }

    #[test]
    fn clients_that_never_answer_make_room_long_before_they_are_given_up() {
        let config = TftpConfig {
            interface: None,
            port: 0,
            roots: Roots::none(),
            max_transfers: 4,
            give_up: Duration::from_secs(3600),
            ..TftpConfig::new("", Ipv4Addr::LOCALHOST)
        };
        let leases = Leases::open(Box::new(NoLog)).unwrap();
        let tftp = Tftp::bind(config, leases, Arc::new(OneText)).unwrap();
        let port = tftp.port();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(tftp.run(std::future::pending()));
        let mut buffer = [0; 64];
        let silent: Vec<_> = (0..4).map(|_| asking(port)).collect();
        for client in &silent {
            client.recv(&mut buffer).unwrap();
        }
        let (late, limit) = (asking(port), Instant::now() + Duration::from_secs(60));
        let pause = Duration::from_millis(200);
        late.set_read_timeout(Some(pause)).unwrap();
        assert!(late.recv(&mut buffer).is_err(), "no place is left");
        while late.recv(&mut buffer).is_err() {
            assert!(Instant::now() < limit, "the silent keep their places");
            ask(&late, port);
        }
        assert_eq!(&buffer[..8], b"\0\x03\0\x01boot");
    }

    #[test]
    fn netascii_converts_line_ends() {
        let text = Source::Bytes(bytes::Bytes::from_static(b"a\nb\rc\r\n"));
        let Source::Bytes(out) = to_netascii(&text).unwrap() else {
            panic!("not bytes")
        };
        assert_eq!(&out[..], b"a\r\nb\r\0c\r\0\r\n");
    }
}
