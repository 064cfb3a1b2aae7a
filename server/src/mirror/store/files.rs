//! Keys and certificates below the data directory that both servers have: `identity/` and `pki/`.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use pxe::Mac;

use super::record::{PrivateFile, Record};
use crate::{
    config::units::ByteSize,
    files::{private_folder, write_whole},
};

/// What is looked at, below the data directory.
const FOLDERS: [&str; 2] = ["identity", "pki"];
/// A file longer than this does not go into a message with everything else. Bytes: a list of some 70,000 revoked certificates.
const LONGEST: u64 = 4 << 20;
/// All of them together. Bytes: half of a message, which has the machines and their leases too.
const ALL: u64 = 16 << 20;

/// Every such file that the other server gets.
///
/// # Errors
/// As [`find_all`].
pub fn all(data: &Path) -> io::Result<Vec<Record>> {
    Ok(find_all(data)?.records)
}

/// Every such file.
///
/// # Errors
/// A folder or a file cannot be read.
pub fn find_all(data: &Path) -> io::Result<Found> {
    let mut entries = Vec::new();
    for folder in FOLDERS {
        gather(&data.join(folder), &mut entries)?;
    }
    read_all(data, entries)
}

/// Those of one machine.
///
/// # Errors
/// One of them cannot be read.
pub fn of_machine(data: &Path, mac: Mac, name: &str) -> io::Result<Found> {
    let mut entries = Vec::new();
    gather(&data.join(folder_of(mac)), &mut entries)?;
    for path in certificates_of(name) {
        add(&data.join(path), &mut entries)?;
    }
    read_all(data, entries)
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

/// What is there, the shortest first.
type Entry = (u64, PathBuf, Metadata);

/// What became of it.
#[derive(Default)]
pub struct Found {
    /// What the other server gets.
    pub records: Vec<Record>,
    /// What it does not get, and why.
    pub left_out: Vec<String>,
}

fn gather(folder: &Path, entries: &mut Vec<Entry>) -> io::Result<()> {
    let inside = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        inside => inside?,
    };
    for entry in inside {
        add(&entry?.path(), entries)?;
    }
    Ok(())
}

/// Adds a file, or what is in a folder; nothing if there is neither.
fn add(path: &Path, entries: &mut Vec<Entry>) -> io::Result<()> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    match about.is_dir() {
        true => gather(path, entries)?,
        false if is_half(path) => {}
        false => entries.push((about.len(), path.to_owned(), about)),
    }
    Ok(())
}

/// Left by a server that died while it wrote it.
fn is_half(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "new")
}

/// Reads them, short ones first: a long list keeps no machine's key out.
fn read_all(data: &Path, mut entries: Vec<Entry>) -> io::Result<Found> {
    entries.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let (mut found, mut room) = (Found::default(), ALL);
    for (length, path, about) in entries {
        match read(data, &path, &about, room)? {
            Ok(record) => {
                room = room.saturating_sub(length);
                found.records.push(record);
            }
            Err(why) => found.left_out.push(format!("{}: {why}", path.display())),
        }
    }
    Ok(found)
}

/// A file as a record, or why it can be none.
fn read(
    data: &Path,
    path: &Path,
    about: &Metadata,
    room: u64,
) -> io::Result<Result<Record, String>> {
    if !about.is_file() {
        return Ok(Err("it is no file".into()));
    }
    if about.len() > LONGEST {
        return Ok(Err(format!("it is longer than {}", ByteSize(LONGEST))));
    }
    if about.len() > room {
        return Ok(Err(format!("all of them are more than {}", ByteSize(ALL))));
    }
    let below = path.strip_prefix(data).ok().and_then(Path::to_str);
    let (Some(below), Ok(text)) = (below, String::from_utf8(fs::read(path)?)) else {
        return Ok(Err("it is no text".into()));
    };
    Ok(Ok(Record::File {
        path: below.to_owned(),
        file: Some(PrivateFile {
            mode: about.mode() & 0o777,
            text,
        }),
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

    #[test]
    fn what_cannot_go_over_is_named_and_keeps_nothing_else_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        private_folder(&pki).unwrap();
        let put = |name: &str, content: &[u8]| fs::write(pki.join(name), content).unwrap();
        put("server.key", b"key");
        put("revoked.pem", &vec![b'x'; 600 << 10]);
        let paths = |records: Vec<Record>| -> Vec<_> {
            let keys = records.iter().map(Record::key);
            keys.map(|key| format!("{key:?}")).collect()
        };
        assert_eq!(paths(all(dir.path()).unwrap()).len(), 2, "a long list too");
        assert_eq!(find_all(dir.path()).unwrap().left_out, [""; 0]);
        put("endless.pem", &vec![b'x'; LONGEST as usize + 1]);
        put("server.der", &[0xff, 0xfe]);
        std::os::unix::fs::symlink("server.key", pki.join("link")).unwrap();
        let left = find_all(dir.path()).unwrap().left_out.join("\n");
        for (name, why) in [
            ("endless.pem", "longer than 4 MiB"),
            ("server.der", "no text"),
            ("link", "no file"),
        ] {
            assert!(left.contains(&format!("pki/{name}: it is {why}")), "{left}");
        }
        assert_eq!(paths(all(dir.path()).unwrap()).len(), 2);
        for n in 0..5 {
            put(&format!("long{n}.pem"), &vec![b'x'; LONGEST as usize]);
        }
        let left = find_all(dir.path()).unwrap().left_out.join("\n");
        assert!(
            left.contains("long4.pem: all of them are more than 16 MiB"),
            "{left}"
        );
        assert!(paths(all(dir.path()).unwrap())[0].contains("server.key"));
    }
}
