//! Connections of the witness.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use mirror::{FRAME_HEAD, NodeId, WitnessRequest};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Keeper;
use crate::mirror::{
    secret::{PairRole, PairSecret, explain},
    strangers::Strangers,
};

/// Connections of the two servers at a time. They need a few.
const CONNECTIONS: usize = 64;
/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection that says nothing for this long is closed; servers come again when they have something to ask.
pub const IDLE: Duration = Duration::from_secs(60);
/// Longest request, in bytes.
const REQUEST: usize = 256;

/// What all connections share.
struct Door {
    tls: TlsAcceptor,
    secret: Arc<PairSecret>,
    keeper: Arc<Keeper>,
    strangers: Mutex<Strangers<Arc<Notify>>>,
    known: Semaphore,
}

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, secret: Arc<PairSecret>, keeper: Arc<Keeper>) {
    let door = Arc::new(Door {
        tls: TlsAcceptor::from(secret.server(PairRole::Witness)),
        secret,
        keeper,
        strangers: Mutex::default(),
        known: Semaphore::new(CONNECTIONS),
    });
    loop {
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let door = door.clone();
        tokio::spawn(async move {
            if let Err(error) = door.converse(socket, from.ip()).await {
                tracing::info!(%from, "connection ended: {error:#}");
            }
        });
    }
}

impl Door {
    async fn converse(&self, socket: TcpStream, from: IpAddr) -> anyhow::Result<()> {
        socket.set_nodelay(true)?;
        let mut stream = self.welcome(socket, from).await?;
        let shown = self.secret.shown(stream.get_ref().1);
        let node = shown.and_then(PairRole::node);
        let node = node.context("this is neither of the two servers")?;
        let _place = self.known.try_acquire().context("too many connections")?;
        while let Some(request) = timeout(IDLE, next(&mut stream))
            .await
            .context("silent for too long")??
        {
            reply(&mut stream, node, request, &self.keeper).await?;
        }
        Ok(())
    }

    /// Shakes hands with somebody who may be anybody.
    async fn welcome(
        &self,
        socket: TcpStream,
        from: IpAddr,
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let leave = Arc::new(Notify::new());
        let (number, gone) = self.strangers.lock().enter(from, leave.clone());
        if let Some(gone) = gone {
            gone.notify_one();
        }
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE, self.tls.accept(socket)) => handshake,
            () = leave.notified() => bail!("TLS handshake: gave way to a newer connection"),
        };
        let shown = matches!(handshake, Ok(Ok(_)));
        self.strangers.lock().leave(number, shown);
        let handshake = handshake.context("TLS handshake: too slow")?;
        handshake.map_err(|error| explain(error).context("TLS handshake"))
    }
}

/// The next request; `None` at the end of the connection.
async fn next(stream: &mut TlsStream<TcpStream>) -> anyhow::Result<Option<WitnessRequest>> {
    let mut head = [0; FRAME_HEAD];
    match stream.read(&mut head[..1]).await {
        Ok(0) => return Ok(None),
        // Without a good-bye: between two requests that is as good.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    stream.read_exact(&mut head[1..]).await?;
    let length = mirror::frame_length(head)?;
    if length > REQUEST {
        bail!("a request of {length} bytes");
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(Some(WitnessRequest::decode(frame.into())?))
}

async fn reply(
    stream: &mut TlsStream<TcpStream>,
    node: NodeId,
    request: WitnessRequest,
    keeper: &Keeper,
) -> anyhow::Result<()> {
    if request.from != node {
        bail!("server {node:?} speaks for the other one");
    }
    let Some(answer) = keeper.handle(request).await else {
        bail!("the record cannot be kept");
    };
    let mut out = Vec::new();
    answer.encode(&mut out)?;
    timeout(IDLE, stream.write_all(&out)).await??;
    timeout(IDLE, stream.flush()).await??;
    Ok(())
}
