//! THE LIFE OF A REQUEST, top to bottom: who pays, what is asked, what the policy says, who
//! answers, what the client reads, and the tab that is settled at the last byte.
//!
//! The order of things and nothing else. Called by `listen` for every request.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};

use crate::account::{Meter, Record};
use crate::api::{self, Asker, Body, Route};
use crate::control::{Control, Snapshot};
use crate::error::Result;
use crate::execute;

/// The gateway: one for the life of the process.
#[derive(Debug)]
pub struct Gateway {
    control: Arc<Control>,
    record: Arc<dyn Record>,
}

const REQUEST_ID: &str = "x-request-id";

impl Gateway {
    /// A gateway over this configuration; every receipt goes to `record`.
    pub fn new(control: Arc<Control>, record: Arc<dyn Record>) -> Self {
        Gateway { control, record }
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
        let id = request_id(&head.headers);
        let answered = answer(&snapshot, &meter, &id, (head, body)).await;
        let mut response = answered.unwrap_or_else(|error| {
            meter.failed(&error);
            api::reject(&error)
        });
        meter.head();
        tell(response.headers_mut(), &id, &meter);
        response
    }
}

/// One snapshot, one decision, one completion.
async fn answer<B>(
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
        Route::Model(model) => return api::model(&snapshot.entries(), model),
        Route::Chat | Route::Text | Route::Embed => {}
    }
    let asker = Asker { id: Arc::clone(id), tenant };
    let (request, shape) = api::parse(route, &head.headers, meter.client_body(body), snapshot.limits(), asker).await?;
    meter.asked(&request);
    let policy = snapshot.route(&request.model)?;
    let decision = policy.decide(&request, &snapshot.facts(&policy, &request));
    meter.decided(&decision, snapshot.generation());
    let completion = execute::run(decision.plan, Arc::new(request), snapshot.backends(), meter.clone()).await?;
    let tab = meter.clone();
    api::respond(completion, shape, Box::new(move || tab.story().comment())).await
}

/// The client's own id if it is short and printable, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match own.filter(|id| (1..=128).contains(&id.len())) {
        Some(id) => Arc::from(id),
        None => Arc::from(format!("req_{:032x}", rand::random::<u128>())),
    }
}

/// Every answer tells its story in its head.
fn tell(headers: &mut HeaderMap, id: &str, meter: &Meter) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.extend(meter.story().headers());
}
