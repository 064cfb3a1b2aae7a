//! The part of a machine's identity that is secret: fetched over TLS from the server of the root disk, where it is an
//! export of its own, before the disk is attached.
//!
//! It is never asked for without TLS, and what comes is a few kilobytes or nothing.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nbd::{Command, CommandFlags, Cookie, HeaderStyle, ReplyBody, ReplyDecoder, Request};
use rustix::event::{PollFd, PollFlags};

use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::identity::LARGEST;
use crate::link::Now;
use crate::net::{self, Place};
use crate::security::Security;
use crate::talk::Talk;
use crate::uri::Target;

/// How long one server has, from dialling to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds of all servers.
const PAUSE: Duration = Duration::from_secs(1);

/// Fetches all that `target` holds from the first of `places` that answers; tries for as long as `patience`, or for ever.
///
/// # Errors
/// [`Kind::Network`]: no server answered. Others: one did, and none gives it out.
pub fn fetch(
    target: &Target,
    places: &[Place],
    security: &Security,
    patience: Option<Duration>,
) -> Result<Vec<u8>> {
    let end = patience.map(|patience| clock::now().after(patience));
    loop {
        let (mut reason, mut refusal) = (None, None);
        for place in places {
            match fetch_from(target, place, security) {
                Ok(content) => return Ok(content),
                Err(error) if error.kind() == Kind::Network => reason = Some(error),
                // The next one may know this boot.
                Err(error) => refusal = Some(error),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if let Some(reason) = reason.filter(|_| end.is_some_and(|end| clock::now() >= end)) {
            return Err(reason);
        }
        clock::wait(&mut [], Some(clock::now().after(PAUSE)));
    }
}

fn fetch_from(target: &Target, place: &Place, security: &Security) -> Result<Vec<u8>> {
    let call = Call::dial(place)?;
    let mut talk = Talk::new(target, &place.host, Some(security))?;
    let terms = loop {
        if let Some(terms) = talk.proceed(&call.fd)? {
            break terms;
        }
        call.wait(talk.wants_to_write())?;
    };
    let length = u32::try_from(terms.size)
        .ok()
        .filter(|length| u64::from(*length) <= LARGEST);
    let length = length.ok_or_else(|| wrong("it is too large"))?;
    talk.send(&request(length));
    let mut bytes = Vec::new();
    loop {
        talk.exchange(&call.fd, &mut bytes)?;
        if let Some(content) = answer(&bytes, length)? {
            return Ok(content);
        }
        call.wait(talk.wants_to_write())?;
    }
}

fn request(length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request {
        flags: CommandFlags::from_bits(0),
        command: Command::Read,
        cookie: Cookie(1),
        offset: 0,
        length: length.into(),
    }
    .encode(HeaderStyle::Simple, &mut bytes);
    bytes
}

/// The content in what the server has sent so far, once it is all there.
fn answer(bytes: &[u8], length: u32) -> Result<Option<Vec<u8>>> {
    let decoder = ReplyDecoder::new(HeaderStyle::Simple, length);
    let reply = decoder.decode(bytes, |cookie| (cookie == Cookie(1)).then_some(length));
    let Some((reply, used)) = reply.map_err(|e| wrong(&e.to_string()))? else {
        return Ok(None);
    };
    match reply.body {
        ReplyBody::Data { .. } => {
            let content = bytes[used..].get(..length as usize);
            Ok(content.map(<[u8]>::to_vec))
        }
        _ => Err(wrong("the server cannot read it")),
    }
}

fn wrong(what: &str) -> Error {
    let context = format!("the secret part of this machine's identity was not to be had: {what}");
    Error::new(Kind::Refused, context)
}

/// A connection, with the time at which it has to be over.
struct Call {
    fd: OwnedFd,
    end: Now,
}

impl Call {
    fn dial(place: &Place) -> Result<Self> {
        let failed = |e| Error::with(Kind::Network, format!("no connection to {}", place.name), e);
        let fd = net::dial(place.address).map_err(failed)?;
        let end = clock::now().after(PATIENCE);
        let call = Self { fd, end };
        call.wait(true)?;
        net::finished(&call.fd).map_err(failed)?;
        Ok(call)
    }

    /// Waits until something can be done.
    fn wait(&self, write: bool) -> Result<()> {
        if clock::now() >= self.end {
            return Err(Error::new(Kind::Network, "the server does not answer"));
        }
        let flags = match write {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        clock::wait(&mut [PollFd::new(&self.fd, flags)], Some(self.end));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(error: u32, content: &[u8]) -> Vec<u8> {
        let head = [0x6744_6698u32.to_be_bytes(), error.to_be_bytes()].concat();
        [&head[..], &1u64.to_be_bytes(), content].concat()
    }

    #[test]
    fn an_answer_is_all_of_it_or_an_error() {
        let whole = reply(0, b"secret");
        for short in 0..whole.len() {
            assert_eq!(answer(&whole[..short], 6).unwrap(), None);
        }
        assert_eq!(answer(&whole, 6).unwrap().unwrap(), b"secret");
        assert_eq!(answer(&reply(5, b""), 6).unwrap_err().kind(), Kind::Refused);
        assert_eq!(
            answer(b"HTTP/1.1 400 Bad", 6).unwrap_err().kind(),
            Kind::Refused
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), length in 0u32..100) {
            let _ = answer(&bytes, length);
        }
    }
}
