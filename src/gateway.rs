//! THE LIFE OF A REQUEST, top to bottom: who pays, what is asked, what the policy says, who
//! answers, what the client reads, and the tab that is settled at the last byte.
//!
//! The order of things and nothing else. Called by `listen` for every request.

mod ending;
mod lasting;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::account::{Meter, Record};
use crate::api::{self, Asker, Body, Route};
use crate::control::{Control, Snapshot};
use crate::error::{Error, Kind, Origin, Result};
use crate::execute;
use crate::request::TenantId;

/// The gateway: one for the life of the process.
#[derive(Debug)]
pub struct Gateway {
    control: Arc<Control>,
    record: Arc<dyn Record>,
    /// Cancelled when the process waits for answers no longer.
    end: CancellationToken,
}

/// The header that names a request, in both directions.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// How many headers tell a story.
const TOLD: usize = 9;

/// Longer than the longest answer of a local model, which a client without a stream waits for.
const TIMEOUT_TO_HEAD: Duration = Duration::from_secs(3600);

impl Gateway {
    /// A gateway over this configuration; every receipt goes to `record`.
    pub fn new(control: Arc<Control>, record: Arc<dyn Record>) -> Self {
        Gateway { control, record, end: CancellationToken::new() }
    }

    /// Ends what is still in flight, for good: with a 503 before the head, with an error event after it.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// Resolves when answers in flight are ended.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Answers a request; an error is an answer too. Dropping the future, or later the answer's
    /// body, cancels all work done for the request, and settles its tab.
    pub async fn handle<B>(&self, request: http::Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let snapshot = self.control.current();
        let meter = Meter::open(Arc::clone(&self.record), Arc::clone(snapshot.prices()));
        let (head, body) = request.into_parts();
        meter.trace(api::trace_context(&head.headers));
        let id = request_id(head.headers.get(REQUEST_ID));
        meter.asker(&id, &TenantId::anonymous());
        let answering = pin!(self.answer(&snapshot, &meter, &id, (head, body)));
        let answered = ending::unless_ended(guarded(answering), &self.end).await;
        let mut response = answered.unwrap_or_else(|error| {
            meter.failed(&error);
            api::reject(&error)
        });
        meter.head();
        tell(response.headers_mut(), &id, &meter);
        response.map(|body| lasting::held(body, &meter))
    }

    /// One snapshot, one decision, one completion.
    async fn answer<B>(
        &self,
        snapshot: &Snapshot,
        meter: &Meter,
        id: &Arc<str>,
        (head, body): (Parts, B),
    ) -> Result<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let route = api::route(&head.method, head.uri.path())?;
        let tenant = snapshot.keys().identify(&head.headers)?;
        meter.asker(id, &tenant);
        match &route {
            Route::Models => return Ok(api::models(&snapshot.entries())),
            Route::Model(name) => {
                let entry = snapshot.entry(name)?;
                return api::model(std::slice::from_ref(&entry), &entry.id);
            }
            Route::Feedback => {
                let feedback = api::feedback(&head.headers, meter.client_body(body), snapshot.limits()).await?;
                let noted = api::noted(&feedback);
                snapshot.backends().auditor.hear(snapshot.audits(), &feedback, &meter.audit_tab());
                meter.feedback(feedback);
                return Ok(noted);
            }
            Route::Chat | Route::Text | Route::Embed => {}
        }
        let asker = Asker { id: Arc::clone(id), tenant };
        let (request, shape) =
            api::parse(route, &head.headers, meter.client_body(body), snapshot.limits(), asker).await?;
        meter.asked(&request);
        let policy = snapshot.route(&request.model)?;
        let decision = policy.decide(&request, &snapshot.facts(&policy, &request));
        meter.decided(&decision, snapshot.generation());
        let streams = request.stream;
        let mut completion = execute::run(decision.plan, Arc::new(request), snapshot.backends(), meter.clone()).await?;
        if streams {
            completion.deltas = ending::until_ended(completion.deltas, &self.end, meter);
        }
        let tab = meter.clone();
        api::respond(completion, shape, Box::new(move || tab.story().comment())).await
    }
}

/// What comes of it in time; a panic on the way is a fault of ours, not the end of the connection.
async fn guarded(answered: impl Future<Output = Result<Response<Body>>>) -> Result<Response<Body>> {
    match timeout(TIMEOUT_TO_HEAD, AssertUnwindSafe(answered).catch_unwind()).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(cause)) => Err(panicked(cause.as_ref())),
        Err(_) => {
            let message = format!("no answer began within {} s", TIMEOUT_TO_HEAD.as_secs());
            Err(Error::new(Kind::Timeout, Origin::Gateway, message))
        }
    }
}

fn panicked(cause: &(dyn Any + Send)) -> Error {
    let text = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "a request panicked");
    Error::internal("a fault of the gateway; its log tells more")
}

/// The client's own id (the value of [`REQUEST_ID`]) if it is short and printable, else a new one.
pub(crate) fn request_id(own: Option<&HeaderValue>) -> Arc<str> {
    let own = own.and_then(|value| value.to_str().ok());
    match own.filter(|id| (1..=128).contains(&id.len())) {
        Some(id) => Arc::from(id),
        None => Arc::from(format!("req_{:032x}", rand::random::<u128>())),
    }
}

/// Every answer tells its story in its head.
fn tell(headers: &mut HeaderMap, id: &str, meter: &Meter) {
    headers.reserve(TOLD);
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    meter.story().tell(headers);
}

#[cfg(test)]
pub(crate) mod tests;
