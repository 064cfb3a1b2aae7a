use std::net::IpAddr;

use super::*;
use crate::{
    config::exports::ExportSettings, exports::source::Identity, service::devices::FileExport,
};

const TABLES: &str = r#"
[server]
data = "/d"
interface = "eth0"
address = "10.12.0.1/24"
tls = "on"
[dhcp]
mode = "proxy"
[exports.room]
file = "/f"
allow = ["10.12.0.0/24", "unix"]
description = "for the room"
[exports.vm]
file = "/g"
mode = "read-write"
allow = ["10.12.0.7"]
[exports.cluster]
file = "/h"
mode = "read-write"
shared = true
allow = ["*"]
[exports.backup]
file = "/i"
allow = ["10.12.0.0/24"]
certificates = ["nas", "tape"]
[exports.plain]
file = "/j"
allow = ["*"]
tls = "off"
"#;

fn settings() -> BTreeMap<String, ExportSettings> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, TABLES).unwrap();
    crate::config::load(&path).unwrap().exports
}

/// The exports above, each of an empty disk.
fn exports() -> NamedExports {
    let named = settings().into_iter().map(|(name, settings)| {
        let export = FileExport::open("/dev/null".as_ref(), true, None).unwrap();
        let identity = Identity::File {
            device: 0,
            inode: 0,
            size: 0,
        };
        let disk = Disk::new(Arc::new(export), identity);
        let export = NamedExport::new(&name, settings.spec, Some(Arc::new(disk)));
        (name, Arc::new(export))
    });
    let table = ArcSwap::from_pointee(named.collect());
    NamedExports { table }
}

fn peer(address: &str) -> Peer {
    let address: IpAddr = address.parse().unwrap();
    Peer::plain(PeerAddress::Ip(address))
}

fn secure(address: &str, names: &[&str]) -> Peer {
    Peer {
        secure: true,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..peer(address)
    }
}

fn listed(peer: &Peer) -> Vec<String> {
    let list = exports().list(peer);
    list.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_list_has_what_that_peer_may_open_as_it_is_connected() {
    assert_eq!(listed(&peer("10.12.0.9")), ["cluster", "plain", "room"]);
    assert_eq!(
        listed(&peer("10.12.0.7")),
        ["cluster", "plain", "room", "vm"]
    );
    assert_eq!(listed(&peer("10.13.0.7")), ["cluster", "plain"]);
    let nas = secure("10.12.0.9", &["x", "nas"]);
    assert_eq!(listed(&nas), ["backup", "cluster", "room"]);
    assert_eq!(listed(&secure("10.13.0.9", &["nas"])), ["cluster"]);
    let local = Peer {
        address: PeerAddress::Local,
        ..peer("10.12.0.7")
    };
    assert_eq!(listed(&local), ["cluster", "plain", "room"]);
}

/// What a stranger is told of an export that there is, and of one that there is not.
#[test]
fn what_a_peer_may_not_open_is_unknown_to_it() {
    let exports = exports();
    let told = |name: &str, peer: &Peer| exports.find(name, peer).err().unwrap();
    let nothing = told("nothing", &peer("10.13.0.1"));
    assert_eq!(told("vm", &peer("10.13.0.1")), nothing);
    assert_eq!(told("backup", &peer("10.13.0.1")), nothing);
    assert_eq!(told("backup", &secure("10.12.0.9", &["other"])), nothing);
    assert_eq!(told("backup", &secure("10.12.0.9", &[])), nothing);
    assert!(
        told("plain", &secure("10.12.0.9", &[]))
            .message
            .contains("without TLS")
    );
}

/// Whoever may open it over TLS has to be told so (NBD_REP_ERR_TLS_REQD), or could not find out.
#[test]
fn an_export_for_tls_says_so_to_those_it_is_for() {
    let export = exports().find("backup", &peer("10.12.0.9")).unwrap();
    assert!(export.needs_tls());
    exports()
        .find("backup", &secure("10.12.0.9", &["tape"]))
        .unwrap();
}

#[test]
fn several_connections_are_offered_only_where_all_see_the_same() {
    let exports = exports();
    let near = peer("10.12.0.7");
    let many = |name: &str| {
        let export = exports.find(name, &near).unwrap();
        let info = export.info().unwrap();
        (
            info.flags.contains(TransmissionFlags::CAN_MULTI_CONN),
            export.claim().unwrap().alone,
        )
    };
    assert_eq!(many("room"), (true, false));
    assert_eq!(many("cluster"), (true, false));
    assert_eq!(many("vm"), (false, true));
}

#[test]
fn a_retired_export_is_opened_by_nobody() {
    let exports = exports();
    let found = exports.find("room", &peer("10.12.0.9")).unwrap();
    found.open().unwrap();
    exports.table.load()["room"].retire();
    let refusal = found.open().err().unwrap();
    assert!(refusal.message.contains("connect again"), "{refusal:?}");
}
