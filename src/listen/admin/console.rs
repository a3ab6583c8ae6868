//! The page at `/`: its files are in the binary, and it asks nobody but this port.
//!
//! Promises: a browser runs no script, style or request that is not from here, whatever stands in the
//! data; a file that the browser has is not sent again. What the page shows it reads from `live`,
//! `trial` and the other pages of the port, as any operator could.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use ring::digest::{SHA256, digest};

use super::page::{Asked, bytes};
use crate::api::Body;
use crate::error::{Error, Kind, Origin, Result};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file of the page: its name, its type, its text.
const FILES: &[(&str, &str, &str)] = &[
    ("", HTML, include_str!("console/index.html")),
    ("console.css", CSS, include_str!("console/console.css")),
    ("main.js", SCRIPT, include_str!("console/main.js")),
    ("ask.js", SCRIPT, include_str!("console/ask.js")),
    ("draw.js", SCRIPT, include_str!("console/draw.js")),
    ("figures.js", SCRIPT, include_str!("console/figures.js")),
    ("tables.js", SCRIPT, include_str!("console/tables.js")),
    ("trial.js", SCRIPT, include_str!("console/trial.js")),
    ("words.js", SCRIPT, include_str!("console/words.js")),
    ("icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
];

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const ONLY_FROM_HERE: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                              connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the page; the page itself has no name.
pub(super) fn file(asked: &Asked) -> Result<Response<Body>> {
    let Some((_, kind, text)) = FILES.iter().find(|(name, _, _)| *name == asked.rest) else {
        let name: String = asked.rest.chars().take(100).collect();
        return Err(Error::new(Kind::NotFound, Origin::Client, format!("the console has no file \"{name}\"")));
    };
    let tag = tag(text);
    let known = asked.headers.get(IF_NONE_MATCH).is_some_and(|known| *known == tag);
    let (status, body) = if known { (StatusCode::NOT_MODIFIED, "") } else { (StatusCode::OK, *text) };
    let mut response = bytes(status, kind, Bytes::from_static(body.as_bytes()));
    let headers = response.headers_mut();
    if known {
        headers.remove(CONTENT_TYPE);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(ONLY_FROM_HERE));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

/// Names the content: `"HEXADECIMAL"`, quotes included.
fn tag(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    let hex: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}
