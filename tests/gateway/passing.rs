//! What passes through keeps every byte but those that must change.

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::house::{House, answer, chat, upstream};
use crate::fake_upstream::{Answer, Asked, FakeUpstream};

const MODELS: &str = "models = [\"m\"]";

async fn open(fake: &FakeUpstream) -> House {
    House::open(&upstream("up", fake, MODELS)).await
}

/// What the upstream got for this chat.
async fn received(body: &str) -> Asked {
    let fake = FakeUpstream::saying(Answer::json(answer("hello"))).await;
    let house = open(&fake).await;
    assert_eq!(house.chat(body).await.status, 200);
    fake.asked().remove(0)
}

#[tokio::test]
async fn a_json_answer_keeps_every_byte_but_the_models_name() {
    let said = r#"{ "id":"x", "unknown" : {"a":[1, 2.50,"Wehr – 堰"]},"model":"m-2026","choices":[{"index":0,"message":{"role":"assistant","content":"\u0068i","new":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"later":7} }"#;
    let fake =
        FakeUpstream::saying(Answer::json(said).header("openai-version", "2020").header("set-cookie", "c=1")).await;
    let house = open(&fake).await;
    let reply = house.ask("up/m").await;
    assert_eq!(reply.text(), said.replace("\"m-2026\"", "\"up/m\""));
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    assert_eq!((reply.header("openai-version"), reply.header("set-cookie")), ("2020", ""));
}

#[tokio::test]
async fn a_request_reaches_the_upstream_byte_for_byte_but_its_model() {
    let body = r#" { "messages" : [ {"role":"user","content":[{"type":"text","text":"what is\u0020this"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c1","content":"7"} ] ,
 "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}},"strict":true}}],"tool_choice":"auto", "model":"up/m","temperature":0.70,"reasoning_effort":"low","service_tier":"flex","metadata":{"k":"v"},"x_unknown":[1.0,{"deep":[[]]}] } "#;
    let asked = received(body).await;
    assert_eq!(std::str::from_utf8(&asked.body).unwrap(), body.replace("\"up/m\"", "\"m\""));
    assert_eq!(
        (asked.path.as_str(), &asked.headers["content-type"]),
        ("/v1/chat/completions", &"application/json".parse().unwrap())
    );
}

#[tokio::test]
async fn a_long_body_is_passed_on_whole() {
    let text = "x".repeat(3 << 20);
    let body = format!(r#"{{"model":"up/m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    assert_eq!(received(&body).await.body.len(), body.len() - "up/".len());
}

const CHUNKS: [&str; 3] = [
    r#"{"id":"x","model":"m-2026","choices":[{"index":0,"delta":{"content":"h\u0069"}}],"obfuscation":"zz","usage":null}"#,
    r#"{"id":"x","model":"m-2026","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#,
    r#"{"id":"x","model":"m-2026","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"later":7}}"#,
];

fn framed(chunks: &[&str]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

/// The stream the client gets for these fields, and what was asked of the upstream.
async fn stream(fields: &str) -> (String, String) {
    let said = framed(&CHUNKS);
    // Cut where it hurts.
    let pieces: Vec<&str> = [&said[..9], &said[9..150], &said[150..151], &said[151..]].into();
    let fake = FakeUpstream::saying(Answer::events(&pieces)).await;
    let house = open(&fake).await;
    let reply = house
        .chat(&format!(r#"{{"model":"up/m","stream":true,"messages":[{{"role":"user","content":"hi"}}]{fields}}}"#))
        .await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("text/event-stream"));
    assert_eq!((reply.header("x-accel-buffering"), reply.header("cache-control")), ("no", "no-cache"));
    let asked = String::from_utf8(fake.asked()[0].body.to_vec()).unwrap();
    (reply.text().to_owned(), asked)
}

#[tokio::test]
async fn usage_is_asked_of_the_upstream_and_kept_from_a_client_that_did_not_ask() {
    let (stream, asked) = stream("").await;
    assert!(asked.starts_with(r#"{"model":"m","stream_options":{"include_usage":true},"stream":true,"#), "{asked}");
    let expected = framed(&CHUNKS[..2]).replace("m-2026", "up/m").replace(",\"usage\":null", "");
    assert_eq!(stream, expected);
}

#[tokio::test]
async fn usage_reaches_a_client_that_asked_with_every_byte() {
    let (stream, asked) = stream(r#","stream_options":{"include_usage":true,"x":1}"#).await;
    assert!(asked.ends_with(r#","stream_options":{"include_usage":true,"x":1}}"#), "{asked}");
    assert_eq!(stream, framed(&CHUNKS).replace("m-2026", "up/m"));
}

#[tokio::test]
async fn legacy_completions_and_embeddings_go_to_their_own_paths() {
    let said = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.50,-1e-3]}],"model":"m-2026","usage":{"prompt_tokens":2,"total_tokens":2}}"#;
    let fake = FakeUpstream::saying(Answer::json(said)).await;
    let house = open(&fake).await;
    let reply = house.post("/v1/embeddings", &[], r#"{"model":"up/m","input":["a"]}"#).await;
    assert_eq!(reply.text(), said.replace("m-2026", "up/m"));
    house.post("/v1/completions", &[], r#"{"model":"up/m","prompt":"a"}"#).await;
    let asked = fake.asked();
    let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(paths, ["/v1/embeddings", "/v1/completions"]);
    assert_eq!(asked[1].body, r#"{"model":"m","prompt":"a"}"#);
}

#[tokio::test]
async fn what_curl_declares_by_default_is_read_as_json() {
    let fake = FakeUpstream::saying(Answer::json(answer("hello"))).await;
    let house = open(&fake).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let reply = house.post("/v1/chat/completions", &form, chat("up/m")).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "hello");
    assert_eq!(fake.asked()[0].headers["content-type"], "application/json");
}

#[tokio::test]
async fn connections_to_an_upstream_are_used_again() {
    let fake = FakeUpstream::saying(Answer::json(answer("hello"))).await;
    let house = open(&fake).await;
    for _ in 0..5 {
        assert_eq!(house.ask("up/m").await.status, 200);
    }
    assert_eq!((fake.asked().len(), fake.accepted()), (5, 1));
}

#[tokio::test]
async fn clients_may_speak_h2_many_requests_at_once_over_one_connection() {
    let fake = FakeUpstream::saying(Answer::json(answer("hello"))).await;
    let house = open(&fake).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let ask = || {
        let uri = format!("http://{}/v1/chat/completions", house.address);
        client.request(http::Request::post(uri).body(Full::from(chat("up/m"))).unwrap())
    };
    for response in futures::future::join_all((0..20).map(|_| ask())).await {
        let response = response.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    }
}
