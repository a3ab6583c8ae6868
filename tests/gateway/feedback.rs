//! What clients say of answers is checked, counted and noted, and asks no model.

use weir::account::Outcome;
use weir::request::{Feedback, Verdict};

use super::house::{House, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

async fn house() -> House {
    let fake = FakeUpstream::saying(Answer::json("{}")).await;
    House::open(&upstream("up", &fake, "models = [\"m\"]")).await
}

#[tokio::test]
async fn feedback_is_counted_by_its_verdict_and_stands_on_the_receipt() {
    let house = house().await;
    for (body, verdict) in [
        (r#"{"request_id":"req_1","correct":true}"#, Verdict::Correct),
        (r#"{"request_id":"req_1","correct":false,"score":null}"#, Verdict::Wrong),
        (r#"{"request_id":"req_1","score":0.25}"#, Verdict::Scored(0.25)),
    ] {
        let before = house.receipts(0).await.len();
        let reply = house.post("/v1/feedback", &[("content-type", "application/json")], body).await;
        assert_eq!((reply.status.as_u16(), reply.json()["verdict"].as_str()), (200, Some(verdict.name())), "{body}");
        let receipt = &house.receipts(before + 1).await[before];
        let noted = Feedback { request_id: "req_1".into(), verdict };
        assert_eq!((receipt.outcome, receipt.feedback.as_ref()), (Outcome::Ok, Some(&noted)));
    }
    let counted = house.rendered();
    for verdict in ["correct", "wrong", "scored"] {
        assert!(counted.contains(&format!("weir_feedback_total{{verdict=\"{verdict}\"}} 1")), "{counted}");
    }
}

#[tokio::test]
async fn feedback_that_says_nothing_or_too_much_is_refused_by_its_field() {
    let house = house().await;
    for (body, param) in [
        (r#"{"correct":true}"#, "request_id"),
        (r#"{"request_id":"","correct":true}"#, "request_id"),
        (r#"{"request_id":"a b","correct":true}"#, "request_id"),
        (r#"{"request_id":7,"correct":true}"#, "request_id"),
        (r#"{"request_id":"r"}"#, "correct"),
        (r#"{"request_id":"r","correct":"yes"}"#, "correct"),
        (r#"{"request_id":"r","correct":true,"score":1}"#, "correct"),
        (r#"{"request_id":"r","score":1.5}"#, "score"),
        (r#"{"request_id":"r","correct":true,"text":"x"}"#, "text"),
    ] {
        let reply = house.post("/v1/feedback", &[("content-type", "application/json")], body).await;
        assert_eq!((reply.status.as_u16(), reply.json()["error"]["param"].as_str()), (400, Some(param)), "{body}");
    }
    assert_eq!(house.get("/v1/feedback").await.status, 405);
    assert!(!house.rendered().contains("weir_feedback_total{"));
}
