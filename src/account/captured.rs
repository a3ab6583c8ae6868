//! The text of a request and of its answer, kept only where the operator asked for a capture log.
//!
//! Promises: where nothing is captured, nothing is copied; where something is, bytes that already
//! are in memory are shared, and of an answer at most [`Said::MOST`] bytes are kept. Noted by the
//! tab, read by `observe`.

use bytes::Bytes;

use crate::request::{Ask, Delta, Part, Request};

/// What was asked and what was said.
#[derive(Debug, Clone)]
pub struct Captured {
    /// `chat`, `text` or `embed`.
    pub kind: &'static str,
    /// The client's body: a JSON object.
    pub body: Bytes,
    /// The answer served.
    pub said: Said,
    /// Whether the capture log wants it; else only a trace does.
    pub logged: bool,
}

/// An answer's first choice.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// What a model on the box said.
    pub text: String,
    /// An upstream's own bytes: chunks of a stream, or one whole answer.
    pub raw: Vec<Bytes>,
    bytes: usize,
}

impl Captured {
    /// The question, without an answer yet.
    pub(super) fn of(request: &Request) -> Captured {
        let kind = match &request.ask {
            Ask::Chat(_) => "chat",
            Ask::Text(_) => "text",
            Ask::Embed(_) => "embed",
        };
        Captured { kind, body: request.body.bytes.clone(), said: Said::default(), logged: true }
    }
}

impl Said {
    /// Bytes of an answer that are kept; the rest is let go.
    pub const MOST: usize = 1 << 20;

    /// Adds what is new.
    pub(super) fn add(&mut self, delta: &Delta) {
        let size = match (&delta.part, &delta.raw) {
            (Part::Text { text, .. }, _) if delta.choice == 0 => text.len(),
            (Part::Raw, Some(raw)) => raw.bytes.len(),
            _ => 0,
        };
        self.bytes += size;
        if size == 0 || self.bytes > Said::MOST {
            return;
        }
        match (&delta.part, &delta.raw) {
            (Part::Text { text, .. }, _) => self.text.push_str(text),
            (_, Some(raw)) => self.raw.push(raw.bytes.clone()),
            _ => {}
        }
    }
}
