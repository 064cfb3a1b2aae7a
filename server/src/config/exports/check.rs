//! Mistakes in TLS, listeners and exports that show only when they are held side by side.

use std::net::{IpAddr, SocketAddr};

use super::{ClientCertificates, ExportSettings, ListenPlace, ListenerTls, Mode, Source, TlsMode};
use crate::config::{Config, problem::Problem, reader::Located};

/// Adds what contradicts itself to `problems`.
pub fn check(config: &Config, problems: &mut Vec<Problem>) {
    check_listener_tls(config, "server", &config.server.tls, problems);
    for (name, listener) in &config.listeners {
        check_listener_tls(
            config,
            &format!("listeners.{name}"),
            &listener.tls,
            problems,
        );
    }
    check_places(config, problems);
    for (name, export) in &config.exports {
        check_access(config, name, export, problems);
        check_mode(name, export, problems);
        check_mirror(config, name, export, problems);
    }
}

fn check_listener_tls(
    config: &Config,
    table: &str,
    tls: &ListenerTls,
    problems: &mut Vec<Problem>,
) {
    let Some(required) = &tls.client_certificates else {
        return;
    };
    let at = |message| Problem::at(required.span.clone(), message);
    if tls.mode() == TlsMode::Off {
        let message = format!("[{table}] has client_certificates but no TLS");
        problems.push(at(message).fix("add tls = \"required\", or remove client_certificates"));
    } else if required.value == ClientCertificates::Required && !has_client_ca(config) {
        let message =
            format!("[{table}] requires client certificates, but [tls] names no CA for them");
        problems.push(at(message).fix("add client_ca = \"…/ca.pem\" to [tls]"));
    }
}

fn has_client_ca(config: &Config) -> bool {
    config
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some())
}

/// No two listeners at one place, nor one where the room itself listens.
fn check_places(config: &Config, problems: &mut Vec<Problem>) {
    let own = IpAddr::V4(config.server.ip());
    let tcp = |port| ListenPlace::Tcp(SocketAddr::new(own, port), None);
    let server = &config.server;
    let mut taken = vec![
        (tcp(server.nbd_port), "[server] (nbd_port)".to_owned()),
        (tcp(server.http_port), "[server] (http_port)".to_owned()),
        (
            ListenPlace::Unix(server.control.clone()),
            "[server] (control)".to_owned(),
        ),
    ];
    for (name, listener) in &config.listeners {
        let Located { value, span } = &listener.place;
        if let Some((_, who)) = taken.iter().find(|(other, _)| collides(other, value)) {
            let message = format!("{value} is taken by {who}");
            let fix = "give the listener another port, address or path";
            problems.push(Problem::at(span.clone(), message).fix(fix));
        }
        taken.push((value.clone(), format!("[listeners.{name}]")));
    }
}

fn collides(one: &ListenPlace, other: &ListenPlace) -> bool {
    match (one, other) {
        (ListenPlace::Tcp(one, _), ListenPlace::Tcp(other, _)) => {
            let same_family = one.is_ipv4() == other.is_ipv4();
            let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && (one.ip() == other.ip() || same_family && everywhere)
        }
        (ListenPlace::Unix(one), ListenPlace::Unix(other)) => one == other,
        _ => false,
    }
}

fn check_access(config: &Config, name: &str, export: &ExportSettings, problems: &mut Vec<Problem>) {
    let spec = &export.spec;
    let at = |message: String| Problem::at(export.name_at.clone(), message);
    if spec.allow.is_empty() && spec.certificates.is_empty() {
        let fix = "add allow = [\"10.12.0.0/24\"] (\"unix\": Unix sockets, \"*\": all), or certificates = [\"NAME\"]";
        problems.push(
            at(format!(
                "[exports.{name}] says of nobody that it may open it"
            ))
            .fix(fix),
        );
    }
    let listeners = config.listeners.values().map(|listener| &listener.tls);
    let modes = listeners.chain([&config.server.tls]).map(ListenerTls::mode);
    let modes: Vec<TlsMode> = modes.collect();
    if spec.needs_tls() && modes.iter().all(|mode| *mode == TlsMode::Off) {
        let message = format!("[exports.{name}] is for TLS only, but nothing listens with TLS");
        let fix = "add tls = \"on\" or \"required\" to [server] or to a [listeners] table";
        problems.push(at(message).fix(fix));
    }
    if !spec.certificates.is_empty() && spec.tls == TlsMode::Off {
        let message = format!("[exports.{name}] asks for certificates, but has tls = \"off\"");
        problems
            .push(at(message).fix("remove tls = \"off\": there are no certificates without TLS"));
    } else if !spec.certificates.is_empty() && !has_client_ca(config) {
        let message =
            format!("[exports.{name}] asks for certificates, but [tls] names no CA for them");
        problems.push(at(message).fix("add client_ca = \"…/ca.pem\" to [tls]"));
    }
}

fn check_mode(name: &str, export: &ExportSettings, problems: &mut Vec<Problem>) {
    let spec = &export.spec;
    let at = |message: String| Problem::at(export.name_at.clone(), message);
    if matches!(spec.source, Source::Image(_)) && spec.mode == Mode::ReadWrite {
        let message =
            format!("[exports.{name}] would write to an image version, which never changes");
        let fix = "write mode = \"copy-on-write\", or \"read-only\"";
        problems.push(Problem::at(export.source_at.clone(), message).fix(fix));
    }
    if matches!(spec.source, Source::Device(_)) && spec.mode == Mode::CopyOnWrite {
        let message = format!("[exports.{name}] cannot be copied on write: the source is a device");
        let fix = "use an image or a file that nobody writes to, or mode = \"read-only\"";
        problems.push(Problem::at(export.source_at.clone(), message).fix(fix));
    }
    if spec.shared && spec.mode != Mode::ReadWrite {
        let message = format!("[exports.{name}] is shared, but nobody writes to it");
        let fix = "remove shared: any number may open it; or write mode = \"read-write\"";
        problems.push(at(message).fix(fix));
    }
    if spec.quota.is_some() && spec.mode != Mode::CopyOnWrite {
        let message = format!("[exports.{name}] has a quota, which is for copies on write only");
        problems.push(at(message).fix("remove quota, or write mode = \"copy-on-write\""));
    }
}

/// Nobody shall find out at a failover that one file of all that is written to stayed behind.
fn check_mirror(config: &Config, name: &str, export: &ExportSettings, problems: &mut Vec<Problem>) {
    let written = export.spec.mode == Mode::ReadWrite && config.standby.is_some();
    let (message, fix) = match export.mirrored {
        Some(true) => (
            format!("[exports.{name}] is to be mirrored, but only the machines' disks are"),
            "write mirrored = false, and copy it yourself",
        ),
        None if written => (
            format!(
                "[exports.{name}] is written to, and the other server of [standby] gets nothing of it"
            ),
            "write mirrored = false if that is meant, or mode = \"read-only\"",
        ),
        _ => return,
    };
    problems.push(Problem::at(export.name_at.clone(), message).fix(fix));
}
