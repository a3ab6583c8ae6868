//! An answer in one piece: a stream of deltas folded to one JSON body.
//!
//! An upstream's own body passes with only the model's name changed. Promises: an error before
//! the end is an error of the whole, so that a fallback or a status is still possible. `respond`
//! calls it for clients that do not stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::answer::{
    Answer, CallForm, ChatChoice, ChatMessage, EmbeddingForm, EmbeddingList, EmbeddingUsage, FINGERPRINT, TextChoice,
    Vector,
};
use super::logprobs;
use super::shape::{Endpoint, Shape};
use crate::error::{Error, Result};
use crate::request::{Delta, Finish, Part, Raw, Token, ToolCall, Usage};
use crate::wire::openai::respell;

/// One choice, or the embedding of one input, as far as it is known.
#[derive(Default)]
struct Choice {
    text: String,
    /// Characters of an echoed prompt, which has no tokens here.
    echoed: usize,
    tokens: Vec<Token>,
    calls: Vec<ToolCall>,
    vector: Vec<f32>,
    finish: Option<Finish>,
}

impl Choice {
    fn add(&mut self, part: Part, logprobs: bool) {
        match part {
            Part::Text { text, tokens } => {
                if tokens.is_empty() && self.tokens.is_empty() {
                    self.echoed += logprobs::characters(text.as_bytes());
                }
                self.text.push_str(&text);
                if logprobs {
                    self.tokens.extend(tokens);
                }
            }
            Part::ToolCall(call) => self.calls.push(call),
            Part::Finish(finish) => self.finish = Some(finish),
            Part::Embedding(vector) => self.vector = vector,
            Part::Raw | Part::End(_) => {}
        }
    }
}

/// Reads the deltas to their end and renders the body.
pub(super) async fn fold(mut deltas: BoxStream<'static, Result<Delta>>, shape: &Shape, model: &str) -> Result<Bytes> {
    let mut choices: BTreeMap<u32, Choice> = BTreeMap::new();
    let mut passed = None;
    while let Some(delta) = deltas.next().await {
        let Delta { choice, part, raw } = delta?;
        passed = raw.or(passed);
        match part {
            Part::End(usage) => return Ok(render(passed, &choices, usage, (shape, model))),
            Part::Raw => {}
            part => choices.entry(choice).or_default().add(part, shape.logprobs.is_some()),
        }
    }
    Err(broken_off())
}

/// The error for a stream of deltas that stops without an end.
pub(super) fn broken_off() -> Error {
    Error::internal("the answer stopped before its end")
}

fn render(
    passed: Option<Raw>,
    choices: &BTreeMap<u32, Choice>,
    usage: Option<Usage>,
    (shape, model): (&Shape, &str),
) -> Bytes {
    if let Some(body) = passed {
        return respell(&body, model, true);
    }
    match shape.endpoint {
        Endpoint::Chat => {
            let choices: Vec<_> = choices.iter().map(|(index, choice)| chat(*index, choice, shape)).collect();
            answer("chat.completion", &choices, usage, (shape, model))
        }
        Endpoint::Text => {
            let choices: Vec<_> = choices.iter().map(|(index, choice)| text(*index, choice, shape)).collect();
            answer("text_completion", &choices, usage, (shape, model))
        }
        Endpoint::Embed { base64 } => embeddings(choices, usage, model, base64),
    }
}

fn answer<C: serde::Serialize>(
    object: &'static str,
    choices: &[C],
    usage: Option<Usage>,
    (shape, model): (&Shape, &str),
) -> Bytes {
    json(&Answer {
        id: &shape.answer_id(),
        object,
        created: shape.created,
        model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage: usage.map(|usage| Some(usage.into())),
    })
}

fn chat<'a>(index: u32, choice: &'a Choice, shape: &Shape) -> ChatChoice<'a> {
    let only_calls = choice.text.is_empty() && !choice.calls.is_empty();
    ChatChoice {
        index,
        message: ChatMessage {
            role: "assistant",
            content: (!only_calls).then_some(&choice.text),
            refusal: None,
            tool_calls: choice.calls.iter().map(CallForm::whole).collect(),
        },
        logprobs: shape.logprobs.map(|most| logprobs::chat(&choice.tokens, most)),
        finish_reason: choice.finish.map(Finish::name),
    }
}

fn text<'a>(index: u32, choice: &'a Choice, shape: &Shape) -> TextChoice<'a> {
    let mut offset = choice.echoed;
    TextChoice {
        text: &choice.text,
        index,
        logprobs: shape.logprobs.map(|most| logprobs::text(&choice.tokens, most, &mut offset)),
        finish_reason: choice.finish.map(Finish::name),
    }
}

fn embeddings(choices: &BTreeMap<u32, Choice>, usage: Option<Usage>, model: &str, base64: bool) -> Bytes {
    let form = |vector: &'_ [f32]| -> Vec<u8> { vector.iter().flat_map(|number| number.to_le_bytes()).collect() };
    let entries = choices.iter().map(|(index, choice)| EmbeddingForm {
        object: "embedding",
        index: *index,
        embedding: if base64 {
            Vector::Base64(base64_of(&form(&choice.vector)))
        } else {
            Vector::Numbers(&choice.vector)
        },
    });
    let prompt_tokens = usage.unwrap_or_default().prompt_tokens;
    let usage = EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens };
    json(&EmbeddingList { object: "list", data: entries.collect(), model, usage })
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64_of(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Forms of strings, numbers and arrays cannot fail to be written.
pub(super) fn json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::base64_of;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64_of(bytes.as_bytes()), text);
        }
        assert_eq!(base64_of(&[0xFB, 0xFF]), "+/8=");
    }
}
