//! Tests of the room: what is read of a request, what is rendered, and when.

mod golden;
mod reading;
mod rejecting;
mod streaming;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};

use super::shape::Endpoint;
use super::{Asker, Body, Limits, Route, Shape, parse, respond};
use crate::backend::Completion;
use crate::error::Result;
use crate::request::{Delta, Finish, ModelId, Part, Request, TenantId, Token, Usage};

/// Reads `body` as a request of this route.
async fn read(route: Route, body: &str) -> Result<(Request, Shape)> {
    let limits = Limits { policy_headers: vec!["x-team".to_owned()], ..Limits::of(1 << 20) };
    let asker = Asker { id: Arc::from("r1"), tenant: TenantId::anonymous() };
    let mut headers = HeaderMap::new();
    headers.insert("x-team", "red".parse().unwrap());
    headers.insert("x-other", "blue".parse().unwrap());
    headers.insert("authorization", "Bearer k".parse().unwrap());
    parse(route, &headers, Full::new(Bytes::from(body.to_owned())), &limits, asker).await
}

/// A shape with nothing asked for beyond the answer.
fn shape(endpoint: Endpoint, stream: bool) -> Shape {
    Shape { endpoint, stream, include_usage: false, logprobs: None, id: Arc::from("r1"), created: 1_700_000_000 }
}

fn completion(deltas: BoxStream<'static, Result<Delta>>) -> Completion {
    Completion { model: ModelId::new("local/small"), headers: HeaderMap::new(), deltas }
}

/// The answer to a request of this shape, whose story is `cost-usd=0`.
async fn answer(shape: Shape, deltas: Vec<Result<Delta>>) -> Result<Response<Body>> {
    respond(completion(stream::iter(deltas).boxed()), shape, Box::new(|| "cost-usd=0".to_owned())).await
}

async fn text_of(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn said(choice: u32, text: &str, tokens: Vec<Token>) -> Result<Delta> {
    Ok(Delta::new(choice, Part::Text { text: text.to_owned(), tokens }))
}

fn finish(choice: u32, finish: Finish) -> Result<Delta> {
    Ok(Delta::new(choice, Part::Finish(finish)))
}

fn end() -> Result<Delta> {
    Ok(Delta::new(0, Part::End(Some(Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3 }))))
}

fn raw(json: &str) -> Result<Delta> {
    let scanned = crate::wire::openai::scan(Bytes::from(json.to_owned())).unwrap();
    Ok(Delta { choice: 0, part: Part::Raw, raw: Some(scanned.raw) })
}

fn token(bytes: &[u8], logprob: f32) -> Token {
    let bytes = Bytes::copy_from_slice(bytes);
    let top = vec![
        (bytes.clone(), logprob),
        (Bytes::from_static(b"other"), -2.5),
        (Bytes::from_static(b"\xe2"), f32::NEG_INFINITY),
    ];
    Token { bytes, logprob, margin: 1.0, entropy: 0.5, top, end: false }
}

fn end_of_turn() -> Token {
    Token { end: true, ..token(b"", -0.125) }
}
