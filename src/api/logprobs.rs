//! Log-probabilities in the two forms of the dialect: chat's, and that of legacy completions.
//!
//! Tokens that end a turn are not told. A token whose bytes are not whole UTF-8 is told by its
//! bytes: in chat beside the text, in legacy completions as `bytes:\xNN…`.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use crate::request::Token;

/// What stands for minus infinity, which JSON cannot write.
const LEAST: f32 = -9999.0;

/// `logprobs` of a chat choice.
#[derive(Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    told: Told<'a>,
    top_logprobs: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Told<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> Told<'a> {
    fn new(bytes: &'a [u8], logprob: f32) -> Self {
        Told { token: String::from_utf8_lossy(bytes), logprob: logprob.max(LEAST), bytes }
    }
}

/// The tokens that a client may see.
pub(super) fn shown(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    tokens.iter().filter(|token| !token.end)
}

/// Renders tokens for chat, each with its `most` most probable alternatives.
pub(super) fn chat(tokens: &[Token], most: u32) -> ChatLogprobs<'_> {
    let content = shown(tokens).map(|token| ChatToken {
        told: Told::new(&token.bytes, token.logprob),
        top_logprobs: token.top.iter().take(most as usize).map(|(bytes, logprob)| Told::new(bytes, *logprob)).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

/// `logprobs` of a legacy choice.
#[derive(Serialize)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Option<Vec<Tops>>,
    text_offset: Vec<usize>,
}

/// The most probable tokens and the one sampled, as an object; a name stands once.
struct Tops(Vec<(String, f32)>);

impl Serialize for Tops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = |at: usize, name: &str| self.0[..at].iter().any(|(other, _)| other == name);
        let told = self.0.iter().enumerate().filter(|(at, (name, _))| !before(*at, name));
        serializer.collect_map(told.map(|(_, (name, logprob))| (name, logprob)))
    }
}

/// Renders tokens for legacy completions. `offset` is how many characters stand before them, and
/// is moved on past them.
pub(super) fn text(tokens: &[Token], most: u32, offset: &mut usize) -> TextLogprobs {
    let mut told = TextLogprobs {
        tokens: Vec::new(),
        token_logprobs: Vec::new(),
        top_logprobs: (most > 0).then(Vec::new),
        text_offset: Vec::new(),
    };
    for token in shown(tokens) {
        told.tokens.push(name(&token.bytes));
        told.token_logprobs.push(token.logprob.max(LEAST));
        told.text_offset.push(*offset);
        *offset += characters(&token.bytes);
        if let Some(tops) = &mut told.top_logprobs {
            let best = token.top.iter().take(most as usize).map(|(bytes, logprob)| (&bytes[..], *logprob));
            let all = best.chain([(&token.bytes[..], token.logprob)]);
            tops.push(Tops(all.map(|(bytes, logprob)| (name(bytes), logprob.max(LEAST))).collect()));
        }
    }
    told
}

/// How many characters begin in these bytes.
pub(super) fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| *byte & 0xC0 != 0x80).count()
}

fn name(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut name = String::from("bytes:");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(name, "\\x{byte:02x}");
    }
    name
}
