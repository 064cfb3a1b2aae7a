//! What makes a machine itself beyond its disk: its name, its machine-id, its ssh host key, and what it trusts.
//!
//! It travels as a second initrd, made for one boot, that the hook in the initramfs takes apart. The boot files come
//! over plain HTTP, so whoever can read that network can read it: secrets are in it only if the configuration asks for
//! them. Where the disk comes over TLS, the private host key comes that way as well, and not in the initrd. Must never hand a machine's secrets out under a token that has been used, since every program on a running
//! machine can read the token of its boot.

mod cpio;
mod gzip;
mod openssh;
mod trust;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use pxe::Mac;

use super::{
    directory::Profile,
    error::{Error, Result},
    registry::Record,
};
use crate::{
    config::{Config, exports::TlsMode},
    files::{PRIVATE, PUBLIC, private_folder, write_whole},
};
use cpio::Archive;
use openssh::HostKey;
pub use trust::SiteTls;

/// The folder in the initramfs that the hook looks for.
const ROOT: &str = "bootroom.identity";
const HOST_KEY: &str = "ssh_host_ed25519_key";
const READ_ONLY: u32 = 0o444;
const FOLDER: u32 = 0o700;

/// Keeper of what lasts of it: the ssh host keys, `MAC/ssh_host_ed25519_key` and `….pub` in one folder.
pub struct Identities {
    folder: PathBuf,
    /// Two requests for one machine must not make two keys.
    making: Mutex<()>,
}

impl Identities {
    /// Keeps them in `folder`, which is made when it is needed.
    pub fn at(folder: PathBuf) -> Self {
        Identities {
            folder,
            making: Mutex::default(),
        }
    }

    /// The initrd of a boot of the machine `record`.
    ///
    /// # Errors
    /// What cannot be read, made or written.
    pub fn initrd(&self, config: &Config, record: &Record, profile: &Profile) -> Result<Vec<u8>> {
        Ok(gzip::stored(&self.archive(config, record, profile)?))
    }

    fn archive(&self, config: &Config, record: &Record, profile: &Profile) -> Result<Vec<u8>> {
        let _making = self.making.lock();
        let mut archive = Archive::default();
        archive.folder(ROOT, FOLDER);
        let name = format!("{}\n", record.name);
        archive.file(&format!("{ROOT}/hostname"), PUBLIC, name.as_bytes());
        let id = format!("{}\n", machine_id(record.mac));
        archive.file(&format!("{ROOT}/machine-id"), READ_ONLY, id.as_bytes());
        if profile.ssh_host_keys {
            self.add_host_key(&mut archive, record, profile)?;
        }
        if let Some(site) = SiteTls::of(config).filter(|_| profile.tls != TlsMode::Off) {
            add_tls(&mut archive, &site, record)?;
        }
        Ok(archive.finish())
    }

    fn add_host_key(
        &self,
        archive: &mut Archive,
        record: &Record,
        profile: &Profile,
    ) -> Result<()> {
        let (key, path) = (self.host_key(record)?, format!("{ROOT}/ssh"));
        archive.folder(&path, FOLDER);
        if !profile.has_secret() {
            let private = key.private.as_bytes();
            archive.file(&format!("{path}/{HOST_KEY}"), PRIVATE, private);
        }
        let public = key.public.as_bytes();
        archive.file(&format!("{path}/{HOST_KEY}.pub"), PUBLIC, public);
        Ok(())
    }

    /// Throws away what is kept of the machine `mac`, and withdraws its certificate: another may get the name.
    ///
    /// # Errors
    /// What cannot be removed or withdrawn.
    pub fn forget(&self, config: &Config, mac: Mac, name: &str) -> Result<()> {
        let _making = self.making.lock();
        let folder = self.folder.join(mac.hex());
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("remove", &folder, error));
            }
            _ => {}
        }
        match SiteTls::of(config) {
            Some(site) => site.revoke(name),
            None => Ok(()),
        }
    }

    /// The private host key of the machine `record`.
    ///
    /// # Errors
    /// What cannot be read, made or written.
    pub fn secret(&self, record: &Record) -> Result<String> {
        let _making = self.making.lock();
        Ok(self.host_key(record)?.private)
    }

    /// A machine's host key; made at its first need, and the same from then on.
    fn host_key(&self, record: &Record) -> Result<HostKey> {
        let folder = self.folder.join(record.mac.hex());
        let (private, public) = (
            folder.join(HOST_KEY),
            folder.join(format!("{HOST_KEY}.pub")),
        );
        if let Some(found) = read(&private)? {
            // Written before the private one, so it is there.
            let public = read(&public)?.ok_or_else(|| lost(&public))?;
            return Ok(HostKey {
                private: found,
                public,
            });
        }
        let key = HostKey::generate(record.name.as_str());
        let key = key.map_err(|error| Error::identity("cannot make an ssh host key", error))?;
        private_folder(&folder).map_err(|error| cannot("make", &folder, error))?;
        for (path, content, mode) in [
            (&public, &key.public, PUBLIC),
            (&private, &key.private, PRIVATE),
        ] {
            write_whole(path, content.as_bytes(), mode)
                .map_err(|error| cannot("write", path, error))?;
        }
        Ok(key)
    }
}

