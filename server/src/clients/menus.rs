//! What a machine's boot loader is shown: its menu, an entry of it, or, without a menu, what it boots.
//!
//! A menu names its entries by URL. What an entry boots is settled when it is chosen: only then is there a boot with a
//! token, and a disk of that entry's image.

use std::path::PathBuf;

use pxe::{
    Mac,
    menu::{ConfigPath, Entry as Line, Language, Menu as Shown, Target},
};

use super::{
    Clients,
    directory::Profile,
    error::{Error, ErrorKind, Result},
    registry::Record,
    script::{Lease, Place, Script},
};
use crate::config::menu::{Choice, Menu, Program};

/// Who is to be told what to boot, and how.
pub struct Asked {
    /// Which machine.
    pub mac: Mac,
    /// In which language.
    pub language: Language,
    /// Which entry of its menu was chosen, if one was.
    pub entry: Option<usize>,
    /// The server, as the machine reaches it.
    pub place: Place,
    /// The machine's lease, for loaders that cannot tell it themselves.
    pub lease: Lease,
}

impl Clients {
    /// The text for a machine's boot loader.
    ///
    /// # Errors
    /// When the machine is not served, or what it should boot is not there; the message is fit for its screen.
    pub fn boot_text(&self, asked: &Asked) -> Result<String> {
        let mac = asked.mac;
        let (record, profile) = self.identify(mac)?.ok_or_else(|| {
            let context =
                format!("{mac} matches no [clients] or [groups] table of the configuration");
            Error::new(ErrorKind::Unknown, context)
        })?;
        match (&profile.menu, asked.entry) {
            (None, None) => Ok(linux(asked, &self.script(&record, &profile, asked.place)?)),
            (None, Some(_)) => Err(no_entry()),
            (Some(menu), None) if menu.entries.len() > 1 => Ok(shown(asked, menu, &record)),
            (Some(menu), entry) => {
                let menu = menu.clone();
                self.entry_text(asked, record, &profile, &menu, entry.unwrap_or(0))
            }
        }
    }

    fn entry_text(
        &self,
        asked: &Asked,
        record: Record,
        profile: &Profile,
        menu: &Menu,
        number: usize,
    ) -> Result<String> {
        let entry = menu.entries.get(number).ok_or_else(no_entry)?;
        let profile = profile.choosing(entry);
        let text = match &entry.choice {
            Choice::Image(_) => linux(asked, &self.script(&record, &profile, asked.place)?),
            Choice::LocalDisk => Shown::single(Target::LocalDisk).render(asked.language),
            Choice::Program(_) => program(asked, number).render(asked.language),
        };
        // Last: remembering writes the record anew.
        if menu.remember {
            self.remember(record.mac, &entry.title)?;
        }
        Ok(text)
    }

    /// The file of a program in a machine's menu: `MAC/ENTRY/bios` or `MAC/ENTRY/efi`.
    pub fn program_file(&self, path: &str) -> Option<PathBuf> {
        let mut parts = path.split('/');
        let (mac, entry, firmware) = (parts.next()?, parts.next()?, parts.next()?);
        let profile = self.profile(mac.parse().ok()?)?;
        let entry = profile
            .menu
            .as_ref()?
            .entries
            .get(entry.parse::<usize>().ok()?)?;
        let Choice::Program(program) = &entry.choice else {
            return None;
        };
        Program::file(program, firmware == "efi").cloned()
    }
}

fn no_entry() -> Error {
    let context = "its boot menu has no such entry any more: start it again";
    Error::new(ErrorKind::NotBootable, context)
}

/// iPXE fills in the lease that it has; the others are told.
fn linux(asked: &Asked, script: &Script) -> String {
    match asked.language {
        Language::Ipxe => script.ipxe(),
        other => Shown::single(script.target(&asked.lease)).render(other),
    }
}

fn program(asked: &Asked, number: usize) -> Shown {
    let mac = asked.mac.dashed();
    let url = |firmware| asked.place.url(&format!("tools/{mac}/{number}/{firmware}"));
    Shown::single(Target::Program {
        bios: url("bios"),
        efi: url("efi"),
    })
}

fn shown(asked: &Asked, menu: &Menu, record: &Record) -> String {
    let link = |number| {
        let path = ConfigPath::of_entry(asked.language, asked.mac, number);
        Target::Further(asked.place.url(&path))
    };
    let lines = menu.entries.iter().enumerate();
    let lines = lines.map(|(number, entry)| Line {
        title: entry.title.clone(),
        target: link(number),
    });
    let remembered = record.choice.as_ref().filter(|_| menu.remember);
    let remembered =
        remembered.and_then(|title| menu.entries.iter().position(|entry| &entry.title == title));
    let shown = Shown {
        entries: lines.collect(),
        default: remembered.unwrap_or(menu.default),
        timeout: menu.timeout.0,
    };
    shown.render(asked.language)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MAC, Room, first_byte, open_with, publish_as, refused, write};
    use super::*;
    use crate::clients::Reset;

    const MENU: &str = r#"
