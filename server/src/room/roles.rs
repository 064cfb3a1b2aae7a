//! A server from start to stop: alone it serves its room all the time, as one of a pair while it is the primary.

use std::{
    future::pending,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use mirror::Command;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Data, Farewell, Room, low_water, reload, signals::Signals};
use crate::{
    config::{self, Config, DhcpMode, standby::Standby},
    control::{self, ControlSocket, Desk},
    mirror::{driver::Reign, pair::Pair},
};

/// How long the other server may take to take over when this one is told to stop.
const HAND_OVER: Duration = Duration::from_secs(5);
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
        loop {
            tokio::select! {
                () = self.signals.stop(|| ()) => break,
                () = ours(&mut self.reigns) => {}
            }
            let Some(room) = self.open().await else {
                tokio::select! {
                    () = self.signals.stop(|| ()) => break,
                    () = sleep(AGAIN) => continue,
                }
            };
            if self.serve(room).await? {
                break;
            }
        }
        say_stopping();
        Ok(())
    }

    /// The room, unless it cannot be served; then the log says why.
    async fn open(&mut self) -> Option<Room> {
        self.pair.stop_fetching();
        if let Ok(fresh) = config::load(&self.config.sources.path()) {
            self.config = fresh;
        }
        let (config, pair) = (self.config.clone(), self.pair.clone());
        let opened = spawn_blocking(move || Room::open(config, Data::of(&pair)?)).await;
        match opened {
            Ok(Ok(room)) => return Some(room),
            Ok(Err(error)) => {
                tracing::error!("this server is primary and cannot serve the room: {error:#}");
            }
            Err(error) => tracing::error!("a bug in the server: {error}"),
        }
        None
    }

    /// Serves as long as this server is primary; true when it was told to stop.
    async fn serve(&mut self, room: Room) -> anyhow::Result<bool> {
        let reign = *self.reigns.borrow();
        let mut stopped = false;
        let (signals, reigns) = (&mut self.signals, &mut self.reigns);
        let (pair, desk) = (&self.pair, &self.desk);
        let farewell = async {
            let mut watching = reigns.clone();
            tokio::select! {
                () = over(reigns, reign.number) => Farewell::AtOnce,
                () = signals.stop(|| on_hangup(desk)) => {
                    stopped = true;
                    say_stopping();
                    hand_over(pair, &mut watching, reign.number).await
                }
            }
        };
        room.serve(desk, farewell).await?;
        Ok(stopped)
    }
}

/// Returns when this server is primary, and what it did before has ended.
async fn ours(reigns: &mut watch::Receiver<Reign>) {
    if reigns.wait_for(|reign| reign.ours).await.is_err() {
        pending::<()>().await;
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

/// Lets the standby take over, if there is one that can.
async fn hand_over(pair: &Pair, reigns: &mut watch::Receiver<Reign>, number: u64) -> Farewell {
    if !pair.mirror.status().paired {
        return Farewell::Orderly;
    }
    tracing::info!("the other server takes over");
    pair.mirror.command(Command::HandOver);
    match timeout(HAND_OVER, over(reigns, number)).await {
        Ok(()) => Farewell::AtOnce,
        Err(_) => Farewell::Orderly,
    }
}
