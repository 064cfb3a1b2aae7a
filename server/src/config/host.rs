//! Holds a configuration against the machine that it is to run on.

use std::{fs, io, path::Path};

use images::{Catalogue, ImageRef};

use super::{
    Config, Settings,
    exports::{Mode, Source},
    menu::Choice,
    problem::Problem,
    reader::Located,
};
use crate::{
    exports::source::{Identity, identify_file},
    mirror::leaving::{Part, part},
};

/// What on this machine stands in the way. Changes nothing on it.
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_interface(config, &mut problems);
    check_certificates(config, &mut problems);
    check_exports(config, &mut problems);
    check_boot_files(config, &mut problems);
    let secret = config
        .standby
        .as_ref()
        .and_then(super::standby::check_secret);
    problems.extend(secret);
    // One of a pair gets its images from the other one.
    if check_data(config, &mut problems) && config.standby.is_none() {
        problems.extend(check_leftover(config));
        check_images(config, &mut problems);
    }
    problems
}

fn check_interface(config: &Config, problems: &mut Vec<Problem>) {
    let interface = &config.server.interface;
    let there = interfaces();
    if there.contains(&interface.value) {
        return;
    }
    let message = format!(
        "there is no network interface `{}` on this machine",
        interface.value
    );
    let fix = format!("interfaces here: {}", there.join(", "));
    problems.push(Problem::at(interface.span.clone(), message).fix(fix));
}

/// The directory of further boot files, and the programs of menus.
fn check_boot_files(config: &Config, problems: &mut Vec<Problem>) {
    if let Some(files) = config.server.files.as_ref().filter(|f| !f.value.is_dir()) {
        let message = format!("server.files: {} is no directory", files.value.display());
        problems.push(Problem::at(files.span.clone(), message).fix("make it, or remove the line"));
    }
    let menus = settings(config).filter_map(|settings| settings.menu.as_ref());
    for entry in menus.flat_map(|menu| &menu.entries) {
        let Choice::Program(program) = &entry.choice else {
            continue;
        };
        for path in program.files().filter(|path| !path.value.is_file()) {
            let message = format!("there is no file {}", path.value.display());
            let fix = "install the package that has it (memory test: apt install memtest86+)";
            problems.push(Problem::at(path.span.clone(), message).fix(fix));
        }
    }
}

fn settings(config: &Config) -> impl Iterator<Item = &Settings> {
    let groups = config.groups.values().map(|group| &group.settings);
    groups.chain(config.clients.values().map(|client| &client.settings))
}

fn check_certificates(config: &Config, problems: &mut Vec<Problem>) {
    let Some(tls) = &config.tls else { return };
    if tls.own && !tls.certificate.exists() {
        return; // `serve` makes them.
    }
    if let Err(error) = crate::room::tls_states(config) {
        let fix =
            "`bootroom pki init --host NAME` makes certificates for a site without a CA of its own";
        problems.push(Problem::at(tls.span.clone(), format!("{error:#}")).fix(fix));
    }
}

/// The interfaces of this process's own network namespace, which /sys/class/net need not be.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<_> = names.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}

/// Says whether there is a data directory with something in it to look at.
fn check_data(config: &Config, problems: &mut Vec<Problem>) -> bool {
    let data = &config.server.data;
    let Some(there) = data.value.ancestors().find(|dir| dir.exists()) else {
        return false;
    };
    if let Err(error) = writable(there) {
        let message = format!(
            "the data directory {} is not writable: {error}",
            data.value.display()
        );
        let fix = "run as the user that owns it, or name another with server.data";
        problems.push(Problem::at(data.span.clone(), message).fix(fix));
        return false;
    }
    if there != data.value {
        let message = format!("the data directory {} does not exist", data.value.display());
        let fix = format!(
            "make it, with an image in it: bootroom image build debian --data {}",
            data.value.display()
        );
        problems.push(Problem::at(data.span.clone(), message).fix(fix));
        return false;
    }
    true
}

