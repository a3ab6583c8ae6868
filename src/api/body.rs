//! Reads a request's body: its declared form and length first, then its bytes, under a cap.
//!
//! A body that comes in one piece is not copied; one that comes in several is copied once. The
//! result is UTF-8. `parse` calls it before anything is read as JSON.

use std::fmt::Display;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http_body_util::BodyExt;

use crate::error::{Error, Kind, Origin, Result};

/// Reads the body. Not JSON by its head: 415; longer than `cap` bytes: 413, by its head alone if
/// that says so; not UTF-8: 400.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, cap: usize) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let form = check_type(headers)?;
    let declared = header(headers, &CONTENT_LENGTH).and_then(|text| text.parse::<usize>().ok());
    if declared.is_some_and(|length| length > cap) {
        return Err(too_large(cap));
    }
    let whole = collect(body, declared, cap).await?;
    if let Err(error) = std::str::from_utf8(&whole) {
        let message = format!("the body is not UTF-8 at byte {}; send JSON as UTF-8", error.valid_up_to());
        return Err(Error::new(Kind::Invalid, Origin::Client, message).code("invalid_utf8"));
    }
    if form && !whole.trim_ascii_start().starts_with(b"{") {
        return Err(unsupported("content-type", FORM));
    }
    Ok(whole)
}

async fn collect<B>(body: B, declared: Option<usize>, cap: usize) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len().max(joined.len()) + data.len() > cap {
            return Err(too_large(cap));
        }
        if first.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(declared.unwrap_or(0).max(first.len() + data.len()));
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
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
        return Ok(false);
    };
    let text = value.to_str().unwrap_or("not text");
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(false);
    }
    if essence.eq_ignore_ascii_case(FORM) {
        return Ok(true);
    }
    Err(unsupported("content-type", text))
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

fn broken(error: &dyn Display) -> Error {
    Error::new(Kind::Canceled, Origin::Client, format!("the body broke off: {error}"))
}
