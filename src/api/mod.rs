//! The OpenAI-compatible surface: bytes of a client → a checked Request; a Completion → bytes.
//!
//! Hides the JSON of requests, answers, chunks and errors, and the events of a stream. Promises:
//! what [`parse()`] lets through is within the bounds that the nouns of `request` state; every
//! refusal names the field at fault; an upstream's own bytes are changed only where Weir's name
//! of the model and the usage that nobody asked for stand. `gateway` and `listen` call it.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

mod answer;
mod body;
mod chat;
mod feedback;
mod fields;
mod fold;
mod logprobs;
mod models;
mod parse;
mod reject;
mod respond;
mod room;
mod route;
mod sampling;
mod shape;
mod stream;
mod text;
mod tools;

pub use feedback::{feedback, noted};
pub use models::{ModelEntry, model, models};
pub use parse::{Asker, Limits, parse};
pub use reject::reject;
pub use respond::respond;
pub use room::Room;
pub use route::{Route, route};
pub use shape::Shape;

pub use crate::wire::trace_context::parse as trace_context;

/// An answer's body. It never fails of itself: what breaks off says so in the dialect.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

#[cfg(test)]
mod tests;
