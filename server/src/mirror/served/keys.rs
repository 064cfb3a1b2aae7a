//! Which keys and certificates of the machines the other server was told of.

use std::{collections::HashMap, io, path::PathBuf};

use crate::{
    clients::overlays::Whose,
    mirror::store::{
        files::{self, Found},
        record::{Key, Record, difference},
    },
};

/// What it was told.
pub struct Keys {
    data: PathBuf,
    told: HashMap<Key, Record>,
}

impl Keys {
    /// It has what is below `data` now.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub fn new(data: PathBuf) -> io::Result<Self> {
        let all = files::all(&data)?;
        let mut keys = Self {
            data,
            told: HashMap::new(),
        };
        keys.told(all);
        Ok(keys)
    }

    /// What it was not told of, and what it cannot be told; only files of `whose` are looked at.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn news(&self, whose: Whose<'_>) -> io::Result<Found> {
        let told = self.told.values().filter(|record| concerns(whose, record));
        let told: Vec<_> = told.cloned().collect();
        let now = match whose {
            Whose::All => files::find_all(&self.data)?,
            Whose::Machine { mac, name } => files::of_machine(&self.data, mac, name)?,
        };
        Ok(Found {
            records: difference(&told, &now.records),
            left_out: now.left_out,
        })
    }

    /// It was told.
    pub fn told(&mut self, news: Vec<Record>) {
        for record in news {
            match record {
                Record::File { file: None, .. } => drop(self.told.remove(&record.key())),
                _ => drop(self.told.insert(record.key(), record)),
            }
        }
    }
}

fn concerns(whose: Whose<'_>, record: &Record) -> bool {
    match (whose, record) {
        (Whose::All, _) => true,
        (Whose::Machine { mac, name }, Record::File { path, .. }) => {
            files::is_of_machine(path, mac, name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use pxe::Mac;

    use super::*;

    const ONE: Whose<'_> = Whose::Machine {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        name: "pc-1",
    };

    fn put(data: &Path, path: &str, text: &str) {
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn paths(news: &[Record]) -> Vec<&str> {
        let mut paths: Vec<&str> = news
            .iter()
            .filter_map(|record| match record {
                Record::File { path, .. } => Some(path.as_str()),
                _ => None,
            })
            .collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn a_machines_own_keys_are_looked_at_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        put(data, "pki/ca.pem", "ca");
        put(data, "pki/clients/pc-1.pem", "old");
        let mut keys = Keys::new(data.to_owned()).unwrap();
        assert_eq!(keys.news(ONE).unwrap().records, []);
        assert_eq!(keys.news(Whose::All).unwrap().records, []);
        put(data, "identity/020000000001/key", "one");
        put(data, "identity/020000000002/key", "two");
        put(data, "pki/clients/pc-1.pem", "new");
        put(data, "pki/clients/pc-1.key", "new");
        put(data, "pki/clients/pc-12.key", "of another");
        let news = keys.news(ONE).unwrap().records;
        let own = [
            "identity/020000000001/key",
            "pki/clients/pc-1.key",
            "pki/clients/pc-1.pem",
        ];
        assert_eq!(paths(&news), own);
        keys.told(news);
        assert_eq!(keys.news(ONE).unwrap().records, []);
        let others = ["identity/020000000002/key", "pki/clients/pc-12.key"];
        assert_eq!(paths(&keys.news(Whose::All).unwrap().records), others);
        fs::remove_dir_all(data.join("identity/020000000001")).unwrap();
        let gone = keys.news(ONE).unwrap().records;
        assert_eq!(gone, [Record::absence(Key::File(own[0].into()))]);
        keys.told(gone);
        assert_eq!(keys.news(ONE).unwrap().records, []);
    }
}
