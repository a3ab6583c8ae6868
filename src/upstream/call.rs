//! One call of an upstream, from the request's bytes to the first delta, with its retries.
//!
//! [`Upstream::start`] splices the model's name into the client's own bytes, then tries: choose an
//! endpoint, send, wait for the head and for the first event. A failure before the head of a 2xx is
//! tried again as [`Failure`] advises, within the call's count and the upstream's budget; after it
//! nothing is, since the answer may be paid for, but until the first delta it still counts for the
//! endpoint's breaker. Everything runs in the caller's future, so dropping it drops the connection.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Response};
use http_body_util::Full;
use tokio::time::Instant;

use super::answer::{Cut, Events, LONGEST_ANSWER, Patience, read_whole};
use super::config::{ApiKey, Config};
use super::endpoint::{Endpoint, Endpoints, Place, Tried, Visit};
use super::failure::{Again, Asked, Failure, Outcome, passed_headers, silent, told, unavailable};
use super::link::Answer;
use super::retry::Budget;
use crate::backend::{Backend, Breaker, Call, Completion, Status};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Ask, Delta, ModelId, Part, Request, Secret, TraceContext};
use crate::wire::openai::{chunk_of, parse_models, scan, splice};
use crate::wire::trace_context;

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
    /// What every request says, with the operator's key.
    headers: HeaderMap,
    /// Who is asked where the key is not the client's.
    asked: Arc<Asked>,
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
    asked: Arc<Asked>,
    ask: &'a Ask,
    stream: bool,
    id: Option<HeaderValue>,
    /// The client's, where it pays itself.
    authorization: Option<HeaderValue>,
    body: Bytes,
    trace: Option<&'a TraceContext>,
}

