//! Where a disk is to be had: NBD URIs and the older ways of writing the same thing on a kernel command line.

use std::fmt;

use crate::error::{Result, usage};

/// NBD's registered port, used where none is written.
pub const DEFAULT_PORT: u16 = 10809;
/// Longest export name the NBD protocol allows, in bytes.
pub const MAX_EXPORT: usize = 4096;

/// Whether the bytes on the wire are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `nbd://`
    Plain,
    /// `nbds://`: TLS 1.3, required, never negotiated away.
    Tls,
}

/// One server: a name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The name of an export, as the server knows it (percent-decoded). May be empty: the server's default export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportName(String);

/// A disk and all the places that may serve it, in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Plain or TLS.
    pub transport: Transport,
    /// Tried in turn; never empty.
    pub servers: Vec<Server>,
    /// The same export on each of them.
    pub export: ExportName,
}

impl ExportName {
    /// Checks length and characters: NUL is not allowed by NBD.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.len() > MAX_EXPORT {
            return Err(usage(format!(
                "export name of {} bytes is longer than NBD's {MAX_EXPORT}",
                name.len()
            )));
        }
        if name.contains('\0') {
            return Err(usage("export name contains a NUL byte"));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl std::str::FromStr for Server {
    type Err = crate::error::Error;

    /// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
    fn from_str(text: &str) -> Result<Self> {
        let (host, port) = split_authority(text)?;
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/?#@[],".contains(c);
        if host.is_empty() || host.len() > 253 || host.contains(bad) {
            return Err(usage(format!("{text:?} is not HOST or HOST:PORT")));
        }
        Ok(Self {
            host: host.to_owned(),
            port: parse_port(port, text)?,
        })
    }
}

fn split_authority(text: &str) -> Result<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| usage(format!("{text:?} lacks the closing ]")))?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| usage(format!("{host:?} is not an IPv6 address")))?;
        return match rest {
            "" => Ok((host, None)),
            _ => Ok((
                host,
                Some(
                    rest.strip_prefix(':')
                        .ok_or_else(|| usage(format!("{text:?}: expected :PORT")))?,
                ),
            )),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(usage(format!(
            "{text:?}: write an IPv6 address in brackets, like [fd00::1]:10809"
        ))),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_port(port: Option<&str>, text: &str) -> Result<u16> {
    match port {
        None => Ok(DEFAULT_PORT),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|&p| p != 0)
            .ok_or_else(|| usage(format!("{text:?}: port must be 1 to 65535"))),
        Some(_) => Err(usage(format!("{text:?}: port must be a number"))),
    }
}

impl Target {
    /// Reads a full URI, `nbd://HOST[:PORT]/EXPORT` or `nbds://…` (NBD URI specification; TCP forms without query).
    pub fn from_uri(uri: &str) -> Result<Self> {
        let (transport, rest) = match (uri.strip_prefix("nbd://"), uri.strip_prefix("nbds://")) {
            (Some(rest), _) => (Transport::Plain, rest),
            (_, Some(rest)) => (Transport::Tls, rest),
            _ => {
                return Err(usage(format!(
                    "{uri:?} does not begin with nbd:// or nbds://"
                )));
            }
        };
        Self::from_place(transport, rest)
    }

    /// Reads `HOST[:PORT]/EXPORT`, the form of `nbdroot=`; a full URI is accepted as well.
    pub fn from_nbdroot(value: &str) -> Result<Self> {
        match value.contains("://") {
            true => Self::from_uri(value),
            false => Self::from_place(Transport::Plain, value),
        }
    }

    /// Reads dracut's `nbd:HOST:PORT[/EXPORT]` or `nbd:HOST:EXPORT`, with its further `:`-fields left alone.
    pub fn from_netroot(value: &str) -> Result<Self> {
        if value.starts_with("nbd://") || value.starts_with("nbds://") {
            return Self::from_uri(value);
        }
        let rest = value
            .strip_prefix("nbd:")
            .ok_or_else(|| usage(format!("netroot={value} is not an nbd: root")))?;
        let (host, rest) = split_netroot_host(rest)?;
        let field = rest.split(':').next().unwrap_or_default();
        let (port, export) = match field.split_once('/') {
            Some((port, export)) => (port, export),
            None if field.bytes().all(|b| b.is_ascii_digit()) => (field, ""),
            None => ("", field),
        };
        let port = if port.is_empty() {
            String::new()
        } else {
            format!(":{port}")
        };
        Self::from_place(Transport::Plain, &format!("{host}{port}/{export}"))
    }

    fn from_place(transport: Transport, place: &str) -> Result<Self> {
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        if path.contains(['?', '#']) {
            return Err(usage(format!(
                "{place:?}: no ?query or #fragment is known; write %3F or %23 for the letters"
            )));
        }
        let export = ExportName::new(percent_decode(path)?)?;
        Ok(Self {
            transport,
            servers: vec![authority.parse()?],
            export,
        })
    }

