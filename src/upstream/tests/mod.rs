//! The upstream against scripted servers: what it sends, retries, passes through and gives up.

mod fake;
mod http2;
mod refusals;
mod retries;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;

use self::fake::{Fake, Reply, Then};
use super::{ApiKey, Config, Upstream};
use crate::backend::{Backend, Breaker, Call, Completion};
use crate::error::{Error, Kind, Origin, Retry};
use crate::request::{Ask, Chat, ClientBody, Delta, Embed, ModelId, Part, Request, Secret, TenantId, Text, Usage};

const ANSWER: &str = r#"{"model":"m","choices":[{"message":{"content":"hi"}}],"new":[1.50],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
const USAGE: Usage = Usage { prompt_tokens: 7, cached_tokens: 0, completion_tokens: 2 };

fn config(fakes: &[&Fake]) -> Config {
    let mut config = Config::new("up", fakes.iter().map(|fake| fake.address.clone()).collect());
    config.backoff = Duration::from_millis(1);
    config
}

fn upstream(fakes: &[&Fake]) -> Upstream {
    Upstream::new(config(fakes)).unwrap()
}

fn request(body: &str, ask: Ask) -> Request {
    let at = body.find(r#""m""#).unwrap();
    Request {
        id: "req-1".into(),
        tenant: TenantId::anonymous(),
        model: "m".to_owned(),
        stream: false,
        ask,
        body: ClientBody {
            bytes: Bytes::copy_from_slice(body.as_bytes()),
            model: at..at + 3,
            stream: None,
            stream_options: None,
        },
        headers: Default::default(),
        authorization: None,
    }
}

fn chat() -> Request {
    request(r#"{"model":"m","messages":[]}"#, Ask::Chat(Chat::default()))
}

fn call(request: Request) -> Call {
    Call { request: Arc::new(request), model: ModelId::new("up/org/large"), trace: None }
}

fn streaming() -> Call {
    call(Request { stream: true, ..chat() })
}

async fn all(completion: Completion) -> (Vec<Bytes>, Result<Option<Usage>, Error>) {
    let deltas: Vec<Result<Delta, Error>> = completion.deltas.collect().await;
    let mut raw = Vec::new();
    let mut end = None;
    for delta in deltas {
        assert!(end.is_none(), "nothing follows the end");
        match delta {
            Ok(Delta { part: Part::Raw, raw: Some(passed), .. }) => raw.push(passed.bytes),
            Ok(Delta { part: Part::End(usage), .. }) => end = Some(Ok(usage)),
            Ok(other) => panic!("unexpected {other:?}"),
            Err(error) => end = Some(Err(error)),
        }
    }
    (raw, end.expect("an answer ends"))
}

#[tokio::test]
async fn an_answer_passes_through_byte_for_byte_with_its_usage() {
    let mut fake = Fake::start([Reply::json(ANSWER)]).await;
    let completion = upstream(&[&fake]).start(call(chat())).await.unwrap();
    assert_eq!(completion.model.as_str(), "up/org/large");
    let (raw, end) = all(completion).await;
    assert_eq!(raw, [ANSWER]);
    assert_eq!(end.unwrap(), Some(USAGE));
    let seen = fake.seen().await;
    assert!(seen.head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert_eq!(seen.header("x-client-request-id"), Some("req-1"));
    assert_eq!(seen.header("user-agent"), Some(concat!("weir/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(seen.header("host"), Some(fake.address.authority().unwrap().as_str()));
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn only_the_models_name_changes_in_a_request() {
    let body = " {\"unknown\" : [1e2,\"\\u00e4\"],\"model\":\"m\",\n\"messages\":[{\"content\":\"\\\"m\\\"\"}]} ";
    let mut fake = Fake::start([Reply::json(ANSWER)]).await;
    upstream(&[&fake]).start(call(request(body, Ask::Chat(Chat::default())))).await.unwrap();
    let expected = body.replacen("\"m\"", "\"org/large\"", 1);
    assert_eq!(String::from_utf8(fake.seen().await.body).unwrap(), expected);
}

#[tokio::test]
async fn a_stream_asks_for_usage() {
    let mut fake = Fake::start([Reply::stream(&["data: {}\n\ndata: [DONE]\n\n"])]).await;
    upstream(&[&fake]).start(streaming()).await.unwrap();
    let seen = fake.seen().await;
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    assert_eq!(
        String::from_utf8(seen.body).unwrap(),
        r#"{"model":"org/large","stream_options":{"include_usage":true},"messages":[]}"#
    );
}

#[tokio::test]
async fn each_ask_has_its_path() {
    let mut fake = Fake::start([Reply::json(r#"{"usage":{"prompt_tokens":7}}"#)]).await;
    let upstream = upstream(&[&fake]);
    let body = r#"{"model":"m"}"#;
    upstream.start(call(request(body, Ask::Text(Text::default())))).await.unwrap();
    assert!(fake.seen().await.head.starts_with("post /v1/completions "));
    let embed = Request { stream: true, ..request(body, Ask::Embed(Embed::default())) };
    let (_, end) = all(upstream.start(call(embed)).await.unwrap()).await;
    assert_eq!(end.unwrap(), Some(Usage { prompt_tokens: 7, ..Usage::default() }));
    assert!(fake.seen().await.head.starts_with("post /v1/embeddings "));
}

#[tokio::test]
async fn five_megabytes_pass_both_ways() {
    let filler = "x".repeat(5 * 1024 * 1024);
    let answer = format!(r#"{{"choices":[],"data":"{filler}","usage":{{"prompt_tokens":7,"completion_tokens":2}}}}"#);
    let mut fake = Fake::start([Reply::json(&answer)]).await;
    let body = format!(r#"{{"model":"m","messages":["{filler}"]}}"#);
    let (raw, end) =
        all(upstream(&[&fake]).start(call(request(&body, Ask::Chat(Chat::default())))).await.unwrap()).await;
    assert!(raw == [answer]);
    assert_eq!(end.unwrap(), Some(USAGE));
    assert!(fake.seen().await.body == body.replacen("\"m\"", "\"org/large\"", 1).into_bytes());
}

#[tokio::test]
async fn the_operators_key_is_sent_and_never_shown() {
    let mut fake = Fake::start([Reply::json(ANSWER)]).await;
    let upstream = Upstream::new(Config { api_key: ApiKey::Value(Secret::new("sk-top")), ..config(&[&fake]) }).unwrap();
    let asked = Request { authorization: Some(Secret::new("Bearer of-the-client")), ..chat() };
    upstream.start(call(asked)).await.unwrap();
    assert_eq!(fake.seen().await.header("authorization"), Some("bearer sk-top"));
    assert!(!format!("{upstream:?}").contains("sk-top"));
}

#[tokio::test]
async fn the_clients_key_is_sent_only_where_that_is_configured() {
    let mut fake = Fake::start([Reply::json(ANSWER)]).await;
    let asked = || Request { authorization: Some(Secret::new("Bearer of-the-client")), ..chat() };
    upstream(&[&fake]).start(call(asked())).await.unwrap();
    assert_eq!(fake.seen().await.header("authorization"), None);
    let upstream = Upstream::new(Config { api_key: ApiKey::Client, ..config(&[&fake]) }).unwrap();
    upstream.start(call(asked())).await.unwrap();
    assert_eq!(fake.seen().await.header("authorization"), Some("bearer of-the-client"));
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!((error.kind(), error.detail().origin), (Kind::Unauthenticated, Origin::Client));
}

#[tokio::test]
async fn without_its_key_nothing_is_sent() {
    let fake = Fake::start([Reply::json(ANSWER)]).await;
    let missing = ApiKey::Missing { reason: "OPENAI_API_KEY is not set".to_owned() };
    let upstream = Upstream::new(Config { api_key: missing, ..config(&[&fake]) }).unwrap();
    assert!(!upstream.status().ready);
    assert_eq!(upstream.unready(), Some("OPENAI_API_KEY is not set"));
    let error = upstream.start(call(chat())).await.unwrap_err();
    assert_eq!(error.detail().message, r#"upstream "up": OPENAI_API_KEY is not set"#);
    assert_eq!((error.kind(), error.detail().retry, fake.accepts()), (Kind::Unavailable, Retry::Elsewhere, 0));
}

#[tokio::test]
async fn connections_are_used_again() {
    let stream = Reply::stream(&["data: {}\n\n", "data: [DONE]\n\n"]);
    let fake =
        Fake::start([Reply::json(ANSWER), stream.clone(), Reply::json(ANSWER), stream, Reply::json(ANSWER)]).await;
    let upstream = upstream(&[&fake]);
    for turn in 0..5 {
        let asked = if turn % 2 == 1 { streaming() } else { call(chat()) };
        all(upstream.start(asked).await.unwrap()).await.1.unwrap();
    }
    assert_eq!(fake.accepts(), 1);
}

#[tokio::test]
async fn models_are_listed() {
    let mut fake = Fake::start([Reply::json(r#"{"data":[{"id":"a"},{"id":"org/b"}]}"#)]).await;
    let dead: http::Uri = "http://127.0.0.1:1/v1".parse().unwrap();
    let endpoints = vec![dead, fake.address.clone()];
    let upstream =
        Upstream::new(Config { endpoints, api_key: ApiKey::Value(Secret::new("sk")), ..config(&[]) }).unwrap();
    assert_eq!(upstream.probe().await.unwrap(), ["a", "org/b"]);
    let seen = fake.seen().await;
    assert!(seen.head.starts_with("get /v1/models "));
    assert_eq!(seen.header("authorization"), Some("bearer sk"));
}

#[tokio::test]
async fn headers_about_limits_reach_the_client_and_others_do_not() {
    let head = "content-type: application/json\r\nx-ratelimit-limit-requests: 9\r\nopenai-processing-ms: 5\r\nset-cookie: a\r\n";
    let fake = Fake::start([Reply::whole(200, head, ANSWER)]).await;
    let completion = upstream(&[&fake]).start(call(chat())).await.unwrap();
    let mut names: Vec<&str> = completion.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["openai-processing-ms", "x-ratelimit-limit-requests"]);
}

#[tokio::test]
async fn an_upstreams_error_passes_through_unchanged() {
    let body =
        r#"{"error":{"message":"bad tool","type":"invalid_request_error","param":"tools[0]","code":null,"more":1}}"#;
    let head = "content-type: application/json; charset=utf-8\r\nx-ratelimit-remaining-tokens: 3\r\nserver: x\r\n";
    let fake = Fake::start([Reply::whole(400, head, body)]).await;
    let error = upstream(&[&fake]).start(call(chat())).await.unwrap_err();
    let detail = error.detail();
    assert_eq!((detail.kind, detail.origin, detail.retry), (Kind::Invalid, Origin::Upstream, Retry::Never));
    assert_eq!(detail.message, r#"upstream "up": bad tool"#);
    assert_eq!(detail.param.as_deref(), Some("tools[0]"));
    let passed = detail.passed.as_ref().unwrap();
    assert_eq!((passed.status, &passed.body[..]), (StatusCode::BAD_REQUEST, body.as_bytes()));
    assert_eq!(passed.headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(passed.headers["x-ratelimit-remaining-tokens"], "3");
    assert_eq!(passed.headers.len(), 2);
    assert_eq!(fake.unseen(), 1);
}

#[tokio::test]
async fn each_status_has_its_kind() {
    let table = [
        (404, Kind::NotFound, Retry::Elsewhere),
        (408, Kind::Timeout, Retry::Elsewhere),
        (413, Kind::TooLarge, Retry::Never),
        (422, Kind::Invalid, Retry::Never),
        (429, Kind::RateLimited, Retry::Elsewhere),
        (301, Kind::Unavailable, Retry::Elsewhere),
        (500, Kind::Unavailable, Retry::Elsewhere),
        (501, Kind::Unavailable, Retry::Elsewhere),
        (504, Kind::Timeout, Retry::Elsewhere),
        (529, Kind::Unavailable, Retry::Elsewhere),
    ];
    for (status, kind, retry) in table {
        let fake = Fake::start([Reply::whole(status, "", "oops")]).await;
        let upstream = Upstream::new(Config { retries: 0, ..config(&[&fake]) }).unwrap();
        let error = upstream.start(call(chat())).await.unwrap_err();
        assert_eq!((error.kind(), error.detail().retry), (kind, retry), "{status}");
        assert_eq!(
            error.detail().passed.as_ref().map(|passed| passed.status.as_u16()),
            (status >= 400).then_some(status)
        );
    }
}

#[tokio::test]
async fn a_success_that_is_no_answer_is_an_error() {
    let cut = Reply::raw(&["HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"], Then::Close);
    let told = Reply::json(r#"{"error":{"message":"no such thing"}}"#);
    let sse = Reply::stream(&["data: {}\n\n"]);
    let table = [
        (Reply::whole(200, "", "<html>"), "its answer is no JSON object"),
        (told, "no such thing"),
        (sse, "it answered with a stream"),
        (cut, "its answer broke off"),
    ];
    for (reply, expected) in table {
        let fake = Fake::start([reply]).await;
        let error = upstream(&[&fake]).start(call(chat())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.detail().origin, error.detail().retry),
            (Kind::Unavailable, Origin::Upstream, Retry::Elsewhere)
        );
        assert!(error.detail().message.starts_with(&format!("upstream \"up\": {expected}")), "{error}");
        assert_eq!(fake.unseen(), 1, "nothing is asked again after the head: {expected}");
    }
}

#[tokio::test]
async fn a_huge_error_body_is_cut() {
    let fake = Fake::start([Reply::whole(400, "", &"x".repeat(300_000))]).await;
    let error = upstream(&[&fake]).start(call(chat())).await.unwrap_err();
    assert_eq!(error.detail().passed.as_ref().unwrap().body.len(), 64 * 1024);
    assert!(error.detail().message.len() < 1024);
}

#[tokio::test]
async fn calls_are_counted_until_their_answer_ends() {
    let fake = Fake::start([Reply::cut(&["data: {}\n\n"]).then(Then::Hang)]).await;
    let upstream = upstream(&[&fake]);
    let completion = upstream.start(streaming()).await.unwrap();
    assert_eq!((upstream.status().slots_busy, upstream.status().breaker), (1, Breaker::Closed));
    assert_eq!((upstream.status().queue_depth, upstream.status().queue_limit), (0, u32::MAX), "nobody waits here");
    drop(completion);
    assert_eq!(upstream.status().slots_busy, 0);
}

#[test]
fn what_cannot_be_an_endpoint_is_refused() {
    let table = [
        (vec![], "0 endpoints; there must be 1 to 64"),
        (vec!["/v1"], r#"endpoint "/v1" is no http:// or https:// address"#),
        (vec!["ftp://host/v1"], r#"endpoint "ftp://host/v1" is no http:// or https:// address"#),
        (vec!["https://user:pw@host/v1"], "an endpoint must have neither credentials nor a query; use `api_key`"),
        (vec!["https://host/v1?key=1"], "an endpoint must have neither credentials nor a query; use `api_key`"),
    ];
    for (endpoints, expected) in table {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        let error = Upstream::new(Config::new("up", endpoints)).unwrap_err();
        assert_eq!(error.detail().message, format!("upstream \"up\": {expected}"));
    }
    let bad_key =
        Config { api_key: ApiKey::Value(Secret::new("a\nb")), ..Config::new("up", vec!["http://h".parse().unwrap()]) };
    assert!(!Upstream::new(bad_key).unwrap_err().detail().message.contains("a\nb"));
}