/// An answer that has begun.
enum Begun {
    /// It came whole.
    Whole([Delta; 2]),
    /// The first delta is here.
    Streamed(Delta, Events),
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
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(USER_AGENT, NAME_AND_VERSION);
        headers.insert(ACCEPT, JSON);
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let endpoints = Endpoints::build(&config)?;
        let name: Arc<str> = config.name.as_str().into();
        let asked = Arc::new(Asked::new(Arc::clone(&name), &config.api_key, None));
        Ok(Upstream { name, headers, asked, endpoints, budget: Budget::default(), config })
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
        let mut request = http::Request::new(Full::default());
        *request.headers_mut() = self.headers.clone();
        let mut patience = Patience::new(PROBE_TIMEOUT);
        let response = self.exchange(&self.asked, (endpoint, &endpoint.models), request, &mut patience).await;
        let response = response.map_err(|failure| failure.error)?;
        let body = self.read(response.into_body(), &mut patience, PROBE_TIMEOUT).await?;
        parse_models(&body).map_err(|error| self.bad(&format!("its list of models cannot be read: {error}")))
    }

    async fn run(&self, call: Call) -> Result<Completion> {
        let outgoing = Outgoing { trace: call.trace.as_ref(), ..self.outgoing(&call.request, &call.model)? };
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
            let wait = failure.wait(&self.config, retries, self.endpoints.untried(&tried));
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
        let asked = self.asked(request.authorization.as_ref());
        let id = HeaderValue::from_str(&request.id).ok();
        let authorization = self.key(request.authorization.as_ref())?;
        let body = splice(&request.body, rest, stream);
        Ok(Outgoing { asked, ask: &request.ask, stream, id, authorization, body, trace: None })
    }

    /// The request of one try, but for where it goes.
    fn compose(&self, outgoing: &Outgoing<'_>) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = Method::POST;
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, if outgoing.stream { EVENT_STREAM } else { JSON });
        headers.extend(outgoing.id.clone().map(|id| (REQUEST_ID, id)));
        headers.extend(outgoing.authorization.clone().map(|key| (AUTHORIZATION, key)));
        if let Some(trace) = outgoing.trace {
            trace_context::write(trace, &mut headers);
        }
        *request.headers_mut() = headers;
        request
    }

    fn asked(&self, client: Option<&Secret>) -> Arc<Asked> {
        if self.config.api_key != ApiKey::Client {
            return Arc::clone(&self.asked);
        }
        Arc::new(Asked::new(Arc::clone(&self.name), &self.config.api_key, client))
    }

    /// The client's key, where it is the client who pays.
    fn key(&self, of_client: Option<&Secret>) -> Result<Option<HeaderValue>> {
        if self.config.api_key != ApiKey::Client {
            return Ok(None);
        }
        of_client.and_then(|given| authorization(given.expose())).map(Some).ok_or_else(|| {
            let message = format!(
                "upstream \"{}\" takes the client's own key; send it as `authorization: Bearer KEY`",
                self.name
            );
            Error::new(Kind::Unauthenticated, Origin::Client, message)
        })
    }

    /// One try, on to the first delta; up to there the endpoint's breaker counts what goes wrong.
    async fn attempt(&self, outgoing: &Outgoing<'_>, model: &ModelId, mut visit: Visit) -> Outcome<Completion> {
        let begun = self.begin(outgoing, &visit.endpoint).await;
        match &begun {
            Err(failure) if failure.blame => visit.fail(),
            Ok(_) | Err(_) => visit.succeed(),
        }
        let (headers, begun) = begun?;
        let deltas = match begun {
            Begun::Whole(deltas) => stream::iter(deltas.map(Ok)).boxed(),
            Begun::Streamed(first, events) => stream::iter([Ok(first)]).chain(events.during(visit)).boxed(),
        };
        Ok(Completion { model: model.clone(), headers, deltas })
    }

    /// To the head, where another try may follow, and on to the first delta, where none may.
    async fn begin(&self, outgoing: &Outgoing<'_>, endpoint: &Endpoint) -> Outcome<(HeaderMap, Begun)> {
        let mut patience = Patience::new(self.config.first_byte_timeout);
        let (head, body) = self.converse(outgoing, endpoint, &mut patience).await?.into_parts();
        let begun = if outgoing.stream && !has_media(&head.headers, "json") {
            patience.renew(self.config.first_byte_timeout);
            let mut events = Events::new(Arc::clone(&outgoing.asked), body, patience, self.config.idle_timeout);
            Begun::Streamed(events.first().await?, events)
        } else if !outgoing.stream && has_media(&head.headers, "event-stream") {
            return Err(Failure::last(self.bad("it answered with a stream though none was asked for"), true));
        } else {
            let body = self.read(body, &mut patience, self.config.idle_timeout).await;
            self.whole(body.map_err(|error| Failure::last(error, true))?, outgoing)?
        };
        Ok((passed_headers(&head.headers, false), begun))
    }

    /// Sends the request; once more, at once, where a pooled connection turns out to be closed.
    async fn converse(
        &self,
        outgoing: &Outgoing<'_>,
        endpoint: &Endpoint,
        patience: &mut Patience,
    ) -> Outcome<Response<Answer>> {
        let place = endpoint.place(outgoing.ask);
        let sent = Instant::now();
        let mut stale = false;
        loop {
            match self.exchange(&outgoing.asked, (endpoint, place), self.compose(outgoing), patience).await {
                Err(failure) if failure.again == Again::Stale && !stale && sent.elapsed() < STALE => stale = true,
                other => return other,
            }
        }
    }

    /// Sends a request and waits for a head with status 2xx.
    async fn exchange(
        &self,
        asked: &Asked,
        to: (&Endpoint, &Place),
        request: http::Request<Full<Bytes>>,
        patience: &mut Patience,
    ) -> Outcome<Response<Answer>> {
        let asking = pin!(self.ask(to, request));
        let answered = patience.during(asking).await;
        let response = answered.map_err(|limit| Failure::silent(&self.name, limit))??;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Box::pin(self.refusal(asked, response, patience)).await)
    }

    /// What an answer with another status says.
    async fn refusal(&self, asked: &Asked, response: Response<Answer>, patience: &mut Patience) -> Failure {
        let (head, body) = response.into_parts();
        let body = match read_whole(body, patience, self.config.idle_timeout, LONGEST_ERROR).await {
            Ok(body) | Err(Cut::TooLong(body)) => body,
            Err(Cut::Silent(_) | Cut::Broken) => Bytes::new(),
        };
        Failure::status(asked, head.status, &head.headers, body)
    }

    /// Sends a request on a connection to the endpoint and waits for a head.
    async fn ask(
        &self,
        (endpoint, place): (&Endpoint, &Place),
        mut request: http::Request<Full<Bytes>>,
    ) -> Outcome<Response<Answer>> {
        let link = endpoint.pool.take().await.map_err(|cause| Failure::unconnected(&self.name, &cause))?;
        endpoint.address(&mut request, place, &link);
        link.ask(request, &endpoint.pool).await.map_err(|cause| Failure::transport(&self.name, &cause))
    }

    async fn read(&self, body: Answer, patience: &mut Patience, idle: Duration) -> Result<Bytes> {
        read_whole(body, patience, idle, LONGEST_ANSWER).await.map_err(|cut| match cut {
            Cut::Silent(limit) => silent(&self.name, limit),
            Cut::Broken => self.bad("its answer broke off"),
            Cut::TooLong(_) => self.bad(&format!("its answer is longer than {LONGEST_ANSWER} bytes")),
        })
    }

    /// The deltas of an answer that came whole.
    fn whole(&self, body: Bytes, outgoing: &Outgoing<'_>) -> Outcome<Begun> {
        let bad = |what: &str| Failure::last(self.bad(what), true);
        let mut found = scan(body).map_err(|error| bad(&format!("its answer is no JSON object: {error}")))?;
        if found.error {
            return Err(Failure::last(told(&outgoing.asked, found.raw.bytes), false));
        }
        if outgoing.stream {
            found = chunk_of(&found.raw.bytes).ok_or_else(|| bad("its answer has no choices"))?;
        }
        let delta = Delta { choice: 0, part: Part::Raw, raw: Some(found.raw) };
        Ok(Begun::Whole([delta, Delta::new(0, Part::End(found.usage))]))
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
            queue_limit: u32::MAX,
            slots_busy: self.endpoints.busy(),
            breaker,
            ..Status::default()
        }
    }

    fn check(&self, _request: &Request) -> Result<()> {
        Ok(())
    }
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
