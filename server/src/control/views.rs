//! Gathers what the control API shows.

use std::{net::Ipv4Addr, process, sync::Arc, time::Instant};

use overlay::OverlayInfo;
use pxe::{Leases, Mac};

use super::model::{BindingView, ClientView, ExportView, ImageView, Status};
use crate::{
    clients::{
        Clients,
        directory::Profile,
        disks::overlay_id,
        error::{Error, Result},
        registry::Record,
    },
    config::{Config, DhcpMode},
    room::Reloader,
    service::{ConnectionView, Service},
};

/// What is shown comes from here.
#[derive(Clone)]
pub struct Sources {
    /// The machines.
    pub clients: Arc<Clients>,
    /// Their addresses.
    pub leases: Arc<Leases>,
    /// Their connections.
    pub disks: Service,
    /// What exchanges the configuration.
    pub reloader: Arc<Reloader>,
    /// When the server started.
    pub started: Instant,
}

/// The server as a whole.
pub fn status(from: &Sources) -> Result<Status> {
    let Sources {
        clients, leases, ..
    } = from;
    let config = clients.config();
    let records = clients.records();
    let connections = from.disks.connections();
    let attached = connections.iter().filter(|one| one.owner.is_some());
    let dhcp = match config.dhcp.mode {
        DhcpMode::Full => "full",
        DhcpMode::Proxy => "proxy",
        DhcpMode::Off => "off",
    };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: from.started.elapsed().as_secs(),
        address: config.server.ip(),
        interface: config.server.interface.value.clone(),
        dhcp: dhcp.into(),
        leases: leases.list().len(),
        clients: records.len(),
        attached: attached.count(),
        images: images(clients)?,
        exports: exports(&config, &connections),
    })
}

fn exports(config: &Config, connections: &[ConnectionView]) -> Vec<ExportView> {
    let named = config.exports.iter().map(|(name, settings)| {
        let has_it = |one: &&ConnectionView| one.named.as_ref() == Some(name);
        ExportView {
            name: name.clone(),
            source: settings.spec.source.to_string(),
            mode: settings.spec.mode.to_string(),
            shared: settings.spec.shared,
            connections: connections.iter().filter(has_it).count(),
        }
    });
    named.collect()
}

fn images(clients: &Clients) -> Result<Vec<ImageView>> {
    let failed = |error| Error::disk("cannot list the images", error);
    let list = clients.disks().catalogue().list().map_err(failed)?;
    Ok(list
        .into_iter()
        .map(|image| ImageView {
            name: image.name.to_string(),
            current: image.current.map(images::VersionNumber::get),
            versions: image.versions.len(),
        })
        .collect())
}

/// Every machine.
pub fn clients(from: &Sources) -> Vec<ClientView> {
    let connections = from.disks.connections();
    let records = from.clients.records();
    records
        .iter()
        .map(|record| one(from, record, &connections))
        .collect()
}

/// One machine.
pub fn client(from: &Sources, record: &Record) -> ClientView {
    one(from, record, &from.disks.connections())
}

fn one(from: &Sources, record: &Record, connections: &[ConnectionView]) -> ClientView {
    let Sources {
        clients, leases, ..
    } = from;
    let profile = clients.profile(record.mac);
    let address = leases.address_of(record.mac);
    let mut view = outline(record, profile.as_ref(), address);
    let owner = record.mac.to_string();
    let connection = connections
        .iter()
        .find(|one| one.owner.as_ref() == Some(&owner));
    view.attached = connection.is_some();
    view.read_bytes = connection.map(|one| one.read);
    view.written_bytes = connection.map(|one| one.written);
    view.last_step = clients
        .trace()
        .of(record.mac)
        .last()
        .map(|step| step.step.clone());
    add_overlay(&mut view, clients, record.mac);
    view
}

fn outline(record: &Record, profile: Option<&Profile>, address: Option<Ipv4Addr>) -> ClientView {
    ClientView {
        name: record.name.to_string(),
        mac: record.mac,
        group: profile.and_then(|profile| profile.group.clone()),
        address,
        image: profile.and_then(|profile| Some(profile.image.as_ref()?.to_string())),
        version: None,
        retention: profile.map(|profile| profile.retention),
        attached: false,
        read_bytes: None,
        written_bytes: None,
        export: format!("client/{}", record.name),
        overlay: None,
        disk_bytes: None,
        overlay_bytes: None,
        quota_bytes: None,
        overlay_lasts: None,
        fresh_at_next_boot: record.boots.fresh_next,
        last_step: None,
        trouble: profile
            .is_none()
            .then(|| "no longer in the configuration".into()),
    }
}

fn add_overlay(view: &mut ClientView, clients: &Clients, mac: Mac) {
    match clients.disks().info(mac) {
        Ok(Some(info)) => {
            let id = images::VersionId::from_uuid(info.base.version);
            let version = clients.disks().catalogue().find(id).ok().flatten();
            view.version = Some(version.map_or_else(|| id.to_string(), |found| found.to_string()));
            view.overlay = Some(overlay_id(mac).to_string());
            view.disk_bytes = Some(info.size);
            view.overlay_bytes = Some(info.allocated);
            view.quota_bytes = info.quota;
            view.trouble = view.trouble.take().or_else(|| nearly_full(&info));
            view.overlay_lasts = Some(info.retention == overlay::Retention::Keep);
        }
        Ok(None) => {}
        Err(error) => view.trouble = Some(error.to_string()),
    }
}

/// A warning from 80 % of the quota on; at 100 % the machine gets ENOSPC.
fn nearly_full(info: &OverlayInfo) -> Option<String> {
    let percent = info.allocated.saturating_mul(100) / info.quota?.max(1);
    let advice = "raise the quota of its group and reset it, or free space on it";
    (percent >= 80).then(|| format!("its overlay takes {percent} % of its quota: {advice}"))
}

/// Which overlay, or promised boot, needs which version.
pub fn bindings(clients: &Clients) -> Result<Vec<BindingView>> {
    let overlays = clients.disks().bindings()?;
    let overlays = overlays.into_iter().map(|(id, version)| BindingView {
        overlay: id.to_string(),
        version,
    });
    let records = clients.records();
    let promised = records.iter().flat_map(|record| {
        let promised = record.boots.versions();
        promised.map(|version| BindingView {
            overlay: record.name.to_string(),
            version,
        })
    });
    Ok(overlays.chain(promised).collect())
}
