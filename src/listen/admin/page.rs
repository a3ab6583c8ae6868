//! What every page of the admin port is given, and the forms of its answers.
//!
//! Promises: a body is bounded in size and in time, and is JSON or empty. Used by the pages alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api::Body;
use crate::error::{Error, Kind, Origin, Problem, Result};
use crate::listen::state::{Running, State};

/// The longest body; a few policies fit.
const MOST_BYTES: usize = 1 << 20;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that the door let in.
pub(super) struct Asked {
    pub(super) state: Arc<State>,
    /// Who asks, as the trail of changes names them.
    pub(super) who: String,
    /// What stands for the star of the page's path.
    pub(super) rest: String,
    pub(super) query: String,
    pub(super) body: Bytes,
}

impl Asked {
    /// What runs; while the process starts, an error that says so.
    pub(super) fn running(&self) -> Result<&Running> {
        self.state.running().ok_or_else(starting)
    }

    /// The body as this.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let place = if path == "." { "body".to_owned() } else { path };
            Error::invalid(place, format!("the body is not what this page wants: {}", error.inner()))
        })
    }

    /// Does it to its end, whether or not the caller stays to hear of it.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let done = self.running()?.control.tasks().spawn(change).await;
        done.map_err(|error| Error::internal(format!("the change was not finished: {error}")))
    }

    /// A number of the query, `NAME=NUMBER`.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
    }
}

/// There is no generation yet.
pub(super) fn starting() -> Error {
    let message = "starting: models and upstreams are being prepared; /readyz says when that is done";
    Error::new(Kind::Unavailable, Origin::Gateway, message)
}

/// Reads a request's body. One that is not empty must say that it is JSON: a form of another site's
/// page cannot.
pub(super) async fn read(head: &Parts, body: Incoming) -> Result<Bytes> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, MOST_BYTES).collect()).await;
    let read = read.map_err(|_| {
        let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
        Error::new(Kind::Timeout, Origin::Client, message)
    })?;
    let body = read.map_err(|error| {
        let what = if error.is::<http_body_util::LengthLimitError>() { Kind::TooLarge } else { Kind::Invalid };
        Error::new(what, Origin::Client, format!("cannot read the body (at most {MOST_BYTES} bytes): {error}"))
    })?;
    let body = body.to_bytes();
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !body.is_empty() && !kind.eq_ignore_ascii_case("application/json") {
        let message = format!("content-type \"{kind}\": want application/json");
        return Err(Error::new(Kind::Invalid, Origin::Client, message).code("unsupported_media_type"));
    }
    Ok(body)
}

/// An answer in JSON, for people too.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::internal(format!("an answer cannot be rendered: {error}")))?;
    Ok(bytes(status, "application/json", text + "\n"))
}

/// Problems in JSON, each with its place.
pub(super) fn problems(all: &[Problem]) -> Vec<Value> {
    all.iter().map(|it| json!({ "place": it.place, "message": it.message })).collect()
}

/// A moment, for people and programs.
pub(super) fn time(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    bytes(status, "text/plain; charset=utf-8", body)
}

/// An answer of this type; nobody is to keep it.
pub(super) fn bytes(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
