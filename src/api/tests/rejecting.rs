//! What is rendered of an error.

use std::time::Duration;

use http::StatusCode;

use super::super::reject;
use super::*;
use crate::error::{Error, Kind, Origin, Passed, Retry};

#[tokio::test]
async fn every_kind_has_its_status_type_and_code() {
    use {Kind as K, Origin as O};
    for (kind, origin, expected) in [
        (K::Invalid, O::Client, "400 invalid_request_error -"),
        (K::Unauthenticated, O::Client, "401 authentication_error invalid_api_key"),
        (K::Forbidden, O::Gateway, "403 permission_error forbidden"),
        (K::NotFound, O::Client, "404 not_found_error not_found"),
        (K::TooLarge, O::Client, "413 invalid_request_error too_large"),
        (K::RateLimited, O::Upstream, "429 rate_limit_error rate_limit_exceeded"),
        (K::OverBudget, O::Gateway, "429 rate_limit_error insufficient_quota"),
        (K::Overloaded, O::Local, "429 rate_limit_error overloaded"),
        (K::Timeout, O::Upstream, "504 server_error timeout"),
        (K::Unavailable, O::Local, "503 server_error unavailable"),
        (K::Unavailable, O::Upstream, "502 server_error upstream_unavailable"),
        (K::Canceled, O::Client, "499 invalid_request_error canceled"),
        (K::Internal, O::Gateway, "500 server_error internal"),
    ] {
        let response = reject(&Error::new(kind, origin, "why \"x\""));
        let status = response.status().as_u16();
        assert_eq!(response.headers()["x-weir-origin"], origin.name());
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
        let json: serde_json::Value = serde_json::from_str(&text_of(response).await).unwrap();
        let error = json["error"].as_object().unwrap();
        let text = |name: &str| error[name].as_str().unwrap_or("-");
        assert_eq!(format!("{status} {} {}", text("type"), text("code")), expected);
        assert_eq!((text("message"), text("param"), error.len()), ("why \"x\"", "-", 4));
    }
}

#[tokio::test]
async fn an_errors_own_code_and_status_win_and_the_type_follows_the_status() {
    let error =
        Error::new(Kind::Forbidden, Origin::Gateway, "later").code("policy").status(StatusCode::TOO_MANY_REQUESTS);
    let response = reject(&error);
    assert_eq!(response.status(), 429);
    let json: serde_json::Value = serde_json::from_str(&text_of(response).await).unwrap();
    assert_eq!(
        (json["error"]["type"].as_str(), json["error"]["code"].as_str()),
        (Some("rate_limit_error"), Some("policy"))
    );
}

#[tokio::test]
async fn a_wait_is_told_in_seconds_rounded_up_and_in_milliseconds() {
    let wait = Retry::After(Duration::from_millis(1200));
    let response = reject(&Error::new(Kind::Overloaded, Origin::Local, "full").retry(wait));
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(response.headers()["retry-after-ms"], "1200");
}

/// What an upstream answered with status 418, `content-type`, two more headers and this body.
fn teapot(content_type: &str, body: &'static str) -> Error {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    headers.insert("retry-after", "9".parse().unwrap());
    headers.insert("x-ratelimit-limit-requests", "5".parse().unwrap());
    let passed = Passed { status: StatusCode::IM_A_TEAPOT, headers, body: Bytes::from_static(body.as_bytes()) };
    Error::new(Kind::RateLimited, Origin::Upstream, "status 418")
        .retry(Retry::After(Duration::from_secs(1)))
        .passed(passed)
}

#[tokio::test]
async fn an_upstreams_own_error_passes_as_it_is() {
    let body = r#"{ "error": {"message": "tea", "extra": 1} }"#;
    let response = reject(&teapot("application/problem+json", body));
    assert_eq!(response.status(), 418);
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["retry-after"], "9");
    assert!(!headers.contains_key("retry-after-ms"));
    assert_eq!(headers["x-ratelimit-limit-requests"], "5");
    assert_eq!(headers["x-weir-origin"], "upstream");
    assert_eq!(text_of(response).await, body);
}

#[tokio::test]
async fn an_upstreams_error_of_another_form_keeps_its_status_and_gets_ours() {
    for body in ["", "<p>tea", r#"{"detail": "tea"}"#] {
        let response = reject(&teapot("text/html", body));
        assert_eq!(response.status(), 418);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["retry-after"], "9");
        let text = text_of(response).await;
        assert!(text.contains(r#""message":"status 418""#), "{text}");
    }
}

#[tokio::test]
async fn routes_are_read_and_an_id_may_hold_slashes() {
    use super::super::route;
    use http::Method;
    let get = |path: &str| route(&Method::GET, path).unwrap();
    assert_eq!(get("/v1/models"), Route::Models);
    assert_eq!(route(&Method::HEAD, "/v1/models").unwrap(), Route::Models);
    for path in ["/v1/models/up/local/large", "/v1/models/up%2Flocal%2flarge"] {
        assert_eq!(get(path), Route::Model("up/local/large".to_owned()));
    }
    assert_eq!(route(&Method::POST, "/v1/chat/completions").unwrap(), Route::Chat);
    assert_eq!(route(&Method::POST, "/v1/completions").unwrap(), Route::Text);
    assert_eq!(route(&Method::POST, "/v1/embeddings").unwrap(), Route::Embed);
    assert!(route(&Method::GET, "/v1/models/").is_err());
}
