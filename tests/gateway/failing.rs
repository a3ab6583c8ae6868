//! What goes wrong before and after the first byte, and who answers then.

use std::sync::Arc;

use super::house::{House, answer, chat, connect, events, read_until, soon, streamed, upstream, with_policy};
use crate::fake_upstream::{Answer, FakeUpstream, Piece};
use tokio::sync::Notify;
use weir::account::AttemptOutcome;
use weir::error::Kind;

const MODELS: &str = "models = [\"m\"]";

/// A first choice that fails like this, and a second that answers.
async fn pair(first: Answer) -> (House, FakeUpstream, FakeUpstream) {
    let second = events("two");
    let second = FakeUpstream::start(move |asked| {
        let stream = String::from_utf8_lossy(&asked.body).contains("\"stream\":true");
        let pieces: Vec<&str> = second.iter().map(String::as_str).collect();
        if stream { Answer::events(&pieces) } else { Answer::json(answer("two")) }
    });
    let (first, second) = (FakeUpstream::saying(first).await, second.await);
    let (table, policy) = with_policy("[\"a/m\", \"b/m\"]");
    let config = upstream("a", &first, MODELS) + &upstream("b", &second, MODELS) + &table;
    (House::open_with(&config, &[("p.toml", &policy)], &[]).await, first, second)
}

async fn single(answer: Answer) -> (House, FakeUpstream) {
    let fake = FakeUpstream::saying(answer).await;
    (House::open(&upstream("up", &fake, MODELS)).await, fake)
}

