//! Identity, retention and takeover, over the real store and catalogue.

use std::{net::Ipv4Addr, path::Path};

use images::{Catalogue, Details, ImageName};
use overlay::{Attachment, Durability, OverlayId, Store};
use pxe::menu::Language;

use super::{registry::RedbRows, *};

pub const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
pub const OTHER: Mac = Mac([0x52, 0x54, 0, 0x12, 0, 2]);

pub struct Room {
    pub dir: tempfile::TempDir,
    pub clients: Clients,
}

fn room(retention: &str) -> Room {
    let dir = tempfile::tempdir().unwrap();
    publish(dir.path(), 1);
    let clients = open(dir.path(), retention);
    Room { dir, clients }
}

fn open(dir: &Path, retention: &str) -> Clients {
    open_with(
        dir,
        &format!("image = \"demo\"\nretention = \"{retention}\"\n"),
    )
}

fn room_with_tls() -> Room {
    let dir = tempfile::tempdir().unwrap();
    publish(dir.path(), 1);
    let server = "tls = \"required\"\nssh_host_keys = true";
    let clients = open_as(dir.path(), server, "image = \"demo\"\n");
    let site = crate::clients::identity::SiteTls::of(&clients.config()).unwrap();
    site.prepare().unwrap();
    Room { dir, clients }
}

/// Opens a room whose group has these lines.
pub fn open_with(dir: &Path, group: &str) -> Clients {
    open_as(dir, "", group)
}

fn open_as(dir: &Path, server: &str, group: &str) -> Clients {
    let text = format!(
        "[server]\ndata = {dir:?}\ninterface = \"lo\"\naddress = \"10.12.0.1/24\"\n{server}\n\
         [dhcp]\nrange = \"10.12.0.100-10.12.0.199\"\n\
         [groups.room]\nmacs = [\"52:54:00:12:*\"]\nname = \"r-{{n}}\"\n{group}"
    );
    let path = dir.join("bootroom.toml");
    std::fs::write(&path, text).unwrap();
    reopen(dir)
}

fn reopen(dir: &Path) -> Clients {
    let config = crate::config::load(&dir.join("bootroom.toml")).unwrap();
    let catalogue = Catalogue::open(dir.join("images")).unwrap();
    let upgrade = |row: &mut _| upgrade::record(row, &catalogue);
    let rows = RedbRows::open(&dir.join("state.redb")).unwrap();
    let registry = Registry::open(Arc::new(rows), &upgrade).unwrap();
    let store = Store::open(&dir.join("overlays"), overlay::Options::default()).unwrap();
    upgrade::overlays(&store, &catalogue).unwrap();
    let versions = versions::OpenVersions::of(catalogue);
    let disks = Disks::new(Arc::new(store), Arc::new(versions));
    Clients::new(config, registry, disks, Arc::default()).unwrap()
}

/// Publishes a version of `demo` that is 1 MiB of `fill`.
fn publish(dir: &Path, fill: u8) {
    publish_as(dir, "demo", fill);
}

pub fn publish_as(dir: &Path, image: &str, fill: u8) {
    let catalogue = Catalogue::open(dir.join("images")).unwrap();
    let staging = catalogue.stage(images::VersionId::random()).unwrap();
    std::fs::write(staging.disk_path(), vec![fill; 1 << 20]).unwrap();
    std::fs::write(staging.kernel_path(), b"kernel").unwrap();
    std::fs::write(staging.initrd_path(), b"initrd").unwrap();
    let image: ImageName = image.parse().unwrap();
    let details = Details {
        image,
        created: SystemTime::now(),
        cmdline: String::new(),
        description: String::new(),
    };
    let staged = staging
        .finish(details, &images::Quiet, &images::Cancel::new().unwrap())
        .unwrap();
    catalogue.publish(staged).unwrap();
}

impl Room {
    fn boot(&self, mac: Mac) -> (String, String) {
        self.boot_entry(mac, None)
    }

