//! A request as the gateway would read it, made of a body that is on record.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;

use crate::api::{self, Asker, Limits, Route};
use crate::request::{Request, TenantId};

/// Reads a body; no header came with it.
pub(super) async fn parse(route: Route, body: Bytes) -> Result<Request, String> {
    let limits = Limits::of(usize::MAX);
    let asker = Asker { id: "recorded".into(), tenant: TenantId::anonymous() };
    let (request, _) = api::parse(route, &HeaderMap::new(), Full::new(body), &limits, asker)
        .await
        .map_err(|error| error.to_string())?;
    Ok(request)
}
