//! The head of a response.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::range::Part;
use super::request::Request;

/// A status line and headers, growing.
#[derive(Debug)]
pub struct Head(String);

impl Head {
    /// A head with what every response has.
    pub fn new(status: u16, keep_alive: bool) -> Self {
        let mut head = Self(format!("HTTP/1.1 {status} {}\r\n", reason(status)));
        head.add("Date", http_date(SystemTime::now()));
        head.add(
            "Connection",
            if keep_alive { "keep-alive" } else { "close" },
        );
        head
    }

    /// Adds a header.
    pub fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{name}: {value}\r\n");
    }

    /// The bytes, with the empty line that ends a head.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push_str("\r\n");
        self.0.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// What of a file is to be sent, and with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// 200, 206, 304 or 416.
    pub status: u16,
    /// The first byte.
    pub from: u64,
    /// The byte behind the last.
    pub to: u64,
}

/// Applies the request's conditions and range to a file of `len` bytes and the version `tag`.
pub fn select(request: &Request, len: u64, tag: Option<&str>) -> Selection {
    let known = request
        .if_none_match
        .as_deref()
        .zip(tag)
        .is_some_and(|(have, tag)| {
            have.trim() == "*"
                || have
                    .split(',')
                    .any(|t| t.trim().trim_start_matches("W/") == tag)
        });
    if known {
        return Selection {
            status: 304,
            from: 0,
            to: 0,
        };
    }
    let holds = request
        .if_range
        .as_deref()
        .is_none_or(|wanted| Some(wanted) == tag);
    let part = request
        .range
        .filter(|_| holds)
        .map_or(Part::Whole, |range| range.on(len));
    match part {
        Part::Whole => Selection {
            status: 200,
            from: 0,
            to: len,
        },
        Part::Slice(from, to) => Selection {
            status: 206,
            from,
            to,
        },
        Part::Unsatisfiable => Selection {
            status: 416,
            from: 0,
            to: 0,
        },
    }
}

/// The media type by the path's end. UEFI decides by it what it has been given.
pub fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("efi") => "application/efi",
        Some("iso") => "application/vnd.efi-iso",
        Some("img") => "application/vnd.efi-img",
        Some("ipxe" | "cfg" | "txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A moment as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Year, month (from 0) and day of the month (from 1) of a day counted from 1970.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    for (month, len) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        .into_iter()
        .enumerate()
    {
        if days < len {
            return (year, month as u64, days + 1);
        }
        days -= len;
    }
    unreachable!("a year's days are used up within its months")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right() {
        // Checked against `date -u -R -d @N`.
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn conditions_and_ranges() {
        let request = |headers: &str| {
            let text = format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n");
            Request::parse(text.as_bytes()).unwrap().unwrap().0
        };
        let status = |headers| select(&request(headers), 10, Some("\"t\"")).status;
        assert_eq!(status("A: b"), 200);
        assert_eq!(status("Range: bytes=2-3"), 206);
        assert_eq!(status("Range: bytes=10-"), 416);
        assert_eq!(status("Range: bytes=2-3\r\nIf-Range: \"t\""), 206);
        assert_eq!(status("Range: bytes=2-3\r\nIf-Range: \"old\""), 200);
        assert_eq!(status("If-None-Match: \"old\", W/\"t\""), 304);
        assert_eq!(status("If-None-Match: \"old\""), 200);
    }
}
