//! Exchanging the named exports while they are served.
//!
//! First everything new is opened, so that a mistake changes nothing. Then nobody gets at what is changed or removed;
//! then those are waited for who have it; and only then what it is now is given out.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    named::{NamedExport, NamedExports, Table},
    source::Opener,
};
use crate::{
    config::{
        Config,
        exports::{ExportSettings, ExportSpec},
        problem::Problem,
    },
    service::{Ending, Peer, Service},
};

/// What a reload did to the exports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are otherwise now, or for others.
    pub changed: Vec<String>,
    /// Those that are no more.
    pub removed: Vec<String>,
    /// Connections that had to end.
    pub connections_ended: usize,
    /// Whether some of those did not end in time and were cut off.
    pub cut_off: bool,
}

/// What becomes of one export.
enum Fate {
    Kept(Arc<NamedExport>),
    Added(NamedExport),
    /// For others, or with other words; or with other data for those who open it from now on.
    Adjusted(NamedExport),
    /// Other data, or to be used otherwise: whoever has it has to open it anew.
    Changed(NamedExport),
}

/// What is to be given out, opened and ready.
pub struct Plan(Vec<(String, Fate)>);

impl NamedExports {
    /// Opens what `config` names and is not open yet. Changes nothing.
    ///
    /// # Errors
    /// All exports that cannot be opened.
    pub fn plan(&self, config: &Config, opener: &Opener<'_>) -> Result<Plan, Vec<Problem>> {
        let now = self.table.load();
        let (mut fates, mut problems) = (Vec::new(), Vec::new());
        for (name, settings) in &config.exports {
            match fate(name, &settings.spec, now.get(name), opener) {
                Ok(fate) => fates.push((name.clone(), fate)),
                Err(error) => problems.push(cannot_open(name, settings, &error)),
            }
        }
        match problems.is_empty() {
            true => Ok(Plan(fates)),
            false => Err(problems),
        }
    }

    /// Gives out what was planned, and ends the connections for which that is no longer theirs, and those of `revoked`
    /// certificates; they have `limit` to take their answers. Blocks.
    pub fn apply(
        &self,
        plan: Plan,
        service: &Service,
        revoked: &HashSet<Vec<u8>>,
        limit: Duration,
    ) -> Changes {
        let before = self.table.load_full();
        let mut changes = plan.changes(&before);
        let exchanged = plan.exchanged();
        let next = plan.table();
        self.table.store(Arc::new(meanwhile(&next, &exchanged)));
        retire(&before, &next);
        let concerns = |name: Option<&str>, peer: &Peer| {
            if peer
                .serial
                .as_ref()
                .is_some_and(|serial| revoked.contains(serial))
            {
                return Some(Ending::Removed);
            }
            match next.get(name?) {
                None => Some(Ending::Removed),
                Some(export) if exchanged.contains(&export.name) => Some(Ending::Changed),
                Some(export) => (!export.admits(peer)).then_some(Ending::Removed),
            }
        };
        let (ended, in_time) = service.end(&concerns, limit);
        (changes.connections_ended, changes.cut_off) = (ended, !in_time);
        self.table.store(Arc::new(next));
        changes
    }

    /// Gives out what was planned when nobody is connected yet.
    pub fn begin(&self, plan: Plan) {
        self.table.store(Arc::new(plan.table()));
    }
}

impl Plan {
    fn changes(&self, before: &Table) -> Changes {
        let names = |wanted: fn(&Fate) -> bool| -> Vec<String> {
            let found = self.0.iter().filter(|(_, fate)| wanted(fate));
            found.map(|(name, _)| name.clone()).collect()
        };
        let stays = |name: &&String| self.0.iter().any(|(stays, _)| stays == *name);
        let removed = before.keys().filter(|name| !stays(name));
        Changes {
            added: names(|fate| matches!(fate, Fate::Added(_))),
            changed: names(|fate| matches!(fate, Fate::Adjusted(_) | Fate::Changed(_))),
            removed: removed.cloned().collect(),
            ..Changes::default()
        }
    }

    /// Names of what everyone who has it must open anew.
    fn exchanged(&self) -> BTreeSet<String> {
        let changed = |(_, fate): &&(String, Fate)| matches!(fate, Fate::Changed(_));
        let exchanged = self.0.iter().filter(changed);
        exchanged.map(|(name, _)| name.clone()).collect()
    }

    fn table(self) -> Table {
        let table = self.0.into_iter().map(|(name, fate)| match fate {
            Fate::Kept(export) => (name, export),
            Fate::Added(export) | Fate::Adjusted(export) | Fate::Changed(export) => {
                (name, Arc::new(export))
            }
        });
        table.collect()
    }
}

/// `next`, but nobody opens yet what is `exchanged`.
fn meanwhile(next: &Table, exchanged: &BTreeSet<String>) -> Table {
    let mut table = next.clone();
    for name in exchanged {
        if let Some(export) = table.get_mut(name) {
            *export = Arc::new(NamedExport::new(name, export.spec.clone(), None));
        }
    }
    table
}

/// Before connections are looked through: whoever opened one of these meanwhile finds out, or is found.
fn retire(before: &Table, next: &Table) {
    for (name, export) in before {
        let stays = next.get(name).is_some_and(|now| Arc::ptr_eq(now, export));
        if !stays {
            export.retire();
        }
    }
}

fn fate(
    name: &str,
    spec: &ExportSpec,
    now: Option<&Arc<NamedExport>>,
    opener: &Opener<'_>,
) -> anyhow::Result<Fate> {
    let open = || -> anyhow::Result<NamedExport> {
        let disk = Arc::new(opener.open(spec)?);
        Ok(NamedExport::new(name, spec.clone(), Some(disk)))
    };
    let Some(now) = now else {
        return Ok(Fate::Added(open()?));
    };
    let disk = now.disk.as_ref().filter(|_| now.spec.same_use(spec));
    let Some(disk) = disk else {
        return Ok(Fate::Changed(open()?));
    };
    if opener.identify(spec)? != disk.identity {
        // Whoever may hold several connections must find the same data on all.
        return Ok(match now.is_one_for_all() {
            true => Fate::Changed(open()?),
            false => Fate::Adjusted(open()?),
        });
    }
    if now.spec == *spec {
        return Ok(Fate::Kept(now.clone()));
    }
    let same = NamedExport::new(name, spec.clone(), Some(disk.clone()));
    Ok(Fate::Adjusted(same))
}

fn cannot_open(name: &str, settings: &ExportSettings, error: &anyhow::Error) -> Problem {
    let at: Range<usize> = settings.source_at.clone();
    let fix = "mend the path, or take the export out of the configuration";
    Problem::at(at, format!("[exports.{name}]: {error:#}")).fix(fix)
}