/// Whether these are the data of a server of a pair, which did not leave it.
fn check_leftover(config: &Config) -> Option<Problem> {
    let data = &config.server.data;
    let problem = |message| Problem::at(data.span.clone(), message);
    match part(&data.value) {
        Ok(Part::None) => None,
        Ok(_) => {
            let message = format!(
                "{} is the data directory of one of a pair of servers, and there is no [standby]: the other server may be \
                 serving the same disks",
                data.value.display()
            );
            let fix = "put [standby] back, unless this server has served without it; or make it a single one: bootroom \
                       standby leave";
            Some(problem(message).fix(fix))
        }
        Err(error) => Some(problem(format!("{error:#}"))),
    }
}

/// Files and devices of exports: there, of the right kind, and none that one export writes behind another's back.
fn check_exports(config: &Config, problems: &mut Vec<Problem>) {
    let mut seen: Vec<(Identity, &String, Mode)> = Vec::new();
    for (name, export) in &config.exports {
        let found = match &export.spec.source {
            Source::File(path) => identify_file(path, false),
            Source::Device(path) => identify_file(path, true),
            Source::Image(_) => continue,
        };
        let at = |message: String| Problem::at(export.source_at.clone(), message);
        let identity = match found {
            Ok(identity) => identity,
            Err(error) => {
                let fix = "mend the path, or take the export out of the configuration";
                problems.push(at(format!("[exports.{name}]: {error:#}")).fix(fix));
                continue;
            }
        };
        let mode = export.spec.mode;
        let writes = |other: Mode| other == Mode::ReadWrite || mode == Mode::ReadWrite;
        let twin = seen
            .iter()
            .find(|(seen, _, mode)| *seen == identity && writes(*mode));
        if let Some((_, other, _)) = twin {
            let message = format!(
                "[exports.{name}] and [exports.{other}] are of one file, and one of them writes to it"
            );
            let fix = "make one export of the two; shared = true lets several machines write to it";
            problems.push(at(message).fix(fix));
        }
        seen.push((identity, name, mode));
    }
}

fn writable(dir: &Path) -> io::Result<()> {
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::Error::other(format!(
            "{} is no directory",
            dir.display()
        )));
    }
    tempfile::tempfile_in(dir).map(drop)
}

fn check_images(config: &Config, problems: &mut Vec<Problem>) {
    let catalogue = match Catalogue::open(config.server.images()) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            problems.push(Problem::at(
                config.server.data.span.clone(),
                error.to_string(),
            ));
            return;
        }
    };
    for settings in settings(config) {
        let menu = settings.menu.iter().flat_map(|menu| menu.images());
        for image in settings.image.iter().chain(menu) {
            check_image(&catalogue, image, problems);
        }
    }
    for export in config.exports.values() {
        if let Source::Image(image) = &export.spec.source {
            let (value, span) = (image.clone(), export.source_at.clone());
            check_image(&catalogue, &Located { value, span }, problems);
        }
    }
}

fn check_image(catalogue: &Catalogue, image: &Located<ImageRef>, problems: &mut Vec<Problem>) {
    let Err(error) = catalogue.resolve(&image.value) else {
        return;
    };
    problems.push(Problem::at(image.span.clone(), error.to_string()));
}

/// A failure to take a port, as a problem of the configuration; nothing if it is another failure.
///
/// Tried by taking the ports for real: only that tells whether another service on another interface is in the way.
pub fn port_problem(config: &Config, error: &anyhow::Error) -> Option<Problem> {
    let server = &config.server;
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let pxe_kind = error.downcast_ref::<pxe::Error>().map(pxe::Error::kind);
    let fix = match (pxe_kind, kind) {
        (Some(pxe::ErrorKind::PortTaken), _) | (_, Some(io::ErrorKind::AddrInUse)) => {
            "another service has the port: `ss -lntup` names it".into()
        }
        (Some(pxe::ErrorKind::Permission), _) | (_, Some(io::ErrorKind::PermissionDenied)) => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE, CAP_NET_RAW".into()
        }
        (_, Some(io::ErrorKind::AddrNotAvailable)) => format!(
            "give the interface its address: ip address add {} dev {}",
            server.address.value, server.interface.value
        ),
        (Some(pxe::ErrorKind::NoInterface | pxe::ErrorKind::Config), _) => {
            "see [server] and [dhcp]".into()
        }
        _ => return None,
    };
    Some(Problem::at(server.address.span.clone(), format!("{error:#}")).fix(fix))
}
