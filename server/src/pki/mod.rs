//! A site's own certificates: a folder with a CA, the server's certificate, and one for each client that asked.
//!
//! The folder holds `ca.pem`, `ca.key`, `server.pem`, `server.key`, `clients/NAME.pem`, `clients/NAME.key`, and
//! `revoked.pem` (a CRL) with the serial numbers in `revoked.txt`. Must never write a private key that others may
//! read, and never replace a CA: that would cut off every machine that trusts it.

mod certificates;
mod error;

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{Issuer, KeyPair};

pub use certificates::Pair;
use certificates::Purpose;
pub use error::{Error, ErrorKind, Result};

use crate::files::{PRIVATE, PUBLIC, private_folder, write_whole};

/// The folder.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The certificates in `folder`, which may not be there yet.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Pki {
            folder: folder.into(),
        }
    }

    /// Makes a CA, and a certificate for the server at `hosts`, of which there is at least one.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when there is a CA.
    pub fn init(&self, hosts: &[String]) -> Result<()> {
        let folder = self.folder.display();
        if self.path("ca.key").exists() {
            let context = format!(
                "{folder} has a CA already: remove the folder to begin anew, which cuts off all clients"
            );
            return Err(Error::new(ErrorKind::Exists, context));
        }
        let clients = self.path("clients");
        fs::create_dir_all(&self.folder).map_err(|error| Error::write(&self.folder, error))?;
        private_folder(&clients).map_err(|error| Error::write(&clients, error))?;
        let ca = certificates::new_ca()?;
        let issuer = certificates::issuer(&ca)?;
        self.write_pair(
            "server",
            &certificates::issue(hosts, Purpose::Server, &issuer)?,
        )?;
        self.write("ca.pem", &ca.certificate, PUBLIC)?;
        self.write(
            "revoked.pem",
            &certificates::revocations(&issuer, "")?,
            PUBLIC,
        )?;
        // Last, since it is what tells that the folder is complete.
        self.write("ca.key", &ca.key, PRIVATE)
    }

    /// Sees to it that there is a CA and that the server's certificate is good for all `hosts`, of which there is at
    /// least one, for a while to come. An older certificate is replaced by one from the same CA, which machines that run accept.
    ///
    /// # Errors
    /// What cannot be read, made or written.
    pub fn ensure(&self, hosts: &[String]) -> Result<()> {
        if !self.path("ca.key").exists() {
            return self.init(hosts);
        }
        let path = self.path("server.pem");
        let certificate = read(&path)?;
        let serves = |host: &String| certificates::serves(&path, &certificate, host);
        let good: Result<Vec<bool>> = hosts.iter().map(serves).collect();
        if good?.into_iter().all(|good| good) {
            return Ok(());
        }
        let pair = certificates::issue(hosts, Purpose::Server, &self.issuer()?)?;
        self.write_pair("server", &pair)
    }

    /// Makes a certificate for the client `name`; says where it is.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when it has one, [`ErrorKind::BadName`] when it cannot be called so.
    pub fn issue(&self, name: &str) -> Result<PathBuf> {
        let file = self.client(name)?;
        if file.exists() {
            let context =
                format!("{name} has a certificate: `bootroom pki revoke {name}` withdraws it");
            return Err(Error::new(ErrorKind::Exists, context));
        }
        self.make_client(name)?;
        Ok(file)
    }

    /// The certificate of the client `name`, made now if it has none that is good for a while to come.
    ///
    /// # Errors
    /// What cannot be read, made or written.
    pub fn client_pair(&self, name: &str) -> Result<Pair> {
        let path = self.client(name)?;
        let certificate = match read(&path) {
            Err(error) if error.kind() == ErrorKind::Missing => return self.make_client(name),
            found => found?,
        };
        if !certificates::serves(&path, &certificate, name)? {
            return self.make_client(name);
        }
        Ok(Pair {
            certificate: text(&path, certificate)?,
            key: self.read_text(&format!("clients/{name}.key"))?,
        })
    }

    fn make_client(&self, name: &str) -> Result<Pair> {
        let pair = certificates::issue(&[name.to_owned()], Purpose::Client, &self.issuer()?)?;
        self.write_pair(&format!("clients/{name}"), &pair)?;
        Ok(pair)
    }

    /// Withdraws the certificate of the client `name`, and throws it away.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when it has none; whatever keeps it from the list of those revoked.
    pub fn revoke(&self, name: &str) -> Result<()> {
        let path = self.client(name)?;
        let serial = certificates::serial(&path, &read(&path)?)?;
        // Anything but an absent list is an error: a list made anew would let those on it in again.
        let mut serials = match self.read_text("revoked.txt") {
            Err(error) if error.kind() == ErrorKind::Missing => String::new(),
            found => found?,
        };
        if !serials.contains(&serial) {
            serials.push_str(&format!("{serial} {name}\n"));
        }
        let list = certificates::revocations(&self.issuer()?, &serials)?;
        self.write("revoked.txt", &serials, PUBLIC)?;
        self.write("revoked.pem", &list, PUBLIC)?;
        for ending in ["pem", "key"] {
            let path = self.path(&format!("clients/{name}.{ending}"));
            fs::remove_file(&path).map_err(|error| Error::write(&path, error))?;
        }
        Ok(())
    }

    fn client(&self, name: &str) -> Result<PathBuf> {
        // Names become file names.
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) {
            let context = format!("{name:?} is no client name: letters, digits, - and _ only");
            return Err(Error::new(ErrorKind::BadName, context));
        }
        Ok(self.path(&format!("clients/{name}.pem")))
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        let key = self
            .read_text("ca.key")
            .map_err(|error| match error.kind() {
                ErrorKind::Missing => {
                    let folder = self.folder.display();
                    let context = format!("{folder} has no CA: run `bootroom pki init` first");
                    Error::new(ErrorKind::Missing, context)
                }
                _ => error,
            })?;
        let certificate = self.read_text("ca.pem")?;
        certificates::issuer(&Pair { certificate, key })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn read_text(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        text(&path, read(&path)?)
    }

    /// The key first: a certificate without one is made anew, a key without one is never looked at.
    fn write_pair(&self, name: &str, pair: &Pair) -> Result<()> {
        self.write(&format!("{name}.key"), &pair.key, PRIVATE)?;
        self.write(&format!("{name}.pem"), &pair.certificate, PUBLIC)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> Result<()> {
        let path = self.path(name);
        write_whole(&path, content.as_bytes(), mode).map_err(|error| Error::write(&path, error))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::read(path, error))
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| Error::certificate(format!("{} is no PEM", path.display()), error))
}

#[cfg(test)]
mod tests;
