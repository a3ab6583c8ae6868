//! What went wrong with one try, as an error for the client and as advice for `call`: whether
//! and when to try again, and whether the endpoint is to blame.
//!
//! An upstream's own error answer is kept and passed through, except one about the operator's key;
//! keys are in none of this, even where the upstream quotes one.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};

use super::config::{ApiKey, Config};
use super::dial::NoConnection;
use super::retry::{asked_wait, backoff};
use crate::error::{Error, Kind, Origin, Passed, Retry};
use crate::request::Secret;
use crate::wire::openai::ErrorBody;

/// Longest text of an upstream that is put into a message, bytes.
const LONGEST_TEXT: usize = 512;
/// A shorter key may be a word of any text, and is hardly a secret.
const SHORTEST_KEY: usize = 6;
/// What stands for a key that an upstream quotes.
const HIDDEN: &str = "[key]";
const TOO_LONG: &str = "context_length_exceeded";

/// Who is asked, and with which key: what errors are told of.
#[derive(Debug)]
pub(super) struct Asked {
    /// The upstream's name.
    pub(super) upstream: Arc<str>,
    key: Option<Secret>,
    /// Whether the key is the client's own, so that its refusal concerns the client.
    of_client: bool,
}

impl Asked {
    /// `client` is the client's `Authorization`.
    pub(super) fn new(upstream: Arc<str>, key: &ApiKey, client: Option<&Secret>) -> Self {
        let of_client = *key == ApiKey::Client;
        let key = match key {
            ApiKey::Value(key) => Some(key.clone()),
            ApiKey::Client => client.and_then(|given| given.expose().split_whitespace().last()).map(Secret::new),
            ApiKey::None | ApiKey::Missing { .. } => None,
        };
        Asked { upstream, key, of_client }
    }

    /// An upstream's text without the key, spelt as it is or escaped.
    fn redact(&self, body: Bytes) -> Bytes {
        let Some(key) = self.key.as_ref().map(Secret::expose).filter(|key| key.len() >= SHORTEST_KEY) else {
            return body;
        };
        let text = String::from_utf8_lossy(&body);
        let shown = if text.contains(key) { text.replace(key, HIDDEN).into() } else { body.clone() };
        match ErrorBody::parse(&shown) {
            Some(told) if told.message.contains(key) => {
                ErrorBody { message: told.message.replace(key, HIDDEN), ..told }.render()
            }
            Some(_) | None => shown,
        }
    }

    /// The upstream refused the operator's key, or to be asked without one: nothing of the client's.
    fn refused(&self, status: StatusCode, told: Option<&ErrorBody>) -> Failure {
        let what = match &self.key {
            Some(_) => format!("refused its key (status {})", status.as_u16()),
            None => format!("refused a call without a key (status {}); set its api_key", status.as_u16()),
        };
        let upstream = &*self.upstream;
        let said = told.map(|told| short(&told.message));
        tracing::warn!(upstream, said, "{what}");
        let error = Error::new(Kind::Unavailable, Origin::Upstream, format!("upstream \"{upstream}\" {what}"));
        Failure::last(error.retry(Retry::Elsewhere).code("upstream_unauthorized"), false)
    }
}

/// Whether the same upstream may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It would answer the same.
    Never,
    /// The connection may have been a pooled one that was closed meanwhile: once more at once.
    Stale,
    /// After a back-off, or as long as it asked to wait.
    Later(Option<Duration>),
}

/// A failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
    /// Whether the endpoint's breaker counts it.
    pub(super) blame: bool,
}

