//! Holds a configuration against the machine that it is to run on.

use std::{io, net::TcpListener, net::UdpSocket};

use images::{Catalogue, ImageRef};

use super::{Config, DhcpMode, problem::Problem, reader::Located};

/// What on this machine stands in the way; `ports` also tries to take the ports.
pub fn check(config: &Config, ports: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let interface_is_there = check_interface(config, &mut problems);
    let data_is_there = check_data(config, &mut problems);
    if data_is_there {
        check_images(config, &mut problems);
    }
    if ports && interface_is_there {
        check_ports(config, &mut problems);
    }
    problems
}

fn check_interface(config: &Config, problems: &mut Vec<Problem>) -> bool {
    let interface = &config.server.interface;
    let there = interfaces();
    if there.contains(&interface.value) {
        return true;
    }
    let message = format!(
        "there is no network interface `{}` on this machine",
        interface.value
    );
    let fix = format!("interfaces here: {}", there.join(", "));
    problems.push(Problem::at(interface.span.clone(), message).fix(fix));
    false
}

/// The interfaces of this process's own network namespace, which /sys/class/net need not be.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.split_once(':'));
    let mut names: Vec<_> = names.map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}

fn check_data(config: &Config, problems: &mut Vec<Problem>) -> bool {
    let data = &config.server.data;
    let made = std::fs::create_dir_all(&data.value);
    match made.and_then(|()| tempfile::tempfile_in(&data.value)) {
        Ok(_) => true,
        Err(error) => {
            let message = format!(
                "the data directory {} is not writable: {error}",
                data.value.display()
            );
            let fix = "run as the user that owns it, or name another with server.data";
            problems.push(Problem::at(data.span.clone(), message).fix(fix));
            false
        }
    }
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
    let groups = config.groups.values().map(|group| &group.settings);
    let settings = groups.chain(config.clients.values().map(|client| &client.settings));
    for image in settings.filter_map(|settings| settings.image.as_ref()) {
        check_image(&catalogue, image, problems);
    }
}

fn check_image(catalogue: &Catalogue, image: &Located<ImageRef>, problems: &mut Vec<Problem>) {
    let Err(error) = catalogue.resolve(&image.value) else {
        return;
    };
    problems.push(Problem::at(image.span.clone(), error.to_string()));
}

fn check_ports(config: &Config, problems: &mut Vec<Problem>) {
    let server = &config.server;
    let mut note = |what: &str, port: u16, result: io::Result<()>| {
        let Err(error) = result else { return };
        let message = format!(
            "cannot take port {port} ({what}) on {}: {error}",
            server.ip()
        );
        let fix = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another service has it: `ss -lntup sport = :{port}` names it")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "give the interface its address: ip address add {} dev {}",
                    server.address.value, server.interface.value
                )
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE".into()
            }
            _ => "see `ip address` and `ss -lntup`".into(),
        };
        problems.push(Problem::at(server.address.span.clone(), message).fix(fix));
    };
    let tcp = |port| TcpListener::bind((server.ip(), port)).map(drop);
    let udp = |port| UdpSocket::bind((server.ip(), port)).map(drop);
    note("HTTP", server.http_port, tcp(server.http_port));
    note("NBD", server.nbd_port, tcp(server.nbd_port));
    note("TFTP", 69, udp(69));
    if config.dhcp.mode != DhcpMode::Off {
        note("DHCP", 67, udp(67));
    }
}
