//! The OpenAI dialect, as bytes that pass through: what must be read or changed, and no more.
//!
//! [`scan`] reads an answer or a chunk shallowly and says where things stand; [`respell`] changes
//! the model's name and leaves out usage, keeping every other byte; [`splice`] does the same for
//! a request on its way to an upstream. Usage and error bodies are read with tolerance, because
//! servers that call themselves compatible differ there. `api` and `upstream` call it.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::request::{ClientBody, Raw, Usage};

const ASK_USAGE: &[u8] = br#"{"include_usage":true}"#;

/// What Weir reads in an answer or a chunk of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The same bytes, and where things stand in them.
    pub raw: Raw,
    /// What `usage` says; `None` where it is absent, `null` or says nothing.
    pub usage: Option<Usage>,
    /// Whether there is an `error` other than `null`.
    pub error: bool,
}

#[derive(Deserialize)]
struct Shallow<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Reads a value that is present as `Some`, `null` too.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The byte range of `part` inside `whole`, of which it must be a slice.
pub fn span(whole: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

/// Reads an answer's body or the data of one chunk; fails where it is no JSON object.
pub fn scan(bytes: Bytes) -> Result<Scan, serde_json::Error> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(serde::de::Error::custom("expected an object"));
    }
    let shallow: Shallow<'_> = serde_json::from_slice(&bytes)?;
    let range = |raw: &RawValue| span(&bytes, raw.get());
    let (model, places) = (shallow.model.map(range), shallow.usage.map(range));
    let usage = shallow.usage.and_then(|raw| parse_usage(raw.get()));
    let choices_empty = shallow.choices.is_some_and(|raw| is_empty(raw.get()));
    let error = shallow.error.is_some();
    let raw = Raw { bytes, model, usage: places, tells_usage: usage.is_some(), choices_empty };
    Ok(Scan { raw, usage, error })
}

/// Whether a JSON array or object has nothing in it.
fn is_empty(json: &str) -> bool {
    let inside = json.strip_prefix(['[', '{']).and_then(|rest| rest.strip_suffix([']', '}']));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// More tokens than this no answer has.
const MOST_TOKENS: u64 = 1_000_000_000;

/// Reads a `usage` object. Missing, `null` and odd counts are 0; `None` where neither the
/// prompt's nor the completion's count is there, or one is beyond belief.
pub fn parse_usage(json: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counts<'a> {
        #[serde(borrow)]
        prompt_tokens: Option<&'a RawValue>,
        #[serde(borrow)]
        completion_tokens: Option<&'a RawValue>,
        #[serde(borrow)]
        prompt_tokens_details: Option<&'a RawValue>,
        /// Where DeepSeek tells what OpenAI tells in the details.
        #[serde(borrow)]
        prompt_cache_hit_tokens: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow)]
        cached_tokens: Option<&'a RawValue>,
    }
    let counts: Counts<'_> = serde_json::from_str(json).ok()?;
    let prompt = counts.prompt_tokens.and_then(count);
    let completion = counts.completion_tokens.and_then(count);
    if prompt.is_none() && completion.is_none() || prompt.max(completion) > Some(MOST_TOKENS) {
        return None;
    }
    let cached = counts
        .prompt_tokens_details
        .and_then(|raw| serde_json::from_str::<Details<'_>>(raw.get()).ok()?.cached_tokens.and_then(count))
        .or_else(|| counts.prompt_cache_hit_tokens.and_then(count));
    let prompt_tokens = prompt.unwrap_or(0);
    Some(Usage {
        prompt_tokens,
        cached_tokens: cached.unwrap_or(0).min(prompt_tokens),
        completion_tokens: completion.unwrap_or(0),
    })
}

/// A count of tokens: a whole number, also written as `7.0`.
fn count(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    let whole = || text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    text.parse().ok().or_else(|| whole().map(|number| number as u64))
}

/// Whether a chunk says that some choice is complete (`finish_reason` is given).
pub fn is_finish(chunk: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        choices: Vec<Choice<'a>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        finish_reason: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Chunk<'_>>(chunk)
        .is_ok_and(|chunk| chunk.choices.iter().any(|choice| choice.finish_reason.is_some()))
}

