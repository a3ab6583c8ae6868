//! Large-model APIs over HTTP: connections, keys, time-outs, retries, breaker, dialect.
//!
//! An [`Upstream`] is a [`crate::backend::Backend`] for every model of one API. It hides which
//! endpoint answers, pooled connections (HTTP/1.1 and h2, plain and TLS), retries before the
//! first byte (with a budget and `Retry-After`) and a circuit breaker per endpoint. It never
//! tries another upstream: that is `execute`'s. `control` builds it, nobody else knows it.

mod answer;
mod breaker;
mod call;
mod config;
mod dial;
mod endpoint;
mod failure;
mod link;
mod pool;
mod retry;

pub use call::Upstream;
pub use config::{ApiKey, Config, Dialect, Models};

#[cfg(test)]
mod tests;
