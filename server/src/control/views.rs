//! Gathers what the control API shows.

use std::{collections::HashMap, net::Ipv4Addr, process, sync::Arc, time::Instant};

use images::{Catalogue, Version, VersionId};
use overlay::{OverlayId, OverlayInfo};
use pxe::{Leases, Mac, trace::Stuck};

use super::model::{BindingView, ClientView, DiskView, ExportView, ImageView, Status};
use super::{
    desk::{Desk, Place},
    standby,
};
use crate::{
    clients::{
        Clients,
        directory::Profile,
        disks::{Listed, overlay_id, owner},
        error::{Error, Result},
        registry::Record,
    },
    config::{Config, DhcpMode},
    mirror::pair::Pair,
    room::Reloader,
    service::{ConnectionView, Service},
    trace::StuckView,
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
pub fn status(desk: &Desk) -> Result<Status> {
    match (desk.sources(), desk.of_pair()) {
        (Some(sources), _) => serving(&sources, desk),
        (None, Some((pair, place))) => standing_by(desk, pair, place),
        (None, None) => serving(&*desk.served()?, desk),
    }
}

/// One of a pair that does not serve the room: what it holds.
fn standing_by(desk: &Desk, pair: &Pair, place: &Place) -> Result<Status> {
    let store = pair.mirror.store();
    let leases = store.leases.read();
    let failed = |error| Error::state("cannot read the leases", error);
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: desk.started().elapsed().as_secs(),
        address: place.address,
        interface: place.interface.clone(),
        dhcp: "off".into(),
        leases: leases.map_err(failed)?.len(),
        clients: store.rows.load()?.len(),
        attached: 0,
        images: images(pair.versions.catalogue())?,
        warnings: Vec::new(),
        stuck: Vec::new(),
        exports: Vec::new(),
        pair: Some(standby::line(desk, pair)),
    })
}

fn serving(from: &Sources, desk: &Desk) -> Result<Status> {
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
        images: images(clients.disks().catalogue())?,
        warnings: warnings(clients),
        stuck: stuck(clients),
        exports: exports(&config, &connections),
        pair: desk.of_pair().map(|(pair, _)| standby::line(desk, pair)),
    })
}

fn warnings(clients: &Clients) -> Vec<String> {
    let mode = clients.config().dhcp.mode;
    let servers = clients.trace().servers(Instant::now());
    if mode != DhcpMode::Full {
        return Vec::new();
    }
    let warning = |server: Ipv4Addr| {
        format!(
            "another DHCP server, {server}, answers on this network: stop it, or use mode = \"proxy\""
        )
    };
    servers.into_iter().map(warning).collect()
}

fn stuck(clients: &Clients) -> Vec<StuckView> {
    let all = clients.trace().all_stuck(Instant::now());
    let mut views: Vec<_> = all
        .into_iter()
        .map(|(mac, stuck)| stuck_view(clients, mac, stuck))
        .collect();
    views.sort_by(|a, b| a.client.cmp(&b.client));
    views
}

fn stuck_view(clients: &Clients, mac: Mac, stuck: Stuck) -> StuckView {
    let name = clients.name_of(mac);
    StuckView {
        client: name.map_or_else(|| mac.to_string(), |name| name.to_string()),
        mac,
        step: stuck.step.into(),
        seconds: stuck.since.as_secs(),
        advice: stuck.advice,
    }
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

fn images(catalogue: &Catalogue) -> Result<Vec<ImageView>> {
    let failed = |error| Error::disk("cannot list the images", error);
    let list = catalogue.list().map_err(failed)?;
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
///
/// # Errors
/// When the overlays cannot be listed.
pub fn clients(from: &Sources) -> Result<Vec<ClientView>> {
    let connections = from.disks.connections();
    let overlays = from.clients.disks().list()?;
    let records = from.clients.records();
    let versions = versions(&from.clients);
    let mut of: HashMap<Mac, Vec<Listed>> = HashMap::new();
    for (id, info) in overlays {
        if let Some(mac) = owner(&id) {
            of.entry(mac).or_default().push((id, info));
        }
    }
    let views = records.iter().map(|record| {
        let overlays = of.remove(&record.mac).unwrap_or_default();
        one(from, record, (&connections, &versions), overlays)
    });
    Ok(views.collect())
}

/// One machine.
///
/// # Errors
/// When the overlays cannot be listed.
pub fn client(from: &Sources, record: &Record) -> Result<ClientView> {
    let overlays = from.clients.disks().of_machine(record.mac)?;
    let (connections, versions) = (from.disks.connections(), versions(&from.clients));
    Ok(one(from, record, (&connections, &versions), overlays))
}

/// Every version by its id, for the names of what disks lie over. Where the catalogue cannot be read, the ids have to do.
fn versions(clients: &Clients) -> HashMap<VersionId, Version> {
    let images = clients.disks().catalogue().list().unwrap_or_default();
    let all = images.into_iter().flat_map(|image| image.versions);
    all.map(|version| (version.id(), version)).collect()
}

fn one(
    from: &Sources,
    record: &Record,
    (connections, versions): (&[ConnectionView], &HashMap<VersionId, Version>),
    overlays: Vec<Listed>,
) -> ClientView {
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
    let trace = clients.trace();
    view.last_step = trace.of(record.mac).last().map(|step| step.step.clone());
    let stuck = trace.stuck(record.mac, Instant::now());
    view.stuck = stuck.map(|stuck| stuck_view(clients, record.mac, stuck));
    let current = clients.current_image(record).ok();
    view.fresh_at_next_boot = current
        .as_ref()
        .is_some_and(|image| record.boots.fresh_next.contains(image));
    let current = current.map(|image| overlay_id(record.mac, &image));
    for (id, info) in overlays {
        let disk = disk_view(versions, &id, info.as_ref().ok());
        if current.as_ref() == Some(&id) {
            add_current(&mut view, &disk, info);
        }
        view.disks.push(disk);
    }
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
        fresh_at_next_boot: false,
        last_step: None,
        trouble: profile
            .is_none()
            .then(|| "no longer in the configuration".into()),
        stuck: None,
        disks: Vec::new(),
    }
}

fn disk_view(
    versions: &HashMap<VersionId, Version>,
    id: &OverlayId,
    info: Option<&OverlayInfo>,
) -> DiskView {
    let base = info.map(|info| VersionId::from_uuid(info.base.version));
    let found = base.and_then(|base| versions.get(&base));
    let image = found.map(|version| version.image().to_string());
    let named = found.map(|version| version.to_string());
    DiskView {
        overlay: id.to_string(),
        image,
        version: named.or_else(|| base.map(|base| base.to_string())),
        overlay_bytes: info.map(|info| info.allocated),
        lasts: info.map(|info| info.retention == overlay::Retention::Keep),
    }
}

/// The disk of the machine's last boot, or of the image that it is to boot, is the one that its row is about.
fn add_current(view: &mut ClientView, disk: &DiskView, info: overlay::Result<OverlayInfo>) {
    view.overlay = Some(disk.overlay.clone());
    view.version = disk.version.clone();
    view.overlay_bytes = disk.overlay_bytes;
    view.overlay_lasts = disk.lasts;
    match info {
        Ok(info) => {
            view.disk_bytes = Some(info.size);
            view.quota_bytes = info.quota;
            view.trouble = view.trouble.take().or_else(|| nearly_full(&info));
        }
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