fn add_tls(archive: &mut Archive, site: &SiteTls, record: &Record) -> Result<()> {
    let path = format!("{ROOT}/tls");
    archive.folder(&path, FOLDER);
    for (file, mode, content) in site.for_client(record.name.as_str())? {
        archive.file(&format!("{path}/{file}"), mode, &content);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(|error| cannot("read", path, error)),
    }
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::identity(format!("cannot {what} {}", path.display()), error)
}

fn lost(path: &Path) -> Error {
    let private = path.with_extension("");
    let fix = format!(
        "make it again: ssh-keygen -y -f {0} > {0}.pub",
        private.display()
    );
    Error::identity(format!("{} is gone", path.display()), fix)
}

/// A machine-id (machine-id(5)) that a machine keeps over every fresh disk: derived from its address, in the
/// form of a version 4 UUID as systemd makes them.
pub fn machine_id(mac: Mac) -> String {
    let hash = blake3::derive_key("bootroom 2026-11-23 machine-id", &mac.0);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .simple()
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clients::{boot::Boots, directory};

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0x12, 0, 2]);

    fn config(dir: &Path, server: &str, more: &str) -> Config {
        let text = format!(
            "[server]\ndata = {dir:?}\ninterface = \"lo\"\naddress = \"10.12.0.1/24\"\n{server}\n\
             [dhcp]\nrange = \"10.12.0.100-10.12.0.199\"\n\
             [groups.r]\nimage = \"demo\"\nmacs = [\"52:54:00:12:*\"]\n{more}\n"
        );
        let path = dir.join("bootroom.toml");
        fs::write(&path, text).unwrap();
        crate::config::load(&path).unwrap()
    }

    /// The initrd of a machine as text: what is in it is all text but for the headers.
    fn initrd(config: &Config, mac: Mac) -> Result<String> {
        if let Some(site) = SiteTls::of(config) {
            site.prepare().unwrap();
        }
        let identities = Identities::at(config.server.identities());
        let record = Record {
            mac,
            name: format!("r-{}", mac.0[5]).parse().unwrap(),
            group: None,
            first_seen: std::time::SystemTime::UNIX_EPOCH,
            boots: Boots::default(),
            choice: None,
        };
        let profile = directory::profile(config, mac).unwrap();
        let initrd = identities.archive(config, &record, &profile)?;
        Ok(String::from_utf8(initrd).unwrap())
    }

    fn private_key(initrd: &str) -> &str {
        let (_, rest) = initrd.split_once("BEGIN OPENSSH PRIVATE KEY").unwrap();
        rest.split_once("END OPENSSH").unwrap().0
    }

    #[test]
    fn machine_ids_differ_and_last() {
        let one = machine_id(MAC);
        assert_eq!(one, machine_id(MAC));
        assert_ne!(one, machine_id(OTHER));
        assert_eq!((one.len(), one.as_bytes()[12]), (32, b'4'));
    }

    #[test]
    fn a_host_key_lasts_and_is_its_machines_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "ssh_host_keys = true", "");
        let [first, again, other] = [MAC, MAC, OTHER].map(|mac| initrd(&config, mac).unwrap());
        assert_eq!(first, again);
        assert_ne!(private_key(&first), private_key(&other));
        let file = dir
            .path()
            .join("identity/525400120001/ssh_host_ed25519_key");
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_host_key_that_cannot_be_read_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "ssh_host_keys = true", "");
        initrd(&config, MAC).unwrap();
        let key = dir.path().join("identity/525400120001").join(HOST_KEY);
        fs::remove_file(&key).unwrap();
        // A folder in its place fails to be read even for root.
        fs::create_dir(&key).unwrap();
        let error = initrd(&config, MAC).unwrap_err();
        assert!(error.to_string().contains(HOST_KEY), "{error}");
        assert!(key.is_dir());
    }

    #[test]
    fn no_secret_goes_the_plain_way_where_there_is_tls() {
        let dir = tempfile::tempdir().unwrap();
        let asked = "tls = \"required\"\nssh_host_keys = true";
        let initrd = initrd(&config(dir.path(), asked, ""), MAC).unwrap();
        assert!(initrd.contains("ssh_host_ed25519_key.pub"), "{initrd}");
        assert!(initrd.contains("/tls/ca.pem") && initrd.contains("/tls/server.pem"));
        assert!(initrd.contains("r-1\n") && initrd.contains(&machine_id(MAC)));
        assert!(!initrd.contains("PRIVATE KEY"), "{initrd}");
    }

    #[test]
    fn each_machine_has_its_own_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let with = "tls = \"required\"\nclient_certificates = \"required\"";
        let config = config(dir.path(), with, "");
        let [one, two] = [MAC, OTHER].map(|mac| initrd(&config, mac).unwrap());
        assert!(one.contains("/tls/client.key") && one.contains("BEGIN PRIVATE KEY"));
        assert_ne!(one, two);
        assert!(dir.path().join("pki/clients/r-2.pem").exists());
    }

    #[test]
    fn a_group_without_tls_is_told_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "tls = \"on\"", "tls = \"off\"");
        assert!(!initrd(&config, MAC).unwrap().contains("/tls"));
    }
}
