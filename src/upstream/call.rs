//! One call of an upstream, from the request's bytes to the first delta, with its retries.
//!
//! [`Upstream::start`] splices the model's name into the client's own bytes, then tries: choose an
//! endpoint, send, wait for the head and for the first event. A failure before that is tried
//! again as [`Failure`] advises, within the call's count and the upstream's budget; after it,
//! nothing is. Everything runs in the caller's future, so dropping it drops the connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::answer::{Cut, Events, LONGEST_ANSWER, Patience, read_whole};
use super::config::{ApiKey, Config};
use super::endpoint::{Endpoint, Endpoints, Tried, Visit};
use super::failure::{Again, Failure, Outcome, passed_headers, silent, told, unavailable};
use super::retry::Budget;
use crate::backend::{Backend, Breaker, Call, Completion, Status};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Ask, Delta, ModelId, Part, Request, Secret};
use crate::wire::openai::{chunk_of, parse_models, scan, splice};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const NAME_AND_VERSION: HeaderValue = HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION")));
const REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// How much of an error's body is passed on, bytes.
const LONGEST_ERROR: usize = 64 * 1024;
/// A connection lost this soon after sending was a pooled one that the upstream was just closing;
/// later, the request may have been worked on, and costs a retry.
const STALE: Duration = Duration::from_millis(250);
/// How long an upstream may take to list its models.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A large-model API with all its models.
pub struct Upstream {
    config: Config,
    name: Arc<str>,
    /// `Authorization` with the operator's key.
    authorization: Option<HeaderValue>,
    endpoints: Endpoints,
    budget: Budget,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is sent, whichever endpoint it goes to.
struct Outgoing<'a> {
    ask: &'a Ask,
    stream: bool,
    headers: HeaderMap,
    body: Bytes,
}

