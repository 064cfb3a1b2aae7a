//! Snapshots: of a machine's disk in a room, and of the one disk of `bootroom export --overlay`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use overlay::{Overlay, Snapshot, SnapshotName};
use tokio_util::sync::CancellationToken;

use super::{
    api::{ControlSocket, Server, answer, answer_all},
    model::{OpenedSnapshot, SnapshotView},
};
use crate::clients::{
    error::{Error, ErrorKind, Result},
    snapshots,
};

impl From<Snapshot> for SnapshotView {
    fn from(snapshot: Snapshot) -> Self {
        SnapshotView {
            name: snapshot.name,
            taken: Some(snapshot.taken),
        }
    }
}

fn views(snapshots: Vec<Snapshot>) -> Vec<SnapshotView> {
    snapshots.into_iter().map(SnapshotView::from).collect()
}

fn dropped(name: SnapshotName) -> SnapshotView {
    SnapshotView { name, taken: None }
}

/// A name as it came in a path.
fn named(name: &str) -> Result<SnapshotName> {
    let name = SnapshotName::new(name)
        .map_err(|error| Error::new(ErrorKind::Refused, error.to_string()))?;
    match name.is_hidden() {
        true => Err(Error::new(
            ErrorKind::Refused,
            format!("{name} is a name that the server needs itself: choose another"),
        )),
        false => Ok(name),
    }
}

/// What is asked about the machines of a room.
pub(super) fn routes() -> Router<Server> {
    const ALL: &str = "/v1/clients/{name}/snapshots";
    Router::new()
        .route(ALL, get(list))
        .route(&format!("{ALL}/{{snapshot}}"), post(take))
        .route(&format!("{ALL}/{{snapshot}}/drop"), post(drop_one))
        .route(&format!("{ALL}/{{snapshot}}/open"), post(open))
}

type Names = Path<(String, String)>;

async fn list(State(server): State<Server>, Path(client): Path<String>) -> Response {
    answer(move || server.desk.served()?.clients.snapshots(&client).map(views)).await
}

async fn take(State(server): State<Server>, Path((client, name)): Names) -> Response {
    answer(move || {
        let clients = &server.desk.served()?.clients;
        let taken = clients.take_snapshot(&client, &named(&name)?);
        taken.map(SnapshotView::from)
    })
    .await
}

async fn drop_one(State(server): State<Server>, Path((client, name)): Names) -> Response {
    answer(move || {
        let name = named(&name)?;
        let clients = &server.desk.served()?.clients;
        clients.drop_snapshot(&client, &name)?;
        Ok(dropped(name))
    })
    .await
}

async fn open(State(server): State<Server>, Path((client, name)): Names) -> Response {
    answer(move || {
        let clients = &server.desk.served()?.clients;
        let uri = clients.open_snapshot(&client, &named(&name)?)?;
        Ok(OpenedSnapshot { uri })
    })
    .await
}

/// Answers for the snapshots of `overlay` until `stop` is cancelled.
///
/// # Errors
/// When the socket fails.
pub async fn serve_overlay(
    socket: ControlSocket,
    overlay: Arc<Overlay>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/v1/snapshots", get(list_own))
        .route("/v1/snapshots/{snapshot}", post(take_own))
        .route("/v1/snapshots/{snapshot}/drop", post(drop_own))
        .with_state(overlay);
    answer_all(socket, routes, stop).await
}

async fn list_own(State(overlay): State<Arc<Overlay>>) -> Response {
    answer(move || Ok(views(overlay.snapshots()))).await
}

async fn take_own(State(overlay): State<Arc<Overlay>>, Path(name): Path<String>) -> Response {
    answer(move || snapshots::take(&overlay, &named(&name)?).map(SnapshotView::from)).await
}

async fn drop_own(State(overlay): State<Arc<Overlay>>, Path(name): Path<String>) -> Response {
    answer(move || {
        let name = named(&name)?;
        snapshots::drop_one(&overlay, &name)?;
        Ok(dropped(name))
    })
    .await
}
