//! What a traced request looks like where it is received.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use weir::backend::{Backend, Call, Completion, Status};
use weir::error::Result;
use weir::request::{Delta, Finish, Part, Request, Token, Usage};

use super::receiver::Receiver;
use crate::fake_upstream::{Answer, FakeUpstream};
use crate::gateway::house::{House, Reply, answer, soon, upstream};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";
const REST: &str = r#"
[[model]]
name = "small"
file = "m.gguf"

[[virtual]]
name = "auto"
policy = "p.toml"

[[price]]
model = "up/*"
input = 1
output = 2
"#;
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"small first\"\n\
    then = { cascade = [\"local/small\", \"up/m\"], accept = { score = \"min_logprob\", at_least = -1.0 } }\n";

/// A local model that is as sure of itself as this.
#[derive(Debug)]
struct Local {
    logprob: f32,
    margin: f32,
}

const UNSURE: Local = Local { logprob: -3.0, margin: 0.1 };

impl Backend for Local {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let Local { logprob, margin } = *self;
        let token = Token { bytes: "x".into(), logprob, margin, entropy: 0.0, top: Vec::new(), end: false };
        let text = Part::Text { text: "perhaps".into(), tokens: vec![token] };
        let usage = Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 1 };
        let parts = [text, Part::Finish(Finish::Stop), Part::End(Some(usage))];
        let deltas = stream::iter(parts.map(|part| Ok(Delta::new(0, part)))).boxed();
        Box::pin(async move { Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas }) })
    }

    fn status(&self) -> Status {
        Status { ready: true, ..Status::default() }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}

/// A gateway that traces to this address.
async fn open(telemetry: &str, fake: &FakeUpstream) -> House {
    let config = format!("telemetry = {{ {telemetry} }}\n{REST}{}", upstream("up", fake, "models = [\"m\"]"));
    let files = [("m.gguf", "abc"), ("p.toml", POLICY)];
    let env = [("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b")];
    House::open_standing_in(&config, &files, &env, &[("local/small", Arc::new(UNSURE))]).await
}

async fn ask(house: &House, headers: &[(&str, &str)]) -> Reply {
    let body = r#"{"model":"auto","temperature":0.7,"max_tokens":9,"messages":[{"role":"user","content":"my key is sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD"}]}"#;
    house.post("/v1/chat/completions", headers, body).await
}

/// All that the receiver got of the requests so far.
async fn received(house: &House, receiver: &Receiver, requests: usize) -> Vec<Value> {
    house.receipts(requests).await;
    soon(house.metrics.flush(Duration::from_secs(10))).await;
    receiver.spans()
}

fn named<'s>(spans: &'s [Value], name: &str) -> &'s Value {
    let found: Vec<&Value> = spans.iter().filter(|span| span["name"] == name).collect();
    let [span] = found[..] else { panic!("{} spans are called {name}: {spans:#?}", found.len()) };
    span
}

fn assert_holds(span: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&span["attributes"][key], value, "{key} of {span:#}");
    }
}

/// What all spans of the escalated request say.
fn assert_alike(spans: &[Value]) {
    for span in spans {
        assert_eq!((&span["trace_id"], &span["state"]), (&json!(TRACE), &json!("vendor=1")));
        assert!(
            span["start"].as_u64().unwrap() > 1_700_000_000_000_000_000
                && span["start"].as_u64() <= span["end"].as_u64()
        );
        assert_eq!(span["headers"]["x-team"], "a b");
        assert_eq!(
            (&span["resource"]["service.name"], &span["resource"]["service.version"]),
            (&json!("weir"), &json!(env!("CARGO_PKG_VERSION")))
        );
        assert!(!span.to_string().contains("my key is") && !span.to_string().contains("Paris"));
    }
}

