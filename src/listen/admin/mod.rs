//! The second port: probes, metrics, and what an operator may see and change. Never for clients.
//!
//! One table of pages. Answers are JSON but for probes and metrics, errors are shaped as on the data
//! port. It listens from the start of the process, so that probes see loading and draining too. `door`
//! says who may call. A change that was begun goes on when its caller leaves.

mod console;
mod door;
mod dry;
mod generations;
mod live;
mod models;
mod page;
mod status;
mod trial;
mod view;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::HEAD_TIMEOUT;
use super::state::{Running, State};
use crate::api::{self, Body};
use crate::error::{Error, Kind, Origin, Result};
use page::Asked;

/// What answers a page.
type Answering = BoxFuture<'static, Result<Response<Body>>>;

/// A page of the port.
struct Page {
    method: Method,
    /// `/*` at its end stands for one more segment, which the page reads as [`Asked::rest`].
    path: &'static str,
    /// Who may ask for it.
    audience: Audience,
    answer: fn(Asked) -> Answering,
}

/// Who a page is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Probes and scrapers: nothing on it can be changed, and nobody has to show a token.
    All,
    /// Whom the door lets in.
    Operators,
}

/// Every page; a part that brings pages of its own adds its lines here.
static PAGES: &[Page] = &[
    everybody("/livez", |_| shown(view::livez())),
    everybody("/readyz", |it| shown(view::readyz(&it))),
    everybody("/startupz", |it| shown(view::startupz(&it))),
    everybody("/metrics", |it| shown(view::metrics(&it))),
    operators(Method::GET, "/admin/status", |it| shown(status::show(&it))),
    operators(Method::GET, "/admin/generations", |it| shown(generations::list(&it))),
    operators(Method::GET, "/admin/generations/*", |it| shown(generations::show(&it))),
    operators(Method::POST, "/admin/reload", |it| Box::pin(generations::reload(it))),
    operators(Method::POST, "/admin/rollback", |it| Box::pin(generations::roll_back(it))),
    operators(Method::GET, "/admin/changes", |it| shown(view::changes(&it))),
    operators(Method::POST, "/admin/dry-run", |it| Box::pin(dry::run(it))),
    everybody("/", |it| shown(console::file(&it))),
    everybody("/console/*", |it| shown(console::file(&it))),
    operators(Method::GET, "/admin/recent", |it| shown(live::recent(&it))),
    operators(Method::GET, "/admin/policies", |it| shown(live::policies(&it))),
    operators(Method::POST, "/admin/try", |it| shown(trial::decide(&it))),
    operators(Method::GET, "/admin/models", |it| shown(models::list(&it))),
    operators(Method::POST, "/admin/models/load", |it| Box::pin(models::load(it))),
    operators(Method::POST, "/admin/models/unload", |it| Box::pin(models::unload(it))),
    operators(Method::POST, "/admin/models/canary", |it| Box::pin(models::canary(it))),
    operators(Method::POST, "/admin/models/promote", |it| Box::pin(models::promote(it))),
    operators(Method::POST, "/admin/models/rollback", |it| Box::pin(models::roll_back(it))),
    operators(Method::GET, "/admin/audits", |it| shown(view::audits(&it))),
];

const fn everybody(path: &'static str, answer: fn(Asked) -> Answering) -> Page {
    Page { method: Method::GET, path, audience: Audience::All, answer }
}

const fn operators(method: Method, path: &'static str, answer: fn(Asked) -> Answering) -> Page {
    Page { method, path, audience: Audience::Operators, answer }
}

/// A page that need not wait for anything.
fn shown(answer: Result<Response<Body>>) -> Answering {
    Box::pin(std::future::ready(answer))
}

impl Page {
    /// What stands in the place of the star; empty without one. `None`: another page.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.strip_suffix('*') {
            Some(start) => path.strip_prefix(start).filter(|rest| !rest.is_empty() && !rest.contains('/')),
            None => (self.path == path).then_some(""),
        }
    }
}

/// The admin port of a gateway that runs, for tests that accept connections by themselves.
#[derive(Debug, Clone)]
pub struct AdminPort(Arc<State>);

impl AdminPort {
    /// The port of what runs.
    pub fn of(running: Running) -> AdminPort {
        let state = State::default();
        state.started(running);
        state.bound();
        AdminPort(Arc::new(state))
    }

    /// Serves one connection of this peer to its end.
    pub async fn connection<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection(stream, peer, &self.0).await;
    }
}

/// Serves one connection, HTTP/1.1.
pub(super) async fn connection<S>(stream: S, peer: SocketAddr, state: &Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(state);
        async move { Ok::<_, Infallible>(answer(&state, peer, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = state.handing_over() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended early");
    }
}

async fn answer(state: &Arc<State>, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let found = async {
        let (page, rest) = find(&head)?;
        let who = match page.audience {
            Audience::All => String::new(),
            Audience::Operators => door::admit(state, &head, peer)?,
        };
        let body = match page.method {
            Method::POST => page::read(&head, body).await?,
            _ => Bytes::new(),
        };
        let query = head.uri.query().unwrap_or_default().to_owned();
        let headers = head.headers;
        (page.answer)(Asked { state: Arc::clone(state), who, rest, query, headers, body }).await
    };
    found.await.unwrap_or_else(|error| api::reject(&error))
}

/// The page that is asked for, and what stands for its star.
fn find(head: &Parts) -> Result<(&'static Page, String)> {
    let path = head.uri.path();
    let here: Vec<(&Page, &str)> = PAGES.iter().filter_map(|page| Some((page, page.rest(path)?))).collect();
    let asked = if head.method == Method::HEAD { &Method::GET } else { &head.method };
    if let Some((page, rest)) = here.iter().find(|(page, _)| page.method == *asked) {
        return Ok((page, (*rest).to_owned()));
    }
    if let Some((page, _)) = here.first() {
        let (allow, message) = match page.method {
            Method::POST => ("POST", format!("want POST {path}")),
            _ => ("GET, HEAD", format!("want GET {path}")),
        };
        return Err(Error::new(Kind::Invalid, Origin::Client, message).code("method_not_allowed").allow(allow));
    }
    let known: Vec<&str> = PAGES.iter().map(|page| page.path).collect();
    let shown: String = path.chars().take(100).collect();
    Err(Error::new(Kind::NotFound, Origin::Client, format!("no page {shown}; known: {}", known.join(" "))))
}

#[cfg(test)]
mod tests;
