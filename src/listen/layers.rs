//! The tower layers around the gateway: as many requests at once as may be, the rest is shed.
//!
//! A request that is shed gets an OpenAI-shaped answer here, so that the service is infallible.
//! Nothing of the product's logic is a layer. Built once, cloned for each connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Service, ServiceBuilder, ServiceExt};

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

    /// The tower service of one connection.
    pub(super) fn service<B>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + use<B>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let gateway = Arc::clone(&self.gateway);
        // Boxed, since every layer above moves its future: a pointer rather than kilobytes.
        let answer = tower::service_fn(move |request: Request<B>| {
            let gateway = Arc::clone(&gateway);
            Box::pin(async move { Ok::<_, Infallible>(gateway.handle(request).await) })
        });
        let stack = ServiceBuilder::new()
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&self.in_flight)))
            .service(answer);
        tower::service_fn(move |request: Request<B>| {
            let id = request.headers().get(REQUEST_ID).cloned();
            let answered = stack.clone().oneshot(request);
            answered.map(|answered| Ok(answered.unwrap_or_else(|_| shed(id))))
        })
    }
}

/// The answer to a request that the gateway never saw; it has its id all the same.
fn shed(id: Option<HeaderValue>) -> Response<Body> {
    let error = Error::new(Kind::Overloaded, Origin::Gateway, "too many requests are in flight; try again");
    let mut response = api::reject(&error.retry(Retry::After(Duration::from_secs(1))));
    if let Ok(id) = HeaderValue::from_str(&request_id(id.as_ref())) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