/// What the first choice says in a whole answer, or adds in a chunk of one; empty where nothing.
pub fn said(raw: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(raw).unwrap_or_default();
    let is_first =
        |choice: &&serde_json::Value| choice.get("index").and_then(serde_json::Value::as_u64).unwrap_or(0) == 0;
    let first = value.get("choices").and_then(|choices| choices.as_array()?.iter().find(is_first));
    let message = first.and_then(|choice| choice.get("message").or_else(|| choice.get("delta")));
    message.and_then(|message| message.get("content")?.as_str()).unwrap_or_default().to_owned()
}

/// The body of a question of our own: one message of a user, the most probable answer, so many
/// tokens at most.
pub fn question(text: &str, max_tokens: u32) -> ClientBody {
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'static str,
        content: &'a str,
    }
    #[derive(Serialize)]
    struct Question<'a> {
        model: &'static str,
        messages: [Message<'a>; 1],
        max_tokens: u32,
        temperature: u32,
    }
    let messages = [Message { role: "user", content: text }];
    // Strings and numbers cannot fail to be written.
    let bytes = serde_json::to_vec(&Question { model: "", messages, max_tokens, temperature: 0 }).unwrap_or_default();
    let before = br#"{"model":"#.len();
    ClientBody { bytes: bytes.into(), model: before..before + 2, ..ClientBody::default() }
}

/// A whole answer as the one chunk of a stream that says the same, for a server that answers
/// whole though a stream was asked for. `None` where it is no such answer.
pub fn chunk_of(answer: &[u8]) -> Option<Scan> {
    let mut whole: serde_json::Value = serde_json::from_slice(answer).ok()?;
    if whole.get("object").is_some_and(|object| object == "chat.completion") {
        whole["object"] = "chat.completion.chunk".into();
    }
    for choice in whole.get_mut("choices")?.as_array_mut()? {
        let Some(mut delta) = choice.as_object_mut()?.remove("message") else { continue };
        let calls = delta.get_mut("tool_calls").and_then(serde_json::Value::as_array_mut);
        for (index, call) in calls.into_iter().flatten().enumerate() {
            call.as_object_mut()?.insert("index".to_owned(), index.into());
        }
        choice["delta"] = delta;
    }
    scan(serde_json::to_vec(&whole).ok()?.into()).ok()
}

/// The ids of a list of models; fails where it is none.
pub fn parse_models(body: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let list: List = serde_json::from_slice(body)?;
    Ok(list.data.into_iter().map(|entry| entry.id).collect())
}

/// The error object of the dialect; all four fields are always written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// One sentence for a person.
    pub message: String,
    /// The class of error (`invalid_request_error`, …).
    #[serde(rename = "type")]
    pub class: String,
    /// The request's field at fault.
    pub param: Option<String>,
    /// The machine-readable reason.
    pub code: Option<String>,
}

impl ErrorBody {
    /// The body `{"error":{"message","type","param","code"}}`.
    pub fn render(&self) -> Bytes {
        #[derive(Serialize)]
        struct Whole<'a> {
            error: &'a ErrorBody,
        }
        // Strings and options of them cannot fail to be written.
        serde_json::to_vec(&Whole { error: self }).unwrap_or_default().into()
    }

    /// Whether the body is a JSON object with a member `error`: the form that clients expect.
    pub fn names_error(body: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "error")]
            _error: serde::de::IgnoredAny,
        }
        serde_json::from_slice::<Named>(body).is_ok()
    }

    /// Reads an error body or an error event. Besides the dialect's own form, these are met:
    /// `error` a string; no `error` but `message` or `detail` at the top; a number as `code`.
    /// `None` where there is no message.
    pub fn parse(body: &[u8]) -> Option<ErrorBody> {
        let whole: serde_json::Value = serde_json::from_slice(body).ok()?;
        let error = whole.get("error").filter(|error| !error.is_null()).unwrap_or(&whole);
        let text = |name: &str| match error.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let message = error.as_str().map(str::to_owned).or_else(|| text("message")).or_else(|| text("detail"))?;
        Some(ErrorBody { message, class: text("type").unwrap_or_default(), param: text("param"), code: text("code") })
    }
}