[groups.room.menu]
default = "Two"
remember = true
[[groups.room.menu.entries]]
title = "One"
image = "one"
[[groups.room.menu.entries]]
title = "Two"
image = "two.b"
kernel_args = "of-two"
[[groups.room.menu.entries]]
title = "Own disk"
local = true
[[groups.room.menu.entries]]
title = "Memory test"
program = "/boot/memtest.bin"
program_efi = "/boot/memtest.efi"
"#;

    fn room(retention: &str) -> Room {
        let dir = tempfile::tempdir().unwrap();
        publish_as(dir.path(), "one", 1);
        publish_as(dir.path(), "two.b", 2);
        let group = format!("retention = \"{retention}\"\nkernel_args = \"of-all\"\n{MENU}");
        let clients = open_with(dir.path(), &group);
        Room { dir, clients }
    }

    const ALL: [Language; 3] = [Language::Ipxe, Language::Grub, Language::Pxelinux];

    #[test]
    fn every_loader_is_shown_the_same_menu() {
        let room = room("keep");
        for language in ALL {
            let menu = room.told(MAC, language, None).unwrap();
            for title in ["One", "Two", "Own disk", "Memory test"] {
                assert!(menu.contains(title), "{title} is missing in:\n{menu}");
            }
            let link = ConfigPath::of_entry(language, MAC, 3);
            assert!(menu.contains(&link), "{link} is missing in:\n{menu}");
            assert!(!menu.contains("/client/"), "no boot before a choice");
            let two = room.told(MAC, language, Some(1)).unwrap();
            for words in ["/images/two.b/1/vmlinuz", "of-all", "of-two", "ip="] {
                let words = words.trim_start_matches('/');
                assert!(two.contains(words), "{words} is missing in:\n{two}");
            }
            assert!(room.told(MAC, language, Some(4)).is_err());
        }
        let tools = [
            "tools/52-54-00-12-00-01/3/bios",
            "tools/52-54-00-12-00-01/3/efi",
        ];
        let ipxe = room.told(MAC, Language::Ipxe, Some(3)).unwrap();
        assert!(tools.iter().all(|tool| ipxe.contains(tool)), "{ipxe}");
        let file = |path| room.clients.program_file(path);
        assert_eq!(
            file("52-54-00-12-00-01/3/efi"),
            Some("/boot/memtest.efi".into())
        );
        assert_eq!(file("52-54-00-12-00-01/0/efi"), None);
        assert_eq!(file("02-54-00-12-00-01/3/efi"), None);
    }

    #[test]
    fn each_image_has_a_lasting_disk_of_its_own() {
        let room = room("keep");
        let one = room.boot_entry(MAC, Some(0));
        let disk = room.attach(&one).unwrap();
        assert_eq!(first_byte(&disk), 1);
        write(&disk, 7);
        let two = room.boot_entry(MAC, Some(1));
        let other = room.attach(&two).unwrap();
        assert_eq!(first_byte(&other), 2);
        write(&other, 8);
        let late = disk.write(&[9; 512], 0, overlay::Durability::Process);
        assert!(late.is_err(), "the boot of the first image is over");
        assert!(refused(room.attach(&one)));
        let again = room.attach(&room.boot_entry(MAC, Some(0))).unwrap();
        assert_eq!(first_byte(&again), 7);
        drop(again);
        let other = room.attach(&room.boot_entry(MAC, Some(1))).unwrap();
        assert_eq!(first_byte(&other), 8);
    }

    #[test]
    fn a_reset_throws_away_the_disk_of_one_image() {
        let room = room("keep");
        for (entry, fill) in [(0, 7), (1, 8)] {
            let boot = room.boot_entry(MAC, Some(entry));
            write(&room.attach(&boot).unwrap(), fill);
        }
        let one = Some("one".parse().unwrap());
        let reset = |image, now| room.clients.reset("r-1", image, now).unwrap();
        assert_eq!(reset(one, false), Reset::Done, "it runs another image");
        assert_eq!(reset(None, false), Reset::AtNextBoot);
        assert!(
            room.clients
                .reset("r-1", Some("three".parse().unwrap()), true)
                .is_err()
        );
        let first = |entry| {
            let boot = room.boot_entry(MAC, Some(entry));
            first_byte(&room.attach(&boot).unwrap())
        };
        assert_eq!([first(0), first(1)], [1, 2]);
    }

    #[test]
    fn disks_that_do_not_last_are_not_piled_up() {
        let room = room("boot");
        for entry in [0, 1, 0] {
            drop(room.attach(&room.boot_entry(MAC, Some(entry))).unwrap());
            assert_eq!(room.clients.disks().list().unwrap().len(), 1);
        }
    }

    #[test]
    fn the_last_choice_is_the_default_of_the_next_boot() {
        let room = room("keep");
        let menu = || room.told(MAC, Language::Ipxe, None).unwrap();
        assert!(
            menu().contains("--default entry1 --timeout 10000"),
            "{}",
            menu()
        );
        room.told(MAC, Language::Ipxe, Some(2)).unwrap();
        assert!(menu().contains("--default entry2 "), "{}", menu());
    }
}
