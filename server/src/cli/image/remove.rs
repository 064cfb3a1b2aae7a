//! `image rm`: removing a version that nothing needs.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;
use images::{Binding, ImageRef};
use overlay::Store;

use super::{Exit, Place};
use crate::cli::{ask, block_on};
use crate::config::{Config, exports::Source};
use crate::control::client::{Control, Unreachable};
use crate::control::model::BindingView;

/// Arguments of `image rm`.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// The version, such as debian@3
    version: ImageRef,
    /// Remove it although it is the current one
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

/// Does it.
pub fn run(options: &RemoveOptions) -> anyhow::Result<Exit> {
    let wanted = &options.version;
    if wanted.number.is_none() {
        bail!("{wanted} is an image: name the version to remove, such as {wanted}@1");
    }
    let config = options.place.config()?;
    let data = options.place.data(config.as_ref());
    let catalogue = options.place.catalogue_in(&data)?;
    let version = catalogue.resolve(wanted)?;
    check_config(config.as_ref(), wanted)?;
    let bindings = bindings(config.as_ref(), &data.join("overlays"))?;
    let reason = format!("{version} would be gone for good");
    if !options.yes && !ask::confirm(&format!("Remove {version} for good?"), &reason)? {
        bail!("nothing was done");
    }
    catalogue.remove(wanted, bindings, options.force)?;
    say!("{version} is removed");
    Ok(Exit::Ok)
}

/// A machine that is configured for exactly this version could not boot any more.
fn check_config(config: Option<&Config>, wanted: &ImageRef) -> anyhow::Result<()> {
    let Some(config) = config else { return Ok(()) };
    let groups = config
        .groups
        .iter()
        .map(|(name, group)| (format!("groups.{name}"), &group.settings));
    let clients = config
        .clients
        .iter()
        .map(|(name, client)| (format!("clients.{name}"), &client.settings));
    let names_it = |settings: &crate::config::Settings| {
        let menu = settings.menu.iter().flat_map(|menu| menu.images());
        let mut images = settings.image.iter().chain(menu);
        images.any(|image| &image.value == wanted)
    };
    let exports = config.exports.iter();
    let mut exported = exports.filter(|(_, one)| one.spec.source == Source::Image(wanted.clone()));
    if let Some((name, _)) = exported.next() {
        bail!("the configuration names {wanted} in [exports.{name}]: change that first");
    }
    match groups
        .chain(clients)
        .find(|(_, settings)| names_it(settings))
    {
        Some((section, _)) => {
            bail!("the configuration names {wanted} in [{section}]: change that first")
        }
        None => Ok(()),
    }
}

/// What is bound to which version: a running server knows, and holds the store; otherwise the store tells.
fn bindings(config: Option<&Config>, overlays: &Path) -> anyhow::Result<Vec<Binding>> {
    if let Some(config) = config {
        match ask_server(&Control::at(&config.server.control)) {
            Err(error) if error.is::<Unreachable>() => {}
            answered => return answered,
        }
    }
    read_store(overlays)
}

fn ask_server(control: &Control) -> anyhow::Result<Vec<Binding>> {
    let answer = block_on(control.get("/v1/bindings"))?;
    let views: Vec<BindingView> = serde_json::from_value(answer)?;
    let binding = |view: BindingView| Binding {
        overlay: view.overlay,
        version: view.version,
    };
    Ok(views.into_iter().map(binding).collect())
}

fn read_store(overlays: &Path) -> anyhow::Result<Vec<Binding>> {
    if !overlays.exists() {
        return Ok(Vec::new());
    }
    let place = || {
        format!(
            "cannot tell which versions the overlays in {} need",
            overlays.display()
        )
    };
    let store = Store::open(overlays, overlay::Options::default()).with_context(place)?;
    let mut bindings = Vec::new();
    for (id, info) in store.list().with_context(place)? {
        // What an unreadable overlay is bound to is unknown: then nothing may be removed.
        let version = images::VersionId::from_uuid(info.with_context(place)?.base.version);
        bindings.push(Binding {
            overlay: id.to_string(),
            version,
        });
    }
    Ok(bindings)
}