/// What one try gave.
pub(super) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// The endpoint broke the protocol or off; another try may help.
    pub(super) fn broken(upstream: &str, what: &str) -> Self {
        let error = unavailable(upstream, what);
        Failure { error, again: Again::Later(None), blame: true }
    }

    /// The endpoint was silent for `limit`. Not tried again here: the client has waited enough.
    pub(super) fn silent(upstream: &str, limit: Duration) -> Self {
        Failure { error: silent(upstream, limit), again: Again::Never, blame: true }
    }

    /// There is no connection.
    pub(super) fn unconnected(upstream: &str, cause: &NoConnection) -> Self {
        Failure::broken(upstream, &format!("cannot connect: {}", root(cause)))
    }

    /// No answer's head came.
    pub(super) fn transport(upstream: &str, cause: &hyper::Error) -> Self {
        let root = root(cause);
        let closed = cause.is_incomplete_message() || cause.is_canceled();
        let reset = is_io(cause);
        let again = if closed || reset { Again::Stale } else { Again::Later(None) };
        Failure { error: unavailable(upstream, &format!("connection lost: {root}")), again, blame: true }
    }

    /// An answer with a status other than 2xx.
    pub(super) fn status(of: &Asked, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Self {
        let body = of.redact(body);
        let told = ErrorBody::parse(&body);
        if matches!(status.as_u16(), 401 | 403) && !of.of_client {
            return of.refused(status, told.as_ref());
        }
        let code = told.as_ref().and_then(|told| told.code.as_deref());
        let quota_spent = code == Some("insufficient_quota");
        let too_long = code == Some(TOO_LONG);
        let asked = asked_wait(headers, SystemTime::now());
        let (kind, retry) = match status.as_u16() {
            401 => (Kind::Unauthenticated, Retry::Elsewhere),
            403 => (Kind::Forbidden, Retry::Elsewhere),
            404 => (Kind::NotFound, Retry::Elsewhere),
            413 => (Kind::TooLarge, Retry::Never),
            408 | 504 => (Kind::Timeout, Retry::Elsewhere),
            429 => (Kind::RateLimited, asked.map_or(Retry::Elsewhere, Retry::After)),
            409 => (Kind::Unavailable, Retry::Elsewhere),
            // Another model's context may be longer.
            400 if too_long => (Kind::Invalid, Retry::Elsewhere),
            400..=499 => (Kind::Invalid, Retry::Never),
            _ => (Kind::Unavailable, asked.map_or(Retry::Elsewhere, Retry::After)),
        };
        let transient = matches!(status.as_u16(), 408 | 409 | 429 | 500 | 502 | 503 | 504 | 529) && !quota_spent;
        let text = told.as_ref().map_or_else(|| format!("status {status}"), |told| told.message.clone());
        let message = format!("upstream \"{}\": {}", of.upstream, short(&text));
        let mut error = Error::new(kind, Origin::Upstream, message).retry(retry);
        if too_long {
            error = error.code(TOO_LONG);
        }
        if let Some(param) = told.and_then(|told| told.param) {
            error = error.param(param);
        }
        if status.is_client_error() || status.is_server_error() {
            error = error.passed(Passed { status, headers: passed_headers(headers, true), body }).status(status);
        }
        let again = if transient { Again::Later(asked) } else { Again::Never };
        Failure { error, again, blame: status.is_server_error() }
    }

    /// How long to wait before the next try, after `retries` of them; `None`: there is none. An
    /// `untried` endpoint need not wait for what another one asked for.
    pub(super) fn wait(&self, config: &Config, retries: u32, untried: bool) -> Option<Duration> {
        match self.again {
            Again::Never => None,
            _ if untried => Some(Duration::ZERO),
            Again::Later(Some(asked)) => (asked <= config.longest_wait).then_some(asked),
            Again::Stale | Again::Later(None) => Some(backoff(config.backoff, retries)),
        }
    }

    /// Nothing is to be tried again here: after the head, a second answer may cost as much again.
    pub(super) fn last(error: Error, blame: bool) -> Self {
        Failure { error, again: Again::Never, blame }
    }
}

/// `upstream "x": WHAT`, to be answered elsewhere.
pub(super) fn unavailable(upstream: &str, what: &str) -> Error {
    Error::new(Kind::Unavailable, Origin::Upstream, format!("upstream \"{upstream}\": {what}")).retry(Retry::Elsewhere)
}

/// The upstream was silent for `limit`.
pub(super) fn silent(upstream: &str, limit: Duration) -> Error {
    let message = format!("upstream \"{upstream}\": nothing came for {limit:?}");
    Error::new(Kind::Timeout, Origin::Upstream, message).retry(Retry::Elsewhere)
}

/// The error that an error event or an error body in a 200 tells.
pub(super) fn told(of: &Asked, body: Bytes) -> Error {
    let body = of.redact(body);
    let text = ErrorBody::parse(&body).map_or_else(|| String::from_utf8_lossy(&body).into_owned(), |told| told.message);
    unavailable(&of.upstream, short(&text))
}

/// The headers of an upstream that a client may see.
pub(super) fn passed_headers(headers: &HeaderMap, of_error: bool) -> HeaderMap {
    let shown = |name: &HeaderName| {
        let text = name.as_str();
        let of_errors = name == CONTENT_TYPE || text.starts_with("retry-after");
        text.starts_with("x-ratelimit-") || text.starts_with("openai-") || (of_error && of_errors)
    };
    let mut passed = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| shown(name)) {
        passed.append(name.clone(), value.clone());
    }
    passed
}

/// The beginning of a text, cut between characters.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

/// The first error behind everything.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Whether the operating system's word is behind it.
fn is_io(error: &hyper::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<std::io::Error>() {
            return true;
        }
        next = cause.source();
    }
    false
}
