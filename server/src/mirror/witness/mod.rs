//! The witness as a program: one record in one small file, asked over TLS by the two servers of a pair.
//!
//! Must never answer before what it says is on disk, and never for anybody but the two servers that have its secret.

mod file;
mod listen;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use mirror::{Witness, WitnessAnswer, WitnessId, WitnessRequest, WitnessState};
use tokio::sync::{Mutex, mpsc};

pub use file::{decode, encode};
pub use listen::{IDLE, serve};

use file::StateFile;

/// The record and its file.
pub struct Keeper {
    inner: Arc<Mutex<Inner>>,
    failed: mpsc::Sender<anyhow::Error>,
}

struct Inner {
    witness: Witness,
    file: StateFile,
    /// The file may be behind the record: nothing may be answered any more.
    broken: bool,
}

impl Keeper {
    /// Opens the record in `folder`, or begins one under a new identity. What goes wrong with the file later is sent to
    /// `failed`.
    ///
    /// # Errors
    /// The file is another process', cannot be read, or is damaged.
    pub fn open(folder: &Path, failed: mpsc::Sender<anyhow::Error>) -> anyhow::Result<Self> {
        let (file, found) = StateFile::open(folder)?;
        let state = match found {
            Some(state) => state,
            None => begin(&file)?,
        };
        let inner = Inner {
            witness: Witness::new(state),
            file,
            broken: false,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            failed,
        })
    }

    /// Who this witness is and what it holds.
    pub async fn state(&self) -> WitnessState {
        self.inner.lock().await.witness.state()
    }

    /// Handles a request; `None` once the file has failed.
    async fn handle(&self, request: WitnessRequest) -> Option<WitnessAnswer> {
        let inner = self.inner.clone().lock_owned().await;
        let work = tokio::task::spawn_blocking(move || answer(inner, request));
        match work.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let _ = self.failed.try_send(error);
                None
            }
            Err(_) => None,
        }
    }
}

fn begin(file: &StateFile) -> anyhow::Result<WitnessState> {
    let id = getrandom::u64().context("no random number to be had")?;
    let state = WitnessState::new(WitnessId(id));
    file.save(&state)?;
    Ok(state)
}

fn answer(
    mut inner: tokio::sync::OwnedMutexGuard<Inner>,
    request: WitnessRequest,
) -> anyhow::Result<Option<WitnessAnswer>> {
    if inner.broken {
        return Ok(None);
    }
    let before = inner.witness.state();
    let answer = inner.witness.handle(request);
    let after = inner.witness.state();
    if after != before {
        inner.broken = true;
        inner.file.save(&after)?;
        inner.broken = false;
    }
    Ok(Some(answer))
}
