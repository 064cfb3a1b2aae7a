//! Connections of the witness.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use mirror::{FRAME_HEAD, NodeId, WitnessRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Keeper;
use crate::mirror::secret::{PairRole, PairSecret, explain};

/// Connections at a time: two servers that come and go need a few; the rest is for strangers, who may be at the door for
/// as long as a handshake may take.
const CONNECTIONS: usize = 256;
/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection that says nothing for this long is closed; servers come again when they have something to ask.
pub const IDLE: Duration = Duration::from_secs(60);
/// Longest request, in bytes.
const REQUEST: usize = 256;

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, secret: Arc<PairSecret>, keeper: Arc<Keeper>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let tls = TlsAcceptor::from(secret.server(PairRole::Witness));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (tls, secret, keeper) = (tls.clone(), secret.clone(), keeper.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(socket, &tls, &secret, &keeper).await {
                tracing::info!(%from, "connection ended: {error:#}");
            }
            drop(permit);
        });
    }
}

async fn converse(
    socket: TcpStream,
    tls: &TlsAcceptor,
    secret: &PairSecret,
    keeper: &Keeper,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let handshake = timeout(HANDSHAKE, tls.accept(socket)).await;
    let handshake = handshake.context("TLS handshake: too slow")?;
    let mut stream = handshake.map_err(|error| explain(error).context("TLS handshake"))?;
    let shown = secret.shown(stream.get_ref().1);
    let node = shown.and_then(PairRole::node);
    let node = node.context("this is neither of the two servers")?;
    while let Some(request) = timeout(IDLE, next(&mut stream))
        .await
        .context("silent for too long")??
    {
        reply(&mut stream, node, request, keeper).await?;
    }
    Ok(())
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
