//! Reads and checks a request: head, bytes, JSON, ranges.
//!
//! Hides the JSON of requests. Promises that a request which passes is within the bounds that the
//! nouns of `request` state, that unknown fields are kept in the client's bytes, and that a body
//! in one piece is not copied. `gateway` calls it once per request.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::body;
use super::chat::ChatFields;
use super::fields::object;
use super::room::Room;
use super::route::Route;
use super::sampling::Opened;
use super::shape::{Endpoint, Shape};
use super::text::{EmbedFields, TextFields};
use crate::error::{Error, Result};
use crate::request::{Ask, Request, Secret, TenantId};

/// What bounds a request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest body, bytes.
    pub max_body: usize,
    /// Request headers kept for policies, lowercase.
    pub policy_headers: Vec<String>,
    /// The memory of all bodies together.
    pub room: Room,
}

impl Limits {
    /// Bodies of so many bytes, of which there may be any number; no header is kept.
    pub fn of(max_body: usize) -> Limits {
        Limits { max_body, policy_headers: Vec::new(), room: Room::of(usize::MAX) }
    }
}

/// Who asks, as known before the body is read.
#[derive(Debug, Clone)]
pub struct Asker {
    /// `x-request-id`.
    pub id: Arc<str>,
    /// Who pays.
    pub tenant: TenantId,
}

/// Reads and checks a request's body. Dropping the future drops the body and leaves nothing.
///
/// The body must be declared as `application/json`, as nothing, or as curl's default
/// `application/x-www-form-urlencoded` if it is a JSON object all the same. Keys must not stand
/// twice in the object; fields that Weir does not know are kept for an upstream.
///
/// # Errors
///
/// 413 `too_large` beyond `max_body`, 429 where the bodies of others leave no room, 415 for another content type, 403 for one that a web page may
/// send unasked, 408 `request_timeout` where no piece of the body comes for 30 s, else 400 with the
/// path of the field at fault as `param`.
pub async fn parse<B>(
    route: Route,
    headers: &HeaderMap,
    body: B,
    limits: &Limits,
    asker: Asker,
) -> Result<(Request, Shape)>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let whole = body::read(headers, body, limits).await?;
    let (opened, ask) = read(route, &whole)?;
    let shape = Shape {
        endpoint: Endpoint::Chat,
        stream: opened.stream,
        include_usage: false,
        logprobs: None,
        id: asker.id.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    let shape = match &ask {
        Ask::Chat(chat) => shape.sampled(&chat.sampling),
        Ask::Text(text) => Shape { endpoint: Endpoint::Text, ..shape }.sampled(&text.sampling),
        Ask::Embed(embed) => Shape { endpoint: Endpoint::Embed { base64: embed.base64 }, stream: false, ..shape },
    };
    let request = Request {
        id: asker.id,
        tenant: asker.tenant,
        model: opened.model,
        stream: shape.stream,
        ask,
        body: opened.body,
        headers: kept(headers, &limits.policy_headers),
        authorization: headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(Secret::new),
    };
    Ok((request, shape))
}

/// Reads the object that the endpoint takes.
fn read(route: Route, whole: &Bytes) -> Result<(Opened, Ask)> {
    let text = std::str::from_utf8(whole).map_err(|_| Error::internal("a body was read that is not UTF-8"))?;
    match route {
        Route::Chat => {
            let fields: ChatFields<'_> = object(text)?;
            let opened = fields.envelope.open(whole)?;
            let chat = fields.check(&opened)?;
            Ok((opened, Ask::Chat(chat)))
        }
        Route::Text => {
            let fields: TextFields<'_> = object(text)?;
            let opened = fields.envelope.open(whole)?;
            let text = fields.check(&opened)?;
            Ok((opened, Ask::Text(text)))
        }
        Route::Embed => {
            let fields: EmbedFields<'_> = object(text)?;
            let opened = fields.envelope.open(whole)?;
            Ok((opened, Ask::Embed(fields.check()?)))
        }
        Route::Models | Route::Model(_) | Route::Feedback => Err(Error::internal("no model is asked by this path")),
    }
}

/// The headers that the operator named for policies.
fn kept(headers: &HeaderMap, names: &[String]) -> BTreeMap<String, String> {
    let value = |name: &String| {
        let value = headers.get(name.as_str())?;
        Some((name.clone(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    names.iter().filter_map(value).collect()
}
