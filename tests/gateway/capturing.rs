//! What is captured over HTTP: nothing unless asked for, then the request, the answer and what was
//! said of it, without secrets.

use weir::observe::Metrics;

use super::house::{House, answer, chat, events, streamed, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

async fn fake() -> FakeUpstream {
    FakeUpstream::start(|asked| {
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        if text.contains("\"stream\":true") {
            let said = events("streamed");
            Answer::events(&said.iter().map(String::as_str).collect::<Vec<_>>())
        } else {
            Answer::json(answer("it is sk-abcdefghijklmnopqrstuvwxyz"))
        }
    })
    .await
}

fn captured(house: &House) -> Vec<serde_json::Value> {
    house.metrics.close();
    let text = std::fs::read_to_string(house.path("capture.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_captured_with_its_answer_and_what_was_said_of_it() {
    let fake = fake().await;
    let table = "[capture]\nfile = \"capture.jsonl\"\n".to_owned() + &upstream("up", &fake, "models = [\"m\"]");
    let house = House::open(&table).await;
    house.chat(&chat("up/m").replace("hi", "card 4111 1111 1111 1111")).await;
    house.chat(&streamed("up/m")).await;
    house.post("/v1/feedback", &[], r#"{"request_id":"req_1","correct":true}"#).await;
    house.receipts(3).await;
    let lines = captured(&house);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0]["request"]["messages"][0]["content"], "card [card]");
    assert_eq!((&lines[0]["answer"], &lines[1]["answer"]), (&"it is [api-key]".into(), &"streamed".into()));
    assert_eq!((&lines[0]["served_by"], &lines[0]["decision"]["rule"]), (&"up/m".into(), &"named".into()));
    assert_eq!((&lines[0]["attempts"][0]["completion_tokens"], &lines[0]["captured_with"]), (&5.into(), &1.0.into()));
    assert_eq!(lines[2]["feedback"]["correct"], true);
    assert!(house.rendered().contains("weir_capture_dropped_total 0"));
}

#[tokio::test]
async fn without_text_no_word_of_a_client_is_kept() {
    let fake = fake().await;
    let table =
        "[capture]\nfile = \"capture.jsonl\"\ntext = false\n".to_owned() + &upstream("up", &fake, "models = [\"m\"]");
    let house = House::open(&table).await;
    house.chat(&chat("up/m").replace("hi", "umbrella")).await;
    house.receipts(1).await;
    let lines = captured(&house);
    assert_eq!(lines[0]["request"]["messages"][0]["content"]["chars"], 8);
    assert!(!lines[0].to_string().contains("umbrella") && !lines[0].to_string().contains("it is"));
}

#[tokio::test]
async fn nothing_is_captured_unless_the_configuration_says_so() {
    let fake = fake().await;
    let house = House::open(&upstream("up", &fake, "models = [\"m\"]")).await;
    house.ask("up/m").await;
    assert!(house.receipts(1).await[0].captured.is_none());
    assert!(!house.path("capture.jsonl").exists());
    assert!(Metrics::open(None).is_ok());
}
