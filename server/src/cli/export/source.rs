//! What `bootroom export` serves.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use images::{Catalogue, ImageRef, VersionDisk};
use overlay::{Base, BaseId, Overlay, OverlayId, OverlaySpec, Retention, Store};

use super::ExportOptions;
use crate::{
    exports::source::file_base,
    service::{
        Device, Export,
        devices::{CowExport, FileExport, OverlayExport},
    },
};

/// Where copies on write are kept.
const SCRATCH: &str = "/var/tmp";

/// What is served.
pub struct Opened {
    /// To every connection.
    pub export: Arc<dyn Export>,
    /// An overlay that lasts, and its folder.
    pub kept: Option<(Arc<Overlay>, PathBuf)>,
    /// Keeps an image version from being removed.
    _version: Option<Arc<VersionDisk>>,
}

impl Opened {
    fn new(export: impl Export + 'static) -> Self {
        Self {
            export: Arc::new(export),
            kept: None,
            _version: None,
        }
    }
}

/// Opens what the command line names, as it says.
///
/// # Errors
/// What cannot be opened.
pub fn open(options: &ExportOptions) -> anyhow::Result<Opened> {
    let version = match &options.data {
        Some(data) => Some(Arc::new(open_version(options, data)?)),
        None => None,
    };
    let base = || -> anyhow::Result<Arc<dyn Base>> {
        match &version {
            Some(version) => Ok(version.clone()),
            None => file_base(&options.source),
        }
    };
    let opened = match (&options.overlay, options.cow) {
        (Some(folder), _) => overlaid(base()?, folder)?,
        (None, true) => Opened::new(CowExport::new(Path::new(SCRATCH), base()?, None, 0)?),
        (None, false) => direct(options, version.as_deref())?,
    };
    Ok(Opened {
        _version: version,
        ..opened
    })
}

fn open_version(options: &ExportOptions, data: &Path) -> anyhow::Result<VersionDisk> {
    let name = options.source.to_str().unwrap_or_default();
    let image: ImageRef = name
        .parse()
        .context("with --data the argument is an image, such as debian@3")?;
    // Opening it makes the folder, which a mistyped path need not have.
    let images = data.join("images");
    std::fs::read_dir(&images).with_context(|| format!("no images in {}", images.display()))?;
    Ok(Catalogue::open(images)?.resolve(&image)?.open()?)
}

/// The file or device itself, or a version, which nobody may write to.
fn direct(options: &ExportOptions, version: Option<&VersionDisk>) -> anyhow::Result<Opened> {
    let path = match version {
        Some(version) => version.version().disk_path(),
        None => options.source.clone(),
    };
    let read_only = options.read_only || version.is_some();
    let description = Some(options.description.clone());
    let export = FileExport::open(&path, read_only, description);
    let export = export.with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Opened::new(export))
}

fn overlaid(base: Arc<dyn Base>, folder: &Path) -> anyhow::Result<Opened> {
    let store = Store::open(folder, overlay::Options::default())?;
    let id = OverlayId::new("export")?;
    let known = store.ids()?.contains(&id);
    let overlay = match known {
        true => store.open_overlay(&id, &|wanted: &BaseId| {
            (wanted == base.id()).then(|| base.clone())
        }),
        false => {
            let spec = OverlaySpec {
                size: base.size(),
                quota: None,
                retention: Retention::Keep,
                base: base.clone(),
            };
            store.create(&id, spec)
        }
    };
    let overlay =
        overlay.with_context(|| format!("cannot use the overlay in {}", folder.display()))?;
    let size = overlay.info().size;
    let export = Kept {
        export: OverlayExport::new(overlay.clone(), size),
        _store: store,
    };
    Ok(Opened {
        kept: Some((overlay, folder.to_owned())),
        ..Opened::new(export)
    })
}

/// An overlay together with the lock on its folder.
struct Kept {
    export: OverlayExport,
    _store: Store,
}

impl Export for Kept {
    fn info(&self) -> Result<nbd::ExportInfo, nbd::Refusal> {
        self.export.info()
    }

    fn owner(&self) -> Option<String> {
        self.export.owner()
    }

    fn open(&self) -> Result<Arc<dyn Device>, nbd::Refusal> {
        self.export.open()
    }
}
