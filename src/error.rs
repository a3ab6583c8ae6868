//! The one error of a request: what happened, whose fault it is, and whether another try may help.
//!
//! Every room returns it; `api::reject` is the only place that turns it into bytes; it is logged
//! once, at the edge. Messages are lowercase, name the offending value and the way out.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// What happened. Closed: a new kind is a decision about every client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong and stays wrong: 400 (405 and 415 by code).
    Invalid,
    /// No key, or an unknown one: 401.
    Unauthenticated,
    /// Known, but not allowed; also a policy's own refusal: 403.
    Forbidden,
    /// No such model, route or thing: 404.
    NotFound,
    /// The body exceeds `max_body`: 413.
    TooLarge,
    /// Too many requests: 429.
    RateLimited,
    /// The tenant's budget is spent: 429.
    OverBudget,
    /// A queue is full: 429 with `Retry-After`.
    Overloaded,
    /// Somebody did not answer in time: 504.
    Timeout,
    /// A backend is not there: 503, or 502 when an upstream is the cause.
    Unavailable,
    /// The client left: 499, seen only in logs and metrics.
    Canceled,
    /// A fault of Weir: 500.
    Internal,
}

impl Kind {
    /// The kind's name in logs, metrics and the `type` field of a rejected request.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::Unauthenticated => "unauthenticated",
            Kind::Forbidden => "forbidden",
            Kind::NotFound => "not_found",
            Kind::TooLarge => "too_large",
            Kind::RateLimited => "rate_limited",
            Kind::OverBudget => "over_budget",
            Kind::Overloaded => "overloaded",
            Kind::Timeout => "timeout",
            Kind::Unavailable => "unavailable",
            Kind::Canceled => "canceled",
            Kind::Internal => "internal",
        }
    }
}

/// Whose fault it is; header `x-weir-origin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client sent something wrong, or left.
    Client,
    /// Weir itself, its policy or its configuration.
    Gateway,
    /// A model on the box.
    Local,
    /// A large-model API.
    Upstream,
}

impl Origin {
    /// The origin's name in headers, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Client => "client",
            Origin::Gateway => "gateway",
            Origin::Local => "local",
            Origin::Upstream => "upstream",
        }
    }
}

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails everywhere.
    Never,
    /// Another target may answer; the same one may too.
    Elsewhere,
    /// The same target asks to wait this long first; another may answer at once.
    After(Duration),
}

/// An upstream's own error, passed through to the client as it is.
#[derive(Debug, Clone)]
pub struct Passed {
    /// The upstream's status.
    pub status: StatusCode,
    /// `content-type`, `retry-after*`, `x-ratelimit-*` and `openai-*` of the upstream's answer.
    pub headers: HeaderMap,
    /// The upstream's body, at most 64 KiB of it.
    pub body: Bytes,
}

/// A failed request, or a failed attempt of one. Boxed inside, so that a `Result` stays small.
#[derive(Debug, Clone)]
pub struct Error(Box<Detail>);

/// The fields of an [`Error`].
#[derive(Debug, Clone)]
pub struct Detail {
    /// What happened.
    pub kind: Kind,
    /// The machine-readable reason, as in OpenAI's `code` (`model_not_found`, …).
    pub code: Option<&'static str>,
    /// The request's field at fault, as in OpenAI's `param` (`messages[0].role`).
    pub param: Option<String>,
    /// Whose fault it is.
    pub origin: Origin,
    /// Whether another try may help.
    pub retry: Retry,
    /// One sentence for a person.
    pub message: String,
    /// A status that overrides the kind's (a policy's `reject`).
    pub status: Option<StatusCode>,
    /// An upstream's own error, to be passed through.
    pub passed: Option<Passed>,
    /// The methods that the path knows, for the `allow` header of a 405.
    pub allow: Option<&'static str>,
}

/// A result whose error is an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind and origin; not retried, without code, param or status of its own.
    pub fn new(kind: Kind, origin: Origin, message: impl Into<String>) -> Self {
        Error(Box::new(Detail {
            kind,
            code: None,
            param: None,
            origin,
            retry: Retry::Never,
            message: message.into(),
            status: None,
            passed: None,
            allow: None,
        }))
    }

    /// The client's request is wrong at `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, Origin::Client, message).param(param)
    }

    /// A fault of Weir itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, Origin::Gateway, message)
    }

    /// With this machine-readable code.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    /// With the request's field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// With this retry hint.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// With a status that overrides the kind's.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.0.status = Some(status);
        self
    }

    /// With the methods that the path knows.
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// With an upstream's own error, to be passed through.
    #[must_use]
    pub fn passed(mut self, passed: Passed) -> Self {
        self.0.passed = Some(passed);
        self
    }

    /// The fields.
    pub fn detail(&self) -> &Detail {
        &self.0
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.0.message)
    }
}

impl std::error::Error for Error {}

/// One problem of a configuration or policy file: where it stands and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `FILE` or `FILE:LINE`.
    pub place: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
