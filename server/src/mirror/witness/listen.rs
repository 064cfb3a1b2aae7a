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

use super::{Keeper, Pair};
use crate::service::tls::shown_by;

/// Connections at a time: two servers that come and go need no more.
const CONNECTIONS: usize = 32;
/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection that says nothing for this long is closed; servers come again when they have something to ask.
const IDLE: Duration = Duration::from_secs(60);
/// Longest request, in bytes.
const REQUEST: usize = 256;

/// Answers until the task is dropped.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, pair: Pair, keeper: Arc<Keeper>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let pair = Arc::new(pair);
    while let Ok(permit) = room.clone().acquire_owned().await {
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (tls, pair, keeper) = (tls.clone(), pair.clone(), keeper.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(socket, &tls, &pair, &keeper).await {
                tracing::info!(%from, "connection ended: {error:#}");
            }
            drop(permit);
        });
    }
}

async fn converse(
    socket: TcpStream,
    tls: &TlsAcceptor,
    pair: &Pair,
    keeper: &Keeper,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let handshake = timeout(HANDSHAKE, tls.accept(socket)).await;
    let mut stream = handshake
        .context("TLS handshake: too slow")?
        .context("TLS handshake")?;
    let (names, _) = shown_by(stream.get_ref().1);
    let Some(node) = pair.node(&names) else {
        bail!("a certificate for {names:?}, which is not one of the pair");
    };
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
