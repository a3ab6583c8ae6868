//! What a stream sends, and when; and what passes through from an upstream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, channel::mpsc};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::*;
use crate::error::{Error, Kind, Origin, Passed};

const CHUNK: &str =
    r#"{"id":"u","model":"large-2","new":[1],"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#;
const USAGE: &str = r#"{"id":"u","model":"large-2","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

/// The `data` of the events, and the comments.
fn events(text: &str) -> (Vec<String>, Vec<String>) {
    let lines = || text.split("\n\n").filter(|event| !event.is_empty());
    let with = |prefix: &str| lines().filter_map(|event| event.strip_prefix(prefix)).map(str::to_owned).collect();
    assert!(text.ends_with("\n\n"));
    (with("data: "), with(": "))
}

/// The next frame of a body.
async fn next(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

async fn streamed(shape: Shape, deltas: Vec<Result<Delta>>) -> (Vec<String>, Vec<String>) {
    events(&text_of(answer(shape, deltas).await.unwrap()).await)
}

#[tokio::test]
async fn the_head_of_a_stream_forbids_buffering_and_shows_the_upstreams_headers() {
    let mut completion = completion(stream::iter([raw(CHUNK), end()]).boxed());
    completion.headers.insert("x-ratelimit-remaining-tokens", "7".parse().unwrap());
    let response = respond(completion, shape(Endpoint::Chat, true), Box::new(String::new)).await.unwrap();
    let headers = response.headers();
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert_eq!(headers["x-ratelimit-remaining-tokens"], "7");
}

#[tokio::test]
async fn an_upstreams_chunks_keep_their_unknown_fields_and_lose_the_usage_nobody_asked_for() {
    let (data, comments) = streamed(shape(Endpoint::Chat, true), vec![raw(CHUNK), raw(USAGE), end()]).await;
    let chunk = r#"{"id":"u","model":"local/small","new":[1],"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    assert_eq!(data, [chunk, "[DONE]"]);
    assert_eq!(comments, ["weir cost-usd=0"]);
}

#[tokio::test]
async fn the_usage_that_was_asked_for_is_told_once() {
    let asked = || Shape { include_usage: true, ..shape(Endpoint::Chat, true) };
    let (data, _) = streamed(asked(), vec![raw(CHUNK), raw(USAGE), end()]).await;
    assert_eq!(data.len(), 3);
    assert!(data[0].ends_with(r#""usage":null}"#) && data[1].contains(r#""completion_tokens":2"#));
    let (data, _) = streamed(asked(), vec![raw(CHUNK), end()]).await;
    assert!(data[1].contains(r#""choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12"#));
}

#[tokio::test]
async fn an_upstreams_whole_body_changes_only_the_models_name() {
    let body = r#"{"id":"u", "model" : "large-2", "new":{"x":[1.50]}, "usage":{"prompt_tokens":1}}"#;
    for endpoint in [Endpoint::Chat, Endpoint::Text, Endpoint::Embed { base64: false }] {
        let response = answer(shape(endpoint, false), vec![raw(body), end()]).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(text_of(response).await, body.replace("large-2", "local/small"));
    }
}

#[tokio::test]
async fn an_error_before_the_end_fails_an_answer_in_one_piece() {
    let broken = || Err(Error::new(Kind::Unavailable, Origin::Upstream, "gone"));
    let error = answer(shape(Endpoint::Chat, false), vec![said(0, "a", vec![]), broken()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let error = answer(shape(Endpoint::Chat, false), vec![said(0, "a", vec![])]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

#[tokio::test]
async fn an_error_in_a_stream_is_its_last_event_and_there_is_no_done() {
    let gone = Error::new(Kind::Unavailable, Origin::Upstream, "gone");
    let own = Passed {
        status: http::StatusCode::BAD_GATEWAY,
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"message\":\"over\",\n\"code\":529}"),
    };
    for (error, last) in [
        (
            gone.clone(),
            r#"{"error":{"message":"gone","type":"server_error","param":null,"code":"upstream_unavailable"}}"#,
        ),
        (gone.passed(own), r#"{"error":{"message":"over","type":"","param":null,"code":"529"}}"#),
    ] {
        let (data, comments) = streamed(shape(Endpoint::Chat, true), vec![raw(CHUNK), Err(error)]).await;
        assert_eq!((data.len(), data[1].as_str()), (2, last));
        assert!(comments.is_empty());
    }
    let (data, _) = streamed(shape(Endpoint::Chat, true), vec![raw(CHUNK)]).await;
    assert!(data[1].contains("stopped before its end"));
}

#[tokio::test]
async fn the_text_of_a_stream_is_that_of_the_answer_in_one_piece() {
    let mut seed = 7_u32;
    let mut next = |bound: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % bound
    };
    for _ in 0..100 {
        let pieces = ["", "a", "\u{e9}\u{20ac}", "\"\n\\", "\u{0}\u{1f600}"];
        let mut deltas: Vec<_> = (0..next(30)).map(|_| said(next(3), pieces[next(5) as usize], vec![])).collect();
        deltas.extend([finish(0, Finish::Stop), finish(1, Finish::Stop), finish(2, Finish::Length), end()]);
        let whole = text_of(answer(shape(Endpoint::Chat, false), deltas.clone()).await.unwrap()).await;
        let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let (data, _) = streamed(shape(Endpoint::Chat, true), deltas).await;
        let mut texts = vec![String::new(); 3];
        for chunk in data.iter().filter(|data| *data != "[DONE]") {
            let chunk: serde_json::Value = serde_json::from_str(chunk).unwrap();
            let choice = &chunk["choices"][0];
            texts[choice["index"].as_u64().unwrap() as usize] += choice["delta"]["content"].as_str().unwrap_or("");
        }
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(whole["choices"][at]["message"]["content"].as_str().unwrap(), text);
        }
    }
}

#[tokio::test]
async fn what_is_ready_is_gathered_into_few_frames() {
    let many: Vec<_> = (0..1000).map(|_| raw(CHUNK)).chain([end()]).collect();
    let mut body = answer(shape(Endpoint::Chat, true), many).await.unwrap().into_body();
    let mut sizes = Vec::new();
    while let Some(frame) = body.frame().await {
        sizes.push(frame.unwrap().into_data().unwrap().len());
    }
    let total: usize = sizes.iter().sum();
    assert!(sizes.len() <= total / (16 * 1024) + 1, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 17 * 1024));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_sends_a_comment_every_15_seconds_of_silence() {
    let (mut sender, receiver) = mpsc::channel(8);
    let response = respond(completion(receiver.boxed()), shape(Endpoint::Chat, true), Box::new(String::new)).await;
    let mut body = response.unwrap().into_body();
    let start = Instant::now();
    for seconds in [15, 30] {
        assert_eq!(&next(&mut body).await[..], b": keep-alive\n\n");
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
    assert!(body.frame().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(10)).await;
    sender.try_send(raw(CHUNK)).unwrap();
    assert!(next(&mut body).await.starts_with(b"data: {"));
    assert_eq!(&next(&mut body).await[..], b": keep-alive\n\n");
    assert_eq!(start.elapsed().as_secs(), 55);
}

#[tokio::test]
async fn the_story_is_asked_once_at_the_end_and_kept_until_the_body_is_dropped() {
    for stream in [true, false] {
        let calls = Arc::new(AtomicUsize::new(0));
        let held = calls.clone();
        let tail = Box::new(move || {
            held.fetch_add(1, Ordering::Relaxed);
            "a=1\nb=2".to_owned()
        });
        let deltas = stream::iter([said(0, "a", vec![]), end()]).boxed();
        let mut body = respond(completion(deltas), shape(Endpoint::Chat, stream), tail).await.unwrap().into_body();
        assert_eq!((calls.load(Ordering::Relaxed), Arc::strong_count(&calls)), (0, 2));
        let data = next(&mut body).await;
        assert_eq!(String::from_utf8_lossy(&data).contains(": weir a=1 b=2\n\ndata: [DONE]\n\n"), stream);
        assert!(http_body::Body::is_end_stream(&body));
        assert!(body.frame().await.is_none());
        assert_eq!((calls.load(Ordering::Relaxed), Arc::strong_count(&calls)), (usize::from(stream), 2));
        drop(body);
        assert_eq!(Arc::strong_count(&calls), 1);
    }
}

#[tokio::test]
async fn dropping_the_body_drops_the_work() {
    let (mut sender, receiver) = mpsc::channel(8);
    sender.try_send(raw(CHUNK)).unwrap();
    let response = respond(completion(receiver.boxed()), shape(Endpoint::Chat, true), Box::new(String::new)).await;
    let mut body = response.unwrap().into_body();
    next(&mut body).await;
    assert!(!sender.is_closed());
    drop(body);
    assert!(sender.is_closed());
}
