//! Finds tool calls in the text of a local model, as it streams.
//!
//! The form is Hermes' and Qwen's: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any
//! number of times between texts; also an answer that is nothing but such an object and names an
//! offered tool. What is not a well-formed call comes out as text, unchanged. Held back is only
//! what may still become a call. The engine has one per choice of a request with tools.

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::stop::overlap;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// One piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Text for the client; never empty.
    Text(String),
    /// A complete call.
    Call {
        /// The function.
        name: String,
        /// A JSON object as text, as the model wrote it.
        arguments: String,
    },
}

/// The state of one answer.
#[derive(Debug)]
pub(crate) struct ToolCallParser {
    offered: Vec<String>,
    place: Place,
    /// Whether white space counts only if text follows: at the start and after a call.
    space_waits: bool,
    called: bool,
    /// White space before the tag that is open.
    space: String,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far.
    Start,
    /// In an answer that may be one bare call as a whole.
    Bare,
    /// Outside tags.
    Text,
    /// After an opening tag, which is not in the held text any more.
    Inside,
}

/// The object inside the tags.
#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

impl ToolCallParser {
    /// A parser for an answer whose request offers the tools of these names.
    pub(crate) fn new(offered: Vec<String>) -> ToolCallParser {
        ToolCallParser {
            offered,
            place: Place::Start,
            space_waits: true,
            called: false,
            space: String::new(),
            held: String::new(),
        }
    }

    /// Adds text and gives what is certain now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// Gives the rest: the answer has ended.
    pub(crate) fn finish(mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if self.place == Place::Bare {
            if let Some(call) = parse_bare(&self.held, &self.offered) {
                return vec![call];
            }
            self.place = Place::Text;
        }
        while self.step(&mut pieces) {}
        while self.place == Place::Inside {
            if let Some(call) = parse_call(&self.held) {
                pieces.push(call);
                return pieces;
            }
            self.reject(&mut pieces, "");
            while self.step(&mut pieces) {}
        }
        if !(self.called && self.held.trim().is_empty()) {
            emit(&mut pieces, self.held);
        }
        pieces
    }

    /// Takes one decision, if the held text allows one.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.place {
            Place::Start => self.step_start(),
            Place::Bare => self.step_bare(),
            Place::Text => self.step_text(pieces),
            Place::Inside => self.step_inside(pieces),
        }
    }

    fn step_start(&mut self) -> bool {
        let begun = self.held.trim_start();
        if begun.is_empty() {
            return false;
        }
        let bare = begun.starts_with('{') && !self.offered.is_empty();
        self.place = if bare { Place::Bare } else { Place::Text };
        true
    }

    /// Lets the text go as soon as its first key shows that it is not a call.
    fn step_bare(&mut self) -> bool {
        let begun = self.held.trim_start();
        let first_key = begun.strip_prefix('{').unwrap_or(begun).trim_start();
        let keys = ["\"name\"", "\"arguments\"", "\"parameters\""];
        if keys.iter().any(|key| first_key.starts_with(key) || key.starts_with(first_key)) {
            return false;
        }
        self.place = Place::Text;
        true
    }

    fn step_text(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            let after = self.held.split_off(at + OPEN.len());
            let mut before = std::mem::replace(&mut self.held, after);
            before.truncate(at);
            if self.space_waits && before.trim().is_empty() {
                self.space = before;
            } else {
                emit(pieces, before);
            }
            self.place = Place::Inside;
            return true;
        }
        let certain = self.held.len() - overlap(&self.held, OPEN);
        if !(self.space_waits && self.held[..certain].trim().is_empty()) {
            emit(pieces, self.held.drain(..certain).collect());
            self.space_waits = false;
        }
        false
    }

    fn step_inside(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(end) = closing_tag(&self.held) else {
            return false;
        };
        let body: String = self.held.drain(..end).collect();
        self.held.drain(..CLOSE.len());
        self.place = Place::Text;
        match parse_call(&body) {
            Some(call) => {
                pieces.push(call);
                self.called = true;
                self.space_waits = true;
                self.space.clear();
            }
            None => self.reject(pieces, &format!("{body}{CLOSE}")),
        }
        true
    }

    /// What looked like a call is text, from the white space before its tag on.
    fn reject(&mut self, pieces: &mut Vec<Piece>, body: &str) {
        let space = std::mem::take(&mut self.space);
        emit(pieces, format!("{space}{OPEN}{body}"));
        self.place = Place::Text;
        self.space_waits = false;
    }
}

/// Adds text, to the piece before if that is text.
fn emit(pieces: &mut Vec<Piece>, text: String) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(before)) => before.push_str(&text),
        _ => pieces.push(Piece::Text(text)),
    }
}

/// Where the closing tag stands; one inside a JSON string is not it.
fn closing_tag(body: &str) -> Option<usize> {
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'<' if !in_string && body[at..].starts_with(CLOSE) => return Some(at),
            _ => {}
        }
    }
    None
}

/// Some templates of Qwen2.5-Coder show the model the form in doubled braces, and it obeys.
fn parse_call(body: &str) -> Option<Piece> {
    let body = body.trim();
    let doubled = body.starts_with("{{") && body.ends_with("}}");
    let body = if doubled { &body[1..body.len() - 1] } else { body };
    let written: Written<'_> = serde_json::from_str(body).ok()?;
    let arguments = written.arguments.map_or(Some("{}".to_owned()), parse_arguments)?;
    Some(Piece::Call { name: written.name, arguments })
}

/// A bare call needs its arguments: an object with only a name may be an ordinary answer.
fn parse_bare(answer: &str, offered: &[String]) -> Option<Piece> {
    let written: Written<'_> = serde_json::from_str(answer).ok()?;
    let arguments = parse_arguments(written.arguments?)?;
    offered.contains(&written.name).then_some(Piece::Call { name: written.name, arguments })
}

/// An object as it stands, or the one inside a string; null is none.
fn parse_arguments(raw: &RawValue) -> Option<String> {
    match serde_json::from_str(raw.get()).ok()? {
        Value::Object(_) => Some(raw.get().to_owned()),
        Value::Null => Some("{}".to_owned()),
        Value::String(text) => {
            let inner: Value = serde_json::from_str(&text).ok()?;
            inner.is_object().then_some(text)
        }
        _ => None,
    }
}
