//! The nouns of a request and its answer: what a client asked, and what comes back of it.
//!
//! Plain data, no behaviour beyond reading it. `api::parse` makes a [`Request`]; backends read
//! it; their answers are streams of [`Delta`]. Everybody imports this, it imports nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

/// The full name of a model: `local/NAME`, `UPSTREAM/NAME`, or a virtual model's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(Arc<str>);

impl ModelId {
    /// Takes the name as it is.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        ModelId(name.into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first slash, and the rest verbatim; `None` without a slash.
    pub fn split(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }

    /// Whether the model runs inside this process.
    pub fn is_local(&self) -> bool {
        self.0.starts_with("local/")
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who pays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Takes the name as it is.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        TenantId(name.into())
    }

    /// The tenant of requests when no tenant is configured.
    pub fn anonymous() -> Self {
        TenantId::new("anonymous")
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One request of a client, checked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `x-request-id`: the client's own if it sent a sensible one, else made here.
    pub id: Arc<str>,
    /// Who pays.
    pub tenant: TenantId,
    /// The model as the client named it.
    pub model: String,
    /// Whether the client wants a stream of server-sent events.
    pub stream: bool,
    /// What is asked.
    pub ask: Ask,
    /// The client's bytes, for an upstream of the same dialect.
    pub body: ClientBody,
    /// The headers that the operator named for policies, lowercase name → value.
    pub headers: BTreeMap<String, String>,
    /// The client's `Authorization` value, kept only for upstreams with `api_key = { client = true }`.
    pub authorization: Option<Secret>,
}

/// What a client says of an answer that it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// The `x-request-id` of that answer.
    pub request_id: Arc<str>,
    /// What it was like.
    pub verdict: Verdict,
}

/// What an answer was like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Right.
    Correct,
    /// Wrong.
    Wrong,
    /// As good as this, 0 … 1.
    Scored(f64),
}

impl Verdict {
    /// The verdict's name in answers, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Correct => "correct",
            Verdict::Wrong => "wrong",
            Verdict::Scored(_) => "scored",
        }
    }
}

/// A place in a distributed trace, as W3C Trace Context names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace's; not 0.
    pub trace_id: u128,
    /// The span under which what follows stands; not 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// What vendors say of it (`tracestate`), passed on as it came.
    pub state: Option<Arc<str>>,
}

/// A value that must never be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value, for the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The client's JSON object as it came, with the places that may have to change on the way.
///
/// Ranges are byte ranges of the *values* inside `bytes`.
#[derive(Debug, Clone, Default)]
pub struct ClientBody {
    /// The whole body.
    pub bytes: Bytes,
    /// The value of `model`, quotes included.
    pub model: Range<usize>,
    /// The value of `stream`, where given.
    pub stream: Option<Range<usize>>,
    /// The value of `stream_options`, where given.
    pub stream_options: Option<Range<usize>>,
}

/// What is asked, by endpoint.
#[derive(Debug, Clone)]
pub enum Ask {
    /// `/v1/chat/completions`.
    Chat(Chat),
    /// `/v1/completions`.
    Text(Text),
    /// `/v1/embeddings`.
    Embed(Embed),
}

/// A chat request.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// The conversation, at least one message.
    pub messages: Vec<Message>,
    /// The `tools` array as it came, and its length (0: none, or `tool_choice` is `none`).
    pub tools: Option<Tools>,
    /// How the answer is to be generated.
    pub sampling: Sampling,
    /// The form the answer must have.
    pub format: Format,
    /// The first parameter given that a local model cannot honour (`audio`, `prediction`, …).
    pub upstream_only: Option<String>,
}

/// The tools a client offers.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The JSON array as it came.
    pub raw: Box<RawValue>,
    /// How many there are.
    pub count: usize,
    /// What the client demands of their use.
    pub choice: ToolChoice,
    /// Whether one answer may call several; true where the client did not say.
    pub parallel_tool_calls: bool,
}

/// `tool_choice` of a chat request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// Some tool must be called.
    Required,
    /// This function must be called.
    Function(String),
}

/// A legacy completion request.
#[derive(Debug, Clone, Default)]
pub struct Text {
    /// One prompt per entry; each gets `n` choices.
    pub prompts: Vec<Prompt>,
    /// Whether the prompt is repeated before each answer.
    pub echo: bool,
    /// How the answers are to be generated.
    pub sampling: Sampling,
    /// The first parameter given that a local model cannot honour (`suffix`, `best_of`, …).
    pub upstream_only: Option<String>,
}

