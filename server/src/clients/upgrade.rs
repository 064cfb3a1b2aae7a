//! Data directories of the time when a machine had one disk, whichever image it booted.
//!
//! An overlay was filed under its machine's address alone; it becomes the disk of the image whose version it lies over.
//! A boot did not name its image; its version does. Every step leaves either what was or what is to be, so that it can
//! be cut off anywhere and begun again.

use images::{Catalogue, ImageName, VersionId};
use overlay::Store;
use serde_json::{Value, json};

use super::{
    disks::{mac_of, overlay_id, version_of},
    error::{Error, Result},
};

/// Gives every overlay that has its machine's name only the name that it has now. One that is damaged or whose image is
/// gone stays as it is: it concerns its own machine only.
///
/// # Errors
/// When the overlays cannot be listed.
pub fn overlays(store: &Store, catalogue: &Catalogue) -> Result<()> {
    let failed = |error| Error::disk("cannot take over the overlays of an earlier release", error);
    for old in store.ids().map_err(failed)? {
        let Some(mac) = mac_of(old.as_str()) else {
            continue;
        };
        let image = store
            .info(&old)
            .map(|info| image_of(catalogue, version_of(&info.base)));
        let Ok(Some(image)) = image else {
            tracing::warn!("overlay {old} stays unused: it is damaged, or its image is gone");
            continue;
        };
        let new = overlay_id(mac, &image);
        match store.rename(&old, &new) {
            Ok(()) => tracing::info!("overlay {old} of an earlier release is {new} now"),
            Err(error) => tracing::warn!("overlay {old} stays unused: {error}"),
        }
    }
    Ok(())
}

fn image_of(catalogue: &Catalogue, version: VersionId) -> Option<ImageName> {
    let version = catalogue.find(version).ok().flatten()?;
    Some(version.image().clone())
}

/// Adds to a machine's record what its boots did not say. A boot over a version that is gone is forgotten.
pub fn record(row: &mut Value, catalogue: &Catalogue) {
    let boots = &mut row["boots"];
    let Some(told) = boots["fresh_next"].as_bool() else {
        return;
    };
    let image = |boot: &Value| {
        let version = serde_json::from_value(boot["version"].clone()).ok()?;
        image_of(catalogue, version)
    };
    let named = |mut boot: Value| {
        let image = image(&boot)?;
        boot["image"] = json!(image);
        Some(boot)
    };
    let active = Some(boots["active"].take()).filter(|boot| !boot.is_null());
    let active = active.and_then(named);
    let fresh = active.as_ref().filter(|_| told);
    boots["fresh_next"] = json!(
        fresh
            .map(|boot| &boot["image"])
            .into_iter()
            .collect::<Vec<_>>()
    );
    let pending = boots["pending"].as_array_mut().map(std::mem::take);
    boots["pending"] = pending
        .unwrap_or_default()
        .into_iter()
        .filter_map(named)
        .collect();
    boots["active"] = json!(active);
}
