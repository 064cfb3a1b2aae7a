//! A server from start to stop: alone it serves its room all the time, as one of a pair while it is the primary.

use std::{
    future::pending,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use mirror::{Command, Notice};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Data, Farewell, Room, low_water, reload, signals::Signals};
use crate::{
    config::{self, Config, DhcpMode, host, restart, standby::Standby},
    control::{self, ControlSocket, Desk},
    mirror::{driver::Reign, pair::Pair},
};

/// How long the other server may take to take over when this one is told to stop.
const HAND_OVER: Duration = Duration::from_secs(5);
/// After so many attempts to serve a paired primary lets the other server try.
const GIVEN_UP: u32 = 3;
/// Before a primary that could not begin to serve tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then stops in order: no new boots and no control, then the disks, whose last answers
/// are flushed; or, in a pair, the other server takes over.
///
/// # Errors
/// When something cannot be opened or taken, or a service fails while it should serve.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let socket = ControlSocket::bind(&config.server.control)?;
    let signals = Signals::register()?;
    match config.standby.clone() {
        None => serve_alone(config, socket, signals).await,
        Some(standby) => serve_as_one_of_two(config, &standby, socket, signals).await,
    }
}

/// The control socket, which is there whatever is served.
struct Front {
    desk: Arc<Desk>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Front {
    fn open(socket: ControlSocket, desk: Desk) -> Self {
        let (desk, stop) = (Arc::new(desk), CancellationToken::new());
        let task = tokio::spawn(control::serve(socket, desk.clone(), stop.clone()));
        Front { desk, stop, task }
    }

    /// Returns only when the socket fails.
    async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            _ => anyhow::anyhow!("the control socket ended by itself"),
        }
    }

    async fn close(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// SIGHUP: what is served reads its configuration again; a standby reads it when it takes over.
fn on_hangup(desk: &Desk) {
    if let Some(sources) = desk.sources() {
        reload::on_signal(sources.reloader.clone());
    }
}

fn say_stopping() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

async fn serve_alone(
    config: Config,
    socket: ControlSocket,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let data = Data::alone(&config)?;
    let room = Room::open(config, data)?;
    let mut front = Front::open(socket, Desk::alone());
    let desk = front.desk.clone();
    let farewell = async {
        signals.stop(|| on_hangup(&desk)).await;
        say_stopping();
        Farewell::Orderly
    };
    let outcome = tokio::select! {
        served = room.serve(&desk, farewell) => served,
        error = front.failed() => Err(error),
    };
    front.close().await;
    outcome
}

async fn serve_as_one_of_two(
    config: Config,
    standby: &Standby,
    socket: ControlSocket,
    signals: Signals,
) -> anyhow::Result<()> {
    rehearse(&config)?;
    let pair = Pair::open(&config, standby, low_water())?;
    tracing::info!("bootroom {}: {standby}", env!("CARGO_PKG_VERSION"));
    let mut front = Front::open(socket, Desk::of(pair.clone(), (&config.server).into()));
    let mut follower = Follower {
        reigns: pair.mirror.reigns(),
        desk: front.desk.clone(),
        pair: pair.clone(),
        config,
        signals,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let outcome = tokio::select! {
        followed = follower.follow() => followed,
        error = front.failed() => Err(error),
    };
    front.close().await;
    pair.mirror.stop();
    outcome
}

/// Takes the ports of the room and lets them go again: a standby must not find out that it cannot have them when it is
/// needed.
fn rehearse(config: &Config) -> anyhow::Result<()> {
    let server = &config.server;
    for port in [server.http_port, server.nbd_port] {
        let place = SocketAddr::from((server.ip(), port));
        TcpListener::bind(place).with_context(|| format!("cannot listen on {place}"))?;
    }
    let dhcp = (config.dhcp.mode != DhcpMode::Off).then_some(DHCP);
    for port in [TFTP].into_iter().chain(dhcp) {
        let place = SocketAddr::from((server.ip(), port));
        UdpSocket::bind(place).with_context(|| format!("cannot listen on {place}"))?;
    }
    Ok(())
}

const DHCP: u16 = 67;
const TFTP: u16 = 69;

/// One of two servers: waits as standby, serves as primary.
struct Follower {
    reigns: watch::Receiver<Reign>,
    desk: Arc<Desk>,
    pair: Arc<Pair>,
    /// The last that could be used.
    config: Config,
    signals: Signals,
}

impl Follower {
    /// Until the server is told to stop.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            let reign = tokio::select! {
                () = self.signals.stop(|| ()) => break,
                reign = ours(&mut self.reigns) => reign,
            };
            let Some(room) = self.open(reign.number).await else {
                failures += 1;
                if failures % GIVEN_UP == 0 && self.pair.mirror.status().paired {
                    tracing::error!("the other server is to take over: this one cannot serve");
                    self.pair.mirror.command(Command::HandOver);
                }
                tokio::select! {
                    () = self.signals.stop(|| ()) => break,
                    () = sleep(AGAIN) => continue,
                }
            };
            failures = 0;
            if self.serve(room, reign.number).await? {
                break;
            }
        }
        say_stopping();
        Ok(())
    }

    /// The room, unless it cannot be served; then the log says why.
    async fn open(&mut self, reign: u64) -> Option<Room> {
        self.pair.stop_fetching();
        let fresh = self.fresh_config();
        for config in fresh.into_iter().chain([self.config.clone()]) {
            let (with, pair) = (config.clone(), self.pair.clone());
            let opened = spawn_blocking(move || Room::open(with, Data::of(&pair, reign)?)).await;
            match opened {
                Ok(Ok(room)) => {
                    self.config = config;
                    return Some(room);
                }
                Ok(Err(error)) => {
                    tracing::error!("this server is primary and cannot serve the room: {error:#}");
                }
                Err(error) => tracing::error!("a bug in the server: {error}"),
            }
        }
        None
    }

    /// The configuration as it is in the file now, if it is another one and can be used.
    fn fresh_config(&self) -> Option<Config> {
        let path = self.config.sources.path();
        let problems = match config::load(&path) {
            Ok(fresh) => {
                let mut list = restart::needs(&self.config, &fresh);
                list.extend(host::check(&fresh));
                if list.is_empty() {
                    return Some(fresh);
                }
                fresh.refuse(list)
            }
            Err(problems) => problems,
        };
        tracing::error!("the configuration of before stays in force: {problems}");
        None
    }

    /// Serves as long as the reign lasts; true when the server was told to stop.
    async fn serve(&mut self, room: Room, reign: u64) -> anyhow::Result<bool> {
        let mut stopped = false;
        let (signals, reigns) = (&mut self.signals, &mut self.reigns);
        let (pair, desk) = (&self.pair, &self.desk);
        let farewell = async {
            let mut watching = reigns.clone();
            tokio::select! {
                () = over(reigns, reign) => Farewell::AtOnce,
                () = signals.stop(|| on_hangup(desk)) => {
                    stopped = true;
                    say_stopping();
                    step_down(pair, &mut watching, reign).await
                }
            }
        };
        room.serve(desk, farewell).await?;
        Ok(stopped)
    }
}

