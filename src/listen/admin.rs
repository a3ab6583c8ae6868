//! The second port: `/livez`, `/readyz`, `/metrics`, `/admin/audits`. For the operator, never for clients.
//!
//! It listens from the start of the process, so that probes see loading and draining too.

use std::convert::Infallible;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;

use super::state::State;
use bytes::Bytes;

/// Answers one request of the admin port.
pub(super) fn answer<B>(state: &State, request: &Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if request.method() != http::Method::GET && request.method() != http::Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "want GET\n".to_owned()));
    }
    Ok(match path {
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match state.unready() {
            None => text(StatusCode::OK, "ok\n".to_owned()),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => metrics(state),
        "/admin/audits" => audits(state),
        _ => text(StatusCode::NOT_FOUND, format!("no page {path}; known: /livez /readyz /metrics /admin/audits\n")),
    })
}

fn metrics(state: &State) -> Response<Full<Bytes>> {
    let Some(running) = state.running() else { return text(StatusCode::OK, String::new()) };
    let snapshot = running.control.current();
    running.metrics.show_audits(&snapshot.audit_statuses());
    running.metrics.show_models(&snapshot.figures());
    let page = running.metrics.render(&snapshot.statuses());
    let mut response = text(StatusCode::OK, page);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// How every audited slice stands. There is no way to take an alarm back here: a new calibration does.
fn audits(state: &State) -> Response<Full<Bytes>> {
    let statuses = state.running().map(|running| running.control.current().audit_statuses());
    let page = serde_json::to_string_pretty(&serde_json::json!({ "audits": statuses.unwrap_or_default() }));
    let mut response = text(StatusCode::OK, page.unwrap_or_default() + "\n");
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn audits_are_shown_and_cannot_be_reset() {
        let ask = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            answer(&State::default(), &request).unwrap()
        };
        let page = ask("GET", "/admin/audits").into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&page).unwrap(), serde_json::json!({"audits": []}));
        assert_eq!(ask("POST", "/admin/audits/reset").status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask("GET", "/admin/audits/reset").status(), StatusCode::NOT_FOUND);
    }
}
