//! How the client wants its answer: what is left of a request once a backend has it.
//!
//! Made by `parse`, carried through `gateway`, read by `respond`.

use std::sync::Arc;

use crate::request::Sampling;

/// How the client wants its answer.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Which endpoint was asked.
    pub(super) endpoint: Endpoint,
    /// Whether it is streamed.
    pub(super) stream: bool,
    /// Whether a stream tells the usage.
    pub(super) include_usage: bool,
    /// Whether log-probabilities are told, and of how many alternatives.
    pub(super) logprobs: Option<u32>,
    /// `x-request-id`, from which the answer's own id is made.
    pub(super) id: Arc<str>,
    /// When the request was read, in seconds since 1970.
    pub(super) created: u64,
}

/// Whose form an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
    /// `/v1/embeddings`
    Embed {
        /// Whether vectors are base64 of little-endian f32.
        base64: bool,
    },
}

impl Shape {
    /// Takes over what the answer to generation needs.
    pub(super) fn sampled(mut self, sampling: &Sampling) -> Self {
        self.include_usage = sampling.include_usage;
        self.logprobs = sampling.logprobs.then_some(sampling.top_logprobs);
        self
    }

    /// The answer's id.
    pub(super) fn answer_id(&self) -> String {
        let prefix = if self.endpoint == Endpoint::Text { "cmpl" } else { "chatcmpl" };
        format!("{prefix}-{}", self.id)
    }
}
