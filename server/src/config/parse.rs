//! From TOML text to [`Config`]: every table is read, every mistake is noted.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc};

use pxe::Loader;
use serde_spanned::Spanned;
use toml::de::DeTable;

use super::{
    Client, Config, Group, Server, Settings, checks, dhcp,
    exports::{self, TlsSettings},
    menu,
    problem::{Problem, SourceFile, Sources},
    reader::{Located, Section},
    standby,
    units::{BadValue, ClientName, NameTemplate},
};

const DEFAULT_CONTROL: &str = "/run/bootroom/control.sock";
const DEFAULT_HTTP_PORT: u16 = 80;
/// The port that IANA has assigned to NBD.
const DEFAULT_NBD_PORT: u16 = 10809;

/// Reads the text of a configuration.
pub fn parse(sources: &Sources) -> Result<Config, Vec<Problem>> {
    let texts: Vec<String> = sources.files().iter().map(in_its_place).collect();
    let mut problems = Vec::new();
    let documents: Vec<_> = texts
        .iter()
        .filter_map(|text| read_document(text, &mut problems))
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let roots = documents
        .iter()
        .map(|document| Section::new("", document.span(), document.get_ref()));
    let mut roots = Roots {
        sources,
        sections: roots.collect(),
    };
    let config = read_roots(&mut roots, &mut problems);
    roots
        .sections
        .into_iter()
        .for_each(|root| root.finish(&mut problems));
    // Checks on values that could not be read would only repeat the mistake in other words.
    if let Some(config) = config.as_ref().filter(|_| problems.is_empty()) {
        checks::check(config, &mut problems);
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// A file's text behind as much blank space as makes the parser's spans those of the whole.
fn in_its_place(file: &SourceFile) -> String {
    " ".repeat(file.start) + &file.text
}

fn read_document<'a>(text: &'a str, problems: &mut Vec<Problem>) -> Option<Spanned<DeTable<'a>>> {
    DeTable::parse(text)
        .map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            problems.push(Problem::at(span, error.message().to_owned()));
        })
        .ok()
}

/// The top of each file: the main one, which has everything, and those of conf.d, which only add to some tables.
pub(super) struct Roots<'a> {
    sources: &'a Sources,
    sections: Vec<Section<'a>>,
}

impl<'a> Roots<'a> {
    fn main(&mut self) -> &mut Section<'a> {
        &mut self.sections[0]
    }

    /// All tables below `key` in all files, each name once.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Vec<(Located<String>, Section<'a>)> {
        let mut found: Vec<(Located<String>, Section<'a>)> = Vec::new();
        for root in &mut self.sections {
            for (name, section) in root.tables(key, problems) {
                match found.iter().find(|(other, _)| other.value == name.value) {
                    Some((first, _)) => {
                        let there = self.sources.place(&first.span);
                        let message = format!("[{key}.{}] is in {there} already", name.value);
                        let fix = "remove one of the two, or give it another name";
                        problems.push(Problem::at(name.span, message).fix(fix));
                    }
                    None => found.push((name, section)),
                }
            }
        }
        found
    }
}

fn read_roots(roots: &mut Roots<'_>, problems: &mut Vec<Problem>) -> Option<Config> {
    let server = match roots.main().table("server", problems) {
        Some(section) => read_server(section, problems),
        None => {
            let fix = "add [server] with data, interface and address";
            problems.push(Problem::at(0..0, "there is no [server] table").fix(fix));
            None
        }
    };
    let dhcp = roots.main().table("dhcp", problems);
    let dhcp = dhcp.map(|section| dhcp::read(section, problems));
    let tls = roots.main().table("tls", problems);
    let tls = match tls {
        Some(section) => exports::read_tls(section, problems),
        None => server.as_ref().map(TlsSettings::made_by),
    };
    let listeners = roots.main().tables("listeners", problems);
    let listeners = exports::read_listeners(listeners, problems);
    let groups = read_groups(roots, problems);
    let clients = read_clients(roots, problems);
    let exports = exports::read_exports(roots, problems);
    let standby = roots.main().table("standby", problems);
    let standby = standby.and_then(|section| standby::read(section, server.as_ref(), problems));
    Some(Config {
        server: server?,
        dhcp: dhcp.unwrap_or_default(),
        groups,
        clients,
        tls,
        listeners,
        exports,
        standby,
        sources: roots.sources.clone(),
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
    let tls = exports::read_listener_tls(&mut section, problems);
    let ssh_host_keys = section.boolean("ssh_host_keys", problems);
    section.finish(problems);
    Some(Server {
        data: data?,
        interface: interface?,
        address: address?,
        http_port,
        nbd_port,
        tls,
        control: control.map_or_else(|| DEFAULT_CONTROL.into(), |located| located.value),
        files,
        quiet_ipv6: quiet_ipv6.unwrap_or(false),
        ssh_host_keys: ssh_host_keys.unwrap_or(false),
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

fn read_groups(roots: &mut Roots<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::new();
    for (name, mut section) in roots.tables("groups", problems) {
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
    roots: &mut Roots<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ClientName, Client> {
    let mut clients = BTreeMap::new();
    for (name, mut section) in roots.tables("clients", problems) {
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
        tls: section.optional("tls", problems),
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
