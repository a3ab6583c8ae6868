//! The texts of a request, for spans: only where the operator asked for `content = true`.
//!
//! Promises: the form of `gen_ai.input.messages` and `gen_ai.output.messages`; known kinds of secrets are
//! taken out as in the capture log; a long text is cut. Used by `spans`.

use serde_json::{Value, json};

use super::line::answer;
use crate::account::Captured;
use crate::policy::Redactor;

/// Characters of one text that are told.
const LONGEST: usize = 16 * 1024;

/// Renders texts.
#[derive(Debug)]
pub(super) struct Texts(Redactor);

impl Texts {
    pub(super) fn build() -> Result<Texts, String> {
        Redactor::build().map(Texts)
    }

    /// The conversation, or the prompt of another kind of request.
    pub(super) fn asked(&self, captured: &Captured) -> Option<String> {
        let body: Value = serde_json::from_slice(&captured.body).ok()?;
        let told: Vec<Value> = match body.get("messages").and_then(Value::as_array) {
            Some(messages) => messages.iter().map(|message| self.message(message)).collect(),
            None => vec![json!({"role": "user", "parts": self.parts(body.get("prompt").or(body.get("input"))?)})],
        };
        Some(Value::Array(told).to_string())
    }

    /// The answer's first choice.
    pub(super) fn said(&self, captured: &Captured) -> Option<String> {
        let text = answer(captured)?;
        Some(json!([{"role": "assistant", "parts": [self.text(&text)]}]).to_string())
    }

    fn message(&self, message: &Value) -> Value {
        let content = message.get("content").map(|content| self.parts(content));
        json!({"role": message.get("role").and_then(Value::as_str), "parts": content.unwrap_or_default()})
    }

    fn parts(&self, content: &Value) -> Vec<Value> {
        match content {
            Value::String(text) => vec![self.text(text)],
            Value::Array(parts) => parts.iter().map(|part| self.part(part)).collect(),
            _ => Vec::new(),
        }
    }

    /// One part; of what is no text only its kind is told.
    fn part(&self, part: &Value) -> Value {
        let text = part.as_str().or_else(|| part.get("text")?.as_str());
        text.map_or_else(|| json!({"type": part.get("type").and_then(Value::as_str)}), |text| self.text(text))
    }

    fn text(&self, text: &str) -> Value {
        let redacted = self.0.redact(text);
        json!({"type": "text", "content": redacted.chars().take(LONGEST).collect::<String>()})
    }
}
