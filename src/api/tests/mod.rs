//! Tests of the room, by file: what is read of a request, and what is rendered.

mod reading;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;

use super::{Asker, Limits, Route, Shape, parse};
use crate::error::Result;
use crate::request::{Request, TenantId};

/// Reads `body` as a request of this route.
async fn read(route: Route, body: &str) -> Result<(Request, Shape)> {
    let limits = Limits { max_body: 1 << 20, policy_headers: vec!["x-team".to_owned()] };
    let asker = Asker { id: Arc::from("r1"), tenant: TenantId::anonymous() };
    let mut headers = HeaderMap::new();
    headers.insert("x-team", "red".parse().unwrap());
    headers.insert("x-other", "blue".parse().unwrap());
    headers.insert("authorization", "Bearer k".parse().unwrap());
    parse(route, &headers, Full::new(Bytes::from(body.to_owned())), &limits, asker).await
}