/// The same answer or chunk, with `model` as its model's name and, unless `keep_usage`, without
/// the member `usage`; every other byte stays.
pub fn respell(raw: &Raw, model: &str, keep_usage: bool) -> Bytes {
    let mut edits = Edits::default();
    if let Some(range) = &raw.model {
        edits.add(range.clone(), quote(model));
    }
    if let Some(range) = raw.usage.as_ref().filter(|_| !keep_usage) {
        edits.add(member(&raw.bytes, range), Vec::new());
    }
    edits.render(&raw.bytes)
}

/// The client's request for an upstream: `model` as its model's name and, with `ask_usage`,
/// `stream_options.include_usage` true; every other byte stays.
pub fn splice(body: &ClientBody, model: &str, ask_usage: bool) -> Bytes {
    let mut edits = Edits::default();
    let mut named = quote(model);
    match &body.stream_options {
        _ if !ask_usage => {}
        None => {
            named.extend_from_slice(br#","stream_options":"#);
            named.extend_from_slice(ASK_USAGE);
        }
        Some(range) => {
            let (place, text) = ask_in(&body.bytes[range.clone()]);
            edits.add(range.start + place.start..range.start + place.end, text);
        }
    }
    edits.add(body.model.clone(), named);
    edits.render(&body.bytes)
}

/// The edit that makes `include_usage` true in the value of `stream_options`.
fn ask_in(options: &[u8]) -> (Range<usize>, Vec<u8>) {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow, default, deserialize_with = "given")]
        include_usage: Option<&'a RawValue>,
    }
    match serde_json::from_slice::<Option<Options<'_>>>(options) {
        Ok(Some(Options { include_usage: Some(value) })) => (span(options, value.get()), b"true".to_vec()),
        Ok(Some(Options { include_usage: None })) => {
            let nothing_else = std::str::from_utf8(options).is_ok_and(is_empty);
            let text: &[u8] = if nothing_else { br#""include_usage":true"# } else { br#""include_usage":true,"# };
            (1..1, text.to_vec())
        }
        Ok(None) | Err(_) => (0..options.len(), ASK_USAGE.to_vec()),
    }
}

/// The range of a whole member, its comma included, given its value's range.
fn member(object: &[u8], value: &Range<usize>) -> Range<usize> {
    let before = |end: usize| object[..end].trim_ascii_end();
    let colon = before(value.start).len().saturating_sub(1);
    let key_end = before(colon).len().saturating_sub(1);
    let key = object[..key_end].iter().rposition(|byte| *byte == b'"').unwrap_or(0);
    let ahead = before(key);
    if ahead.ends_with(b",") {
        return ahead.len() - 1..value.end;
    }
    let rest = &object[value.end..];
    let gap = rest.len() - rest.trim_ascii_start().len();
    let comma = usize::from(rest.get(gap) == Some(&b','));
    key..if comma == 1 { value.end + gap + 1 } else { value.end }
}

/// `text` as a JSON string.
fn quote(text: &str) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 64);
    // A string cannot fail to be written to a vector.
    let _ = serde_json::to_writer(&mut quoted, text);
    quoted
}

/// Replacements in a text that is otherwise kept.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, Vec<u8>)>);

impl Edits {
    fn add(&mut self, range: Range<usize>, text: Vec<u8>) {
        self.0.push((range, text));
    }

    /// The text with the edits made; the same bytes where none changes anything.
    fn render(mut self, bytes: &Bytes) -> Bytes {
        self.0.retain(|(range, text)| bytes[range.clone()] != text[..]);
        if self.0.is_empty() {
            return bytes.clone();
        }
        self.0.sort_by_key(|(range, _)| range.start);
        let added: usize = self.0.iter().map(|(_, text)| text.len()).sum();
        let mut out = BytesMut::with_capacity(bytes.len() + added);
        let mut kept = 0;
        for (range, text) in &self.0 {
            out.put_slice(&bytes[kept..range.start]);
            out.put_slice(text);
            kept = range.end;
        }
        out.put_slice(&bytes[kept..]);
        out.freeze()
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
