//! Asks a gateway over HTTP, with patience: what may pass is tried again.
//!
//! Hides connections and retries. Promises: an answer is a 200 with a JSON body, or the sentence that
//! says why there is none; the time told is that of the try that was answered. Called by
//! [`super::ask`].

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

/// How often a question is asked before it counts as failed.
const TRIES: u32 = 4;

/// A long answer on few cores takes minutes.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A gateway and the key to it.
#[derive(Debug)]
pub struct Client {
    url: String,
    bearer: Option<String>,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Said {
    /// The body.
    pub body: Value,
    /// The headers.
    pub headers: HeaderMap,
    /// From the question to the whole answer.
    pub ms: f64,
}

/// Why a try failed, and whether another may help.
struct Refused {
    why: String,
    passes: bool,
}

impl Client {
    /// For the gateway at this address (`http://127.0.0.1:8080`, with or without `/v1`).
    pub fn new(base_url: &str, key: Option<&str>) -> Client {
        let root = base_url.trim_end_matches('/').trim_end_matches("/v1");
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(tcp);
        Client {
            url: format!("{root}/v1/chat/completions"),
            bearer: key.map(|key| format!("Bearer {key}")),
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// Asks, and asks again where that may help. Dropping the future gives the question up.
    ///
    /// # Errors
    /// The last try's status and text, or why there was no answer.
    pub async fn chat(&self, body: &Value) -> Result<Said, String> {
        let bytes = Bytes::from(body.to_string());
        let mut last = String::new();
        for turn in 0..TRIES {
            sleep(Duration::from_secs(turn.into())).await;
            match self.once(bytes.clone()).await {
                Ok(said) => return Ok(said),
                Err(Refused { why, passes: false }) => return Err(why),
                Err(Refused { why, .. }) => last = why,
            }
        }
        Err(last)
    }

    async fn once(&self, bytes: Bytes) -> Result<Said, Refused> {
        let started = Instant::now();
        let passing = |why: String| Refused { why, passes: true };
        let (status, headers, body) = timeout(PATIENCE, self.exchange(bytes))
            .await
            .map_err(|_| passing(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(passing)?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if status != StatusCode::OK {
            let shown: String = String::from_utf8_lossy(&body).chars().take(500).collect();
            return Err(Refused {
                why: format!("{status}: {shown}"),
                passes: matches!(status.as_u16(), 429 | 502..=504),
            });
        }
        match serde_json::from_slice(&body) {
            Ok(body) => Ok(Said { body, headers, ms }),
            Err(error) => Err(Refused { why: format!("the answer is no JSON: {error}"), passes: false }),
        }
    }

    async fn exchange(&self, bytes: Bytes) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let mut request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request.body(Full::new(bytes)).map_err(|error| format!("{}: {error}", self.url))?;
        let response = self.pool.request(request).await.map_err(|error| format!("{}: {error}", self.url))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("the answer broke off: {error}"))?;
        Ok((head.status, head.headers, body.to_bytes()))
    }
}
