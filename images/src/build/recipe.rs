//! What to build.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Bytes, ImageName};

/// Default size of the disk: thin, so it costs nothing until it is written.
const SIZE: Bytes = Bytes::gib(8);
/// Smaller disks do not hold a Debian with its kernel and room to work.
const SIZE_MIN: Bytes = Bytes::gib(1);
/// The overlay store's limit is 16 TiB.
const SIZE_MAX: Bytes = Bytes::gib(16 << 10);

/// A Debian root image to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The image that gets the new version.
    pub image: ImageName,
    /// Debian's release, such as `bookworm`.
    pub suite: String,
    /// Which of Debian's kernels.
    pub kernel: Kernel,
    /// Packages to install besides those that every image has.
    pub packages: Vec<String>,
    /// Size of the disk.
    pub size: Bytes,
    /// Where to fetch packages; `None` means where this machine fetches its own.
    pub mirror: Option<String>,
    /// The package `bootroom-client`, which attaches the disk. Without it the image boots only
    /// from a local disk.
    pub client_package: Option<PathBuf>,
    /// Password of root; `None` leaves the account locked.
    pub root_password: Option<Password>,
    /// Free text about the version.
    pub description: String,
}

/// A choice between Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// `linux-image-amd64`: drives real machines.
    Generic,
    /// `linux-image-cloud-amd64`: smaller and quicker, for virtual machines (virtio, no e1000).
    Cloud,
}

/// A password; not shown by `Debug`.
#[derive(Clone)]
pub struct Password(String);

impl Recipe {
    /// The default recipe: Debian 12, the generic kernel, 8 GiB thin, root locked.
    pub fn new(image: ImageName) -> Self {
        Self {
            image,
            suite: "bookworm".to_owned(),
            kernel: Kernel::Generic,
            packages: Vec::new(),
            size: SIZE,
            mirror: None,
            client_package: None,
            root_password: None,
            description: String::new(),
        }
    }

    /// Refuses what the tools would misread: they take some of these as parts of option lists.
    pub(crate) fn check(&self) -> Result<()> {
        let bad_package = self.packages.iter().find(|package| !is_package(package));
        if let Some(package) = bad_package {
            return Err(invalid(format!("bad package name {package:?}")));
        }
        if !is_word(&self.suite) {
            return Err(invalid(format!(
                "bad suite {:?}: use a release such as bookworm",
                self.suite
            )));
        }
        let mirror = self.mirror.as_deref().unwrap_or("http://");
        if !["http://", "https://", "file:/"]
            .iter()
            .any(|scheme| mirror.starts_with(scheme))
            || mirror.contains(char::is_whitespace)
        {
            return Err(invalid(format!(
                "bad mirror {mirror:?}: use a URL such as http://deb.debian.org/debian"
            )));
        }
        self.check_size()?;
        self.check_client()
    }

    fn check_size(&self) -> Result<()> {
        let whole = self.size.get().is_multiple_of(Bytes::mib(1).get());
        if whole && (SIZE_MIN..=SIZE_MAX).contains(&self.size) {
            return Ok(());
        }
        let size = self.size;
        Err(invalid(format!(
            "bad size {size}: use whole MiB from {SIZE_MIN} to {SIZE_MAX}"
        )))
    }

    fn check_client(&self) -> Result<()> {
        match &self.client_package {
            Some(path) if !path.is_file() => Err(invalid(format!(
                "no client package at {}: `make deb` builds it",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

fn invalid(context: String) -> Error {
    Error::new(ErrorKind::Invalid, context)
}

/// Debian policy 5.6.1, and `=version` or `/release` as apt takes them.
fn is_package(name: &str) -> bool {
    let first_ok = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"+-.:~=/".contains(&b);
    first_ok && name.bytes().all(ok)
}

fn is_word(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(ok)
}

impl Kernel {
    /// Debian's package.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }
}

impl Kernel {
    /// How `initramfs-tools` chooses modules. Drivers of all network cards, where there are many.
    pub(crate) fn modules(self) -> &'static str {
        match self {
            Self::Generic => "netboot",
            Self::Cloud => "list",
        }
    }

    /// Modules that the initramfs has in any case: the network cards of virtual machines where
    /// these are all there is, and a virtual disk, for looking into an image without a network.
    pub(crate) fn drivers(self) -> &'static str {
        match self {
            Self::Generic => "virtio_pci virtio_blk",
            Self::Cloud => {
                "virtio_pci virtio_blk virtio_net vmxnet3 hv_netvsc xen-netfront ena gve"
            }
        }
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "generic" => Ok(Self::Generic),
            "cloud" => Ok(Self::Cloud),
            _ => Err(invalid(format!(
                "bad kernel {text:?}: use generic or cloud"
            ))),
        }
    }
}

impl Password {
    /// The text, which must be one line.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Password {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(invalid(
                "a password must be one line and not empty".to_owned(),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe::new("debian".parse().unwrap())
    }

    #[test]
    fn a_default_recipe_is_good() {
        recipe().check().unwrap();
    }

    #[test]
    fn what_a_tool_would_misread_is_refused() {
        let bad: [fn(&mut Recipe); 8] = [
            |r| r.packages = vec!["vim,ssh".into()],
            |r| r.packages = vec!["-o".into()],
            |r| r.packages = vec!["?essential".into()],
            |r| r.suite = "--help".into(),
            |r| r.suite = String::new(),
            |r| r.mirror = Some("deb http://x".into()),
            |r| r.size = Bytes::mib(100),
            |r| r.client_package = Some("/nonexistent.deb".into()),
        ];
        for (index, spoil) in bad.iter().enumerate() {
            let mut recipe = recipe();
            spoil(&mut recipe);
            assert_eq!(
                recipe.check().unwrap_err().kind(),
                ErrorKind::Invalid,
                "case {index}"
            );
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let password: Password = "geheim".parse().unwrap();
        assert!(!format!("{password:?}").contains("geheim"));
        assert!("two\nlines".parse::<Password>().is_err());
    }
}
