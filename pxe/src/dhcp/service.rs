//! The DHCP service: sockets in front of the engine.
//!
//! One thread receives, asks the engine and sends; another writes leases down and sends the answers that wait for that. It
//! takes whatever has queued up meanwhile as one batch, so that a storm shares its disk flushes.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLock;

use super::config::DhcpConfig;
use super::engine::Engine;
use super::lease::Leases;
use super::scribe::{self, Voice};
use super::sockets::Sockets;
use super::worker::Worker;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::Policy;

/// The DHCP server.
pub struct Dhcp {
    config: DhcpControl,
    leases: Arc<Leases>,
    policy: Arc<dyn Policy>,
    sockets: Sockets,
}

/// Changes what a running DHCP service gives out.
#[derive(Clone)]
pub struct DhcpControl(Arc<RwLock<Arc<DhcpConfig>>>);

impl DhcpControl {
    fn new(config: DhcpConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// What is in force.
    pub fn current(&self) -> Arc<DhcpConfig> {
        self.0.read().clone()
    }

    /// Answers by `config` from the next packet on. Leases stay; one that no range holds any more is not renewed.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it contradicts itself, or would need other sockets.
    pub fn reconfigure(&self, config: DhcpConfig) -> Result<()> {
        config.check()?;
        let sockets = |c: &DhcpConfig| (c.interface.clone(), c.server, c.mode, c.probe);
        let mut current = self.0.write();
        if sockets(&current) != sockets(&config) {
            let text = "interface, server address and mode of DHCP cannot change while it runs";
            return Err(Error::new(ErrorKind::Config, text));
        }
        *current = Arc::new(config);
        Ok(())
    }
}

impl Dhcp {
    /// Takes port 67 (in proxy mode also 4011) on the one interface named.
    pub fn bind(config: DhcpConfig, leases: Arc<Leases>, policy: Arc<dyn Policy>) -> Result<Self> {
        config.check()?;
        let sockets = Sockets::bind(&config)?;
        Ok(Self {
            config: DhcpControl::new(config),
            leases,
            policy,
            sockets,
        })
    }

    /// Changes what it gives out while it runs.
    pub fn control(&self) -> DhcpControl {
        self.config.clone()
    }

    /// Serves until `shutdown` resolves, then answers what it has received and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let failed = |e: io::Error| Error::io("cannot start the DHCP thread", e);
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = move || {
            // The other end is gone only if `run` was dropped.
            let _ = done.send(self.work(&stopped.into()));
        };
        std::thread::Builder::new()
            .name("dhcp".into())
            .spawn(work)
            .map_err(failed)?;
        let died = || Error::new(ErrorKind::Io, "the DHCP thread failed");
        tokio::pin!(ended);
        tokio::select! {
            result = &mut ended => return result.unwrap_or_else(|_| Err(died())),
            () = shutdown => drop(stop),
        }
        ended.await.unwrap_or_else(|_| Err(died()))
    }

    fn work(self, stop: &OwnedFd) -> Result<()> {
        let (leases, policy) = (self.leases, self.policy);
        let (scribe, outcomes) = std::sync::mpsc::sync_channel(scribe::QUEUE);
        let voice = Voice {
            sockets: Arc::new(self.sockets),
            policy: policy.clone(),
        };
        let engine = Engine::new(self.config.current(), leases.clone(), policy);
        let worker = Worker::new(engine, voice.clone(), scribe, self.config);
        let (leases, voice) = (&leases, &voice);
        // Both end together: the worker holds the other end of what the scribe waits for.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("dhcp-leases".into())
                .spawn_scoped(scope, move || scribe::run(leases, voice, &outcomes))
                .map_err(|e| Error::io("cannot start the thread for leases", e))?;
            worker.run(stop)
        })
    }
}
