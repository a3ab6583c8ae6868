//! The tower layers around the gateway: shed what is too much, a time-out to the head, panic → 500.
//!
//! Every layer's failure becomes an OpenAI-shaped answer here, so that the service is infallible.
//! Nothing of the product's logic is a layer.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::{self, Body};
use crate::error::{Error, Kind, Origin, Retry};
use crate::gateway::Gateway;

/// Requests in flight before new ones are shed.
const IN_FLIGHT: usize = 16_384;

/// Longer than the longest answer of a local model, which a client without a stream waits for.
const TIMEOUT_TO_HEAD: Duration = Duration::from_secs(3600);

/// The gateway as a tower service, for one connection.
pub(super) fn stack<B>(gateway: Arc<Gateway>) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    let answer = tower::service_fn(move |request: Request<B>| {
        let gateway = Arc::clone(&gateway);
        async move { Ok::<_, Infallible>(gateway.handle(request).await) }
    });
    ServiceBuilder::new()
        .load_shed()
        .timeout(TIMEOUT_TO_HEAD)
        .layer(CatchPanicLayer::custom(panicked))
        .service(answer)
        .map_result(|answered: Result<Response<Body>, BoxError>| Ok::<_, Infallible>(answered.unwrap_or_else(|error| api::reject(&refusal(&error)))))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = cause.downcast_ref::<&str>().copied().map(str::to_owned).or_else(|| cause.downcast_ref::<String>().cloned());
    tracing::error!(panic = text.as_deref().unwrap_or("unknown"), "a request panicked");
    api::reject(&Error::internal("a fault of the gateway; the log tells more"))
}

fn refusal(error: &BoxError) -> Error {
    if error.is::<tower::timeout::error::Elapsed>() {
        let message = format!("no answer began within {} s", TIMEOUT_TO_HEAD.as_secs());
        return Error::new(Kind::Timeout, Origin::Gateway, message);
    }
    let message = format!("more than {IN_FLIGHT} requests are in flight; try again");
    Error::new(Kind::Overloaded, Origin::Gateway, message).retry(Retry::After(Duration::from_secs(1)))
}