impl Upstream {
    /// Prepares an upstream; connects to nothing. Fails where an endpoint is no address or the
    /// key cannot stand in a header.
    pub fn new(config: Config) -> Result<Self> {
        let authorization = match &config.api_key {
            ApiKey::Value(key) => Some(authorization(&format!("Bearer {}", key.expose())).ok_or_else(|| {
                let message =
                    format!("upstream \"{}\": its api_key has characters that no header may have", config.name);
                Error::new(Kind::Invalid, Origin::Gateway, message)
            })?),
            ApiKey::None | ApiKey::Missing { .. } | ApiKey::Client => None,
        };
        let endpoints = Endpoints::build(&config)?;
        Ok(Upstream { name: config.name.as_str().into(), authorization, endpoints, budget: Budget::default(), config })
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Why no call would be tried at all, where that is so: its key is missing.
    pub fn unready(&self) -> Option<&str> {
        match &self.config.api_key {
            ApiKey::Missing { reason } => Some(reason),
            ApiKey::None | ApiKey::Value(_) | ApiKey::Client => None,
        }
    }

    /// Asks the endpoints in turn which models there are, until one says; at most 10 s each.
    /// Cancel-safe.
    pub async fn probe(&self) -> Result<Vec<String>> {
        let mut last = unavailable(&self.name, "there is no endpoint");
        for endpoint in self.endpoints.list() {
            match self.list(endpoint).await {
                Ok(models) => return Ok(models),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn list(&self, endpoint: &Endpoint) -> Result<Vec<String>> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(USER_AGENT, NAME_AND_VERSION);
        headers.insert(ACCEPT, JSON);
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        let mut request = compose(endpoint, &endpoint.models, headers, Bytes::new());
        *request.method_mut() = Method::GET;
        let mut patience = Patience::new(PROBE_TIMEOUT);
        let response = self.exchange(endpoint, request, &mut patience).await.map_err(|failure| failure.error)?;
        let body = self.read(response.into_body(), &mut patience, PROBE_TIMEOUT).await?;
        parse_models(&body).map_err(|error| self.bad(&format!("its list of models cannot be read: {error}")))
    }

    async fn run(&self, call: Call) -> Result<Completion> {
        let outgoing = self.outgoing(&call.request, &call.model)?;
        self.budget.earn();
        let mut tried = Tried::default();
        let mut retries = 0;
        let mut failed: Option<Failure> = None;
        loop {
            let Some(visit) = self.endpoints.choose(&mut tried) else {
                let open = || unavailable(&self.name, "its circuit breaker is open after failures in a row");
                return Err(failed.map_or_else(open, |failure| failure.error));
            };
            let failure = match self.attempt(&outgoing, &call.model, visit).await {
                Ok(completion) => return Ok(completion),
                Err(failure) => failure,
            };
            let untried = tried.count() < self.endpoints.list().len();
            let wait = failure.wait(&self.config, retries, untried);
            let Some(wait) = wait.filter(|_| retries < self.config.retries && self.budget.spend()) else {
                return Err(failure.error);
            };
            tracing::debug!(upstream = &*self.name, error = %failure.error, ?wait, "trying again");
            retries += 1;
            failed = Some(failure);
            tokio::time::sleep(wait).await;
        }
    }

    fn outgoing<'a>(&self, request: &'a Request, model: &ModelId) -> Result<Outgoing<'a>> {
        if let Some(reason) = self.unready() {
            let message = format!("upstream \"{}\": {reason}", self.name);
            return Err(Error::new(Kind::Unavailable, Origin::Gateway, message).retry(Retry::Elsewhere));
        }
        let stream = request.stream && !matches!(request.ask, Ask::Embed(_));
        let rest = model.split().map_or(model.as_str(), |(_, rest)| rest);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(USER_AGENT, NAME_AND_VERSION);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, if stream { EVENT_STREAM } else { JSON });
        headers.extend(HeaderValue::from_str(&request.id).ok().map(|id| (REQUEST_ID, id)));
        headers.extend(self.key(request.authorization.as_ref())?.map(|key| (AUTHORIZATION, key)));
        Ok(Outgoing { ask: &request.ask, stream, headers, body: splice(&request.body, rest, stream) })
    }

    fn key(&self, of_client: Option<&Secret>) -> Result<Option<HeaderValue>> {
        if self.config.api_key != ApiKey::Client {
            return Ok(self.authorization.clone());
        }
        of_client.and_then(|given| authorization(given.expose())).map(Some).ok_or_else(|| {
            let message = format!(
                "upstream \"{}\" takes the client's own key; send it as `authorization: Bearer KEY`",
                self.name
            );
            Error::new(Kind::Unauthenticated, Origin::Client, message)
        })
    }

    /// One try: to the head, where another may follow, and on to the first delta, where none may.
    async fn attempt(&self, outgoing: &Outgoing<'_>, model: &ModelId, mut visit: Visit) -> Outcome<Completion> {
        let mut patience = Patience::new(self.config.first_byte_timeout);
        let response = self.converse(outgoing, &visit.endpoint, &mut patience).await;
        match &response {
            Err(failure) if failure.blame => visit.fail(),
            Ok(_) | Err(_) => visit.succeed(),
        }
        let (head, body) = response?.into_parts();
        let deltas = if outgoing.stream && !has_media(&head.headers, "json") {
            patience.renew(self.config.first_byte_timeout);
            self.streamed(Events::new(Arc::clone(&self.name), body, patience, self.config.idle_timeout, visit)).await
        } else if !outgoing.stream && has_media(&head.headers, "event-stream") {
            Err(self.bad("it answered with a stream though none was asked for"))
        } else {
            self.read(body, &mut patience, self.config.idle_timeout)
                .await
                .and_then(|body| self.whole(body, outgoing.stream))
        };
        let headers = passed_headers(&head.headers, false);
        deltas.map(|deltas| Completion { model: model.clone(), headers, deltas }).map_err(Failure::last)
    }

