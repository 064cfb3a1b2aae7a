//! The named exports of a room: where they begin, and what opens them.

use std::{io, path::PathBuf, sync::Arc};

use anyhow::Context;

use super::low_water;
use crate::{
    clients::Clients,
    config::Config,
    exports::{NamedExports, source::Opener},
};

/// Opens everything that the configuration names.
///
/// # Errors
/// [`crate::config::problem::Problems`] with all that cannot be opened.
pub fn begin(clients: &Clients) -> anyhow::Result<Arc<NamedExports>> {
    let config = clients.config();
    clear_scratch(&config)?;
    let named = NamedExports::default();
    let plan = named.plan(&config, &opener(clients));
    named.begin(plan.map_err(|list| config.refuse(list))?);
    Ok(Arc::new(named))
}

/// What opens named exports.
pub fn opener(clients: &Clients) -> Opener<'_> {
    Opener {
        clients,
        scratch: scratch(&clients.config()),
        low_water: low_water(),
    }
}

/// Where copies on write are kept as long as their connections last.
fn scratch(config: &Config) -> PathBuf {
    config.server.data.value.join("scratch")
}

/// Removes what a killed server left. Only the owner of the data directory gets here.
fn clear_scratch(config: &Config) -> anyhow::Result<()> {
    let scratch = scratch(config);
    match std::fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear {}", scratch.display()))
        }
        _ => Ok(()),
    }
}
