//! What a client can do wrong on `/v1/…`, and the answer it gets: status, type, code, param, and
//! a message that names the field.

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

fn bad(path: &'static str, body: impl Into<Vec<u8>>, code: &'static str, param: &'static str, says: &'static str) -> Bad {
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
fn chat(fields: &str, code: &'static str, param: &'static str, says: &'static str) -> Bad {
    let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#);
    bad("/v1/chat/completions", body, code, param, says)
}

fn messages(json: &str, code: &'static str, param: &'static str, says: &'static str) -> Bad {
    bad("/v1/chat/completions", format!(r#"{{"model":"auto","messages":{json}}}"#), code, param, says)
}

fn text(fields: &str, code: &'static str, param: &'static str, says: &'static str) -> Bad {
    bad("/v1/completions", format!(r#"{{"model":"m",{fields}}}"#), code, param, says)
}

fn embed(fields: &str, code: &'static str, param: &'static str, says: &'static str) -> Bad {
    bad("/v1/embeddings", format!(r#"{{"model":"m",{fields}}}"#), code, param, says)
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
        let limits = Limits { max_body: CAP, policy_headers: Vec::new() };
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

/// The request line and the body as bytes.
fn bytes() -> Vec<Bad> {
    let path = "/v1/chat/completions";
    let good = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}]}"#;
    vec![
        bad("/v1/chats", good, "unknown_url", "", "/v1/chats").status(404),
        bad("/", good, "unknown_url", "", "unknown path").status(404),
        bad("/v1/models/%ff", "", "unknown_url", "", "%ff").status(404).method(Method::GET),
        bad(path, good, "method_not_allowed", "", "use POST").status(405).method(Method::GET),
        bad("/v1/models", good, "method_not_allowed", "", "use GET").status(405),
        bad(path, good, "unsupported_media_type", "", "text/plain").status(415).head("content-type", "text/plain"),
        bad(path, good, "unsupported_media_type", "", "gzip").status(415).head("content-encoding", "gzip"),
        bad(path, "model=auto", "unsupported_media_type", "", "urlencoded")
            .status(415)
            .head("content-type", "application/x-www-form-urlencoded"),
        bad(path, vec![b' '; CAP + 1], "too_large", "", "16777216").status(413),
        bad(path, good, "too_large", "", "max_body").status(413).head("content-length", "52428800"),
        bad(path, b"{\"model\":\"\xff\"}", "invalid_utf8", "", "byte 10"),
        bad(path, "", "invalid_json", "", "empty"),
        bad(path, r#"{"model":"auto","messages":["#, "invalid_json", "", "line 1 column 28"),
        bad(path, format!("{good} x"), "invalid_json", "", "trailing characters"),
        bad(path, r#"{"model":NaN}"#, "invalid_json", "", "line 1"),
        bad(path, format!(r#"{{"x":{}"#, "[".repeat(100_000)), "invalid_json", "", "EOF while parsing"),
        bad(path, "[]", "invalid_type", "", "expected a JSON object"),
        bad(path, "\"hi\"", "invalid_type", "", "expected a JSON object"),
        chat(r#""model":"openai/large""#, "duplicate_field", "model", "duplicate"),
        chat(r#""mod\u0065l":"openai/large""#, "duplicate_field", "model", "duplicate"),
        chat(r#""seed":null,"seed":1"#, "duplicate_field", "seed", "duplicate"),
    ]
}

/// The fields of every endpoint, and the messages.
fn required() -> Vec<Bad> {
    let path = "/v1/chat/completions";
    let long = format!(r#"{{"model":"{}","messages":[]}}"#, "m".repeat(300));
    vec![
        bad(path, r#"{"messages":[]}"#, "missing_required_parameter", "model", "required"),
        bad(path, r#"{"model":5,"messages":[]}"#, "invalid_type", "model", "expected a string"),
        bad(path, r#"{"model":null,"messages":[]}"#, "invalid_type", "model", "expected a string"),
        bad(path, r#"{"model":" ","messages":[]}"#, "invalid_value", "model", "empty"),
        bad(path, long, "invalid_value", "model", "longer"),
        bad(path, r#"{"model":"auto"}"#, "missing_required_parameter", "messages", "required"),
        messages("null", "missing_required_parameter", "messages", "required"),
        messages("[]", "invalid_value", "messages", "empty"),
        messages(r#""hi""#, "invalid_type", "messages", "expected a sequence"),
        messages(r#"["hi"]"#, "invalid_type", "messages[0]", "a message object"),
        messages(r#"[{"content":"hi"}]"#, "missing_required_parameter", "messages[0].role", "required"),
        messages(r#"[{"role":"wizard","content":"hi"}]"#, "invalid_value", "messages[0].role", "wizard"),
        messages(r#"[{"role":1,"content":"hi"}]"#, "invalid_type", "messages[0].role", "one of system"),
        messages(r#"[{"role":"user"}]"#, "missing_required_parameter", "messages[0].content", "required"),
        messages(r#"[{"role":"user","content":null}]"#, "missing_required_parameter", "messages[0].content", "required"),
        messages(r#"[{"role":"assistant","content":null}]"#, "missing_required_parameter", "messages[0].content", "required"),
        messages(r#"[{"role":"user","content":5}]"#, "invalid_type", "messages[0].content", "content parts"),
        messages(
            r#"[{"role":"user","content":"a"},{"role":"user","content":[{"type":7}]}]"#,
            "invalid_type",
            "messages[1].content[0].type",
            "expected a string",
        ),
        messages(
            r#"[{"role":"user","content":[{"text":"a"}]}]"#,
            "missing_required_parameter",
            "messages[0].content[0].type",
            "required",
        ),
        messages(
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text"}]}]"#,
            "missing_required_parameter",
            "messages[0].content[1].text",
            "required",
        ),
        messages(
            r#"[{"role":"user","content":[{"type":"image_url"}]}]"#,
            "missing_required_parameter",
            "messages[0].content[0].image_url",
            "required",
        ),
        messages(r#"[{"role":"tool","content":"a"}]"#, "missing_required_parameter", "messages[0].tool_call_id", "required"),
        messages(r#"[{"role":"user","role":"system","content":"a"}]"#, "duplicate_field", "messages[0].role", "duplicate"),
        messages(
            r#"[{"role":"user","content":"a","tool_calls":[]}]"#,
            "invalid_value",
            "messages[0].tool_calls",
            "only an assistant",
        ),
        messages(
            r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f"}}]}]"#,
            "missing_required_parameter",
            "messages[0].tool_calls[0].function.arguments",
            "required",
        ),
    ]
}

/// How the answer is to be generated.
fn sampling() -> Vec<Bad> {
    vec![
        chat(r#""max_tokens":-5"#, "invalid_value", "max_tokens", "-5"),
        chat(r#""max_tokens":0"#, "invalid_value", "max_tokens", "at least 1"),
        chat(r#""max_tokens":1.5"#, "invalid_type", "max_tokens", "a whole number"),
        chat(r#""max_tokens":"10""#, "invalid_type", "max_tokens", "a whole number"),
        chat(r#""max_tokens":99999999999"#, "invalid_value", "max_tokens", "99999999999"),
        chat(r#""max_completion_tokens":0"#, "invalid_value", "max_completion_tokens", "at least 1"),
        chat(r#""temperature":2.1"#, "invalid_value", "temperature", "2.1"),
        chat(r#""temperature":-0.1"#, "invalid_value", "temperature", "from 0 to 2"),
        chat(r#""temperature":"hot""#, "invalid_type", "temperature", "a number"),
        chat(r#""temperature":1e999"#, "invalid_json", "", "number out of range"),
        chat(r#""top_p":0"#, "invalid_value", "top_p", "above 0"),
        chat(r#""top_p":1.01"#, "invalid_value", "top_p", "at most 1"),
        chat(r#""top_k":-1"#, "invalid_value", "top_k", "at least 0"),
        chat(r#""min_p":1.5"#, "invalid_value", "min_p", "from 0 to 1"),
        chat(r#""repeat_penalty":0"#, "invalid_value", "repeat_penalty", "above 0"),
        chat(r#""presence_penalty":3"#, "invalid_value", "presence_penalty", "-2 to 2"),
        chat(r#""frequency_penalty":-3"#, "invalid_value", "frequency_penalty", "-2 to 2"),
        chat(r#""n":0"#, "invalid_value", "n", "1 to 128"),
        chat(r#""n":129"#, "invalid_value", "n", "129"),
        chat(r#""n":"two""#, "invalid_type", "n", "a whole number"),
        chat(r#""seed":1.5"#, "invalid_type", "seed", "a whole number"),
        chat(r#""stop":5"#, "invalid_type", "stop", "an array of strings"),
        chat(r#""stop":"""#, "invalid_value", "stop", "empty"),
        chat(r#""stop":["a",""]"#, "invalid_value", "stop[1]", "empty"),
        chat(r#""stop":["a",1]"#, "invalid_type", "stop[1]", "a string"),
        chat(r#""stop":["a","b","c","d","e"]"#, "invalid_value", "stop", "at most 4"),
        chat(r#""logit_bias":{"x":1}"#, "invalid_value", "logit_bias", "token id"),
        chat(r#""logit_bias":{"5":101}"#, "invalid_value", "logit_bias", "-100 to 100"),
        chat(r#""logit_bias":{"5":"a"}"#, "invalid_type", "logit_bias.5", "a number"),
        chat(r#""logit_bias":[1]"#, "invalid_type", "logit_bias", "an object"),
        chat(r#""logprobs":2"#, "invalid_type", "logprobs", "a boolean"),
        chat(r#""logprobs":true,"top_logprobs":21"#, "invalid_value", "top_logprobs", "0 to 20"),
        chat(r#""top_logprobs":3"#, "invalid_value", "top_logprobs", "logprobs"),
        chat(r#""stream":"yes""#, "invalid_type", "stream", "a boolean"),
        chat(r#""stream_options":{"include_usage":true}"#, "invalid_value", "stream_options", "stream"),
        chat(r#""stream":true,"stream_options":true"#, "invalid_type", "stream_options", "an object"),
        chat(
            r#""stream":true,"stream_options":{"include_usage":1}"#,
            "invalid_type",
            "stream_options.include_usage",
            "a boolean",
        ),
        chat(r#""user":5"#, "invalid_type", "user", "a string"),
    ]
}

/// Tools and the form of the answer.
fn forms() -> Vec<Bad> {
    let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    vec![
        chat(r#""response_format":"json""#, "invalid_type", "response_format", "response format object"),
        chat(r#""response_format":{"type":"yaml"}"#, "invalid_value", "response_format.type", "yaml"),
        chat(r#""response_format":{}"#, "missing_required_parameter", "response_format.type", "required"),
        chat(
            r#""response_format":{"type":"json_schema"}"#,
            "missing_required_parameter",
            "response_format.json_schema",
            "required",
        ),
        chat(
            r#""response_format":{"type":"json_schema","json_schema":{"name":"a"}}"#,
            "missing_required_parameter",
            "response_format.json_schema.schema",
            "required",
        ),
        chat(
            r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":[]}}"#,
            "invalid_value",
            "response_format.json_schema.schema",
            "an object",
        ),
        chat(r#""tools":{}"#, "invalid_type", "tools", "expected a sequence"),
        chat(r#""tools":[1]"#, "invalid_type", "tools[0]", "a tool object"),
        chat(r#""tools":[{"function":{"name":"f"}}]"#, "missing_required_parameter", "tools[0].type", "required"),
        chat(r#""tools":[{"type":"function"}]"#, "missing_required_parameter", "tools[0].function", "required"),
        chat(
            r#""tools":[{"type":"function","function":{"name":7}}]"#,
            "invalid_type",
            "tools[0].function.name",
            "a string",
        ),
        chat(
            r#""tools":[{"type":"function","function":{"name":"f","parameters":"x"}}]"#,
            "invalid_value",
            "tools[0].function.parameters",
            "an object",
        ),
        chat(&format!(r#"{tools},"tool_choice":"some""#), "invalid_value", "tool_choice", "some"),
        chat(
            &format!(r#"{tools},"tool_choice":{{"type":"function","function":{{"name":"g"}}}}"#),
            "invalid_value",
            "tool_choice.function.name",
            "offered: f",
        ),
        chat(r#""tool_choice":"required""#, "invalid_value", "tool_choice", "tools"),
        chat(&format!(r#"{tools},"parallel_tool_calls":1"#), "invalid_type", "parallel_tool_calls", "a boolean"),
        chat(r#""modalities":"text""#, "invalid_type", "modalities", "expected a sequence"),
    ]
}

/// Legacy completions and embeddings.
fn others() -> Vec<Bad> {
    vec![
        text(r#""echo":true"#, "missing_required_parameter", "prompt", "required"),
        text(r#""prompt":5"#, "invalid_type", "prompt", "token ids"),
        text(r#""prompt":[]"#, "invalid_value", "prompt", "empty"),
        text(r#""prompt":[[]]"#, "invalid_value", "prompt[0]", "empty"),
        text(r#""prompt":["a",1]"#, "invalid_value", "prompt", "one array"),
        text(r#""prompt":[-1]"#, "invalid_type", "prompt[0]", "a token id"),
        text(r#""prompt":"a","logprobs":true"#, "invalid_type", "logprobs", "a whole number"),
        text(r#""prompt":"a","logprobs":6"#, "invalid_value", "logprobs", "0 to 5"),
        text(r#""prompt":"a","echo":"yes""#, "invalid_type", "echo", "a boolean"),
        text(r#""prompt":"a","n":3,"best_of":2"#, "invalid_value", "best_of", "less than n"),
        embed(r#""dimensions":3"#, "missing_required_parameter", "input", "required"),
        embed(r#""input":"""#, "invalid_value", "input", "empty"),
        embed(r#""input":["a",""]"#, "invalid_value", "input[1]", "empty"),
        embed(r#""input":{"a":1}"#, "invalid_type", "input", "an array of strings"),
        embed(r#""input":["a",[1.5]]"#, "invalid_type", "input[1][0]", "u32"),
        embed(r#""input":"a","encoding_format":"hex""#, "invalid_value", "encoding_format", "base64"),
        embed(r#""input":"a","dimensions":0"#, "invalid_value", "dimensions", "at least 1"),
    ]
}

#[tokio::test]
async fn every_wrong_request_gets_the_openai_error_that_names_its_fault() {
    let table: Vec<Bad> = [bytes(), required(), sampling(), forms(), others()].into_iter().flatten().collect();
    assert!(table.len() >= 45);
    let mut faults = Vec::new();
    for bad in &table {
        let shown = String::from_utf8_lossy(&bad.body[..bad.body.len().min(200)]).into_owned();
        faults.extend(bad.faults().await.into_iter().map(|fault| format!("{} {} {shown}: {fault}", bad.method, bad.path)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn a_message_does_not_repeat_a_long_value() {
    let huge = format!(r#""temperature":"{}""#, "x".repeat(1_000_000));
    let error = chat(&huge, "invalid_type", "temperature", "a number").ask().await;
    assert!(error.detail().message.len() < 400);
    assert!(error.detail().message.ends_with("expected a number"));
}
