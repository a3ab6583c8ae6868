//! The door to the gateway: as many requests at once as may be, the rest is shed.
//!
//! A request that is shed gets an OpenAI-shaped answer here, so that the service is infallible.
//! Built once, cloned for each connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use tokio::sync::Semaphore;

use crate::api::{self, Body};
use crate::error::{Error, Kind, Origin, Retry};
use crate::gateway::{Gateway, REQUEST_ID, request_id};

/// Requests whose answer has not begun, before new ones are shed.
const IN_FLIGHT: usize = 16_384;

/// The gateway and what all its connections share.
#[derive(Debug, Clone)]
pub struct Front {
    gateway: Arc<Gateway>,
    in_flight: Arc<Semaphore>,
}

impl Front {
    /// A front for this gateway.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Front::of(gateway, IN_FLIGHT)
    }

    /// A front that sheds beyond so many requests at once.
    pub(super) fn of(gateway: Arc<Gateway>, in_flight: usize) -> Self {
        Front { gateway, in_flight: Arc::new(Semaphore::new(in_flight)) }
    }

    /// Answers a request. Dropping the future, or later the answer's body, cancels the work.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        match self.in_flight.try_acquire() {
            Ok(_permit) => self.gateway.handle(request).await,
            Err(_) => shed(request.headers().get(REQUEST_ID)),
        }
    }
}

/// The answer to a request that the gateway never saw; it has its id all the same.
fn shed(id: Option<&HeaderValue>) -> Response<Body> {
    let error = Error::new(Kind::Overloaded, Origin::Gateway, "too many requests are in flight; try again");
    let mut response = api::reject(&error.retry(Retry::After(Duration::from_secs(1))));
    if let Ok(id) = HeaderValue::from_str(&request_id(id)) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
