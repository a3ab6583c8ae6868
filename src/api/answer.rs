//! The JSON forms of answers and of their chunks.
//!
//! Only forms: what goes into them is decided in `fold`, for an answer in one piece, and in
//! `stream`, for one in chunks.

use serde::Serialize;

use super::logprobs::{ChatLogprobs, TextLogprobs};
use crate::request::{ToolCall, Usage};

/// `system_fingerprint` of answers made on this box.
pub(super) const FINGERPRINT: &str = concat!("fp_weir_", env!("CARGO_PKG_VERSION"));

/// A chat or text completion, or a chunk of one, by its choices.
#[derive(Serialize)]
pub(super) struct Answer<'a, C> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) system_fingerprint: &'static str,
    pub(super) choices: &'a [C],
    /// Absent, `null`, or told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<UsageForm>>,
}

/// A choice of a chat completion.
#[derive(Serialize)]
pub(super) struct ChatChoice<'a> {
    pub(super) index: u32,
    pub(super) message: ChatMessage<'a>,
    pub(super) logprobs: Option<ChatLogprobs<'a>>,
    pub(super) finish_reason: Option<&'static str>,
}

/// The message of a choice.
#[derive(Serialize)]
pub(super) struct ChatMessage<'a> {
    pub(super) role: &'static str,
    pub(super) content: Option<&'a str>,
    pub(super) refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<CallForm<'a>>,
}

/// A choice in a chunk of a chat completion.
#[derive(Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: u32,
    pub(super) delta: ChunkDelta<'a>,
    pub(super) logprobs: Option<ChatLogprobs<'a>>,
    pub(super) finish_reason: Option<&'static str>,
}

/// What is new in a choice.
#[derive(Default, Serialize)]
pub(super) struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<[CallForm<'a>; 1]>,
}

/// A choice of a legacy completion, whole or in a chunk.
#[derive(Serialize)]
pub(super) struct TextChoice<'a> {
    pub(super) text: &'a str,
    pub(super) index: u32,
    pub(super) logprobs: Option<TextLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// A tool call; its index only in chunks.
#[derive(Serialize)]
pub(super) struct CallForm<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionForm<'a>,
}

#[derive(Serialize)]
struct FunctionForm<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> CallForm<'a> {
    /// The call as part of a whole message.
    pub(super) fn whole(call: &'a ToolCall) -> Self {
        let function = FunctionForm { name: &call.name, arguments: &call.arguments };
        CallForm { index: None, id: &call.id, kind: "function", function }
    }

    /// The call as a chunk's delta.
    pub(super) fn chunk(call: &'a ToolCall) -> Self {
        CallForm { index: Some(call.index), ..CallForm::whole(call) }
    }
}

/// `usage` of a completion.
#[derive(Serialize)]
pub(super) struct UsageForm {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Default, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
    audio_tokens: u64,
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
}

impl From<Usage> for UsageForm {
    fn from(usage: Usage) -> Self {
        UsageForm {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens, audio_tokens: 0 },
            completion_tokens_details: CompletionDetails::default(),
        }
    }
}

/// A list of embeddings.
#[derive(Serialize)]
pub(super) struct EmbeddingList<'a> {
    pub(super) object: &'static str,
    pub(super) data: Vec<EmbeddingForm<'a>>,
    pub(super) model: &'a str,
    pub(super) usage: EmbeddingUsage,
}

/// The embedding of one input.
#[derive(Serialize)]
pub(super) struct EmbeddingForm<'a> {
    pub(super) object: &'static str,
    pub(super) index: u32,
    pub(super) embedding: Vector<'a>,
}

/// A vector in the form that was asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Vector<'a> {
    /// JSON numbers.
    Numbers(&'a [f32]),
    /// Base64 of little-endian f32.
    Base64(String),
}

/// `usage` of embeddings.
#[derive(Serialize)]
pub(super) struct EmbeddingUsage {
    pub(super) prompt_tokens: u64,
    pub(super) total_tokens: u64,
}
