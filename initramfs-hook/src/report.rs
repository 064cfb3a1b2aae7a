//! Reports to the server: one small HTTP POST each, sent when there is nothing more urgent to do.
//!
//! `POST URL/EVENT` with a body of `key=value` lines; any answer will do. A report that cannot be delivered is dropped:
//! the disk matters, the report does not.

use std::fmt;

use crate::error::{Result, usage};
use crate::uri::Server;

/// `http://HOST[:PORT]/PATH`, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportUrl {
    server: Server,
    path: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The root disk is attached for the first time since power-on.
    Attached,
    /// The system has reached its default target.
    Up,
    /// The link to the server is back after having been lost.
    Reconnected,
    /// The system goes down in an orderly way.
    Shutdown,
}

impl Event {
    /// The last part of the URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Up => "up",
            Self::Reconnected => "reconnected",
            Self::Shutdown => "shutdown",
        }
    }
}

impl std::str::FromStr for Event {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Attached, Self::Up, Self::Reconnected, Self::Shutdown];
        all.into_iter()
            .find(|event| event.as_str() == text)
            .ok_or_else(|| {
                usage(format!(
                    "{text:?} is no event; known are attached, up, reconnected, shutdown"
                ))
            })
    }
}

impl ReportUrl {
    /// Where to connect.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The `Host:` header.
    pub fn host(&self) -> String {
        match self.server.port {
            80 => self.server.to_string().trim_end_matches(":80").to_owned(),
            _ => self.server.to_string(),
        }
    }

    /// The bytes of one report. `away`, for [`Event::Reconnected`], is how long the link was lost;
    /// `uptime` is the time since the kernel started.
    pub fn request(
        &self,
        event: Event,
        uptime: std::time::Duration,
        away: Option<std::time::Duration>,
    ) -> Vec<u8> {
        let mut body = format!("uptime={:.3}\n", uptime.as_secs_f64());
        if let Some(away) = away {
            body += &format!("away={:.3}\n", away.as_secs_f64());
        }
        format!(
            "POST {}/{} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.path, event.as_str(), self.host(), body.len(),
        )
        .into_bytes()
    }
}

impl fmt::Display for ReportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host(), self.path)
    }
}

impl std::str::FromStr for ReportUrl {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| usage(format!("report URL {text:?} must begin with http://")))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        // A blank or line end in the path would let a command line write HTTP headers.
        if !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#']) {
            return Err(usage(format!(
                "report URL {text:?} contains characters that do not belong in a path"
            )));
        }
        let mut server: Server = authority.parse()?;
        if authority.ends_with(']') || !authority.contains(':') {
            server.port = 80;
        }
        Ok(Self {
            server,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writes_a_whole_request() {
        let url: ReportUrl = "http://10.0.0.1:8080/report/ab/".parse().unwrap();
        let sent = url.request(
            Event::Reconnected,
            Duration::from_millis(90_500),
            Some(Duration::from_secs(2)),
        );
        let sent = String::from_utf8(sent).unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /report/ab/reconnected HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert_eq!(body, "uptime=90.500\naway=2.000\n");
    }

    #[test]
    fn ports_and_refusals() {
        let host = |text: &str| text.parse::<ReportUrl>().unwrap().host();
        assert_eq!(host("http://h/x"), "h");
        assert_eq!(host("http://[::1]/x"), "[::1]");
        assert_eq!(host("http://h:81"), "h:81");
        assert!("https://h/x".parse::<ReportUrl>().is_err());
        assert!("http://h/x y".parse::<ReportUrl>().is_err());
        assert!("http://h/x\r\nEvil: 1".parse::<ReportUrl>().is_err());
    }

    #[test]
    fn every_event_is_read_back() {
        for event in [
            Event::Attached,
            Event::Up,
            Event::Reconnected,
            Event::Shutdown,
        ] {
            assert_eq!(event.as_str().parse::<Event>().unwrap(), event);
        }
        assert!("down".parse::<Event>().is_err());
    }
}