#[tokio::test]
async fn targets_are_asked_in_order_until_one_answers() {
    let failures = [
        Answer::json("{}").status(503),
        Answer::json("{}").status(500),
        Answer::json("{}").status(401),
        Answer::json("{}").status(429),
        Answer::json("{}").status(404),
        Answer::json("<html>"),
        Answer::json(r#"{"error":{"message":"overloaded"}}"#),
    ];
    for failure in failures {
        let (house, first, second) = pair(failure.clone()).await;
        let reply = house.ask("auto").await;
        assert_eq!(reply.status, 200, "{failure:?}");
        assert_eq!(reply.header("x-weir-served-by"), "b/m", "{failure:?}");
        assert_eq!((first.asked().len(), second.asked().len()), (1, 1), "{failure:?}");
        let attempts = &house.receipts(1).await[0].attempts;
        assert!(matches!(attempts[0].outcome, AttemptOutcome::Failed(_)), "{failure:?}");
        assert_eq!((attempts[0].model.as_str(), attempts[1].outcome), ("a/m", AttemptOutcome::Served), "{failure:?}");
    }
}

#[tokio::test]
async fn the_first_target_that_answers_is_the_only_one_asked() {
    let (house, _first, second) = pair(Answer::json(answer("one"))).await;
    assert_eq!(house.ask("auto").await.header("x-weir-served-by"), "a/m");
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn a_request_that_is_wrong_everywhere_is_not_tried_elsewhere() {
    let body = r#"{"error":{"message":"bad","param":"temperature"}}"#;
    let (house, _first, second) = pair(Answer::json(body).status(400)).await;
    let reply = house.ask("auto").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (400, body));
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn an_upstreams_error_passes_with_its_status_headers_and_body() {
    let body = r#"{ "error" : {"message":"slow down","type":"requests","code":"rate_limit_exceeded","new":[1]} }"#;
    let failure = Answer::json(body)
        .status(429)
        .header("retry-after", "7")
        .header("x-ratelimit-remaining-requests", "0")
        .header("openai-processing-ms", "3")
        .header("server", "secretive")
        .header("x-request-id", "theirs");
    let (house, _fake) = single(failure).await;
    for body_sent in [chat("up/m"), streamed("up/m")] {
        let reply = house.chat(&body_sent).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (429, body));
        let told =
            ["retry-after", "x-ratelimit-remaining-requests", "openai-processing-ms", "x-weir-origin", "content-type"];
        assert_eq!(told.map(|name| reply.header(name)), ["7", "0", "3", "upstream", "application/json"]);
        assert_eq!(reply.header("server"), "");
        assert!(reply.header("x-request-id").starts_with("req_"));
        assert_eq!(reply.header("x-weir-policy"), "direct@1; rule=named");
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_502_that_names_it() {
    let gone = FakeUpstream::saying(Answer::silent()).await;
    let config = upstream("up", &gone, MODELS);
    drop(gone);
    let house = House::open(&config).await;
    let reply = house.ask("up/m").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-weir-origin")), (502, "upstream"));
    assert!(reply.message().contains("upstream \"up\": cannot connect"), "{}", reply.message());
    assert_eq!(reply.json()["error"]["code"], "upstream_unavailable");
}

#[tokio::test]
async fn an_error_before_the_first_event_lets_the_next_target_answer() {
    let error = "data: {\"error\":{\"message\":\"busy\"}}\n\n";
    for first in [
        Answer::events(&[error]),
        Answer::events(&["event: error\n", error]),
        Answer::events(&[": hello\n\n"]).then(Piece::Break),
    ] {
        let (house, _first, _second) = pair(first).await;
        let reply = house.chat(&streamed("auto")).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-weir-served-by")), (200, "b/m"));
        assert!(reply.text().ends_with("data: [DONE]\n\n") && !reply.text().contains("busy"), "{}", reply.text());
    }
}

#[tokio::test]
async fn an_error_after_the_first_event_ends_the_stream_with_an_error_and_without_the_end_mark() {
    let first = &events("one")[0];
    let broken = [
        Answer::events(&[first, "data: {\"error\":{\"message\":\"out of memory\",\"code\":\"oom\"}}\n\n"]),
        Answer::events(&[first]).then(Piece::Break),
        Answer::events(&[first]),
        Answer::events(&[first, "data: nonsense\n\n"]),
    ];
    for answer in broken {
        let (house, _first, second) = pair(answer.clone()).await;
        let reply = house.chat(&streamed("auto")).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-weir-served-by")), (200, "a/m"));
        let mut events: Vec<&str> = reply.text().split_terminator("\n\n").collect();
        let last = events.pop().unwrap().strip_prefix("data: ").unwrap();
        let error: serde_json::Value = serde_json::from_str(last).unwrap();
        assert!(error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}: {last}");
        assert!(events.len() == 1 && events[0].contains("one"), "{answer:?}: {events:?}");
        assert!(second.asked().is_empty(), "{answer:?}");
        let receipt = &house.receipts(1).await[0];
        assert_eq!(receipt.error.as_ref().map(|failure| failure.kind), Some(Kind::Unavailable), "{answer:?}");
    }
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_no_answer() {
    let (house, _first, _second) = pair(Answer::json("{\"id\":").then(Piece::Break)).await;
    assert_eq!(house.ask("auto").await.header("x-weir-served-by"), "b/m");
}

#[tokio::test]
async fn a_failing_upstream_is_asked_again_only_as_often_as_configured() {
    let fake = FakeUpstream::saying(Answer::json("{}").status(503).header("retry-after-ms", "1")).await;
    let config = upstream("up", &fake, MODELS).replace("retries = 0", "retries = 2");
    let house = House::open(&config).await;
    assert_eq!(house.ask("up/m").await.status, 503);
    assert_eq!(fake.asked().len(), 3);
    assert_eq!(house.receipts(1).await[0].attempts.len(), 1);
}

#[tokio::test]
async fn an_upstream_without_its_key_is_unavailable_with_the_reason_and_never_asked() {
    let fake = FakeUpstream::saying(Answer::json(answer("one"))).await;
    let config = upstream("up", &fake, "models = [\"m\"]\napi_key = { env = \"UP_KEY\" }");
    let house = House::open(&config).await;
    let reply = house.ask("up/m").await;
    assert_eq!((reply.status.as_u16(), reply.header("x-weir-origin")), (503, "gateway"));
    assert!(reply.message().contains("UP_KEY is not set"), "{}", reply.message());
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_policy_may_refuse_with_its_own_status_and_message() {
    let fake = FakeUpstream::saying(Answer::json(answer("one"))).await;
    let policy = "name = \"p\"\n[[rule]]\nname = \"not today, 100 %\"\nthen = { reject = { status = 451, message = \"not here\" } }\n";
    let config = upstream("up", &fake, MODELS) + "[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
    let house = House::open_with(&config, &[("p.toml", policy)], &[]).await;
    let reply = house.ask("auto").await;
    assert_eq!((reply.status.as_u16(), reply.message().as_str()), (451, "not here"));
    assert_eq!(reply.json()["error"]["code"], "rejected_by_policy");
    assert_eq!(reply.header("x-weir-policy"), "p@1; rule=not%20today%2C%20100%20%25");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_over_the_wire() {
    let (house, fake) = single(Answer::json(answer("one"))).await;
    let json = [("content-type", "application/json")];
    let table = [
        (house.chat("{\"model\":").await, 400, "invalid_json"),
        (house.post("/v1/chat/completions", &json, &b"{\"model\":\"\xff\"}"[..]).await, 400, "invalid_utf8"),
        (
            house.post("/v1/chat/completions", &[("content-type", "text/plain")], chat("up/m")).await,
            415,
            "unsupported_media_type",
        ),
        (house.get("/v1/chat/completions").await, 405, "method_not_allowed"),
        (house.post("/v1/nothing", &json, "{}").await, 404, "unknown_url"),
        (house.chat(r#"{"model":"up/m","messages":[]}"#).await, 400, "invalid_value"),
    ];
    for (reply, status, code) in &table {
        assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (*status, Some(*code)));
        assert_eq!(reply.header("x-weir-origin"), "client", "{code}");
        assert!(reply.header("x-request-id").starts_with("req_"), "{code}");
    }
    assert_eq!(table[3].0.header("allow"), "POST");
    assert!(fake.asked().is_empty());
    assert!(house.receipts(table.len()).await.iter().all(|receipt| receipt.served_by.is_none()));
}

#[tokio::test]
async fn a_body_of_17_mib_is_refused_with_413_however_it_comes() {
    let (house, fake) = single(Answer::json(answer("one"))).await;
    let reply = house.chat(&" ".repeat(17 << 20)).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (413, Some("too_large")));
    assert!(reply.message().contains("max_body"));
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn bodies_that_do_not_fit_beside_all_others_are_refused_until_there_is_room_again() {
    let gate = Arc::new(Notify::new());
    let late = Answer::json("").then(Piece::Wait(Arc::clone(&gate))).and(&[&answer("one")]);
    let fake = FakeUpstream::saying(late).await;
    let config = format!("max_body = \"1MiB\"\nmax_bodies = \"1MiB\"\n{}", upstream("up", &fake, MODELS));
    let house = House::open(&config).await;
    let large = chat("up/m").replace("hi", &"x".repeat(700 << 10));
    let mut first = connect(&house, &large).await;
    while fake.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    house.reload().await.unwrap();
    let refused = house.chat(&large).await;
    assert_eq!((refused.status.as_u16(), refused.json()["error"]["code"].as_str()), (429, Some("overloaded")));
    assert_eq!((refused.header("retry-after"), refused.header("x-weir-origin")), ("1", "gateway"));
    assert!(refused.message().contains("max_bodies") && fake.asked().len() == 1, "{}", refused.message());
    gate.notify_one();
    assert!(read_until(&mut first, "\"total_tokens\":15").await.contains("one"));
    gate.notify_one();
    let again = async {
        while house.chat(&large).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
    assert_eq!(fake.asked().len(), 2);
}
