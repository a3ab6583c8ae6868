//! What a client can do wrong on `/v1/…`, and the answer it gets: status, type, code, param, and
//! a message that names the field.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what a test cannot read fails it")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use weir::api::{Asker, Limits, parse, reject, route};
use weir::error::Error;
use weir::request::TenantId;

const CAP: usize = 16 * 1024 * 1024;

/// One wrong request.
struct Bad {
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    param: Option<&'static str>,
    /// What the message must contain besides the param.
    says: &'static str,
}

fn bad(
    path: &'static str,
    body: impl Into<Vec<u8>>,
    code: &'static str,
    param: &'static str,
    says: &'static str,
) -> Bad {
    Bad {
        method: Method::POST,
        path,
        headers: vec![("content-type", "application/json".to_owned())],
        body: body.into(),
        status: 400,
        code,
        param: (!param.is_empty()).then_some(param),
        says,
    }
}

/// A chat request that would be right without `fields`.
fn with_fields(fields: &str) -> String {
    format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#)
}

impl Bad {
    fn status(self, status: u16) -> Bad {
        Bad { status, ..self }
    }

    fn head(self, name: &'static str, value: impl Into<String>) -> Bad {
        let mut headers = self.headers;
        headers.retain(|(other, _)| *other != name);
        headers.push((name, value.into()));
        Bad { headers, ..self }
    }

    fn body(self, body: &str) -> Bad {
        Bad { body: body.into(), ..self }
    }

    fn method(self, method: Method) -> Bad {
        Bad { method, ..self }
    }

    async fn ask(&self) -> Error {
        let route = match route(&self.method, self.path) {
            Ok(route) => route,
            Err(error) => return error,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let limits = Limits::of(CAP);
        let asker = Asker { id: "r".into(), tenant: TenantId::anonymous() };
        let body = Full::new(Bytes::from(self.body.clone()));
        parse(route, &headers, body, &limits, asker).await.expect_err("the request was let through")
    }

    /// In what the answer differs from what it must be.
    async fn faults(&self) -> Vec<String> {
        let response = reject(&self.ask().await);
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let error = &json["error"];
        let message = error["message"].as_str().unwrap();
        let class = if self.status == 404 { "not_found_error" } else { "invalid_request_error" };
        let checks = [
            ("status", status == StatusCode::from_u16(self.status).unwrap()),
            ("content-type", headers["content-type"] == "application/json"),
            ("x-weir-origin", headers["x-weir-origin"] == "client"),
            ("allow", headers.contains_key("allow") == (self.status == 405)),
            ("fields", error.as_object().unwrap().len() == 4),
            ("type", error["type"] == class),
            ("code", error["code"] == self.code),
            ("param", error["param"].as_str() == self.param),
            ("message", message.contains(self.says)),
            ("message without param", message.contains(self.param.unwrap_or_default())),
            ("long message", message.len() < 600),
        ];
        let wrong = checks.into_iter().filter(|(_, holds)| !holds);
        wrong.map(|(name, _)| format!("{name}: {status} {json}")).collect()
    }
}

/// What is wrong with the head, or with the body as bytes.
fn heads() -> Vec<Bad> {
    let path = "/v1/chat/completions";
    let good = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}]}"#;
    let method = |path, says| bad(path, good, "method_not_allowed", "", says).status(405);
    let media = |says| bad(path, good, "unsupported_media_type", "", says).status(415);
    let unknown = |path| bad(path, good, "unknown_url", "", path).status(404);
    let form = "application/x-www-form-urlencoded";
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    let long = with_fields(&format!(r#""user":"{}""#, "m".repeat(300))).replace("auto", &"m".repeat(300));
    vec![
        unknown("/v1/chats"),
        unknown("/"),
        unknown("/v1/models/%ff").method(Method::GET),
        method(path, "use POST").method(Method::GET),
        method("/v1/models", "use GET"),
        media("text/plain").head("content-type", "text/plain"),
        media("gzip").head("content-encoding", "gzip"),
        media(form).head("content-type", form).body("model=auto"),
        bad(path, vec![b' '; CAP + 1], "too_large", "", "16777216").status(413),
        bad(path, good, "too_large", "", "max_body").status(413).head("content-length", "52428800"),
        bad(path, b"{\"model\":\"\xff\"}", "invalid_utf8", "", "byte 10"),
        bad(path, "", "invalid_json", "", "empty"),
        bad(path, deep, "invalid_json", "", "EOF while parsing"),
        bad(path, long, "invalid_value", "model", "longer than 256"),
    ]
}

/// The rows of the table of wrong fields.
fn fields() -> Vec<Bad> {
    let rows = include_str!("bad_input/fields.txt").lines();
    let rows = rows.filter(|row| !row.is_empty() && !row.starts_with('#'));
    rows.map(|row| {
        let columns: Vec<&'static str> = row.split(" | ").collect();
        let [kind, json, code, param, says] = columns[..] else { panic!("not five columns: {row}") };
        let chat = "/v1/chat/completions";
        let (path, body) = match kind {
            "body" => (chat, json.to_owned()),
            "chat" => (chat, with_fields(json)),
            "messages" => (chat, format!(r#"{{"model":"auto","messages":{json}}}"#)),
            "text" => ("/v1/completions", format!(r#"{{"model":"m",{json}}}"#)),
            "embed" => ("/v1/embeddings", format!(r#"{{"model":"m",{json}}}"#)),
            _ => panic!("unknown kind: {row}"),
        };
        bad(path, body, code, if param == "-" { "" } else { param }, says)
    })
    .collect()
}

#[tokio::test]
async fn every_wrong_request_gets_the_openai_error_that_names_its_fault() {
    let table: Vec<Bad> = heads().into_iter().chain(fields()).collect();
    assert!(table.len() >= 45);
    let mut faults = Vec::new();
    for bad in &table {
        let shown = String::from_utf8_lossy(&bad.body[..bad.body.len().min(200)]).into_owned();
        faults.extend(
            bad.faults().await.into_iter().map(|fault| format!("{} {} {shown}: {fault}", bad.method, bad.path)),
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn a_message_does_not_repeat_a_long_value() {
    let huge = format!(r#""temperature":"{}""#, "x".repeat(1_000_000));
    let body = with_fields(&huge);
    let error = bad("/v1/chat/completions", body, "invalid_type", "temperature", "a number").ask().await;
    assert!(error.detail().message.len() < 400);
    assert!(error.detail().message.ends_with("expected a number"));
}
