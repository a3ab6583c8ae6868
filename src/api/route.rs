//! What a method and a path mean.
//!
//! Pure. Each path knows one method (a `HEAD` counts as a `GET`); anything else is a 404 or a
//! 405 that says what would have been right. `gateway` asks it first of all.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::error::{Error, Kind, Origin, Result};

/// What a method and path mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Text,
    /// `POST /v1/embeddings`
    Embed,
    /// `POST /v1/feedback`
    Feedback,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`, the id percent-decoded; it may hold slashes.
    Model(String),
}

/// Reads method and path. Unknown route: 404; known path, wrong method: 405.
pub fn route(method: &Method, path: &str) -> Result<Route> {
    let route =
        find(path).ok_or_else(|| Error::new(Kind::NotFound, Origin::Client, unknown(path)).code("unknown_url"))?;
    let (allowed, methods) = match route {
        Route::Chat | Route::Text | Route::Embed | Route::Feedback => (*method == Method::POST, "POST"),
        Route::Models | Route::Model(_) => (*method == Method::GET || *method == Method::HEAD, "GET, HEAD"),
    };
    if allowed {
        return Ok(route);
    }
    let message = format!("the method {method} is not allowed for {path}; use {methods}");
    Err(Error::new(Kind::Invalid, Origin::Client, message).code("method_not_allowed").allow(methods))
}

fn find(path: &str) -> Option<Route> {
    match path {
        "/v1/chat/completions" => Some(Route::Chat),
        "/v1/completions" => Some(Route::Text),
        "/v1/embeddings" => Some(Route::Embed),
        "/v1/feedback" => Some(Route::Feedback),
        "/v1/models" => Some(Route::Models),
        _ => {
            let id = path.strip_prefix("/v1/models/").filter(|id| !id.is_empty())?;
            Some(Route::Model(percent_decode_str(id).decode_utf8().ok()?.into_owned()))
        }
    }
}

fn unknown(path: &str) -> String {
    let shown: String = path.chars().take(200).collect();
    format!(
        "unknown path {shown:?}; known: /v1/chat/completions, /v1/completions, /v1/embeddings, \
         /v1/feedback, /v1/models, /v1/models/ID"
    )
}
