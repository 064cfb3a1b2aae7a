//! An etcd in the witness' place: the same record under one key, changed by compare-and-swap.
//!
//! What a change must fulfil is decided here, by the same [`Witness`] that `bootroom witness` runs, on the record that
//! was read; etcd only sees to it that nobody changed it in between. PROTOCOL.md of the `mirror` crate, "An etcd
//! instead", has the key and its value.
//!
//! Over etcd's JSON gateway with the HTTP client that is in this program anyway: the crate `etcd-client` (MIT or Apache 2)
//! would bring 27 more crates, tonic and prost among them, and needs protoc to build; we need three calls of it.

mod calls;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use mirror::{Witness, WitnessAnswer, WitnessId, WitnessRequest, WitnessState};
use rustls::{ClientConfig, crypto::ring};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout_at,
};
use tokio_rustls::TlsConnector;

use super::{Endpoint, Way};
use crate::{
    mirror::{
        secret::PairSecret,
        witness::{decode, encode},
    },
    service::tls::roots,
};
use calls::{Calls, Found, Token};

/// What the keys of all pairs begin with.
const PREFIX: &str = "bootroom/pair/";

/// The way to one etcd.
pub struct Etcd {
    endpoints: Vec<Endpoint>,
    /// The one that answered last, or is to be tried next.
    current: usize,
    key: String,
    tls: Option<TlsConnector>,
    token: Token,
    runtime: Runtime,
}

impl Etcd {
    /// The etcd with these members. Which key it is follows from the secret.
    ///
    /// # Errors
    /// There is none; the CA cannot be used, or is missing for https; no runtime can be had.
    pub fn new(
        endpoints: Vec<Endpoint>,
        ca: Option<&Path>,
        secret: &PairSecret,
    ) -> anyhow::Result<Self> {
        if endpoints.is_empty() {
            bail!("no etcd is named");
        }
        if ca.is_none() && endpoints.iter().any(|endpoint| endpoint.secure) {
            bail!("an etcd with https needs the certificate of its CA");
        }
        Ok(Self {
            endpoints,
            current: 0,
            key: format!("{PREFIX}{}", secret.fingerprint()),
            tls: ca.map(connector).transpose()?,
            token: Token::default(),
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }

    fn try_current(
        &mut self,
        request: &WitnessRequest,
        deadline: Instant,
    ) -> anyhow::Result<WitnessAnswer> {
        let endpoint = &self.endpoints[self.current];
        let tls = self.tls.as_ref().filter(|_| endpoint.secure);
        let (token, key) = (&mut self.token, self.key.as_str());
        let outcome = self.runtime.block_on(async {
            let work = async {
                let mut calls = Calls::open(endpoint, tls, token).await?;
                swap(&mut calls, key, request).await
            };
            let outcome = timeout_at(deadline.into(), work).await;
            outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")))
        });
        outcome.with_context(|| format!("the etcd at {endpoint}"))
    }
}

impl Way for Etcd {
    /// A member that refuses costs no time, so the next one is asked at once; one that is silent is passed over the next
    /// time.
    fn ask(
        &mut self,
        request: &WitnessRequest,
        deadline: Instant,
    ) -> anyhow::Result<WitnessAnswer> {
        let mut outcome = Err(anyhow::anyhow!("no etcd is named"));
        for _ in 0..self.endpoints.len() {
            outcome = self.try_current(request, deadline);
            if outcome.is_ok() {
                return outcome;
            }
            self.current = (self.current + 1) % self.endpoints.len();
            if Instant::now() >= deadline {
                break; // There was no time for any other.
            }
        }
        outcome
    }
}

/// Does what the request asks on the record that is there, as often as somebody else changes it in between.
async fn swap(
    calls: &mut Calls<'_>,
    key: &str,
    request: &WitnessRequest,
) -> anyhow::Result<WitnessAnswer> {
    let mut found = calls.read(key).await?;
    loop {
        let Some(present) = found else {
            found = Some(begin(calls, key).await?);
            continue;
        };
        let state = decode(&present.value);
        let state = state.with_context(|| format!("under the key {key} is no record of a pair"))?;
        let mut witness = Witness::new(state);
        let answer = witness.handle(*request);
        if witness.state() == state {
            return Ok(answer);
        }
        let next = encode(&witness.state());
        match calls.replace(key, Some(&present), next).await? {
            Ok(_) => return Ok(answer),
            Err(other) => found = other,
        }
    }
}

/// Nobody has a record: it begins under a new identity, as that of a witness without memory does. Who is first makes it.
async fn begin(calls: &mut Calls<'_>, key: &str) -> anyhow::Result<Found> {
    let id = getrandom::u64().context("no random number to be had")?;
    let state = encode(&WitnessState::new(WitnessId(id)));
    match calls.replace(key, None, state).await? {
        Ok(made) => Ok(made),
        Err(other) => other.context("the key was there and is gone"),
    }
}

fn connector(ca: &Path) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
