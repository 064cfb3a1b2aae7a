//! The server's end of the control socket.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{net::UnixListener, sync::broadcast::error::RecvError, task};
use tokio_util::sync::CancellationToken;

use super::{
    commit,
    desk::Desk,
    model::{CommitRequest, Failure, Forgotten, ReloadAnswer, ResetDone, ResetRequest},
    snapshots, standby, views,
};
use crate::{
    clients::error::{Error, ErrorKind, Result},
    config::problem::Problems,
};

/// What the requests are answered from.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) desk: Arc<Desk>,
    pub(super) stop: CancellationToken,
}

/// The bound socket; its file goes away with it.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Takes the socket at `path`, mode 0660, making its directory and removing what a dead server left.
    ///
    /// # Errors
    /// When another server listens there, or the directory is not writable.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let naming = || format!("cannot make the control socket {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(naming)?;
        }
        remove_dead(path).with_context(naming)?;
        let listener = UnixListener::bind(path).with_context(naming)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(naming)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
        })
    }
}

/// Only a socket that nobody answers at is removed.
fn remove_dead(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !there.file_type().is_socket() {
        let what = "something that is no socket has that name: choose another path";
        return Err(io::Error::other(what));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another bootroom server listens there",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// Answers until `stop` is cancelled.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    socket: ControlSocket,
    desk: Arc<Desk>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let server = Server {
        desk,
        stop: stop.clone(),
    };
    answer_all(socket, routes(server), stop).await
}

/// Answers what `routes` says until `stop` is cancelled.
pub(super) async fn answer_all(
    socket: ControlSocket,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let served = axum::serve(socket.listener, routes)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await;
    let _ = fs::remove_file(&socket.path);
    served.context("the control socket failed")
}

fn routes(server: Server) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/clients", get(list))
        .route("/v1/clients/{name}", get(show))
        .route("/v1/clients/{name}/trace", get(trace))
        .route("/v1/clients/{name}/reset", post(reset))
        .route("/v1/clients/{name}/forget", post(forget))
        .route("/v1/clients/{name}/commit", post(commit))
        .route("/v1/reload", post(reload))
        .merge(snapshots::routes())
        .merge(standby::routes())
        .route("/v1/bindings", get(bindings))
        .route("/v1/events", get(events))
        .with_state(server)
}

/// Runs what may touch the disk away from the runtime's threads, and answers with what it gives.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Response {
    match task::spawn_blocking(work).await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request failed; see the log",
        ),
    }
}

pub(super) fn failure(error: &Error) -> Response {
    let code = match error.kind() {
        ErrorKind::Unknown => StatusCode::NOT_FOUND,
        ErrorKind::Standby => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Refused | ErrorKind::NotBootable => StatusCode::CONFLICT,
        ErrorKind::Full | ErrorKind::State | ErrorKind::Disk | ErrorKind::Identity => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    refuse(code, &error.with_causes())
}

fn refuse(code: StatusCode, error: &str) -> Response {
    (
        code,
        Json(Failure {
            error: error.to_owned(),
        }),
    )
        .into_response()
}

async fn status(State(server): State<Server>) -> Response {
    answer(move || views::status(&server.desk)).await
}

async fn list(State(server): State<Server>) -> Response {
    answer(move || views::clients(&*server.desk.served()?)).await
}

async fn show(State(server): State<Server>, UrlPath(name): UrlPath<String>) -> Response {
    answer(move || {
        let sources = server.desk.served()?;
        views::client(&sources, &sources.clients.find(&name)?)
    })
    .await
}

async fn trace(State(server): State<Server>, UrlPath(name): UrlPath<String>) -> Response {
    answer(move || {
        let sources = server.desk.served()?;
        let record = sources.clients.find(&name)?;
        Ok(sources.clients.trace().of(record.mac))
    })
    .await
}

async fn reset(
    State(server): State<Server>,
    UrlPath(name): UrlPath<String>,
    Query(request): Query<ResetRequest>,
) -> Response {
    answer(move || {
        let ResetRequest { image, now } = request;
        let result = server.desk.served()?.clients.reset(&name, image, now)?;
        Ok(ResetDone {
            client: name,
            result,
        })
    })
    .await
}

async fn forget(State(server): State<Server>, UrlPath(name): UrlPath<String>) -> Response {
    answer(move || {
        let sources = server.desk.served()?;
        let mac = sources.clients.forget(&name)?;
        let failed =
            |error| Error::state(format!("{name} is forgotten, but not its address"), error);
        sources.leases.forget(mac).map_err(failed)?;
        Ok(Forgotten { client: name, mac })
    })
    .await
}

async fn commit(
    State(server): State<Server>,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<CommitRequest>,
) -> Response {
    let clients = match server.desk.served() {
        Ok(sources) => sources.clients.clone(),
        Err(error) => return failure(&error),
    };
    let steps = commit::start(clients, name, request, server.stop);
    lines(stream::unfold(steps, async |mut steps| {
        Some((steps.recv().await?, steps))
    }))
}

async fn reload(State(server): State<Server>) -> Response {
    let reloader = match server.desk.served() {
        Ok(sources) => sources.reloader.clone(),
        Err(error) => return failure(&error),
    };
    match task::spawn_blocking(move || reloader.reload()).await {
        Ok(Ok(done)) => Json(ReloadAnswer::Done(done)).into_response(),
        Ok(Err(error)) => match error.downcast::<Problems>() {
            Ok(problems) => Json(ReloadAnswer::Refused(problems.to_string())).into_response(),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
        },
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reload failed; see the log",
        ),
    }
}

/// One JSON object a line, as they come.
pub(super) fn lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let line = |item: T| {
        let mut line = serde_json::to_vec(&item).map_err(io::Error::other)?;
        line.push(b'\n');
        Ok::<_, io::Error>(Bytes::from(line))
    };
    Body::from_stream(items.map(line)).into_response()
}

async fn bindings(State(server): State<Server>) -> Response {
    answer(move || views::bindings(&server.desk.served()?.clients)).await
}

async fn events(State(server): State<Server>) -> Response {
    let listener = match server.desk.served() {
        Ok(sources) => sources.clients.trace().listen(),
        Err(error) => return failure(&error),
    };
    lines(stream::unfold(
        (listener, server.stop),
        async |(mut listener, stop)| {
            loop {
                let step = tokio::select! {
                    step = listener.recv() => step,
                    () = stop.cancelled() => return None,
                };
                match step {
                    Ok(step) => return Some((step, (listener, stop))),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        },
    ))
}
