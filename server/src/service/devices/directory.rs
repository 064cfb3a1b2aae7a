//! A directory with one export, for `bootroom export`.

use std::sync::Arc;

use nbd::Refusal;

use crate::service::{Export, Exports, Peer};

/// Which names open the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wide {
    /// Any, as with a server that has but one disk.
    AnyName,
    /// This one, and the empty name, which means the default.
    Named(String),
}

/// One export for everybody.
pub struct OneExport {
    name: Wide,
    description: String,
    export: Arc<dyn Export>,
}

impl OneExport {
    /// Gives `export` out by `name`.
    pub fn new(name: Wide, description: String, export: Arc<dyn Export>) -> Self {
        Self {
            name,
            description,
            export,
        }
    }
}

impl Exports for OneExport {
    fn list(&self, _peer: &Peer) -> Vec<(String, Option<String>)> {
        let name = match &self.name {
            Wide::AnyName => String::new(),
            Wide::Named(name) => name.clone(),
        };
        vec![(name, Some(self.description.clone()))]
    }

    fn find(&self, name: &str, _peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        match &self.name {
            Wide::Named(own) if !name.is_empty() && own != name => Err(Refusal::unknown()),
            _ => Ok(self.export.clone()),
        }
    }
}
