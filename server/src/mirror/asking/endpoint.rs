//! Addresses of an etcd.

use std::{fmt, str::FromStr};

/// The port that etcd takes by itself.
const PORT: u16 = 2379;

/// A member of an etcd: `http[s]://[USER:PASSWORD@]HOST[:PORT]`. Nothing is escaped; the last `@` counts, and the first
/// `:` before it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is https.
    pub secure: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
}

/// Why it is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoEndpoint {
    /// Neither http nor https.
    #[error("an etcd is named by a URL: http://ADDRESS:2379 or https://ADDRESS:2379")]
    Scheme,
    /// A user without a password.
    #[error("a login is USER:PASSWORD@ before the host")]
    Login,
    /// No host, or something after it.
    #[error("after the host comes a port or nothing")]
    Host,
}

impl FromStr for Endpoint {
    type Err = NoEndpoint;

    fn from_str(url: &str) -> Result<Self, NoEndpoint> {
        let (scheme, rest) = url.split_once("://").ok_or(NoEndpoint::Scheme)?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(NoEndpoint::Scheme),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        let login = login.map(|login| login.split_once(':').ok_or(NoEndpoint::Login));
        let login = login.transpose()?;
        let (host, port) = place_of(place.strip_suffix('/').unwrap_or(place))?;
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
        })
    }
}

fn place_of(place: &str) -> Result<(&str, u16), NoEndpoint> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(NoEndpoint::Host)?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| NoEndpoint::Host)?,
        None if port.is_empty() => PORT,
        None => return Err(NoEndpoint::Host),
    };
    let odd = |c: char| c.is_whitespace() || "/?#[]".contains(c);
    if host.is_empty() || host.contains(odd) {
        return Err(NoEndpoint::Host);
    }
    Ok((host, port))
}

impl Endpoint {
    /// Host and port, as HTTP has them.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Without the login.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<(String, Option<(String, String)>), NoEndpoint> {
        url.parse()
            .map(|endpoint: Endpoint| (endpoint.to_string(), endpoint.login))
    }

    #[test]
    fn urls_are_read_and_shown_without_their_login() {
        let plain = |url: &str| parsed(url).unwrap();
        assert_eq!(plain("http://10.0.0.9").0, "http://10.0.0.9:2379");
        assert_eq!(plain("https://etcd.lan:4001/").0, "https://etcd.lan:4001");
        assert_eq!(plain("http://[fd00::9]").0, "http://[fd00::9]:2379");
        assert_eq!(plain("http://[fd00::9]:80").0, "http://[fd00::9]:80");
        let (shown, login) = plain("http://pair:a:b/c@d@10.0.0.9:1");
        assert_eq!(shown, "http://10.0.0.9:1");
        assert_eq!(login, Some(("pair".into(), "a:b/c@d".into())));
        let secret: Endpoint = "http://pair:hidden@h".parse().unwrap();
        assert!(!format!("{secret:?}").contains("hidden"));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for none in ["10.0.0.9:2379", "", "ftp://h", "HTTP//h"] {
            assert_eq!(parsed(none), Err(NoEndpoint::Scheme), "{none}");
        }
        assert_eq!(parsed("http://pair@h"), Err(NoEndpoint::Login));
        for none in [
            "http://",
            "http://:1",
            "http://h:",
            "http://h:x",
            "http://h:70000",
            "http://h/v3",
            "http://[::1",
            "http://[::1]x",
            "http://fd00::9",
            "http://a b",
        ] {
            assert_eq!(parsed(none), Err(NoEndpoint::Host), "{none}");
        }
    }
}