    /// What the machine's iPXE is told.
    pub fn told(&self, mac: Mac, language: Language, entry: Option<usize>) -> Result<String> {
        let address = Ipv4Addr::new(10, 12, 0, 1);
        let asked = menus::Asked {
            mac,
            language,
            entry,
            place: Place {
                address,
                http_port: 80,
                nbd_port: 10809,
                other: None,
            },
            lease: script::Lease {
                address: Ipv4Addr::new(10, 12, 0, 100),
                gateway: None,
                netmask: Ipv4Addr::new(255, 255, 255, 0),
                dns: None,
            },
        };
        self.clients.boot_text(&asked)
    }

    /// Name and token of a boot, from the script of this entry.
    pub fn boot_entry(&self, mac: Mac, entry: Option<usize>) -> (String, String) {
        let script = self.told(mac, Language::Ipxe, entry).unwrap();
        let export = script.split("/client/").nth(1).unwrap();
        let export = export.split_whitespace().next().unwrap();
        let (name, token) = export.split_once('/').unwrap();
        (name.to_owned(), token.to_owned())
    }

    pub fn attach(&self, (name, token): &(String, String)) -> Result<Attached> {
        let held = self.clients.attach(name, token)?;
        let attachment = held.overlay().attach();
        Ok(Attached {
            attachment,
            _held: held,
        })
    }
}

/// What a connection has of its disk.
pub struct Attached {
    attachment: Attachment,
    _held: Arc<Held>,
}

impl std::ops::Deref for Attached {
    type Target = Attachment;

    fn deref(&self) -> &Attachment {
        &self.attachment
    }
}

fn disk_of(mac: Mac) -> OverlayId {
    overlay_id(mac, &"demo".parse().unwrap())
}

pub fn refused<T>(attempt: Result<T>) -> bool {
    attempt
        .err()
        .is_some_and(|error| error.kind() == ErrorKind::Refused)
}

pub fn first_byte(disk: &Attachment) -> u8 {
    let mut byte = [0; 512];
    disk.read(&mut byte, 0).unwrap();
    byte[0]
}

pub fn write(disk: &Attachment, fill: u8) {
    disk.write(&[fill; 512], 0, Durability::Process).unwrap();
}

#[test]
fn a_boot_client_is_fresh_at_a_boot_and_not_at_a_reconnect() {
    let room = room("boot");
    let first = room.boot(MAC);
    write(&room.attach(&first).unwrap(), 7);
    assert_eq!(first_byte(&room.attach(&first).unwrap()), 7);
    let second = room.boot(MAC);
    assert_eq!(first_byte(&room.attach(&second).unwrap()), 1);
}

#[test]
fn a_keep_client_keeps_its_disk_and_its_version() {
    let room = room("keep");
    write(&room.attach(&room.boot(MAC)).unwrap(), 7);
    publish(room.dir.path(), 2);
    assert_eq!(first_byte(&room.attach(&room.boot(MAC)).unwrap()), 7);
    assert_eq!(
        room.clients.reset("r-1", None, false).unwrap(),
        Reset::AtNextBoot
    );
    assert_eq!(first_byte(&room.attach(&room.boot(MAC)).unwrap()), 2);
}

#[test]
fn a_boot_gets_the_version_whose_kernel_its_script_named() {
    let room = room("boot");
    let boot = room.boot(MAC);
    publish(room.dir.path(), 2);
    assert_eq!(first_byte(&room.attach(&boot).unwrap()), 1);
    assert_eq!(first_byte(&room.attach(&room.boot(MAC)).unwrap()), 2);
}

#[test]
fn a_new_boot_evicts_the_old_one_and_its_token() {
    let room = room("keep");
    let old = room.boot(MAC);
    let old_disk = room.attach(&old).unwrap();
    write(&old_disk, 7);
    let new = room.boot(MAC);
    let new_disk = room.attach(&new).unwrap();
    assert!(old_disk.write(&[9; 512], 0, Durability::Process).is_err());
    assert_eq!(first_byte(&new_disk), 7);
    assert!(refused(room.attach(&old)));
}

