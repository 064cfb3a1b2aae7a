//! Where packages come from: the place this machine takes its own from, or a mirror we are told.

use std::process::Command;

use super::recipe::Recipe;

/// Where Debian itself publishes.
const DEBIAN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";
/// Firmware is here for network cards that do not work without.
const COMPONENTS: &str = "main non-free-firmware";

/// The `sources.list` of the image, a line each: the release, its updates and its security
/// updates.
pub(super) fn lines(recipe: &Recipe, known: &[Source]) -> Vec<String> {
    let suite = &recipe.suite;
    let main = recipe
        .mirror
        .clone()
        .or_else(|| find(known, suite, "debian"));
    let main = main.unwrap_or_else(|| DEBIAN.to_owned());
    let mut lines = vec![format!("deb {main} {suite} {COMPONENTS}")];
    // Unstable and testing have neither.
    if !["sid", "unstable", "testing"].contains(&suite.as_str()) {
        let security_suite = format!("{suite}-security");
        let security = find(known, &security_suite, "debian-security");
        let security = security.unwrap_or_else(|| SECURITY.to_owned());
        lines.push(format!("deb {main} {suite}-updates {COMPONENTS}"));
        lines.push(format!("deb {security} {security_suite} {COMPONENTS}"));
    }
    lines
}

/// A package index that this machine's apt is set up to use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    release: String,
    component: String,
    uri: String,
}

/// What apt knows, or nothing: then Debian's own servers do.
pub(super) fn of_host() -> Vec<Source> {
    let format = "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format])
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Vec<Source> {
    let parse_line = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        (words.next()? == "Packages").then_some(())?;
        Some(Source {
            release: words.next()?,
            component: words.next()?,
            uri: words.next()?,
        })
    };
    text.lines().filter_map(parse_line).collect()
}

/// The mirror of `release`. Other vendors may use Debian's release names for repositories of
/// their own, so only a path that ends the way all of Debian's mirrors do is taken.
fn find(sources: &[Source], release: &str, path: &str) -> Option<String> {
    let is_mirror = |source: &&Source| {
        let uri = source.uri.trim_end_matches('/');
        source.release == release
            && source.component == "main"
            && uri.rsplit('/').next() == Some(path)
    };
    let source = sources.iter().find(is_mirror)?;
    Some(source.uri.trim_end_matches('/').to_owned())
}

/// Environment variables that give tools the proxy this machine's apt uses. They are not kept in
/// the image, unlike apt options.
pub(super) fn proxies() -> Vec<(&'static str, String)> {
    let ask = |option: &str| {
        let output = Command::new("apt-config")
            .args(["dump", "--format", "%v", option])
            .output();
        let text = String::from_utf8(output.ok()?.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|proxy| proxy.contains("://"))
    };
    let options = [
        ("http_proxy", "Acquire::http::Proxy"),
        ("https_proxy", "Acquire::https::Proxy"),
    ];
    options
        .into_iter()
        .filter_map(|(key, option)| Some((key, ask(option)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "\
        DEP-11 bookworm main http://mirror.example/debian/\n\
        Packages bookworm main https://packages.vendor.example/debian/12/prod/\n\
        Packages bookworm contrib http://other.example/debian/\n\
        Packages bookworm main http://mirror.example/debian/\n\
        Packages bookworm-security main http://mirror.example/debian-security/\n";

    #[test]
    fn the_hosts_mirror_is_taken_and_vendors_are_not() {
        let known = parse(KNOWN);
        assert_eq!(known.len(), 4);
        let mirror = Some("http://mirror.example/debian".to_owned());
        assert_eq!(find(&known, "bookworm", "debian"), mirror);
        assert_eq!(find(&known, "trixie", "debian"), None);
    }

    #[test]
    fn a_mirror_that_is_given_wins() {
        let mut recipe = Recipe::new("debian".parse().unwrap());
        recipe.mirror = Some("http://near.example/debian".to_owned());
        let sources = lines(&recipe, &parse(KNOWN));
        assert_eq!(
            sources[0],
            "deb http://near.example/debian bookworm main non-free-firmware"
        );
        assert_eq!(
            sources[2],
            "deb http://mirror.example/debian-security bookworm-security main non-free-firmware"
        );
        recipe.suite = "sid".to_owned();
        assert_eq!(lines(&recipe, &[]).len(), 1);
    }
}
