//! Reads a request's body: its declared form and length first, then its bytes, under a cap.
//!
//! A body that comes in one piece is not copied; one that comes in several is copied once; one
//! that stops coming is given up. The result is UTF-8. What a web page could send without being
//! asked for leave is refused. `parse` calls it before anything is read as JSON.

use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;

use super::Limits;
use crate::error::{Error, Kind, Origin, Result};

/// The longest wait for the next piece of a body.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How much memory is taken because a head says that it will be needed.
const AHEAD: usize = 64 * 1024;
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Reads the body. Not JSON by its head: 415, or 403 where a web page sent it; longer than the limit:
/// 413, by its head alone if that says so; no room beside all others: 429; no piece within 30 s: 408; not
/// UTF-8: 400.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, limits: &Limits) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let form = check_type(headers)?;
    let cap = limits.max_body;
    let declared = header(headers, &CONTENT_LENGTH).and_then(|text| text.parse::<usize>().ok());
    if declared.is_some_and(|length| length > cap) {
        return Err(too_large(cap));
    }
    let whole = collect(body, declared, limits).await?;
    if let Err(error) = std::str::from_utf8(&whole) {
        let message = format!("the body is not UTF-8 at byte {}; send JSON as UTF-8", error.valid_up_to());
        return Err(Error::new(Kind::Invalid, Origin::Client, message).code("invalid_utf8"));
    }
    if form && !whole.trim_ascii_start().starts_with(b"{") {
        return Err(unsupported("content-type", FORM));
    }
    Ok(whole)
}

async fn collect<B>(body: B, declared: Option<usize>, limits: &Limits) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut taken = limits.room.enter();
    while let Some(frame) = next(&mut body).await? {
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let length = first.len().max(joined.len()) + piece.len();
        if length > limits.max_body {
            return Err(too_large(limits.max_body));
        }
        taken.grow(length)?;
        if first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(declared.unwrap_or(0).min(AHEAD).max(length));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&piece);
    }
    Ok(taken.house(if joined.is_empty() { first } else { joined.freeze() }))
}

/// The next frame; one that is here already costs no timer.
async fn next<B>(body: &mut B) -> Result<Option<Frame<Bytes>>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let read = |frame: Option<std::result::Result<_, B::Error>>| frame.transpose().map_err(|error| broken(&error));
    if let Some(frame) = body.frame().now_or_never() {
        return read(frame);
    }
    read(tokio::time::timeout(LONGEST_PAUSE, body.frame()).await.map_err(|_| late())?)
}

/// What `curl -d` declares when nobody tells it better. The body may be JSON all the same.
const FORM: &str = "application/x-www-form-urlencoded";

/// Checks what the head says of the body's form; true where the body must be looked at, because
/// the head says [`FORM`].
fn check_type(headers: &HeaderMap) -> Result<bool> {
    if let Some(coding) = header(headers, &CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(unsupported("content-encoding", coding));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return check_sender(headers).map(|()| false);
    };
    let text = value.to_str().unwrap_or("not text");
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(false);
    }
    if essence.eq_ignore_ascii_case(FORM) {
        return check_sender(headers).map(|()| true);
    }
    Err(unsupported("content-type", text))
}

/// Refuses a web page. Any page may post a body that is not declared as JSON to any address, this
/// machine's too, and have the operator pay; for JSON, browsers ask for leave first.
fn check_sender(headers: &HeaderMap) -> Result<()> {
    let site = header(headers, &FETCH_SITE).unwrap_or_default();
    if !headers.contains_key(ORIGIN) && !matches!(site, "cross-site" | "same-site") {
        return Ok(());
    }
    let message = "a web page must say what it sends; send JSON as content-type application/json";
    Err(Error::new(Kind::Forbidden, Origin::Client, message))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn unsupported(name: &str, value: &str) -> Error {
    let message = format!("{name} {value:?} is not supported; send plain JSON as application/json");
    Error::new(Kind::Invalid, Origin::Client, message).code("unsupported_media_type")
}

fn too_large(cap: usize) -> Error {
    let message = format!("the body is longer than {cap} bytes; send less, or raise max_body in the configuration");
    Error::new(Kind::TooLarge, Origin::Client, message)
}

fn late() -> Error {
    let message = format!("no more of the body came for {LONGEST_PAUSE:?}; send it without pauses");
    let error = Error::new(Kind::Invalid, Origin::Client, message).code("request_timeout");
    error.status(StatusCode::REQUEST_TIMEOUT)
}

fn broken(error: &dyn Display) -> Error {
    Error::new(Kind::Canceled, Origin::Client, format!("the body broke off: {error}"))
}
