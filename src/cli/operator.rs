//! Talks to the admin port of a Weir that runs.
//!
//! Promises: an answer is a status and JSON, or the sentence that says why there is none; the token of
//! `WEIR_ADMIN_TOKEN` is shown to that port alone. Used by commands that ask or change what runs.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::control::Environment;

/// A change may load a model.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The admin port of a running Weir.
#[derive(Debug)]
pub(super) struct Operator {
    url: String,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl Operator {
    /// The one at this address: `http://127.0.0.1:8081`, or `HOST:PORT` alone.
    pub(super) fn at(address: &str) -> Result<Operator, String> {
        let plain = address.trim_end_matches('/');
        let url = if plain.contains("://") { plain.to_owned() } else { format!("http://{plain}") };
        if !url.starts_with("http://") {
            return Err(format!("{address}: want http://HOST:PORT; an admin port speaks no TLS"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no thread: {error}"))?;
        Ok(Operator { url, token: Environment::default().get("WEIR_ADMIN_TOKEN"), runtime })
    }

    /// Sends a body to a page.
    ///
    /// # Errors
    /// Nobody answers, or not in JSON.
    pub(super) fn post(&self, page: &str, body: &Value) -> Result<(u16, Value), String> {
        self.ask(Method::POST, page, Bytes::from(body.to_string()))
    }

    /// Looks at a page.
    ///
    /// # Errors
    /// Nobody answers, or not in JSON.
    pub(super) fn get(&self, page: &str) -> Result<(u16, Value), String> {
        self.ask(Method::GET, page, Bytes::new())
    }

    fn ask(&self, method: Method, page: &str, bytes: Bytes) -> Result<(u16, Value), String> {
        let url = format!("{}{page}", self.url);
        let mut request = Request::builder().method(method).uri(&url).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(bytes)).map_err(|error| format!("{url}: {error}"))?;
        let asked = async {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let answer = client.request(request).await.map_err(|error| format!("{url}: {error}"))?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map_err(|error| format!("{url}: {error}"))?.to_bytes();
            let body = serde_json::from_slice(&body)
                .map_err(|_| format!("{url}: {status} and no JSON: is this an admin port?"))?;
            Ok((status, body))
        };
        let late = || format!("{url}: no answer within {} s", PATIENCE.as_secs());
        self.runtime.block_on(async { timeout(PATIENCE, asked).await }).map_err(|_| late())?
    }
}

#[cfg(test)]
mod tests {
    use super::Operator;

    #[test]
    fn an_address_may_be_short_and_must_not_be_of_another_protocol() {
        assert_eq!(Operator::at("127.0.0.1:8081").unwrap().url, "http://127.0.0.1:8081");
        assert_eq!(Operator::at("http://weir:8081/").unwrap().url, "http://weir:8081");
        assert!(Operator::at("https://weir:8081").unwrap_err().contains("http://HOST:PORT"));
    }
}
