//! From TOML text to [`Config`]: every table is read, every mistake is noted.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc};

use pxe::Loader;
use toml::de::DeTable;

use super::{
    Client, Config, Group, Server, Settings, checks, dhcp, menu,
    problem::Problem,
    reader::{Located, Section},
    units::{BadValue, ClientName, NameTemplate},
};

const DEFAULT_CONTROL: &str = "/run/bootroom/control.sock";
const DEFAULT_HTTP_PORT: u16 = 80;
/// The port that IANA has assigned to NBD.
const DEFAULT_NBD_PORT: u16 = 10809;

/// Reads the text of a configuration.
pub fn parse(source: &str) -> Result<Config, Vec<Problem>> {
    let document = DeTable::parse(source).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        vec![Problem::at(span, error.message().to_owned())]
    })?;
    let mut problems = Vec::new();
    let root = Section::new("", document.span(), document.get_ref());
    let config = read_root(root, &mut problems);
    // Checks on values that could not be read would only repeat the mistake in other words.
    if let Some(config) = config.as_ref().filter(|_| problems.is_empty()) {
        checks::check(config, &mut problems);
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn read_root(mut root: Section<'_>, problems: &mut Vec<Problem>) -> Option<Config> {
    let server = match root.table("server", problems) {
        Some(section) => read_server(section, problems),
        None => {
            let fix = "add [server] with data, interface and address";
            problems.push(Problem::at(0..0, "there is no [server] table").fix(fix));
            None
        }
    };
    let dhcp = root
        .table("dhcp", problems)
        .map(|section| dhcp::read(section, problems));
    let groups = read_groups(&mut root, problems);
    let clients = read_clients(&mut root, problems);
    root.finish(problems);
    Some(Config {
        server: server?,
        dhcp: dhcp.unwrap_or_default(),
        groups,
        clients,
    })
}

fn read_server(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Option<Server> {
    let data = section.required("data", "\"/var/lib/bootroom\"", problems);
    let interface = section.required("interface", "\"enp3s0\"", problems);
    let address = section.required("address", "\"10.12.0.1/24\"", problems);
    let control = section.optional::<PathBuf>("control", problems);
    let files = section.optional::<PathBuf>("files", problems);
    let quiet_ipv6 = section.boolean("quiet_ipv6", problems);
    let http_port = read_port(&mut section, "http_port", DEFAULT_HTTP_PORT, problems);
    let nbd_port = read_port(&mut section, "nbd_port", DEFAULT_NBD_PORT, problems);
    section.finish(problems);
    Some(Server {
        data: data?,
        interface: interface?,
        address: address?,
        http_port,
        nbd_port,
        control: control.map_or_else(|| DEFAULT_CONTROL.into(), |located| located.value),
        files,
        quiet_ipv6: quiet_ipv6.unwrap_or(false),
    })
}

fn read_port(
    section: &mut Section<'_>,
    key: &'static str,
    default: u16,
    problems: &mut Vec<Problem>,
) -> u16 {
    let number = section.integer(key, 1..=65_535, problems);
    number
        .and_then(|number| u16::try_from(number).ok())
        .unwrap_or(default)
}

fn read_groups(root: &mut Section<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::new();
    for (name, mut section) in root.tables("groups", problems) {
        let template = section
            .optional("name", problems)
            .map(|located| located.value);
        let group = Group {
            macs: section.list("macs", problems),
            name: template.unwrap_or_else(|| NameTemplate::for_group(&name.value)),
            ranges: section.some("range", problems),
            settings: read_settings(&mut section, problems),
        };
        section.finish(problems);
        if let Err(error) = name.value.parse::<ClientName>() {
            let message = error.to_string().replace("client name", "group name");
            problems.push(Problem::at(name.span, message));
        }
        groups.insert(name.value, group);
    }
    groups
}

fn read_clients(
    root: &mut Section<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ClientName, Client> {
    let mut clients = BTreeMap::new();
    for (name, mut section) in root.tables("clients", problems) {
        let mac = section.required("mac", "\"52:54:00:12:00:01\"", problems);
        let address = section.optional("address", problems);
        let group = section.optional("group", problems);
        let settings = read_settings(&mut section, problems);
        section.finish(problems);
        match (name.value.parse(), mac) {
            (Ok(name), Some(mac)) => {
                clients.insert(
                    name,
                    Client {
                        mac,
                        address,
                        group,
                        settings,
                    },
                );
            }
            (Err(error), _) => problems.push(Problem::at(name.span, BadValue::to_string(&error))),
            (Ok(_), None) => {}
        }
    }
    clients
}

fn read_settings(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Settings {
    Settings {
        image: section.optional("image", problems),
        retention: section.optional("retention", problems).map(|l| l.value),
        quota: section.optional("quota", problems).map(|l| l.value),
        size: section.optional("size", problems).map(|l| l.value),
        kernel_args: section.optional("kernel_args", problems).map(|l| l.value),
        loader: section
            .optional("loader", problems)
            .map(|l: Located<LoaderName>| l.value.0),
        menu: menu::read(section, problems).map(Arc::new),
        options: dhcp::read_options(section, problems),
    }
}

struct LoaderName(Loader);

impl FromStr for LoaderName {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "ipxe" => Ok(LoaderName(Loader::Ipxe)),
            "grub" => Ok(LoaderName(Loader::Grub)),
            "pxelinux" => Ok(LoaderName(Loader::Pxelinux)),
            _ => Err(BadValue(format!(
                "`{text}`: use \"ipxe\", \"grub\" or \"pxelinux\""
            ))),
        }
    }
}