    /// Sends the request; once more, at once, where a pooled connection turns out to be closed.
    async fn converse(
        &self,
        outgoing: &Outgoing<'_>,
        endpoint: &Endpoint,
        patience: &mut Patience,
    ) -> Outcome<Response<Incoming>> {
        let uri = endpoint.uri(outgoing.ask);
        let request = || compose(endpoint, uri, outgoing.headers.clone(), outgoing.body.clone());
        let sent = Instant::now();
        match self.exchange(endpoint, request(), patience).await {
            Err(failure) if failure.again == Again::Stale && sent.elapsed() < STALE => {
                self.exchange(endpoint, request(), patience).await
            }
            other => other,
        }
    }

    /// Sends a request and waits for a head with status 2xx.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        request: http::Request<Full<Bytes>>,
        patience: &mut Patience,
    ) -> Outcome<Response<Incoming>> {
        let answered = patience.during(endpoint.http.request(request)).await;
        let response = answered
            .map_err(|limit| Failure::silent(&self.name, limit))?
            .map_err(|cause| Failure::transport(&self.name, &cause))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = match read_whole(body, patience, self.config.idle_timeout, LONGEST_ERROR).await {
            Ok(body) | Err(Cut::TooLong(body)) => body,
            Err(Cut::Silent(_) | Cut::Broken) => Bytes::new(),
        };
        Err(Failure::status(&self.name, head.status, &head.headers, body))
    }

    async fn read(&self, body: Incoming, patience: &mut Patience, idle: Duration) -> Result<Bytes> {
        read_whole(body, patience, idle, LONGEST_ANSWER).await.map_err(|cut| match cut {
            Cut::Silent(limit) => silent(&self.name, limit),
            Cut::Broken => self.bad("its answer broke off"),
            Cut::TooLong(_) => self.bad(&format!("its answer is longer than {LONGEST_ANSWER} bytes")),
        })
    }

    /// The deltas of an answer that came whole.
    fn whole(&self, body: Bytes, stream: bool) -> Result<BoxStream<'static, Result<Delta>>> {
        let found = scan(&body).map_err(|error| self.bad(&format!("its answer is no JSON object: {error}")))?;
        if found.error {
            return Err(told(&self.name, &body));
        }
        let raw = if stream { chunk_of(&body).ok_or_else(|| self.bad("its answer has no choices"))? } else { body };
        let delta = Delta { choice: 0, part: Part::Raw, raw: Some(raw) };
        Ok(stream::iter([Ok(delta), Ok(Delta::new(0, Part::End(found.usage_value)))]).boxed())
    }

    /// The deltas of an answer that comes as a stream, once the first is here.
    async fn streamed(&self, mut events: Events) -> Result<BoxStream<'static, Result<Delta>>> {
        let first = events.next().await.unwrap_or_else(|| Err(self.bad("its stream is empty")))?;
        Ok(stream::iter([Ok(first)]).chain(events).boxed())
    }

    fn bad(&self, what: &str) -> Error {
        unavailable(&self.name, what)
    }
}

impl Backend for Upstream {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        self.run(call).boxed()
    }

    fn status(&self) -> Status {
        let breaker = self.endpoints.breaker();
        Status {
            ready: self.unready().is_none() && breaker != Breaker::Open,
            slots_busy: self.endpoints.busy(),
            breaker,
            ..Status::default()
        }
    }

    fn check(&self, _request: &Request) -> Result<()> {
        Ok(())
    }
}

fn compose(endpoint: &Endpoint, uri: &Uri, mut headers: HeaderMap, body: Bytes) -> http::Request<Full<Bytes>> {
    headers.extend(endpoint.host.clone().map(|host| (HOST, host)));
    let mut request = http::Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    request
}

/// `Authorization` with a value that is never shown; `None` where it cannot be one.
fn authorization(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether the content type says so.
fn has_media(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|media| media.contains(kind))
}
