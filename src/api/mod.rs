//! The OpenAI-compatible surface: bytes of a client → a checked Request; a Completion → bytes.

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::combinators::UnsyncBoxBody;

use crate::backend::Completion;
use crate::error::{Error, Result};
use crate::request::{Request, TenantId};

/// An answer's body; fails only where a pass-through answer breaks off.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What a method and path mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Text,
    /// `POST /v1/embeddings`
    Embed,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`, the id percent-decoded.
    Model(String),
}

/// Reads method and path. Unknown route: 404; known path, wrong method: 405.
pub fn route(_method: &Method, _path: &str) -> Result<Route> {
    todo!()
}

/// What bounds a request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest body, bytes.
    pub max_body: usize,
    /// Request headers kept for policies, lowercase.
    pub policy_headers: Vec<String>,
}

/// How the client wants its answer.
#[derive(Debug)]
pub struct Shape {}

/// Who asks, as known before the body is read.
#[derive(Debug, Clone)]
pub struct Asker {
    /// `x-request-id`.
    pub id: std::sync::Arc<str>,
    /// Who pays.
    pub tenant: TenantId,
}

/// Reads and checks a request's body.
pub async fn parse<B>(_route: Route, _headers: &HeaderMap, _body: B, _limits: &Limits, _asker: Asker) -> Result<(Request, Shape)>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: std::fmt::Display,
{
    todo!()
}

/// Renders an answer. `tail` renders the story for the comment before `[DONE]` when the answer is
/// complete, and is dropped with the body.
pub async fn respond(_completion: Completion, _shape: Shape, _tail: Box<dyn Fn() -> String + Send>) -> Result<Response<Body>> {
    todo!()
}

/// Renders an error.
pub fn reject(_error: &Error) -> Response<Body> {
    todo!()
}
