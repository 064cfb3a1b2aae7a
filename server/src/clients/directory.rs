//! Who a machine is by the configuration: `[clients]` first, then the group with the most specific pattern.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::SystemTime};

use images::ImageRef;
use parking_lot::Mutex;
use pxe::{DhcpOption, Loader, Mac};

use super::{boot::Boots, registry::Record};
use crate::config::{
    Client, Config, Group, Settings,
    exports::TlsMode,
    menu::{Entry, Menu},
    units::{ByteSize, ClientName, Retention},
};

/// A machine that the configuration serves.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The group it belongs to.
    pub group: Option<String>,
    /// Its name, if `[clients]` gives it one.
    pub name: Option<ClientName>,
    /// Its fixed address.
    pub address: Option<Ipv4Addr>,
    /// The group whose own range it takes an address from.
    pub range: Option<String>,
    /// What it boots, or, with a menu, the image of the menu's default.
    pub image: Option<ImageRef>,
    /// What may be chosen at it.
    pub menu: Option<Arc<Menu>>,
    /// How long its overlay lasts.
    pub retention: Retention,
    /// Most bytes its overlay may take.
    pub quota: Option<ByteSize>,
    /// Size of its disk.
    pub size: Option<ByteSize>,
    /// Appended to its kernel command line.
    pub kernel_args: String,
    /// Its boot loader family.
    pub loader: Loader,
    /// DHCP options of its own and its group's; those of its own come last and win.
    pub options: Vec<DhcpOption>,
    /// Whether its disk is encrypted on the wire.
    pub tls: TlsMode,
    /// Whether it gets ssh host keys that last.
    pub ssh_host_keys: bool,
}

impl Profile {
    /// Whether its host key comes over TLS, rather than in that initrd.
    pub fn has_secret(&self) -> bool {
        self.tls != TlsMode::Off && self.ssh_host_keys
    }

    /// The same machine, when this entry of its menu is chosen.
    pub fn choosing(&self, entry: &Entry) -> Self {
        let args = [
            Some(self.kernel_args.as_str()),
            entry.kernel_args.as_deref(),
        ];
        let args = args.into_iter().flatten().filter(|args| !args.is_empty());
        Profile {
            image: entry.image().map(|image| image.value.clone()),
            kernel_args: args.collect::<Vec<_>>().join(" "),
            ..self.clone()
        }
    }

    /// Whether its boots have a second initrd.
    pub fn has_identity(&self) -> bool {
        self.tls != TlsMode::Off || self.ssh_host_keys
    }
}

/// What the configuration says of the machine `mac`; nothing if it is not to be served.
pub fn profile(config: &Config, mac: Mac) -> Option<Profile> {
    let own = config
        .clients
        .iter()
        .find(|(_, client)| client.mac.value == mac);
    let group = group_of(config, mac, own.map(|(_, client)| client));
    if own.is_none() && group.is_none() {
        return None;
    }
    let layers: Vec<&Settings> = own
        .iter()
        .map(|(_, c)| &c.settings)
        .chain(group.iter().map(|(_, g)| &g.settings))
        .collect();
    let (image, menu) = what_boots(&layers);
    Some(Profile {
        group: group.map(|(name, _)| name.clone()),
        name: own.map(|(name, _)| name.clone()),
        address: own.and_then(|(_, client)| Some(client.address.as_ref()?.value)),
        range: group
            .filter(|(_, g)| !g.ranges.is_empty())
            .map(|(name, _)| name.clone()),
        image,
        menu,
        retention: layers
            .iter()
            .find_map(|layer| layer.retention)
            .unwrap_or_default(),
        quota: layers.iter().find_map(|layer| layer.quota),
        size: layers.iter().find_map(|layer| layer.size),
        kernel_args: kernel_args(&layers),
        loader: layers
            .iter()
            .find_map(|layer| layer.loader)
            .unwrap_or_default(),
        options: layers
            .iter()
            .rev()
            .flat_map(|layer| layer.options.iter().cloned())
            .collect(),
        tls: layers
            .iter()
            .find_map(|layer| Some(layer.tls.as_ref()?.value))
            .unwrap_or(config.server.tls.mode()),
        ssh_host_keys: config.server.ssh_host_keys,
    })
}

/// The first layer that says what is booted decides it: a client with an image of its own has no menu of its group.
fn what_boots(layers: &[&Settings]) -> (Option<ImageRef>, Option<Arc<Menu>>) {
    let says = |layer: &&&Settings| layer.menu.is_some() || layer.image.is_some();
    let Some(layer) = layers.iter().find(says) else {
        return (None, None);
    };
    let of_menu = layer.menu.as_ref().and_then(|menu| menu.default_image());
    let image = of_menu.or(layer.image.as_ref());
    (image.map(|image| image.value.clone()), layer.menu.clone())
}

/// The group's arguments first, so that the client's own, which come later, win in the kernel.
fn kernel_args(layers: &[&Settings]) -> String {
    let args: Vec<_> = layers
        .iter()
        .rev()
        .filter_map(|layer| layer.kernel_args.as_deref())
        .collect();
    args.join(" ")
}

fn group_of<'a>(
    config: &'a Config,
    mac: Mac,
    own: Option<&Client>,
) -> Option<(&'a String, &'a Group)> {
    if let Some(name) = own.and_then(|client| client.group.as_ref()) {
        return config.groups.get_key_value(&name.value);
    }
    let matching = config.groups.iter().filter_map(|(name, group)| {
        let fits = group
            .macs
            .iter()
            .filter(|pattern| pattern.value.matches(mac));
        let most = fits.map(|pattern| pattern.value.fixed_bytes()).max()?;
        Some((most, (name, group)))
    });
    matching
        .max_by_key(|(fixed, _)| *fixed)
        .map(|(_, found)| found)
}

