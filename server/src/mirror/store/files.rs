//! Keys and certificates below the data directory that both servers have: `identity/` and `pki/`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use pxe::Mac;

use super::record::{PrivateFile, Record};
use crate::files::{private_folder, write_whole};

/// What is looked at, below the data directory.
const FOLDERS: [&str; 2] = ["identity", "pki"];
/// A file longer than this is no key. Bytes.
const LONGEST: u64 = 256 << 10;

/// Every such file.
///
/// # Errors
/// A folder cannot be read.
pub fn all(data: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for folder in FOLDERS {
        gather(data, &data.join(folder), &mut records)?;
    }
    Ok(records)
}

/// Those of one machine.
///
/// # Errors
/// One of them cannot be read.
pub fn of_machine(data: &Path, mac: Mac, name: &str) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    gather(data, &data.join(folder_of(mac)), &mut records)?;
    for path in certificates_of(name) {
        add(data, &data.join(path), &mut records)?;
    }
    Ok(records)
}

/// Whether a file is one of those.
pub fn is_of_machine(path: &str, mac: Mac, name: &str) -> bool {
    Path::new(path).starts_with(folder_of(mac))
        || certificates_of(name).iter().any(|one| one == path)
}

/// As [`crate::clients::identity`] files them.
fn folder_of(mac: Mac) -> String {
    format!("identity/{}", mac.hex())
}

/// As [`crate::pki`] files them.
fn certificates_of(name: &str) -> [String; 2] {
    ["key", "pem"].map(|ending| format!("pki/clients/{name}.{ending}"))
}

fn gather(data: &Path, folder: &Path, records: &mut Vec<Record>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        add(data, &path, records)?;
    }
    Ok(())
}

/// Adds a file, or what is in a folder; nothing if there is neither.
fn add(data: &Path, path: &Path, records: &mut Vec<Record>) -> io::Result<()> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    if about.is_dir() {
        gather(data, path, records)?;
    } else if about.is_file() && about.len() <= LONGEST && !is_half(path) {
        records.extend(record(data, path, about.mode() & 0o777)?);
    }
    Ok(())
}

/// Left by a server that died while it wrote it.
fn is_half(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "new")
}

fn record(data: &Path, path: &Path, mode: u32) -> io::Result<Option<Record>> {
    let (Ok(below), Ok(text)) = (path.strip_prefix(data), String::from_utf8(fs::read(path)?))
    else {
        return Ok(None);
    };
    Ok(below.to_str().map(|below| Record::File {
        path: below.to_owned(),
        file: Some(PrivateFile { mode, text }),
    }))
}

/// Writes or removes a file; durable when this returns.
///
/// # Errors
/// The path leads elsewhere, or the disk did not take it.
pub fn apply(data: &Path, path: &str, file: Option<&PrivateFile>) -> io::Result<()> {
    let target = place(data, path)?;
    let Some(file) = file else {
        return match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    if let Some(folder) = target.parent() {
        private_folder(folder)?;
    }
    write_whole(&target, file.text.as_bytes(), file.mode & 0o777)
}

/// Where `path` is, if it is in one of the folders and nowhere else.
fn place(data: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let first = relative.iter().next().and_then(|first| first.to_str());
    match plain && first.is_some_and(|first| FOLDERS.contains(&first)) {
        true => Ok(data.join(relative)),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path:?} is no place for a key"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_over_with_their_permissions_and_nowhere_else() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = one.path().join("identity/02/ssh_key");
        private_folder(key.parent().unwrap()).unwrap();
        write_whole(&key, b"secret", 0o600).unwrap();
        fs::write(one.path().join("identity/02/ssh_key.new"), "half").unwrap();
        fs::write(one.path().join("other"), "not ours").unwrap();
        let records = all(one.path()).unwrap();
        assert_eq!(records.len(), 1);
        for record in &records {
            let Record::File { path, file } = record else {
                unreachable!()
            };
            apply(two.path(), path, file.as_ref()).unwrap();
        }
        assert_eq!(all(two.path()).unwrap(), records);
        apply(two.path(), "identity/02/ssh_key", None).unwrap();
        assert_eq!(all(two.path()).unwrap(), []);
        for bad in ["../x", "/etc/passwd", "identity/../../x", "images/x", ""] {
            let file = PrivateFile {
                mode: 0o600,
                text: String::new(),
            };
            assert!(apply(two.path(), bad, Some(&file)).is_err(), "{bad}");
        }
    }
}
