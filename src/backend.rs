//! The waist: what every model, on the box or behind an API, looks like to `execute`.
//!
//! A [`Backend`] answers a [`Call`] with a [`Completion`], a stream of deltas. Caches, recorders
//! and shadows are Backends that wrap a Backend. The scripted `Fake` is for tests.

#[cfg(any(test, feature = "testing"))]
pub mod fake;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::HeaderMap;

use crate::error::Result;
use crate::request::{Delta, ModelId, Request, TraceContext};

/// One model, or one upstream with many.
///
/// Promises: `start` resolves when the first delta is ready or the call failed (a fallback is
/// possible until then). Dropping the future of `start`, or the stream, cancels the work, on the
/// CPU or GPU too. `status` reads atomics and never blocks.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Begins to answer.
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>>;

    /// How the backend is now.
    fn status(&self) -> Status;

    /// Whether this backend can serve the request at all (images, tools, embeddings, parameters
    /// it does not know); an error says why not, with the parameter's name.
    fn check(&self, request: &Request) -> Result<()>;
}

/// One attempt to answer a request.
#[derive(Debug, Clone)]
pub struct Call {
    /// What the client asked.
    pub request: Arc<Request>,
    /// The full name of the model that shall answer.
    pub model: ModelId,
    /// The attempt's place in a trace, for a backend that passes it on.
    pub trace: Option<TraceContext>,
}

/// An answer that has begun.
pub struct Completion {
    /// The full name of the model that answers.
    pub model: ModelId,
    /// Headers of an upstream that the client may see (`x-ratelimit-*`, `openai-*`).
    pub headers: HeaderMap,
    /// The answer; ends with one [`crate::request::Part::End`] or one error.
    pub deltas: BoxStream<'static, Result<Delta>>,
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("model", &self.model).finish_non_exhaustive()
    }
}

/// How a backend is at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Status {
    /// Whether a call would be tried at all.
    pub ready: bool,
    /// Requests waiting for a slot.
    pub queue_depth: u32,
    /// How many may wait.
    pub queue_limit: u32,
    /// Requests being answered.
    pub slots_busy: u32,
    /// How many can be answered at once; 0: no limit of ours.
    pub slots: u32,
    /// Share of the KV cache in use: 0 … 1.
    pub kv_used_ratio: f32,
    /// Whether calls flow.
    pub breaker: Breaker,
    /// How much of it is in memory; of what is not ours: [`State::Warm`].
    pub state: State,
}

/// Where a model stands between its file and its answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It answers at once.
    #[default]
    Warm,
    /// It is being loaded, or passes its test prompt.
    Loading,
    /// It answers a share of another model's requests, on trial.
    Canary,
    /// It answers what it began, and nothing new.
    Draining,
    /// It is not in memory; its first request loads it.
    Unloaded,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] = [State::Loading, State::Warm, State::Canary, State::Draining, State::Unloaded];

    /// The state's name in metrics and on the admin port.
    pub fn name(self) -> &'static str {
        match self {
            State::Warm => "warm",
            State::Loading => "loading",
            State::Canary => "canary",
            State::Draining => "draining",
            State::Unloaded => "unloaded",
        }
    }
}

/// What a local model takes and has done, for metrics: counts are of the whole process, over loads and
/// configurations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Where it stands.
    pub state: State,
    /// How much of the loading is done, while it is [`State::Loading`]: 0 … 1.
    pub progress: f32,
    /// Bytes of its weights in memory; models of one file share them, and each tells them.
    pub weights_bytes: u64,
    /// Bytes of its KV cache.
    pub kv_bytes: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// Tokens of prompts that were read.
    pub prefill_tokens: u64,
    /// Tokens that were decoded, one for each step of each answer.
    pub decode_tokens: u64,
    /// Batches by size: of at most so many tokens as [`Figures::BATCH_BOUNDS`] says; the last: of more.
    pub batches: [u64; Figures::BATCH_BOUNDS.len() + 1],
}

impl Figures {
    /// Upper bounds of the sizes that batches are counted by.
    pub const BATCH_BOUNDS: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Breaker {
    /// Calls flow.
    #[default]
    Closed,
    /// Calls fail at once.
    Open,
    /// One call at a time tries whether it works again.
    HalfOpen,
}

impl Breaker {
    /// The state's name in policies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Breaker::Closed => "closed",
            Breaker::Open => "open",
            Breaker::HalfOpen => "half_open",
        }
    }
}
