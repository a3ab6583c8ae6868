//! The door to the gateway: as many requests at once as may be, the rest is shed.
//!
//! A request that is shed gets an OpenAI-shaped answer here, so that the service is infallible.
//! Built once, cloned for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

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
    /// Every request that is not over: its answer may have begun.
    requests: TaskTracker,
    /// Whether the process drains.
    leaving: Arc<AtomicBool>,
}

impl Front {
    /// A front for this gateway.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Front::of(gateway, IN_FLIGHT)
    }

    /// A front that sheds beyond so many requests at once.
    pub(super) fn of(gateway: Arc<Gateway>, in_flight: usize) -> Self {
        let in_flight = Arc::new(Semaphore::new(in_flight));
        Front { gateway, in_flight, requests: TaskTracker::new(), leaving: Arc::default() }
    }

    /// Counts a request until the token is dropped.
    pub(super) fn count(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// How many requests are not over.
    pub(super) fn unfinished(&self) -> usize {
        self.requests.len()
    }

    /// From now on HTTP/1.1 answers ask for their connections to be closed, so that clients come to
    /// no connection that is closed in the same moment.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Ends every answer that is not complete; see [`Gateway::end`].
    pub(super) fn end(&self) {
        self.gateway.end();
    }

    /// Resolves when they are ended.
    pub(super) async fn ended(&self) {
        self.gateway.ended().await;
    }

    /// Answers a request. Dropping the future, or later the answer's body, cancels the work.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: std::fmt::Display,
    {
        let version = request.version();
        let mut response = match self.in_flight.try_acquire() {
            Ok(_permit) => self.gateway.handle(request).await,
            Err(_) => shed(request.headers().get(REQUEST_ID)),
        };
        // h2 says it in a frame of its own.
        if version < Version::HTTP_2 && self.leaving.load(Ordering::Acquire) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
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
