//! The three calls of etcd's JSON gateway that are needed: range, txn, authenticate.

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;

use crate::mirror::asking::Endpoint;

/// Longest answer that is read, in bytes.
const ANSWER: usize = 64 << 10;

/// What a login gave; empty without one.
pub type Token = Option<HeaderValue>;

/// What is under a key.
pub struct Found {
    /// The revision of etcd's in which it was written. No other value ever has the same.
    pub revision: i64,
    /// The value.
    pub value: Vec<u8>,
}

/// A connection for the calls that one question takes.
pub struct Calls<'a> {
    endpoint: &'a Endpoint,
    token: &'a mut Token,
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Calls<'_> {
    /// Closes it also when an answer is still due.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<'a> Calls<'a> {
    /// Connects.
    ///
    /// # Errors
    /// It is not there, or its certificate is not good.
    pub async fn open(
        endpoint: &'a Endpoint,
        tls: Option<&TlsConnector>,
        token: &'a mut Token,
    ) -> anyhow::Result<Self> {
        let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        socket.set_nodelay(true)?;
        let (sender, driver) = match tls {
            None => speak(socket).await?,
            Some(tls) => {
                let name = ServerName::try_from(endpoint.host.clone())?;
                speak(tls.connect(name, socket).await?).await?
            }
        };
        Ok(Self {
            endpoint,
            token,
            sender,
            driver,
        })
    }

    /// What is under the key now. etcd asks its majority: an old value is never read.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub async fn read(&mut self, key: &str) -> anyhow::Result<Option<Found>> {
        let range = json!({ "key": BASE64.encode(key) });
        found(&self.call("kv/range", &range).await?)
    }

    /// Puts a value under the key if that still has what was found there. Otherwise what it has instead.
    ///
    /// # Errors
    /// No answer, or not a good one. It may have happened or not.
    pub async fn replace(
        &mut self,
        key: &str,
        found_before: Option<&Found>,
        value: Vec<u8>,
    ) -> anyhow::Result<Result<Found, Option<Found>>> {
        let name = BASE64.encode(key);
        let mut same = json!({ "key": name, "result": "EQUAL" });
        match found_before {
            Some(found) => {
                same["target"] = "MOD".into();
                same["mod_revision"] = found.revision.to_string().into();
            }
            None => {
                same["target"] = "CREATE".into();
                same["create_revision"] = "0".into();
            }
        }
        let answer = self
            .call(
                "kv/txn",
                &json!({
                    "compare": [same],
                    "success": [{ "request_put": { "key": name, "value": BASE64.encode(&value) } }],
                    "failure": [{ "request_range": { "key": name } }],
                }),
            )
            .await?;
        if answer["succeeded"] == true {
            let revision = number(&answer["header"]["revision"])?;
            return Ok(Ok(Found { revision, value }));
        }
        found(&answer["responses"][0]["response_range"]).map(Err)
    }

    /// A call; logs in first where that is asked for, and again when the login is over.
    async fn call(&mut self, what: &str, body: &Value) -> anyhow::Result<Value> {
        let login = self.endpoint.login.clone();
        if let Some((name, password)) = login {
            if self.token.is_some() {
                let (status, answer) = self.post(what, body).await?;
                if !is_over(status) {
                    return good(status, answer);
                }
            }
            *self.token = None;
            let credentials = json!({ "name": name, "password": password });
            let (status, answer) = self.post("auth/authenticate", &credentials).await?;
            let token = good(status, answer).context("login")?;
            let token = token["token"].as_str().context("a login without a token")?;
            *self.token = Some(HeaderValue::from_str(token)?);
        }
        let (status, answer) = self.post(what, body).await?;
        good(status, answer)
    }

    async fn post(&mut self, what: &str, body: &Value) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::post(format!("/v3/{what}"))
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &*self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::from(body.to_string()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

/// Whether a login may have lost its worth: 401 for a token that is unknown, 400 for one from before a change of rights.
fn is_over(status: StatusCode) -> bool {
    [StatusCode::UNAUTHORIZED, StatusCode::BAD_REQUEST].contains(&status)
}

async fn speak<S>(socket: S) -> anyhow::Result<(SendRequest<Full<Bytes>>, AbortHandle)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(async move {
        // What ends it is told to who waits for an answer.
        let _ = connection.await;
    });
    Ok((sender, driver.abort_handle()))
}

/// The answer, unless it is a refusal.
fn good(status: StatusCode, body: Bytes) -> anyhow::Result<Value> {
    let answer: Option<Value> = serde_json::from_slice(&body).ok();
    match answer {
        Some(answer) if status.is_success() => Ok(answer),
        Some(answer) => bail!(
            "{status}: {}",
            answer["error"].as_str().unwrap_or("no reason")
        ),
        None => bail!("{status}: this is no etcd, or one without its JSON gateway"),
    }
}

/// What a range brought. Numbers of 64 bits are strings in this JSON, and what is zero or empty is left out.
fn found(range: &Value) -> anyhow::Result<Option<Found>> {
    let Some(first) = range["kvs"].get(0) else {
        if range["header"].is_object() {
            return Ok(None);
        }
        bail!("an answer that is none");
    };
    let value = BASE64.decode(first["value"].as_str().unwrap_or_default());
    Ok(Some(Found {
        revision: number(&first["mod_revision"])?,
        value: value.context("a value that is not base64")?,
    }))
}

fn number(value: &Value) -> anyhow::Result<i64> {
    let text = value.as_str().context("a revision is missing")?;
    text.parse().context("a revision that is no number")
}
