//! Looks an overlay over at rest, says in words what is wrong, and mends what can be mended without guessing.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::base::Base;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{BaseId, OverlayId};
use crate::layer::{Layer, Trust, bytes_of};
use crate::layerfile::Names;
use crate::manifest::{self, Manifest};
use crate::map::State;
use crate::overlay::{OverlayInfo, info};
use crate::storage::{OpenMode, Storage};
use crate::store;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Space is taken for nothing.
    Waste,
    /// The overlay cannot be opened, or data is lost.
    Problem,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, and what can be done.
    pub text: String,
    /// Whether it has been mended.
    pub repaired: bool,
}

/// What was found about one overlay.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The overlay.
    pub id: OverlayId,
    /// What it is, if its manifest can be read.
    pub info: Option<OverlayInfo>,
    /// What was found; empty is well.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing stands in the way of opening it, and nothing is lost.
    pub fn is_sound(&self) -> bool {
        let bad = |f: &Finding| f.severity == Severity::Problem && !f.repaired;
        !self.findings.iter().any(bad)
    }
}

/// Finds the image version of that identity.
pub type Resolve<'a> = &'a dyn Fn(&BaseId) -> Option<Arc<dyn Base>>;

/// Checks the overlays of the store in `dir`, or the one called `only`, while no server uses the store. With `repair`
/// it mends what it can. With `resolve` it checks that the image versions are there.
///
/// # Errors
/// [`ErrorKind::Busy`] while a server has the store; [`ErrorKind::NotFound`] for `only`; [`ErrorKind::Io`].
pub fn check(
    host: &dyn Storage,
    dir: &Path,
    only: Option<&OverlayId>,
    repair: bool,
    resolve: Option<Resolve<'_>>,
) -> Result<Vec<Report>> {
    let _lock = store::lock(host, dir)?;
    let names = host
        .list(dir)
        .context(|| format!("listing {}", dir.display()))?;
    let mut ids: Vec<_> = names
        .into_iter()
        .filter_map(|name| OverlayId::new(name).ok())
        .collect();
    ids.sort_unstable();
    ids.retain(|id| only.is_none_or(|only| only == id));
    if let (Some(only), true) = (only, ids.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, format!("overlay {only}")));
    }
    let report = |id: OverlayId| Check::new(host, dir.join(id.as_str()), repair).run(id, resolve);
    Ok(ids.into_iter().map(report).collect())
}

