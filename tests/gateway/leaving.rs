//! A client that leaves stops the work that is done for it, wherever that stands.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weir::account::{AttemptOutcome, Outcome};

use super::house::{House, chat, connect, events, read_until, soon, streamed, upstream};
use crate::fake_upstream::{Answer, FakeUpstream, Piece};

async fn open(answer: Answer) -> (House, FakeUpstream) {
    let fake = FakeUpstream::saying(answer).await;
    (House::open(&upstream("up", &fake, "models = [\"m\"]")).await, fake)
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_stream_closes_the_upstreams_connection_and_counts_as_canceled() {
    let (house, fake) = open(Answer::events(&[&events("hello")[0]]).then(Piece::Hang)).await;
    let mut client = connect(&house, &streamed("up/m")).await;
    read_until(&mut client, "hello").await;
    drop(client);
    soon(fake.left(1)).await;
    let receipt = &house.receipts(1).await[0];
    assert_eq!((receipt.outcome, receipt.attempts[0].outcome), (Outcome::Canceled, AttemptOutcome::Canceled));
    let metrics = house.rendered();
    assert!(
        metrics.contains("weir_requests_total{model=\"up/m\",outcome=\"canceled\",served_by=\"up/m\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("weir_slots{model=\"up/m\",state=\"busy\"} 0"), "{metrics}");
}

#[tokio::test]
async fn leaving_before_the_answer_begins_does_so_too() {
    for (answer, body) in [(Answer::silent(), chat("up/m")), (Answer::events(&[]).then(Piece::Hang), streamed("up/m"))]
    {
        let (house, fake) = open(answer).await;
        let client = connect(&house, &body).await;
        soon(async {
            while fake.asked().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(client);
        soon(fake.left(1)).await;
        assert_eq!(house.receipts(1).await[0].outcome, Outcome::Canceled);
    }
}

#[tokio::test]
async fn leaving_before_the_body_is_sent_asks_nobody() {
    let (house, fake) = open(Answer::silent()).await;
    let mut client = TcpStream::connect(house.address).await.unwrap();
    client
        .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"model\":")
        .await
        .unwrap();
    drop(client);
    assert_eq!(house.receipts(1).await[0].outcome, Outcome::Canceled);
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn one_connection_carries_request_after_request_and_errors_do_not_end_it() {
    let said = events("hello");
    let pieces: Vec<&str> = said.iter().map(String::as_str).collect();
    let (house, _fake) = open(Answer::events(&pieces)).await;
    let mut client = connect(&house, &streamed("up/m")).await;
    read_until(&mut client, "[DONE]\n\n\r\n0\r\n\r\n").await;
    for (body, end) in [(chat("gone"), "model_not_found"), (streamed("up/m"), "[DONE]\n\n\r\n0\r\n\r\n")] {
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        client.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut client, end).await;
    }
}