#[test]
fn a_token_opens_its_own_client_only() {
    let room = room("keep");
    let (one, two) = (room.boot(MAC), room.boot(OTHER));
    assert_ne!(one.0, two.0);
    write(&room.attach(&one).unwrap(), 7);
    assert_eq!(first_byte(&room.attach(&two).unwrap()), 1);
    assert_eq!(room.clients.disk_of(&one.0, &one.1).unwrap().0, MAC);
    assert!(refused(room.clients.attach(&two.0, &one.1)));
    assert!(refused(room.clients.attach(&one.0, &"0".repeat(32))));
    assert!(refused(room.clients.attach(&one.0, "")));
}

#[test]
fn a_running_client_reconnects_to_its_disk_after_the_server_restarted() {
    let Room { dir, clients } = room("boot");
    let room_before = Room { dir, clients };
    let boot = room_before.boot(MAC);
    write(&room_before.attach(&boot).unwrap(), 7);
    let Room { dir, clients } = room_before;
    drop(clients);
    let clients = open(dir.path(), "boot");
    let room_after = Room { dir, clients };
    assert_eq!(first_byte(&room_after.attach(&boot).unwrap()), 7);
}

#[test]
fn a_reset_spares_the_running_machine_until_its_next_boot() {
    let room = room("keep");
    let boot = room.boot(MAC);
    write(&room.attach(&boot).unwrap(), 7);
    assert_eq!(
        room.clients.reset("r-1", None, false).unwrap(),
        Reset::AtNextBoot
    );
    // Its connection was lost meanwhile: it comes back to what it had.
    assert_eq!(first_byte(&room.attach(&boot).unwrap()), 7);
    assert_eq!(first_byte(&room.attach(&boot).unwrap()), 7);
    assert_eq!(first_byte(&room.attach(&room.boot(MAC)).unwrap()), 1);
}

#[test]
fn a_reset_at_once_kills_the_token_of_an_absent_machine() {
    let room = room("keep");
    let boot = room.boot(MAC);
    let disk = room.attach(&boot).unwrap();
    assert_eq!(
        room.clients.reset("r-1", None, true).unwrap(),
        Reset::AtNextBoot
    );
    drop(disk);
    assert_eq!(room.clients.reset("r-1", None, true).unwrap(), Reset::Done);
    assert!(refused(room.attach(&boot)));
}

#[test]
fn a_machine_that_said_goodbye_is_reset_at_once() {
    let room = room("keep");
    let boot = room.boot(MAC);
    write(&room.attach(&boot).unwrap(), 7);
    room.clients.reported(&boot.1, "shutdown").unwrap().unwrap();
    assert_eq!(room.clients.reset("r-1", None, false).unwrap(), Reset::Done);
    assert_eq!(first_byte(&room.attach(&room.boot(MAC)).unwrap()), 1);
}

#[test]
fn a_running_machine_keeps_its_disk_when_its_name_goes_to_another() {
    let Room { dir, clients } = room("keep");
    let before = Room { dir, clients };
    let boot = before.boot(MAC);
    write(&before.attach(&boot).unwrap(), 7);
    let Room { dir, clients } = before;
    drop(clients);
    let path = dir.path().join("bootroom.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "[clients.r-1]\nmac = \"525400120002\"\n").unwrap();
    let after = Room {
        clients: reopen(dir.path()),
        dir,
    };
    assert_eq!(first_byte(&after.attach(&boot).unwrap()), 7);
    assert_eq!(after.boot(OTHER).0, "r-1");
    assert_eq!(after.boot(MAC).0, "r-2");
}

#[test]
fn a_reconnect_never_makes_a_disk() {
    let room = room("keep");
    let boot = room.boot(MAC);
    write(&room.attach(&boot).unwrap(), 7);
    room.clients.disks.delete(&disk_of(MAC)).unwrap();
    let error = room.attach(&boot).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotBootable);
}

