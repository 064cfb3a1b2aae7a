//! The other end of the control socket: a question with a JSON answer, and the trace of boots.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::model::{CommitRequest, CommitStep, Failure};
use crate::trace::Step;

/// The longest answer taken, in bytes: some 100,000 machines.
const ANSWER_LIMIT: usize = 64 << 20;
/// The longest line taken of an answer that goes on, in bytes.
const LINE_LIMIT: usize = 1 << 20;

/// The control socket of a server.
#[derive(Debug, Clone)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// The control socket at this path; nothing is connected yet.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks for `path` and returns the JSON answer.
    ///
    /// # Errors
    /// The server does not answer, refuses, or answers something that is not JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        self.ask(Method::GET, path).await
    }

    /// Does what `path` says and returns the JSON answer.
    ///
    /// # Errors
    /// The server does not answer, refuses, or answers something that is not JSON.
    pub async fn post(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<serde_json::Value> {
        let response = self.request(method, path, Bytes::new()).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await;
        let body = body
            .map_err(|error| anyhow::anyhow!("{path}: {error}"))?
            .to_bytes();
        if !status.is_success() {
            return Err(refusal(path, status, &body));
        }
        serde_json::from_slice(&body).with_context(|| format!("the answer to {path} is not JSON"))
    }

    /// Opens the trace of boots, from now on.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn events(&self) -> anyhow::Result<Events> {
        self.lines("/v1/events").await
    }

    /// Opens an answer that goes on.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn lines<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<JsonLines<T>> {
        let response = self.request(Method::GET, path, Bytes::new()).await?;
        if response.status().is_success() {
            return Ok(JsonLines::of(response));
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Err(refusal(path, status, &body))
    }

    /// Begins to make the disk of `client` a version, and returns the steps as they happen.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn commit(
        &self,
        client: &str,
        request: &CommitRequest,
    ) -> anyhow::Result<JsonLines<CommitStep>> {
        let path = format!("/v1/clients/{client}/commit");
        let body = Bytes::from(serde_json::to_vec(request)?);
        Ok(JsonLines::of(
            self.request(Method::POST, &path, body).await?,
        ))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let place = || format!("the server's control socket {}", self.socket.display());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|cause| Unreachable {
                socket: self.socket.clone(),
                cause,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .with_context(place)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bootroom")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.with_context(place)?;
        Ok(response)
    }
}

/// Nobody listens at the control socket.
#[derive(Debug, thiserror::Error)]
#[error("the server does not answer at {}: {cause}; is `bootroom serve` running?", socket.display())]
pub struct Unreachable {
    socket: PathBuf,
    cause: std::io::Error,
}

fn refusal(path: &str, status: StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<Failure>(body) {
        Ok(failure) => anyhow::anyhow!(failure.error),
        Err(_) => anyhow::anyhow!("{path}: the server answers {status}"),
    }
}

/// The trace of boots as it happens.
pub type Events = JsonLines<Step>;

/// An answer that goes on: one JSON object a line.
pub struct JsonLines<T> {
    body: Incoming,
    pending: Lines,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    fn of(response: Response<Incoming>) -> Self {
        let (body, pending) = (response.into_body(), Lines::default());
        JsonLines {
            body,
            pending,
            of: PhantomData,
        }
    }

    /// The next object; `None` when the server ended the answer.
    ///
    /// # Errors
    /// The connection broke, or a line is no such object.
    pub async fn next(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(line) = self.pending.take() {
                return serde_json::from_slice(&line)
                    .map(Some)
                    .context("odd line from the server");
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => self.pending.push(frame.into_data().unwrap_or_default())?,
                None => return Ok(None),
            }
        }
    }
}

/// Bytes put together to lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: Bytes) -> anyhow::Result<()> {
        self.0.extend_from_slice(&bytes);
        if self.0.len() > LINE_LIMIT {
            bail!("a line from the server has no end");
        }
        Ok(())
    }

    /// The next line that has anything on it, without its end.
    fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let mut line: Vec<u8> = self.0.drain(..=end).collect();
            line.pop();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn answer(socket: &Path, pieces: &'static [&'static str]) -> Control {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        Control::at(socket)
    }

    #[tokio::test]
    async fn events_are_read_line_by_line_wherever_the_pieces_end() {
        let dir = tempfile::tempdir().unwrap();
        let control = answer(
            &dir.path().join("s"),
            &[
                "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"time_ms\":1,\"mac\":\"020000000001\",\"client\":\"a\",\"st",
                "ep\":\"dhcp\",\"detail\":\"\"}\n\n",
                "{\"time_ms\":2,\"mac\":\"020000000001\",\"client\":\"b\",\"step\":\"ipxe\",\"detail\":\"x\"}\n",
            ],
        )
        .await;
        let mut events = control.events().await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().step, "dhcp");
        assert_eq!(events.next().await.unwrap().unwrap().detail, "x");
        assert_eq!(events.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_that_names_the_question() {
        let dir = tempfile::tempdir().unwrap();
        let control = answer(
            &dir.path().join("s"),
            &["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"],
        )
        .await;
        let error = control.get("/v1/status").await.unwrap_err().to_string();
        assert!(
            error.contains("/v1/status") && error.contains("404"),
            "{error}"
        );
    }
}
