//! The control API: HTTP with JSON on a Unix socket that only the server's user and group may open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`model::Status`] |
//! | `GET /v1/clients` | list of [`model::ClientView`] |
//! | `GET /v1/clients/NAME` | [`model::ClientView`] |
//! | `GET /v1/clients/NAME/trace` | list of [`crate::trace::Step`] |
//! | `POST /v1/clients/NAME/reset` | [`model::ResetDone`] |
//! | `POST /v1/clients/NAME/forget` | [`model::Forgotten`] |
//! | `POST /v1/clients/NAME/commit` with [`model::CommitRequest`] | [`model::CommitStep`] as they happen, one a line |
//! | `GET /v1/clients/NAME/snapshots` | list of [`model::SnapshotView`] |
//! | `POST /v1/clients/NAME/snapshots/SNAPSHOT` | [`model::SnapshotView`]: it was taken |
//! | `POST /v1/clients/NAME/snapshots/SNAPSHOT/drop` | [`model::SnapshotView`]: it is gone |
//! | `POST /v1/clients/NAME/snapshots/SNAPSHOT/open` | [`model::OpenedSnapshot`] |
//! | `POST /v1/reload` | [`model::ReloadAnswer`], once the new configuration is in force |
//! | `GET /v1/bindings` | list of [`model::BindingView`]: overlays and the versions that they need |
//! | `GET /v1/standby` | [`standby::model::PairView`] |
//! | `GET /v1/standby/events` | [`standby::model::EventView`] as they happen, one a line |
//! | `POST /v1/standby/promote?force=false` | [`standby::model::Asked`]; what comes of it is in the events |
//! | `POST /v1/standby/handover`, `verify`, `discard`, `accept-witness` | the same |
//! | `GET /v1/events` | [`crate::trace::Step`] as they happen, one JSON object a line |
//!
//! `bootroom export --overlay` answers the first three of the snapshots for its one disk, below `/v1/snapshots`.
//!
//! A failure answers with its status code and [`model::Failure`].

mod api;
pub mod client;
mod commit;
mod desk;
pub mod model;
mod snapshots;
pub mod standby;
mod views;

pub use api::{ControlSocket, serve};
pub use desk::Desk;
pub use snapshots::serve_overlay;
pub use views::Sources;