#[test]
fn a_crash_between_activation_and_fresh_overlay_is_made_good() {
    let room = room("boot");
    write(&room.attach(&room.boot(MAC)).unwrap(), 7);
    let boot = room.boot(MAC);
    // What is on disk when the server dies right after the activation.
    let token = boot.1.parse().unwrap();
    room.clients
        .registry
        .update(MAC, |record| match record.boots.admit(&token) {
            Some(Admission::NewBoot(boot)) => record.boots.activate(boot, true),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(first_byte(&room.attach(&boot).unwrap()), 1);
}

#[test]
fn a_kept_disk_takes_a_changed_quota_at_its_next_attachment() {
    let old = room("keep");
    write(&old.attach(&old.boot(MAC)).unwrap(), 7);
    let Room { dir, clients } = old;
    drop(clients);
    let clients = open(dir.path(), "keep\"\nquota = \"4KiB");
    let room = Room { dir, clients };
    let disk = room.attach(&room.boot(MAC)).unwrap();
    assert_eq!(first_byte(&disk), 7);
    let refused = disk.write(&[1; 4096], 64 << 10, Durability::Process);
    assert_eq!(refused.unwrap_err().kind(), overlay::ErrorKind::QuotaFull);
}

#[test]
fn a_commit_makes_the_disk_of_a_running_machine_the_next_version() {
    let room = room("keep");
    let disk = room.attach(&room.boot(MAC)).unwrap();
    write(&disk, 7);
    let cancel = images::Cancel::new().unwrap();
    let image = "demo".parse().unwrap();
    let version = room
        .clients
        .commit("r-1", image, String::new(), &images::Quiet, &cancel)
        .unwrap();
    assert_eq!(version.to_string(), "demo@2");
    write(&disk, 9);
    assert_eq!(first_byte(&room.attach(&room.boot(OTHER)).unwrap()), 7);
    assert_eq!(first_byte(&disk), 9);
    let left = room.clients.disks.open_existing(&disk_of(MAC)).unwrap();
    let left = left.snapshots();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_cancelled_commit_publishes_nothing() {
    let room = room("keep");
    write(&room.attach(&room.boot(MAC)).unwrap(), 7);
    let cancel = images::Cancel::new().unwrap();
    cancel.cancel();
    let image: ImageName = "demo".parse().unwrap();
    let failed = room
        .clients
        .commit("r-1", image.clone(), String::new(), &images::Quiet, &cancel);
    assert!(failed.is_err());
    let current = room.clients.disks.catalogue().current(&image).unwrap();
    assert_eq!(current.map(images::VersionNumber::get), Some(1));
}

#[test]
fn a_forgotten_machine_leaves_nothing_and_comes_back_as_a_new_one() {
    let room = room("keep");
    let boot = room.boot(MAC);
    let disk = room.attach(&boot).unwrap();
    write(&disk, 7);
    assert!(room.clients.forget("r-1").is_err(), "it has its disk");
    drop(disk);
    assert_eq!(room.clients.forget("r-1").unwrap(), MAC);
    assert!(refused(room.attach(&boot)));
    assert!(room.clients.find("r-1").is_err());
    assert!(room.clients.disks.list().unwrap().is_empty());
    assert_eq!(room.boot(OTHER).0, "r-1", "the name is free");
    assert_eq!(room.boot(MAC).0, "r-2");
}

#[test]
fn an_identity_is_given_until_the_first_attach_and_to_no_old_token() {
    let room = room_with_tls();
    let identity = |token: &str| room.clients.identity(token);
    let boot = room.boot(MAC);
    let (mac, initrd) = identity(&boot.1).unwrap();
    assert_eq!(mac, MAC);
    assert!(initrd.starts_with(&[0x1f, 0x8b]));
    let secret = |(name, token): &(String, String)| room.clients.secret(name, token);
    assert!(secret(&boot).unwrap().contains("OPENSSH PRIVATE KEY"));
    assert!(
        secret(&("r-2".into(), boot.1.clone())).is_err(),
        "another's name"
    );
    room.attach(&boot).unwrap();
    assert_eq!(secret(&boot).unwrap_err().kind(), ErrorKind::Refused);
    let kind = |token: &str| identity(token).unwrap_err().kind();
    assert_eq!(
        kind(&boot.1),
        ErrorKind::Refused,
        "any program on the machine knows it now"
    );
    assert_eq!(kind("00112233445566778899aabbccddeeff"), ErrorKind::Refused);
    room.attach(&room.boot(MAC)).unwrap();
    assert_eq!(kind(&boot.1), ErrorKind::Refused);
}

#[test]
fn with_tls_the_script_says_so_and_names_the_identity() {
    let script = |room: Room| room.told(MAC, Language::Ipxe, None).unwrap();
    let with = script(room_with_tls());
    assert!(
        with.contains(" nbdroot=nbds://10.12.0.1:10809/client/r-1/"),
        "{with}"
    );
    assert!(with.contains(" initrd=initrd0 initrd=initrd1 "), "{with}");
    assert!(
        with.contains("initrd --name initrd1 http://10.12.0.1/identity/"),
        "{with}"
    );
    assert!(with.contains(" bootroom.identity=identity/r-1/"), "{with}");
    let without = script(room("boot"));
    assert!(without.contains(" nbdroot=10.12.0.1:10809/"), "{without}");
    assert!(!without.contains("identity"), "{without}");
}

/// What a release wrote that knew of one disk a machine: an overlay under its address, boots without an image.
fn as_before(dir: &Path, record: Record) {
    let store = Store::open(&dir.join("overlays"), overlay::Options::default()).unwrap();
    let old = OverlayId::new(MAC.hex()).unwrap();
    store.rename(&disk_of(MAC), &old).unwrap();
    let mut row = serde_json::to_value(record).unwrap();
    row["boots"]["fresh_next"] = false.into();
    row["boots"]["active"]
        .as_object_mut()
        .unwrap()
        .remove("image");
    let database = redb::Database::create(dir.join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, &[u8]>::new("clients");
    let bytes = serde_json::to_vec(&row).unwrap();
    transaction
        .open_table(table)
        .unwrap()
        .insert(MAC.hex().as_str(), bytes.as_slice())
        .unwrap();
    transaction.commit().unwrap();
}

#[test]
fn what_an_earlier_release_kept_is_taken_over() {
    let room = room("keep");
    let boot = room.boot(MAC);
    write(&room.attach(&boot).unwrap(), 7);
    let Room { dir, clients } = room;
    let record = clients.find("r-1").unwrap();
    drop(clients);
    as_before(dir.path(), record);
    for _ in 0..2 {
        let clients = reopen(dir.path());
        let dir = tempfile::tempdir().unwrap();
        let room = Room { dir, clients };
        assert_eq!(first_byte(&room.attach(&boot).unwrap()), 7);
        assert_eq!(room.clients.disks.list().unwrap().len(), 1);
    }
}

fn snapshot(name: &str) -> overlay::SnapshotName {
    overlay::SnapshotName::new(name).unwrap()
}

/// The secret in the URI that an opened snapshot is read at.
fn opened_token(room: &Room, name: &overlay::SnapshotName) -> String {
    let uri = room.clients.open_snapshot("r-1", name).unwrap();
    let token = uri.strip_prefix("nbd://10.12.0.1:10809/snapshot/");
    token.expect("where the room's disks are").to_owned()
}

fn first_byte_of(opened: &snapshots::Opened) -> u8 {
    let mut byte = [0; 1];
    opened.view.read(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn a_snapshot_is_read_by_its_token_and_by_no_other() {
    let room = room("keep");
    let disk = room.attach(&room.boot(MAC)).unwrap();
    disk.write(&[5; 512], 0, Durability::Process).unwrap();
    let monday = snapshot("monday");
    room.clients.take_snapshot("r-1", &monday).unwrap();
    disk.write(&[6; 512], 0, Durability::Process).unwrap();
    let token = opened_token(&room, &monday);
    let opened = room.clients.opened_snapshot(&token).unwrap();
    assert_eq!((first_byte_of(&opened), opened.client.as_str()), (5, "r-1"));
    let (_, boot) = room.boot(MAC);
    for guess in [boot.as_str(), &"0".repeat(32), ""] {
        let error = room.clients.opened_snapshot(guess).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    let taken = room.clients.take_snapshot("r-1", &monday).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Refused);
}

/// The token stands for what was frozen when it was made, and neither for a later snapshot nor for another disk.
#[test]
fn a_token_does_not_open_a_later_snapshot_of_the_same_name() {
    let room = room("keep");
    room.attach(&room.boot(MAC)).unwrap();
    let monday = snapshot("monday");
    room.clients.take_snapshot("r-1", &monday).unwrap();
    let token = opened_token(&room, &monday);
    room.clients.drop_snapshot("r-1", &monday).unwrap();
    room.clients.opened_snapshot(&token).err().unwrap();
    room.clients.take_snapshot("r-1", &monday).unwrap();
    let error = room.clients.opened_snapshot(&token).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(room.clients.snapshots("r-1").unwrap().len(), 1);
    room.clients.reset("r-1", None, true).unwrap();
    assert_eq!(room.clients.snapshots("r-1").unwrap(), []);
}

#[test]
fn the_name_that_commits_use_is_not_given_away() {
    let room = room("keep");
    room.attach(&room.boot(MAC)).unwrap();
    let taken = room.clients.take_snapshot("r-1", &snapshot("commit"));
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_snapshot_needs_tls_where_the_disk_does() {
    let mut room = room("keep");
    room.attach(&room.boot(MAC)).unwrap();
    let monday = snapshot("monday");
    room.clients.take_snapshot("r-1", &monday).unwrap();
    let token = opened_token(&room, &monday);
    assert!(!room.clients.opened_snapshot(&token).unwrap().needs_tls);
    let path = room.dir.path().join("bootroom.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replacen("[dhcp]", "tls = \"required\"\n[dhcp]", 1),
    )
    .unwrap();
    let Room { dir, clients } = room;
    drop(clients);
    let clients = reopen(dir.path());
    room = Room { dir, clients };
    let uri = room.clients.open_snapshot("r-1", &monday).unwrap();
    let token = uri
        .strip_prefix("nbds://10.12.0.1:10809/snapshot/")
        .unwrap();
    assert!(room.clients.opened_snapshot(token).unwrap().needs_tls);
}

#[test]
fn a_snapshot_needs_a_certificate_where_machines_do() {
    use crate::{
        exports::ClientExports,
        service::{Exports, Peer, PeerAddress},
    };
    let room = room("keep");
    room.attach(&room.boot(MAC)).unwrap();
    let monday = snapshot("monday");
    room.clients.take_snapshot("r-1", &monday).unwrap();
    let path = room.dir.path().join("bootroom.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let asked = "tls = \"required\"\nclient_certificates = \"required\"\n[dhcp]";
    std::fs::write(&path, text.replacen("[dhcp]", asked, 1)).unwrap();
    let Room { dir, clients } = room;
    drop(clients);
    let clients = Arc::new(reopen(dir.path()));
    let uri = clients.open_snapshot("r-1", &monday).unwrap();
    let name = &uri[uri.find("snapshot/").unwrap()..];
    let peer = |names: &[&str]| Peer {
        address: PeerAddress::Local,
        secure: true,
        serial: None,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let exports = ClientExports::new(clients);
    assert!(exports.find(name, &peer(&[])).is_err());
    assert!(exports.find(name, &peer(&["backup"])).is_ok());
}
