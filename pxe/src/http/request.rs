//! The head of a request (RFC 9112), read from a buffer that may not hold all of it yet.

use super::range::RangeSpec;

/// The largest head; more is refused.
pub const LARGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

/// What a client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The file.
    Get,
    /// What GET would say about it.
    Head,
    /// A report.
    Post,
    /// Nothing that is done here.
    Other,
}

/// The head of a request: what this server heeds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path as sent, percent signs and all.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// The part of the file that is wanted.
    pub range: Option<RangeSpec>,
    /// `If-Range`: the range holds only for this version.
    pub if_range: Option<String>,
    /// `If-None-Match`: the versions that the client has.
    pub if_none_match: Option<String>,
    /// Whether the connection stays open.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before its body.
    pub expects_continue: bool,
    /// Length of the body.
    pub body: u64,
    /// Whether the body comes in chunks, which is not understood here.
    pub chunked: bool,
}

/// A head that is not answered but refused, and with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// 400.
    #[error("malformed request")]
    Malformed,
    /// 431.
    #[error("request head too large")]
    TooLarge,
}

impl BadRequest {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TooLarge => 431,
        }
    }
}

impl Request {
    /// Reads a head. `Ok(None)`: more bytes are needed. Says how many bytes the head took.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadRequest> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let len = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(len)) if len <= LARGEST_HEAD => len,
            Ok(httparse::Status::Partial) if bytes.len() < LARGEST_HEAD => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooLarge),
            Err(_) => return Err(BadRequest::Malformed),
        };
        let method = match parsed.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            _ => Method::Other,
        };
        let (path, query) = target(parsed.path.unwrap_or_default()).ok_or(BadRequest::Malformed)?;
        let mut request = Self {
            method,
            path,
            query,
            range: None,
            if_range: None,
            if_none_match: None,
            keep_alive: parsed.version == Some(1),
            expects_continue: false,
            body: 0,
            chunked: false,
        };
        let mut lengths = 0;
        for header in parsed.headers.iter() {
            lengths += u32::from(header.name.eq_ignore_ascii_case("content-length"));
            request.header(header.name, header.value)?;
        }
        // Two opinions on where the body ends are one too many.
        if lengths > 1 || (lengths == 1 && request.chunked) {
            return Err(BadRequest::Malformed);
        }
        Ok(Some((request, len)))
    }

    fn header(&mut self, name: &str, value: &[u8]) -> Result<(), BadRequest> {
        // A header that is not text is none that we know.
        let Ok(value) = std::str::from_utf8(value).map(str::trim) else {
            return Ok(());
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => self.range = RangeSpec::parse(value),
            "if-range" => self.if_range = Some(value.to_owned()),
            "if-none-match" => self.if_none_match = Some(value.to_owned()),
            "connection" => self.connection(value),
            "expect" => self.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            "transfer-encoding" => self.chunked = true,
            "content-length" => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                self.body = value
                    .parse()
                    .ok()
                    .filter(|_| digits)
                    .ok_or(BadRequest::Malformed)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &str) {
        for word in value.split(',').map(str::trim) {
            if word.eq_ignore_ascii_case("close") {
                self.keep_alive = false;
            } else if word.eq_ignore_ascii_case("keep-alive") {
                self.keep_alive = true;
            }
        }
    }
}

/// Splits a request target; the absolute form that proxies get loses its scheme and host.
fn target(target: &str) -> Option<(String, Option<String>)> {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    let target = target.strip_prefix('/')?;
    match target.split_once('?') {
        Some((path, query)) => Some((path.to_owned(), Some(query.to_owned()))),
        None => Some((target.to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<(Request, usize)>, BadRequest> {
        Request::parse(text.as_bytes())
    }

    #[test]
    fn a_whole_head_and_parts_of_it() {
        let text = "GET /boot/vmlinuz?x=1 HTTP/1.1\r\nHost: a\r\nRange: bytes=5-\r\nConnection: close\r\n\r\nrest";
        let (request, len) = parse(text).unwrap().unwrap();
        assert_eq!(len, text.len() - 4);
        assert_eq!(
            (request.method, request.path.as_str()),
            (Method::Get, "boot/vmlinuz")
        );
        assert_eq!(request.query.as_deref(), Some("x=1"));
        assert_eq!(request.range, Some(RangeSpec::From(5)));
        assert!(!request.keep_alive);
        for cut in 0..len {
            assert_eq!(parse(&text[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn connections_stay_open_as_versions_have_it() {
        let keep = |text| parse(text).unwrap().unwrap().0.keep_alive;
        assert!(keep("GET / HTTP/1.1\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\n\r\n"));
        assert!(keep("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn absolute_targets_lose_their_host() {
        let path = |text| parse(text).map(|p| p.unwrap().0.path);
        assert_eq!(
            path("GET http://10.0.0.1:80/a/b HTTP/1.1\r\n\r\n").unwrap(),
            "a/b"
        );
        assert_eq!(path("GET http://10.0.0.1 HTTP/1.1\r\n\r\n").unwrap(), "");
        assert_eq!(path("GET /a://b/c HTTP/1.1\r\n\r\n").unwrap(), "a://b/c");
        assert_eq!(path("GET * HTTP/1.1\r\n\r\n"), Err(BadRequest::Malformed));
    }

    #[test]
    fn doubtful_bodies_and_huge_heads_are_refused() {
        for headers in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: +1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(
                parse(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n")),
                Err(BadRequest::Malformed),
                "{headers}"
            );
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(LARGEST_HEAD));
        assert_eq!(parse(&long), Err(BadRequest::TooLarge));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(MOST_HEADERS + 1)
        );
        assert_eq!(parse(&many), Err(BadRequest::TooLarge));
        assert_eq!(parse("\0\0\0"), Err(BadRequest::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[ -~\r\n]{0,200}") {
            let _ = Request::parse(&bytes);
            let _ = parse(&format!("GET /{text}"));
            let _ = parse(&format!("GET / HTTP/1.1\r\n{text}\r\n\r\n"));
        }
    }
}
