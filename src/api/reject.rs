//! Renders an error: the only table from a kind to status, type and code.
//!
//! An upstream's own error passes through as it came. `gateway` and `listen` call [`reject`];
//! `stream` uses [`event_body`] for errors after the first byte.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};

use super::Body;
use super::respond::{JSON, whole};
use crate::error::{Detail, Error, Kind, Origin, Retry};
use crate::wire::openai::ErrorBody;

const ORIGIN: HeaderName = HeaderName::from_static("x-weir-origin");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The status of an error, and the code where it has none of its own.
fn row(detail: &Detail) -> (u16, Option<&'static str>) {
    match (detail.kind, detail.code) {
        (Kind::Invalid, Some("method_not_allowed")) => (405, None),
        (Kind::Invalid, Some("unsupported_media_type")) => (415, None),
        (Kind::Invalid, _) => (400, None),
        (Kind::Unauthenticated, _) => (401, Some("invalid_api_key")),
        (Kind::Forbidden, _) => (403, Some("forbidden")),
        (Kind::NotFound, _) => (404, Some("not_found")),
        (Kind::TooLarge, _) => (413, Some("too_large")),
        (Kind::RateLimited, _) => (429, Some("rate_limit_exceeded")),
        (Kind::OverBudget, _) => (429, Some("insufficient_quota")),
        (Kind::Overloaded, _) => (429, Some("overloaded")),
        (Kind::Timeout, _) => (504, Some("timeout")),
        (Kind::Unavailable, _) if detail.origin == Origin::Upstream => (502, Some("upstream_unavailable")),
        (Kind::Unavailable, _) => (503, Some("unavailable")),
        (Kind::Canceled, _) => (499, Some("canceled")),
        (Kind::Internal, _) => (500, Some("internal")),
    }
}

/// The `type` that clients of this dialect expect with a status.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

fn status(detail: &Detail) -> StatusCode {
    let by_kind = || StatusCode::from_u16(row(detail).0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    detail.status.unwrap_or_else(by_kind)
}

/// The data of a stream's last event, when it fails: as [`error_body`], an upstream's own error
/// brought into the form if it has another.
pub(super) fn event_body(error: &Error) -> Bytes {
    let passed = error.detail().passed.as_ref();
    let own = passed.and_then(|passed| ErrorBody::parse(&passed.body));
    own.map_or_else(|| error_body(error), |own| own.render())
}

/// The body `{"error":{"message","type","param","code"}}`.
fn error_body(error: &Error) -> Bytes {
    let detail = error.detail();
    let code = detail.code.or(row(detail).1).map(str::to_owned);
    let class = class(status(detail)).to_owned();
    ErrorBody { message: detail.message.clone(), class, param: detail.param.clone(), code }.render()
}

/// Renders an error, with `x-weir-origin`, `retry-after` (whole seconds, rounded up) and
/// `retry-after-ms` where a wait is asked for, and `allow` on a 405. An upstream's own error keeps
/// its status, body and headers.
pub fn reject(error: &Error) -> Response<Body> {
    let detail = error.detail();
    let mut headers = detail.passed.as_ref().map_or_else(HeaderMap::new, |passed| passed.headers.clone());
    let (status, body) = match &detail.passed {
        Some(passed) if ErrorBody::names_error(&passed.body) => (passed.status, passed.body.clone()),
        Some(passed) => {
            headers.remove(CONTENT_TYPE);
            (passed.status, error_body(error))
        }
        None => (status(detail), error_body(error)),
    };
    let mut response = Response::new(whole(body, None));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.entry(CONTENT_TYPE).or_insert(JSON);
    headers.insert(ORIGIN, HeaderValue::from_static(detail.origin.name()));
    if let Retry::After(wait) = detail.retry {
        let asked = headers.contains_key(RETRY_AFTER) || headers.contains_key(RETRY_AFTER_MS);
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if !asked {
            headers.insert(RETRY_AFTER, millis.div_ceil(1000).into());
            headers.insert(RETRY_AFTER_MS, millis.into());
        }
    }
    if detail.kind == Kind::Unauthenticated && detail.passed.is_none() {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(methods) = detail.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}
