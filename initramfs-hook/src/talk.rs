//! The handshake with a server over a connection that never blocks: NBD, and TLS inside it where asked for.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nbd::{
    ClientConfig, ClientHandshake, ClientStep, ClientTls, ErrorKind, ExportName, Negotiated,
};
use rustix::net::{RecvFlags, SendFlags};
use rustls::ClientConnection;

use crate::error::{Error, Kind, Result, usage};
use crate::ktls;
use crate::security::Security;
use crate::terms::{Terms, flag};
use crate::uri::{Target, Transport};

/// Read at once, in bytes; a handshake is a few hundred.
const CHUNK: usize = 4096;

/// A handshake under way.
pub struct Talk {
    nbd: ClientHandshake,
    /// Put out by `nbd`, not yet sent.
    out: Vec<u8>,
    tls: Option<Box<ClientConnection>>,
    /// Begun when the server agrees to TLS.
    prepared: Option<Box<ClientConnection>>,
    established: bool,
}

impl Talk {
    /// Begins the handshake for `target` with the server called `host`.
    pub fn new(target: &Target, host: &str, security: Option<&Security>) -> Result<Self> {
        let (tls, prepared) = match (target.transport, security) {
            (Transport::Plain, _) => (ClientTls::Off, None),
            (Transport::Tls, Some(security)) => (
                ClientTls::Required,
                Some(Box::new(security.connection(host)?)),
            ),
            (Transport::Tls, None) => return Err(usage("nbds:// needs certificates; see --tls")),
        };
        let export = ExportName::new(target.export.as_str()).map_err(|e| usage(e.to_string()))?;
        // Simple headers only: the kernel's client reads no others.
        let config = ClientConfig {
            export,
            tls,
            ..ClientConfig::default()
        };
        Ok(Self {
            nbd: ClientHandshake::new(config),
            out: Vec::new(),
            tls: None,
            prepared,
            established: false,
        })
    }

    /// Whether there is something to send.
    pub fn wants_to_write(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends and receives what it can without waiting. `Some` when the server has agreed.
    pub fn proceed(&mut self, fd: &OwnedFd) -> Result<Option<Terms>> {
        let mut buffer = [0; CHUNK];
        loop {
            self.flush(fd).map_err(broken)?;
            let length = match self.receive(fd, &mut buffer) {
                Ok(0) => {
                    return Err(Error::new(
                        Kind::Network,
                        "the server closed the connection during the handshake",
                    ));
                }
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(broken(e)),
            };
            let step = self.nbd.feed(&buffer[..length]).map_err(refused)?;
            self.out.extend(self.nbd.take_output());
            match step {
                ClientStep::More => {}
                ClientStep::NeedTls => self.tls = self.prepared.take(),
                ClientStep::Done(negotiated) => return terms(&negotiated).map(Some),
            }
        }
    }

    /// Received bytes, decrypted if need be.
    fn receive(&mut self, fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return Wire(fd).read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut Wire(fd))? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            if !self.established && !tls.is_handshaking() {
                self.established = true;
                self.nbd.tls_established();
                self.out.extend(self.nbd.take_output());
            }
            send_tls(tls, &mut self.out, self.established, fd)?;
        }
    }

    fn flush(&mut self, fd: &OwnedFd) -> io::Result<()> {
        let result = match &mut self.tls {
            Some(tls) => send_tls(tls, &mut self.out, self.established, fd),
            None => send_plain(&mut self.out, fd),
        };
        result.or_else(|e| {
            if e.kind() == io::ErrorKind::WouldBlock {
                Ok(())
            } else {
                Err(e)
            }
        })
    }

    /// Has `bytes` sent, once the server has agreed.
    pub fn send(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// After the server has agreed: sends what it can without waiting, and appends a piece of what came to `answer`.
    pub fn exchange(&mut self, fd: &OwnedFd, answer: &mut Vec<u8>) -> Result<()> {
        self.flush(fd).map_err(broken)?;
        let mut buffer = [0; CHUNK];
        match self.receive(fd, &mut buffer) {
            Ok(0) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => {
                answer.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(broken(e)),
        }
    }

    /// Ends the talk: from here on the kernel encrypts and decrypts, if this is TLS.
    pub fn seal(self, fd: &OwnedFd) -> Result<()> {
        match self.tls {
            Some(tls) => ktls::hand_over(*tls, fd),
            None => Ok(()),
        }
    }
}

fn send_plain(out: &mut Vec<u8>, fd: &OwnedFd) -> io::Result<()> {
    while !out.is_empty() {
        let sent = Wire(fd).write(out)?;
        out.drain(..sent);
    }
    Ok(())
}

fn send_tls(
    tls: &mut ClientConnection,
    out: &mut Vec<u8>,
    established: bool,
    fd: &OwnedFd,
) -> io::Result<()> {
    if established {
        tls.writer().write_all(out)?;
        out.clear();
    }
    while tls.wants_write() {
        match tls.write_tls(&mut Wire(fd)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}

/// The socket as the standard library's traits, which rustls wants.
struct Wire<'a>(&'a OwnedFd);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn terms(agreed: &Negotiated) -> Result<Terms> {
    let sizes = agreed.block_sizes.unwrap_or(nbd::BlockSizes::DEFAULT);
    Ok(Terms {
        size: agreed.size,
        flags: agreed.flags.bits() & flag::KNOWN,
        minimum: sizes.minimum(),
        maximum: sizes.maximum(),
        description: agreed.description.clone(),
    })
}

fn broken(source: io::Error) -> Error {
    // A certificate that does not fit is an answer, not an outage: say it loudly, and do not hurry.
    let kind = match source.get_ref().is_some_and(|e| e.is::<rustls::Error>()) {
        true => Kind::Refused,
        false => Kind::Network,
    };
    Error::with(kind, "the connection broke during the handshake", source)
}

fn refused(source: nbd::Error) -> Error {
    match source.kind() {
        // It is about to go; its successor will answer.
        ErrorKind::Refused(nbd::OptionError::Shutdown) => {
            Error::with(Kind::Network, "no connection", source)
        }
        ErrorKind::Refused(nbd::OptionError::Unknown) => Error::with(
            Kind::Refused,
            "this disk is gone; if that stays so, this machine has to be restarted",
            source,
        ),
        _ => Error::with(Kind::Refused, "the server does not serve this disk", source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that says `bytes` and nothing else; what the client makes of it.
    fn said(bytes: &'static [u8]) -> Result<Option<Terms>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(bytes).unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        let target = Target::from_uri("nbd://x/disk").unwrap();
        Talk::new(&target, "x", None)
            .unwrap()
            .proceed(&OwnedFd::from(stream))
    }

    #[test]
    fn what_is_no_nbd_server_is_refused_and_what_breaks_off_is_tried_again() {
        assert_eq!(
            said(b"HTTP/1.1 400 Bad Request\r\n").unwrap_err().kind(),
            Kind::Refused
        );
        assert_eq!(said(b"NBDMAGICIHAVE").unwrap_err().kind(), Kind::Network);
        assert_eq!(said(b"").unwrap_err().kind(), Kind::Network);
    }

    #[test]
    fn tls_without_certificates_is_a_usage_error() {
        let target = Target::from_uri("nbds://x/disk").unwrap();
        assert_eq!(
            Talk::new(&target, "x", None).err().unwrap().kind(),
            Kind::Usage
        );
    }
}