/// One escalated request of a client that traces itself.
async fn escalated(telemetry: &str, receiver: &Receiver) {
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let house = open(telemetry, &fake).await;
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let reply = ask(&house, &[("traceparent", &parent), ("tracestate", "vendor=1")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-weir-trace-id")), (200, TRACE));

    let spans = received(&house, receiver, 1).await;
    assert_eq!(spans.len(), 5, "{spans:#?}");
    assert_alike(&spans);
    let [server, decide, local, gate, up] =
        ["chat auto", "decide", "chat local/small", "gate", "chat m"].map(|name| named(&spans, name));
    assert_eq!(
        (&server["parent"], &server["kind"], &server["flags"]),
        (&json!(CLIENT), &json!("server"), &json!(0x301))
    );
    for (span, kind, parent) in
        [(decide, "internal", server), (local, "internal", server), (gate, "internal", local), (up, "client", server)]
    {
        assert_eq!((&span["kind"], &span["parent"]), (&json!(kind), &parent["span_id"]), "{span:#}");
    }
    assert!(local["end"].as_u64() <= up["start"].as_u64() && up["end"].as_u64() <= server["end"].as_u64());

    let told = fake.asked().remove(0).headers;
    let sent = format!("00-{TRACE}-{}-01", up["span_id"].as_str().unwrap());
    assert_eq!([&told["traceparent"], &told["tracestate"]], [&*sent, "vendor=1"]);

    let decision =
        json!({"weir.policy": "p", "weir.rule": "small first", "weir.generation": 1, "weir.plan": "cascade"});
    assert_holds(decide, &decision);
    assert_holds(server, &decision);
    assert_holds(
        server,
        &json!({
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "up", "gen_ai.request.model": "auto",
            "gen_ai.response.model": "up/m", "gen_ai.request.temperature": 0.7, "gen_ai.request.max_tokens": 9,
            "gen_ai.request.stream": false, "gen_ai.output.type": "text", "weir.outcome": "ok",
            "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5, "weir.cost_usd": 2e-5, "weir.tenant": "anonymous",
        }),
    );
    assert_holds(
        local,
        &json!({
            "gen_ai.provider.name": "llama.cpp", "gen_ai.request.model": "local/small", "weir.stage": 0,
            "weir.outcome": "discarded", "weir.reason": "early_low_confidence",
        }),
    );
    assert_eq!(local["events"][0]["name"], "first_chunk");
    assert_holds(gate, &json!({"weir.gate.accepted": false, "weir.reason": "early_low_confidence"}));
    assert!(gate["attributes"]["weir.confidence"].as_str().unwrap().starts_with("min_logprob=-3, "));
    let port: u64 = fake.url().split([':', '/']).nth(4).unwrap().parse().unwrap();
    assert_holds(
        up,
        &json!({
            "gen_ai.provider.name": "up", "gen_ai.request.model": "m", "weir.model": "up/m", "weir.stage": 1,
            "server.address": "127.0.0.1", "server.port": port, "weir.outcome": "served", "weir.reason": "accepted",
            "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5,
        }),
    );
    eprintln!("{}", receiver.tree());
    assert!(house.rendered().contains("weir_spans_total{outcome=\"exported\"} 5"));
}

#[tokio::test]
async fn an_escalated_request_is_received_as_a_tree_over_grpc() {
    let receiver = Receiver::start();
    escalated(&format!("otlp = \"{}\", sample = 0", receiver.grpc), &receiver).await;
}

#[tokio::test]
async fn an_escalated_request_is_received_as_a_tree_over_http() {
    let receiver = Receiver::start();
    escalated(&format!("otlp = \"{}\", protocol = \"http\", sample = 0", receiver.http), &receiver).await;
}

#[tokio::test]
async fn a_clients_decision_wins_over_the_share_and_what_is_not_sampled_is_only_passed_on() {
    let receiver = Receiver::start();
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let house = open(&format!("otlp = \"{}\", sample = 1.0", receiver.grpc), &fake).await;
    let reply = ask(&house, &[("traceparent", &format!("00-{TRACE}-{CLIENT}-00"))]).await;
    assert_eq!(reply.header("x-weir-trace-id"), "");
    let sent = fake.asked().remove(0).headers["traceparent"].to_str().unwrap().to_owned();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00") && !sent.contains(CLIENT), "{sent}");
    let own = ask(&house, &[("traceparent", "00-bad")]).await.header("x-weir-trace-id").to_owned();
    assert!(own.len() == 32 && own != TRACE, "{own}");
    let spans = received(&house, &receiver, 2).await;
    assert!(!spans.is_empty() && spans.iter().all(|span| span["trace_id"] == own.as_str()), "{spans:#?}");
    let server = named(&spans, "chat auto");
    assert_eq!((&server["parent"], &server["flags"]), (&json!(""), &json!(0x101)));
}

#[tokio::test]
async fn without_telemetry_a_clients_trace_is_passed_on_as_it_is() {
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let house = House::open(&upstream("up", &fake, "models = [\"m\"]")).await;
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let body = crate::gateway::house::chat("up/m");
    let reply = house.post("/v1/chat/completions", &[("traceparent", &parent), ("tracestate", "a=b")], body).await;
    assert_eq!(reply.header("x-weir-trace-id"), "");
    house.ask("up/m").await;
    let [with, without] = &fake.asked()[..] else { panic!() };
    assert_eq!([&with.headers["traceparent"], &with.headers["tracestate"]], [&*parent, "a=b"]);
    assert!(!without.headers.contains_key("traceparent"));
}

#[tokio::test]
async fn texts_are_told_only_where_asked_for_and_without_their_secrets() {
    let receiver = Receiver::start();
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let house = open(&format!("otlp = \"{}\", sample = 1.0, content = true", receiver.grpc), &fake).await;
    ask(&house, &[]).await;
    let spans = received(&house, &receiver, 1).await;
    let told = &named(&spans, "chat auto")["attributes"];
    let read = |name: &str| serde_json::from_str::<Value>(told[name].as_str().unwrap()).unwrap();
    let asked = read("gen_ai.input.messages");
    assert_eq!(asked[0]["role"], "user");
    let text = asked[0]["parts"][0]["content"].as_str().unwrap();
    assert!(text.starts_with("my key is [") && !text.contains("abcdefgh"), "{text}");
    let said = json!([{"role": "assistant", "parts": [{"type": "text", "content": "Paris"}]}]);
    assert_eq!(read("gen_ai.output.messages"), said);
}

#[tokio::test]
async fn a_failed_request_says_of_what_kind_and_whose_fault_it_is() {
    let receiver = Receiver::start();
    let fake = FakeUpstream::saying(Answer::json("{}").status(503)).await;
    let house = open(&format!("otlp = \"{}\", sample = 1.0", receiver.grpc), &fake).await;
    assert_eq!(ask(&house, &[]).await.status, 503);
    assert_eq!(house.get("/v1/what").await.status, 404);
    let spans = received(&house, &receiver, 2).await;
    let (server, up, lost) = (named(&spans, "chat auto"), named(&spans, "chat m"), named(&spans, "request"));
    assert_holds(
        server,
        &json!({"error.type": "unavailable", "weir.error.origin": "upstream", "weir.outcome": "unavailable"}),
    );
    assert_holds(up, &json!({"error.type": "unavailable", "weir.outcome": "failed"}));
    assert_eq!((&server["status"], &up["status"]), (&json!("error"), &json!("error")));
    assert_holds(lost, &json!({"error.type": "not_found", "weir.error.origin": "client"}));
    assert_eq!(lost["status"], "unset", "a client's mistake is no error of the server");
}

#[tokio::test]
async fn an_audit_is_a_trace_of_its_own_that_names_the_request() {
    let receiver = Receiver::start();
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let telemetry = format!("telemetry = {{ otlp = \"{}\", sample = 1.0 }}", receiver.grpc);
    let config = format!("{telemetry}\n{REST}{}", upstream("up", &fake, "models = [\"m\"]"));
    let policy = "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = { cascade = [\"local/small\", \"up/m\"], accept = { \
        max_error = 0.1, calibration = \"c.json\", audit = { share = 1, allowance = 0.05 } } }\n";
    let calibration = include_str!("../fixtures/calibration.json");
    let files = [("m.gguf", "abc"), ("c.json", calibration), ("p.toml", policy)];
    let local = Arc::new(Local { logprob: -0.01, margin: 5.0 });
    let house = House::open_standing_in(&config, &files, &[], &[("local/small", local)]).await;
    let body = r#"{"model":"auto","messages":[{"role":"user","content":"Where is the tower?"}]}"#;
    let reply = house.chat(body).await;
    assert_eq!(reply.header("x-weir-served-by"), "local/small", "{}", reply.text());
    house.audits(1).await;
    let spans = received(&house, &receiver, 1).await;
    let [server, gate, audit] = ["chat auto", "gate", "audit"].map(|name| named(&spans, name));
    assert_holds(gate, &json!({"weir.gate.accepted": true, "weir.reason": "certified"}));
    assert!(server["attributes"]["weir.certificate"].as_str().unwrap().starts_with("max_error=0.1 "));
    assert_ne!(audit["trace_id"], server["trace_id"]);
    assert_eq!(audit["links"], json!([{"trace_id": server["trace_id"], "span_id": server["span_id"]}]));
    assert_holds(
        audit,
        &json!({
            "weir.slice": "facts, short", "weir.outcome": "graded", "weir.audit.loss": 1.0, "weir.model": "up/m",
            "weir.request.id": server["attributes"]["weir.request.id"], "gen_ai.usage.input_tokens": 10,
        }),
    );
    let sent = format!("00-{}-{}-01", audit["trace_id"].as_str().unwrap(), audit["span_id"].as_str().unwrap());
    assert_eq!(fake.asked()[0].headers["traceparent"], *sent);
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_one_that_refuses_is_not() {
    let tries = AtomicUsize::new(0);
    let collector = FakeUpstream::start(move |asked| {
        assert_eq!(
            (asked.path.as_str(), &asked.headers["content-type"]),
            ("/v1/traces", &"application/x-protobuf".parse().unwrap())
        );
        let status = [503, 200, 400][tries.fetch_add(1, Ordering::SeqCst)];
        Answer::json("").status(status)
    })
    .await;
    let address = collector.url().replace("/v1", "");
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    let house = open(&format!("otlp = \"{address}\", protocol = \"http\", sample = 1.0"), &fake).await;
    for requests in 1..=2 {
        ask(&house, &[]).await;
        house.receipts(requests).await;
        soon(house.metrics.flush(Duration::from_secs(10))).await;
    }
    assert_eq!(collector.asked().len(), 3);
    let page = house.rendered();
    for line in ["weir_spans_total{outcome=\"exported\"} 5", "weir_spans_total{outcome=\"dropped\"} 5"] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}
