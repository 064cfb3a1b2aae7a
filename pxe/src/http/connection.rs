//! One connection: request after request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::body::Sender;
use super::request::{Method, Request};
use super::response::{Head, Selection, media_type, select};
use super::service::Shared;
use crate::files::{self, Source};
use crate::policy::{Event, FileRequest, Happening, Outcome, Protocol, Report};
use crate::stop::Stop;

/// The largest report.
const LARGEST_BODY: u64 = 64 * 1024;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);
const REPORT: &str = "report/";

pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddrV4,
    local: Ipv4Addr,
    stop: Stop,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddrV4, stop: Stop) -> Self {
        let local = match stream.local_addr() {
            Ok(SocketAddr::V4(local)) => *local.ip(),
            _ => shared.config.address,
        };
        // Without it answers are only slower.
        let _ = stream.set_nodelay(true);
        Self {
            shared,
            stream,
            peer,
            local,
            stop,
            buffer: Vec::new(),
        }
    }

    /// Serves until the client leaves, misbehaves or falls silent, or the service stops.
    pub async fn serve(mut self) {
        loop {
            match self.next_request().await {
                Ok(Some(request)) => match self.answer(request).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return debug!(peer = %self.peer, %error, "connection lost"),
                },
                Ok(None) => return,
                Err(error) => return debug!(peer = %self.peer, %error, "connection lost"),
            }
        }
        self.linger().await;
    }

    /// The next request's head. None: there is none, and that was dealt with.
    async fn next_request(&mut self) -> io::Result<Option<Request>> {
        let deadline = tokio::time::Instant::now() + self.shared.config.read_timeout;
        loop {
            match Request::parse(&self.buffer) {
                Ok(Some((request, len))) => {
                    self.buffer.drain(..len);
                    return Ok(Some(request));
                }
                Ok(None) => {}
                Err(error) => {
                    if self
                        .shared
                        .malformed
                        .lock()
                        .first(*self.peer.ip(), Instant::now())
                    {
                        warn!(peer = %self.peer, %error, "bad HTTP request");
                    }
                    self.refuse(error.status(), false).await?;
                    self.linger().await;
                    return Ok(None);
                }
            }
            let read = self.stream.read_buf(&mut self.buffer);
            let read = tokio::select! {
                read = tokio::time::timeout_at(deadline, read) => read,
                () = self.stop.stopped() => return Ok(None),
            };
            match read {
                Ok(Ok(0)) | Err(_) => return Ok(None),
                Ok(read) => drop(read?),
            }
        }
    }

    /// Answers one request; says whether the connection stays open.
    async fn answer(&mut self, request: Request) -> io::Result<bool> {
        if request.chunked {
            return self.refuse(411, false).await.map(|()| false);
        }
        if request.body > LARGEST_BODY {
            return self.refuse(413, false).await.map(|()| false);
        }
        let body = self.body(&request).await?;
        let keep = request.keep_alive;
        match (request.method, files::clean_url(&request.path)) {
            (_, None) => self.refuse(400, keep).await?,
            (Method::Get | Method::Head, Some(path)) => return self.file(&request, path).await,
            (Method::Post, Some(path)) => match path.strip_prefix(REPORT) {
                Some(report) => self.report(report.to_owned(), body, keep).await?,
                None => self.refuse(405, keep).await?,
            },
            (Method::Other, _) => self.refuse(405, keep).await?,
        }
        Ok(keep)
    }

    async fn body(&mut self, request: &Request) -> io::Result<Bytes> {
        let len = request.body as usize;
        if request.expects_continue && self.buffer.len() < len {
            self.sender()
                .bytes(b"HTTP/1.1 100 Continue\r\n\r\n", false)
                .await?;
        }
        let deadline = tokio::time::Instant::now() + self.shared.config.read_timeout;
        while self.buffer.len() < len {
            let read = self.stream.read_buf(&mut self.buffer);
            let read = tokio::time::timeout_at(deadline, read)
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(len);
        Ok(std::mem::replace(&mut self.buffer, rest).into())
    }

    async fn report(&mut self, path: String, body: Bytes, keep: bool) -> io::Result<()> {
        let (shared, peer) = (self.shared.clone(), *self.peer.ip());
        let known = tokio::task::spawn_blocking(move || {
            let mac = shared.leases.mac_of(peer);
            shared.policy.report(&Report {
                peer,
                mac,
                path,
                body,
            })
        });
        match known.await {
            Ok(true) => {
                self.sender()
                    .bytes(&Head::new(204, keep).finish(), false)
                    .await
            }
            Ok(false) => self.refuse(404, keep).await,
            Err(_) => self.refuse(500, keep).await,
        }
    }

    async fn file(&mut self, request: &Request, path: String) -> io::Result<bool> {
        let keep = request.keep_alive;
        let (shared, asked) = (
            self.shared.clone(),
            self.file_request(request, path.clone()),
        );
        let found = tokio::task::spawn_blocking(move || {
            let mut asked = asked;
            asked.mac = shared.leases.mac_of(asked.peer);
            Source::find(&*shared.policy, &shared.config.roots, &asked)
        });
        let source = match found.await {
            Ok(Ok(Some(source))) => source,
            Ok(Ok(None)) => {
                self.tell(Happening::NotFound {
                    protocol: Protocol::Http,
                    path,
                });
                return self.refuse(404, keep).await.map(|()| keep);
            }
            Ok(Err(error)) => {
                warn!(peer = %self.peer, path, %error, "cannot open a file");
                return self.refuse(500, keep).await.map(|()| keep);
            }
            Err(_) => return self.refuse(500, keep).await.map(|()| keep),
        };
        self.send(request, path, &source).await.map(|()| keep)
    }

    fn file_request(&self, request: &Request, path: String) -> FileRequest {
        let (peer, local, query) = (*self.peer.ip(), self.local, request.query.clone());
        FileRequest {
            peer,
            mac: None,
            local,
            path,
            query,
            protocol: Protocol::Http,
        }
    }

    async fn send(&mut self, request: &Request, path: String, source: &Source) -> io::Result<()> {
        let tag = source.tag();
        let selection = select(request, source.len(), tag.as_deref());
        let head = file_head(request, &path, source.len(), tag.as_deref(), selection);
        let (from, to) = (selection.from, selection.to);
        if request.method == Method::Head || from == to {
            return self.sender().bytes(&head, false).await;
        }
        let (protocol, size) = (Protocol::Http, to - from);
        self.tell(Happening::TransferStart {
            protocol,
            path: path.clone(),
            size,
        });
        let (mut done, mut told) = (0, Instant::now());
        let progress = |sent| {
            done = sent;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                self.tell(Happening::TransferProgress {
                    protocol,
                    path: path.clone(),
                    done,
                    size,
                });
            }
        };
        let sender = self.sender();
        let result = match sender.bytes(&head, true).await {
            Ok(()) => sender.source(source, from, to, progress).await,
            Err(error) => Err(error),
        };
        let outcome = outcome(&result);
        self.tell(Happening::TransferEnd {
            protocol,
            path,
            done,
            outcome,
        });
        result
    }

    async fn refuse(&self, status: u16, keep: bool) -> io::Result<()> {
        let mut head = Head::new(status, keep);
        head.add("Content-Length", 0);
        if status == 405 {
            head.add("Allow", "GET, HEAD");
        }
        self.sender().bytes(&head.finish(), false).await
    }

    /// Lets the client read the last answer before the connection goes: closing with unread input would reset it.
    async fn linger(&mut self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        let drain = async {
            let mut sink = [0; 1024];
            while matches!(self.stream.read(&mut sink).await, Ok(n) if n > 0) {}
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), drain).await;
    }

    fn sender(&self) -> Sender<'_> {
        Sender {
            stream: &self.stream,
            patience: self.shared.config.write_timeout,
        }
    }

    fn tell(&self, what: Happening) {
        let ip = *self.peer.ip();
        self.shared.policy.event(Event {
            at: Instant::now(),
            mac: self.shared.leases.mac_of(ip),
            ip: Some(ip),
            what,
        });
    }
}

fn file_head(
    request: &Request,
    path: &str,
    len: u64,
    tag: Option<&str>,
    selection: Selection,
) -> Vec<u8> {
    let Selection { status, from, to } = selection;
    let mut head = Head::new(status, request.keep_alive);
    match status {
        206 => head.add(
            "Content-Range",
            format_args!("bytes {from}-{}/{len}", to - 1),
        ),
        416 => head.add("Content-Range", format_args!("bytes */{len}")),
        _ => {}
    }
    if status != 304 {
        head.add("Content-Length", to - from);
        head.add("Content-Type", media_type(path));
        head.add("Accept-Ranges", "bytes");
    }
    if let Some(tag) = tag {
        head.add("ETag", tag);
    }
    head.finish()
}

fn outcome(result: &io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Complete,
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut => Outcome::TimedOut,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Outcome::Aborted("the client hung up".into())
            }
            _ => Outcome::ReadError(error.to_string()),
        },
    }
}