/// The prompt of a legacy completion, or one input of an embedding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text to be tokenised.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// An embedding request.
#[derive(Debug, Clone, Default)]
pub struct Embed {
    /// The inputs, at least one, none empty.
    pub inputs: Vec<Prompt>,
    /// Whether the client wants base64 of little-endian f32 instead of JSON numbers.
    pub base64: bool,
    /// How many dimensions are wanted, where given.
    pub dimensions: Option<u32>,
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator of the application (`system` or `developer`).
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

impl Role {
    /// The role's name as chat templates know it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One message of a conversation. Image and audio data stay in the client's bytes.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text, all text parts joined; empty where there is none.
    pub text: String,
    /// How many parts are images.
    pub images: usize,
    /// How many parts are neither text nor image (audio, files).
    pub other_parts: usize,
    /// The participant's or function's name, where given.
    pub name: Option<String>,
    /// `tool_calls` of an assistant message as it came, where given.
    pub tool_calls: Option<Box<RawValue>>,
    /// Which call a tool message answers.
    pub tool_call_id: Option<String>,
}

/// How an answer is to be generated. `None` = not given by the client.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_tokens: Option<u32>,
    /// 0 = greedy; at most 2.
    pub temperature: Option<f32>,
    /// Nucleus: [0, 1]; 0 = the most probable token only.
    pub top_p: Option<f32>,
    /// The k most probable tokens only; 0 = all. An extension, as are `min_p` and `repeat_penalty`.
    pub top_k: Option<u32>,
    /// Tokens at least this share as probable as the first: [0, 1].
    pub min_p: Option<f32>,
    /// Fixes the random choices.
    pub seed: Option<u64>,
    /// Texts that end the answer; at most 4, none empty, each at most 1 KiB; not part of the answer.
    pub stop: Vec<String>,
    /// [-2, 2], subtracted once from the logit of a token that was generated before.
    pub presence_penalty: Option<f32>,
    /// [-2, 2], subtracted per occurrence.
    pub frequency_penalty: Option<f32>,
    /// Divides (or multiplies, if negative) the logit of a token seen before; 1 = none.
    pub repeat_penalty: Option<f32>,
    /// Token id → [-100, 100], added to the logit; at most 1024.
    pub logit_bias: Vec<(u32, f32)>,
    /// How many answers; at least 1, at most 128.
    pub n: u32,
    /// Whether the client wants log-probabilities.
    pub logprobs: bool,
    /// How many alternatives per token it wants, at most 20.
    pub top_logprobs: u32,
    /// Whether a stream is to end with a usage chunk (`stream_options.include_usage`).
    pub include_usage: bool,
}

/// `response_format`.
#[derive(Debug, Clone, Default)]
pub enum Format {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that satisfies this schema (`json_schema.schema` as it came).
    JsonSchema(Box<RawValue>),
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// A natural end or a stop text.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// An upstream's filter.
    ContentFilter,
}

impl Finish {
    /// The wire name.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
            Finish::ContentFilter => "content_filter",
        }
    }
}

/// Tokens of one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of the prompt that came from a cache.
    pub cached_tokens: u64,
    /// All tokens generated, over all choices.
    pub completion_tokens: u64,
}

/// One step of an answer.
///
/// A stream of deltas ends with exactly one [`Part::End`], unless it ends with an error.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Which of the `n` choices (for embeddings: which input).
    pub choice: u32,
    /// What is new.
    pub part: Part,
    /// The upstream's own bytes, where the dialect is the client's.
    pub raw: Option<Raw>,
}

/// An upstream's own bytes: the JSON of one chunk of a stream (without `data:` framing), or the
/// whole body of an answer that is not streamed; and where the things stand that Weir changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    /// A JSON object.
    pub bytes: Bytes,
    /// The value of `model`, quotes included.
    pub model: Option<Range<usize>>,
    /// The value of `usage`, also where it is `null`.
    pub usage: Option<Range<usize>>,
    /// Whether it tells the usage.
    pub tells_usage: bool,
    /// Whether `choices` is there and empty.
    pub choices_empty: bool,
}

impl Raw {
    /// Whether the chunk is there only to tell the usage, so that a client that did not ask for
    /// usage does not get it.
    pub fn only_usage(&self) -> bool {
        self.choices_empty && self.tells_usage
    }
}

impl Delta {
    /// A delta made on this box.
    pub fn new(choice: u32, part: Part) -> Self {
        Delta { choice, part, raw: None }
    }
}

/// What is new in a [`Delta`].
#[derive(Debug, Clone)]
pub enum Part {
    /// Text (never ends inside a UTF-8 sequence; may be empty while a stop text is possible) and
    /// the tokens sampled since the last delta of this choice.
    Text {
        /// What the client may see now.
        text: String,
        /// One entry per token sampled, the end-of-turn token included; empty from an upstream.
        tokens: Vec<Token>,
    },
    /// One complete tool call.
    ToolCall(ToolCall),
    /// The choice is complete.
    Finish(Finish),
    /// The vector of one embedding input.
    Embedding(Vec<f32>),
    /// Only `raw` counts: a chunk of an upstream that is passed on.
    Raw,
    /// The answer is complete. The last delta, exactly once. `None`: the upstream did not say.
    End(Option<Usage>),
}

/// A function call made by a local model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Position among the choice's calls.
    pub index: u32,
    /// `call_…`, unique within the process.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments: a JSON object as text.
    pub arguments: String,
}

/// One sampled token and how sure the model was of it.
///
/// Log-probabilities are natural log-softmax of the raw logits at temperature 1, before bias,
/// penalties, grammar and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// The token's own bytes; empty for control tokens.
    pub bytes: Bytes,
    /// Its log-probability, at most 0.
    pub logprob: f32,
    /// Logit of the most probable token minus that of the second, at least 0.
    pub margin: f32,
    /// Entropy of the whole distribution in nats, at least 0.
    pub entropy: f32,
    /// The most probable tokens and their log-probabilities, best first; at least one (the best
    /// alternative to this token is the first entry with other bytes), more where asked for.
    pub top: Vec<(Bytes, f32)>,
    /// Whether it ends the turn (counts in scores, never shown).
    pub end: bool,
}

/// How sure a model was, token by token: everything confidence is computed from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Log-probability per token.
    pub logprobs: Vec<f32>,
    /// Top-1 minus top-2 logit per token.
    pub margins: Vec<f32>,
    /// Entropy per token, nats.
    pub entropies: Vec<f32>,
    /// Whether the last token ended the turn.
    pub ended: bool,
}

impl Trace {
    /// Adds one token.
    pub fn push(&mut self, token: &Token) {
        self.logprobs.push(token.logprob);
        self.margins.push(token.margin);
        self.entropies.push(token.entropy);
        self.ended = token.end;
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.logprobs.len()
    }

    /// Whether there is no token yet.
    pub fn is_empty(&self) -> bool {
        self.logprobs.is_empty()
    }
}