    /// Appends further servers, skipping those already listed.
    pub fn add_servers(&mut self, more: impl IntoIterator<Item = Server>) {
        for server in more {
            if !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
    }
}

fn split_netroot_host(rest: &str) -> Result<(&str, &str)> {
    let end = match rest.starts_with('[') {
        true => rest
            .find(']')
            .map(|at| at + 1)
            .ok_or_else(|| usage(format!("{rest:?} lacks the closing ]")))?,
        false => rest.find(':').unwrap_or(rest.len()),
    };
    let (host, tail) = rest.split_at(end);
    Ok((host, tail.strip_prefix(':').unwrap_or(tail)))
}

/// Reads a comma-separated list of servers, as in `bootroom.servers=`.
pub fn parse_servers(list: &str) -> Result<Vec<Server>> {
    list.split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}

/// Undoes percent-encoding (RFC 3986 §2.1); the result must be UTF-8.
fn percent_decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match byte {
            b'%' => decode_escape(tail)
                .ok_or_else(|| usage(format!("{text:?}: % must be followed by two hex digits")))?,
            other => (other, tail),
        };
        out.push(byte);
        rest = tail;
    }
    String::from_utf8(out).map_err(|_| usage(format!("{text:?} is not UTF-8 once decoded")))
}

fn decode_escape(tail: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = tail.split_at_checked(2)?;
    let value = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    Some((value(digits[0])? << 4 | value(digits[1])?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(transport: Transport, server: &str, export: &str) -> Target {
        let servers = vec![server.parse().unwrap()];
        Target {
            transport,
            servers,
            export: ExportName::new(export).unwrap(),
        }
    }

    #[test]
    fn reads_uris() {
        let plain = |server, export| target(Transport::Plain, server, export);
        assert_eq!(
            Target::from_uri("nbd://10.0.0.1/a/b").unwrap(),
            plain("10.0.0.1:10809", "a/b")
        );
        assert_eq!(
            Target::from_uri("nbd://10.0.0.1:1/").unwrap(),
            plain("10.0.0.1:1", "")
        );
        assert_eq!(
            Target::from_uri("nbd://[fd00::1]:99/x%20y").unwrap(),
            plain("[fd00::1]:99", "x y")
        );
        assert_eq!(
            Target::from_uri("nbds://s/x").unwrap(),
            target(Transport::Tls, "s", "x")
        );
        assert_eq!(
            Target::from_nbdroot("s:7/client/r/ab").unwrap(),
            plain("s:7", "client/r/ab")
        );
        assert_eq!(
            Target::from_netroot("nbd:s:10809/x:ext4:ro").unwrap(),
            plain("s", "x")
        );
        assert_eq!(
            Target::from_netroot("nbd:[fd00::1]:7").unwrap(),
            plain("[fd00::1]:7", "")
        );
        assert_eq!(
            Target::from_netroot("nbd:s:disk").unwrap(),
            plain("s", "disk")
        );
        assert_eq!(
            Target::from_netroot("nbds://s/x").unwrap().transport,
            Transport::Tls
        );
    }

    #[test]
    fn refuses_with_a_reason() {
        let cases = [
            ("http://s/x", "begin with nbd://"),
            ("nbd:///x", "not HOST"),
            ("nbd://s:0/x", "1 to 65535"),
            ("nbd://s:70000/x", "1 to 65535"),
            ("nbd://s:x/x", "must be a number"),
            ("nbd://fd00::1/x", "in brackets"),
            ("nbd://[fd00::1/x", "closing ]"),
            ("nbd://[zz]/x", "not an IPv6"),
            ("nbd://s/%4", "two hex digits"),
            ("nbd://s/%00", "NUL"),
            ("nbd://s/%ff", "UTF-8"),
            ("nbd://s/a?tls=1", "no ?query"),
        ];
        for (uri, part) in cases {
            let error = Target::from_uri(uri).unwrap_err().to_string();
            assert!(error.contains(part), "{uri}: {error}");
        }
    }

    #[test]
    fn lists_of_servers_keep_order_and_drop_repeats() {
        let mut t = Target::from_uri("nbd://a:1/x").unwrap();
        t.add_servers(parse_servers("b:2,a:1,,[::1]:3").unwrap());
        let shown: Vec<String> = t.servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a:1", "b:2", "[::1]:3"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,80}", tail in "[%a-f0-9:/\\[\\],.]{0,40}") {
            let _ = Target::from_uri(&format!("nbd://{tail}"));
            let _ = Target::from_nbdroot(&text);
            let _ = Target::from_netroot(&format!("nbd:{tail}"));
            let _ = parse_servers(&text);
        }

        #[test]
        fn any_export_name_survives_encoding(name in "[^\0]{0,60}") {
            let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
            let read = Target::from_uri(&format!("nbd://s/{encoded}")).unwrap();
            prop_assert_eq!(read.export.as_str(), name);
        }
    }
}