/// The record of a machine that is seen for the first time; its name is one that nobody has.
pub fn first_record(
    config: &Config,
    mac: Mac,
    profile: &Profile,
    (numbers, taken): (&Numbers, &dyn Fn(&ClientName) -> bool),
    now: SystemTime,
) -> Record {
    let invent = || invent_name(config, mac, Some(profile), (numbers, taken));
    let name = profile.name.clone().unwrap_or_else(invent);
    let group = profile.group.clone();
    Record {
        mac,
        name,
        group,
        first_seen: now,
        boots: Boots::default(),
        choice: None,
    }
}

/// The group's template with the first free number; by MAC if the template has run out.
pub fn invent_name(
    config: &Config,
    mac: Mac,
    profile: Option<&Profile>,
    (numbers, taken): (&Numbers, &dyn Fn(&ClientName) -> bool),
) -> ClientName {
    let group = profile.and_then(|profile| config.groups.get_key_value(profile.group.as_ref()?));
    let free = |name: &ClientName| !config.clients.contains_key(name) && !taken(name);
    let by_number = group.and_then(|(name, group)| {
        let render = |number| group.name.render(number, mac).parse().ok().filter(free);
        numbers.search(name, render)
    });
    by_number.unwrap_or_else(|| name_by_mac(mac))
}

/// Up to which number each group's names are taken, so that a flood of new machines does not try all of them again for
/// each.
#[derive(Debug, Default)]
pub struct Numbers(Mutex<HashMap<String, u32>>);

impl Numbers {
    /// The lowest numbers may be free again.
    pub fn reset(&self) {
        self.0.lock().clear();
    }

    /// What `find` finds for the next number, or for the next one that it finds anything for. Behind the last comes the
    /// first.
    fn search<T>(&self, group: &str, find: impl Fn(u32) -> Option<T>) -> Option<T> {
        let mut all = self.0.lock();
        let from = all.get(group).copied().unwrap_or(1);
        let mut numbers = (from..=MOST_NUMBER).chain(1..from);
        let (number, found) = numbers.find_map(|number| Some((number, find(number)?)))?;
        all.insert(group.to_owned(), number + 1);
        Some(found)
    }
}

/// Names are tried up to this number; no room has more seats.
const MOST_NUMBER: u32 = 20_000;

/// The name of a machine that no template names.
fn name_by_mac(mac: Mac) -> ClientName {
    let name = format!("pc-{}", mac.hex());
    name.parse()
        .unwrap_or_else(|_| unreachable!("hex digits make a legal name: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[server]
data = "/d"
interface = "eth0"
address = "10.12.0.1/24"
[dhcp]
range = "10.12.0.100-10.12.0.199"
[groups.room12]
image = "debian"
macs = ["52:54:00:12:*"]
name = "r12-{n:02}"
kernel_args = "quiet"
[groups.guests]
image = "kiosk"
macs = ["*"]
[clients.r12-01]
mac = "52:54:00:12:00:01"
address = "10.12.0.20"
retention = "keep"
kernel_args = "debug"
"#;

    fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, CONFIG).unwrap();
        crate::config::load(&path).unwrap()
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let config = config();
        let room = profile(&config, Mac([0x52, 0x54, 0, 0x12, 0, 9])).unwrap();
        assert_eq!(room.group.as_deref(), Some("room12"));
        let guest = profile(&config, Mac([2, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(guest.image.unwrap().to_string(), "kiosk");
    }

    #[test]
    fn a_client_overrides_its_group() {
        let teacher = profile(&config(), Mac([0x52, 0x54, 0, 0x12, 0, 1])).unwrap();
        assert_eq!(teacher.retention, Retention::Keep);
        assert_eq!(teacher.image.unwrap().to_string(), "debian");
        assert_eq!(teacher.kernel_args, "quiet debug");
        assert_eq!(teacher.address, Some(Ipv4Addr::new(10, 12, 0, 20)));
    }

    #[test]
    fn invented_names_avoid_those_configured_and_taken() {
        let config = config();
        let mac = Mac([0x52, 0x54, 0, 0x12, 0, 9]);
        let seat = profile(&config, mac).unwrap();
        let numbers = Numbers::default();
        let taken = |name: &ClientName| name.as_str() == "r12-02";
        let name = || {
            let names = (&numbers, &taken as &dyn Fn(&ClientName) -> bool);
            let record = first_record(&config, mac, &seat, names, SystemTime::UNIX_EPOCH);
            record.name.to_string()
        };
        assert_eq!([name(), name()], ["r12-03", "r12-04"]);
        numbers.reset();
        assert_eq!(name(), "r12-03");
    }

    #[test]
    fn behind_the_last_number_comes_the_first_that_is_free() {
        let numbers = Numbers::default();
        let all = |number| Some(number);
        for number in 1..=MOST_NUMBER {
            assert_eq!(numbers.search("a", all), Some(number));
        }
        let free = |number| (number == 7).then_some(number);
        assert_eq!(numbers.search("a", free), Some(7));
        assert_eq!(numbers.search("a", all), Some(8));
        assert_eq!(numbers.search("a", |_| None::<u32>), None);
        assert_eq!(numbers.search("b", all), Some(1));
    }
}
