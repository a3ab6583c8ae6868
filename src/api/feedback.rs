//! Reads what a client says of an answer: `POST /v1/feedback`.
//!
//! Whoever volunteers feedback is no random sample of those who were answered, so that it is noted
//! and counted and enters no certificate and no alarm. Whether it was asked for (`x-weir-audit:
//! wanted`) the ledgers of audits know; of other requests nothing is kept. `gateway` calls it.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, Response};
use serde::Serialize;
use serde::de::MapAccess;

use super::fields::{Fields, Taken, object, set};
use super::fold::json as rendered;
use super::respond::json;
use super::{Body, Limits, body};
use crate::error::{Error, Result};
use crate::request::{Feedback, Verdict};

/// The longest id, as of the header `x-request-id`.
const LONGEST_ID: usize = 128;

#[derive(Debug, Default)]
struct FeedbackFields {
    request_id: Option<String>,
    correct: Option<bool>,
    score: Option<f64>,
    unknown: Option<String>,
}

impl<'de> Fields<'de> for FeedbackFields {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> std::result::Result<Taken, A::Error> {
        match key {
            "request_id" => set(&mut self.request_id, map),
            "correct" => set(&mut self.correct, map),
            "score" => set(&mut self.score, map),
            _ => {
                self.unknown.get_or_insert_with(|| key.to_owned());
                Ok(Taken::No)
            }
        }
    }
}

impl FeedbackFields {
    fn check(self) -> Result<Feedback> {
        if let Some(unknown) = self.unknown {
            let shown: String = unknown.chars().take(100).collect();
            let message = format!("{shown:?} is unknown; known: request_id, correct, score");
            return Err(Error::invalid(shown, message));
        }
        let id = self.request_id.unwrap_or_default();
        if !(1..=LONGEST_ID).contains(&id.len()) || id.contains(|c: char| !c.is_ascii_graphic()) {
            let message = "request_id: want the x-request-id of the answer, at most 128 printable characters";
            return Err(Error::invalid("request_id", message));
        }
        let verdict = match (self.correct, self.score) {
            (Some(true), None) => Verdict::Correct,
            (Some(false), None) => Verdict::Wrong,
            (None, Some(score)) if (0.0..=1.0).contains(&score) => Verdict::Scored(score),
            (None, Some(score)) => {
                return Err(Error::invalid("score", format!("score: {score} is not between 0 and 1")));
            }
            _ => return Err(Error::invalid("correct", "want one of correct (true or false) and score (0 to 1)")),
        };
        Ok(Feedback { request_id: id.into(), verdict })
    }
}

/// Reads and checks the body.
///
/// # Errors
///
/// Those of a body that cannot be read (as for [`super::parse()`]), and 400 with the field at fault.
pub async fn feedback<B>(headers: &HeaderMap, body: B, limits: &Limits) -> Result<Feedback>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let whole = body::read(headers, body, limits).await?;
    let text = std::str::from_utf8(&whole).map_err(|_| Error::internal("a body was read that is not UTF-8"))?;
    object::<FeedbackFields>(text)?.check()
}

/// Renders the answer: what was noted.
pub fn noted(feedback: &Feedback) -> Response<Body> {
    #[derive(Serialize)]
    struct Noted<'a> {
        object: &'static str,
        request_id: &'a str,
        verdict: &'static str,
    }
    let verdict = feedback.verdict.name();
    json(rendered(&Noted { object: "feedback", request_id: &feedback.request_id, verdict }), None)
}