/// The checking of one overlay.
struct Check<'a> {
    host: &'a dyn Storage,
    dir: PathBuf,
    repair: bool,
    findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    fn new(host: &'a dyn Storage, dir: PathBuf, repair: bool) -> Self {
        let findings = Vec::new();
        Self {
            host,
            dir,
            repair,
            findings,
        }
    }

    fn run(mut self, id: OverlayId, resolve: Option<Resolve<'_>>) -> Report {
        let manifest = Manifest::load(self.host, &self.dir);
        let info = manifest
            .as_ref()
            .ok()
            .map(|m| info(self.host, &self.dir, &id, m));
        match manifest {
            Ok(mut manifest) => self.all(&mut manifest, resolve),
            Err(e) if e.kind() == ErrorKind::NewerFormat => self.problem(e.to_string()),
            Err(e) => self.problem(format!("{e}; only a reset makes the overlay usable again")),
        }
        Report {
            id,
            info,
            findings: self.findings,
        }
    }

    fn find(&mut self, severity: Severity, text: String, repaired: bool) {
        let finding = Finding {
            severity,
            text,
            repaired,
        };
        self.findings.push(finding);
    }

    fn problem(&mut self, text: String) {
        self.find(Severity::Problem, text, false);
    }

    fn all(&mut self, manifest: &mut Manifest, resolve: Option<Resolve<'_>>) {
        self.binding(manifest, resolve);
        self.strays(manifest);
        let boot = self.host.boot_id().unwrap_or_else(|_| Uuid::nil());
        let last = manifest.layers.len() - 1;
        for i in 0..last {
            self.layer(manifest, i, Trust::Frozen);
        }
        if manifest.boot == boot {
            self.top_of_this_boot(manifest, last);
        } else {
            let text = "not opened since the host started: what counts is the last flush before";
            self.find(Severity::Note, text.into(), false);
            // The live map of another boot means nothing.
            self.layer(manifest, last, Trust::Frozen);
        }
    }

    fn binding(&mut self, manifest: &Manifest, resolve: Option<Resolve<'_>>) {
        let Some(resolve) = resolve else { return };
        let wanted = manifest.base;
        match resolve(&wanted) {
            None => self.problem(format!(
                "made over {wanted}, which is missing; bring it back or reset the overlay"
            )),
            Some(base) if *base.id() != wanted || base.size() != manifest.base_size => {
                let (id, size) = (base.id(), base.size());
                self.problem(format!(
                    "made over {wanted}, and found {id} of {size} bytes in its place"
                ));
            }
            Some(_) => {}
        }
    }

    fn strays(&mut self, manifest: &Manifest) {
        let Ok(names) = self.host.list(&self.dir) else {
            return self.problem("the folder cannot be listed".into());
        };
        for name in names
            .iter()
            .filter(|name| !manifest::is_wanted(name, &manifest.layers))
        {
            let repaired = self.repair && self.host.remove(&self.dir.join(name)).is_ok();
            let text = format!("file {name} belongs to nothing (left by a crash)");
            self.find(Severity::Waste, text, repaired);
        }
    }

    fn top_of_this_boot(&mut self, manifest: &mut Manifest, last: usize) {
        let uuid = manifest.layers[last].uuid;
        let live = Layer::open(self.host, &self.dir, uuid, manifest.size, Trust::Live);
        let Err(error) = live else {
            return self.layer(manifest, last, Trust::Live);
        };
        // Without its live map the layer may still be good as of the last flush.
        if Layer::open(self.host, &self.dir, uuid, manifest.size, Trust::Frozen).is_err() {
            return self.problem(error.to_string());
        }
        let text =
            format!("{error}; the map of the last flush is good, what was written since is lost");
        manifest.boot = Uuid::nil();
        let repaired = self.repair && manifest.replace(self.host, &self.dir).is_ok();
        self.find(Severity::Problem, text, repaired);
        self.layer(manifest, last, Trust::Frozen);
    }

    fn layer(&mut self, manifest: &Manifest, number: usize, trust: Trust) {
        let uuid = manifest.layers[number].uuid;
        match Layer::open(self.host, &self.dir, uuid, manifest.size, trust) {
            Ok(layer) => {
                if let Err(e) = self.map_against_data(&layer) {
                    self.problem(e.to_string());
                }
            }
            Err(e) => self.problem(format!(
                "{e}; restore the file from a backup, or reset the overlay"
            )),
        }
    }

    /// Compares what the map says is stored with what the file holds.
    fn map_against_data(&mut self, layer: &Layer) -> Result<()> {
        let path = Names::of(&self.dir, layer.uuid).data;
        let naming = || format!("checking {}", path.display());
        let file = self.host.open(&path, OpenMode::Write).context(naming)?;
        let (mut at, mut stored, mut waste) = (0, 0, 0);
        let mut freed = self.repair;
        while let Some(data) = file.next_data(at).context(naming)? {
            let blocks = crate::layer::blocks_of(&data);
            let blocks = blocks.start..blocks.end.min(layer.map.blocks());
            let _ = layer.map.runs(blocks, |state, run| {
                let count = run.end - run.start;
                match state {
                    State::Data => stored += count,
                    _ => {
                        waste += count;
                        freed = freed && file.punch(bytes_of(&run)).is_ok();
                    }
                }
                ControlFlow::<()>::Continue(())
            });
            at = data.end;
        }
        let uuid = layer.uuid;
        if waste > 0 {
            let text = format!(
                "layer {uuid}: {waste} blocks take space and are in no map (left by a crash)"
            );
            self.find(Severity::Waste, text, freed);
        }
        let holes = layer.data_blocks().saturating_sub(stored);
        if holes > 0 {
            let text = format!(
                "layer {uuid}: {holes} blocks are mapped and read as zeros from a hole; right if the client trimmed them shortly before a crash"
            );
            self.find(Severity::Note, text, false);
        }
        Ok(())
    }
}
