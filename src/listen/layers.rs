//! The tower layers around the gateway: shed what is too much, a time-out to the head, panic → 500.
//!
//! Every layer's failure becomes an OpenAI-shaped answer here, so that the service is infallible.
//! Nothing of the product's logic is a layer. Built once, cloned for each connection.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::api::{self, Body};
use crate::error::{Error, Kind, Origin, Retry};
use crate::gateway::Gateway;

/// Requests whose answer has not begun, before new ones are shed.
const IN_FLIGHT: usize = 16_384;

/// Longer than the longest answer of a local model, which a client without a stream waits for.
const TIMEOUT_TO_HEAD: Duration = Duration::from_secs(3600);

/// The gateway and what all its connections share.
#[derive(Debug, Clone)]
pub struct Front {
    gateway: Arc<Gateway>,
    in_flight: Arc<Semaphore>,
}

impl Front {
    /// A front for this gateway.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Front { gateway, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    /// The tower service of one connection.
    pub(super) fn service<B>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + use<B>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let gateway = Arc::clone(&self.gateway);
        let answer = tower::service_fn(move |request: Request<B>| answer(Arc::clone(&gateway), request));
        let stack = ServiceBuilder::new()
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&self.in_flight)))
            .timeout(TIMEOUT_TO_HEAD)
            .service(answer);
        tower::service_fn(move |request| {
            let answered = stack.clone().oneshot(request);
            answered.map(|answered| Ok(answered.unwrap_or_else(|error| api::reject(&refusal(&error)))))
        })
    }
}

/// The gateway's answer; a panic on the way is a fault of ours, not the end of the connection.
async fn answer<B>(gateway: Arc<Gateway>, request: Request<B>) -> Result<Response<Body>, Infallible>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    let answered = AssertUnwindSafe(gateway.handle(request)).catch_unwind().await;
    Ok(answered.unwrap_or_else(|cause| api::reject(&panicked(cause.as_ref()))))
}

fn panicked(cause: &(dyn Any + Send)) -> Error {
    let text = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "a request panicked");
    Error::internal("a fault of the gateway; its log tells more")
}

fn refusal(error: &BoxError) -> Error {
    if error.is::<tower::timeout::error::Elapsed>() {
        let message = format!("no answer began within {} s", TIMEOUT_TO_HEAD.as_secs());
        return Error::new(Kind::Timeout, Origin::Gateway, message);
    }
    let message = format!("more than {IN_FLIGHT} requests are in flight; try again");
    Error::new(Kind::Overloaded, Origin::Gateway, message).retry(Retry::After(Duration::from_secs(1)))
}
