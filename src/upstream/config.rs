//! What an upstream is configured with: plain values, compared at a reload so that an unchanged
//! upstream keeps its connections. `control` fills it from the file and the environment.

use std::time::Duration;

use http::Uri;

use crate::request::Secret;

/// Everything about one upstream. Two equal configurations behave alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The name before the slash of its models' names.
    pub name: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Its addresses, each with the path before `/chat/completions`; 1 … 64, all alike.
    pub endpoints: Vec<Uri>,
    /// Who pays.
    pub api_key: ApiKey,
    /// Which models it has.
    pub models: Models,
    /// Longest time for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Longest time from the request to the answer's head, and from there to the first event.
    pub first_byte_timeout: Duration,
    /// Longest silence inside an answer.
    pub idle_timeout: Duration,
    /// How often one call is tried again, at most.
    pub retries: u32,
    /// The wait before the first retry; doubled for each further one, shortened at random by up
    /// to a half.
    pub backoff: Duration,
    /// The longest wait an upstream may ask for; beyond it its error is returned at once.
    pub longest_wait: Duration,
    /// How many failures in a row open an endpoint's breaker.
    pub breaker_failures: u32,
    /// How long an open breaker waits before one trial.
    pub breaker_cool_down: Duration,
    /// Whether plain `http` endpoints are spoken to in HTTP/2 (prior knowledge).
    pub h2c: bool,
}

impl Config {
    /// The usual values: no key, any model, 5 s to connect, 300 s to the head, 120 s of silence,
    /// 2 retries from 250 ms with waits up to 10 s, a breaker of 5 failures and 10 s.
    pub fn new(name: impl Into<String>, endpoints: Vec<Uri>) -> Self {
        Config {
            name: name.into(),
            dialect: Dialect::OpenAi,
            endpoints,
            api_key: ApiKey::None,
            models: Models::Any,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(120),
            retries: 2,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(10),
            breaker_failures: 5,
            breaker_cool_down: Duration::from_secs(10),
            h2c: false,
        }
    }
}

/// A provider's wire quirks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenAI's chat completions, completions and embeddings.
    #[default]
    OpenAi,
}

/// The key an upstream is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKey {
    /// None is sent.
    None,
    /// The operator's.
    Value(Secret),
    /// One is configured but cannot be had: every call fails with the reason.
    Missing {
        /// Why, and the way out (`environment variable OPENAI_API_KEY is not set`).
        reason: String,
    },
    /// The client's own `Authorization`.
    Client,
}

/// Which models an upstream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Models {
    /// These.
    Listed(Vec<String>),
    /// Whatever a client names.
    Any,
}