/// Returns when this server is primary, and what it did before has ended: with the reign.
async fn ours(reigns: &mut watch::Receiver<Reign>) -> Reign {
    match reigns.wait_for(|reign| reign.ours).await {
        Ok(reign) => *reign,
        Err(_) => pending().await,
    }
}

/// Returns when the reign of that number is over.
async fn over(reigns: &mut watch::Receiver<Reign>, number: u64) {
    if reigns
        .wait_for(|reign| reign.number != number)
        .await
        .is_err()
    {
        pending::<()>().await;
    }
}

/// How a primary that is told to stop parts from its machines: where there is a standby that can, that takes over.
async fn step_down(pair: &Pair, reigns: &mut watch::Receiver<Reign>, number: u64) -> Farewell {
    let status = pair.mirror.status();
    if status.waits.is_some() {
        // Nothing can be answered: whoever waits is sent away, or they would be waited for without end.
        pair.mirror.give_up();
        return Farewell::AtOnce;
    }
    if !status.paired {
        return Farewell::Orderly;
    }
    tracing::info!("the other server takes over");
    let mut notices = pair.mirror.notices();
    pair.mirror.command(Command::HandOver);
    tokio::select! {
        () = refused(&mut notices) => Farewell::Orderly,
        // From then on nothing is answered any more, whether it has taken over by then or not.
        _ = timeout(HAND_OVER, over(reigns, number)) => Farewell::AtOnce,
    }
}

/// Returns when a hand-over is refused.
async fn refused(notices: &mut broadcast::Receiver<Notice>) {
    loop {
        match notices.recv().await {
            Ok(Notice::NotHandedOver) => return,
            Err(RecvError::Closed) => pending::<()>().await,
            _ => {}
        }
    }
}
