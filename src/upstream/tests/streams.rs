//! Streamed answers: order, usage, ends, breaks and cancelling.

use super::*;

const FIRST: &str = r#"{"model":"m","choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}"#;
const FINISH: &str = r#"{"model":"m","choices":[{"delta":{},"finish_reason":"stop"}],"extra":"é"}"#;
const TOTAL: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
const FINISH_AND_TOTAL: &str =
    r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

fn events(list: &[&str]) -> String {
    list.iter().map(|data| format!("data: {data}\n\n")).collect()
}

async fn answer(reply: Reply) -> (Vec<Bytes>, Result<Option<Usage>, Error>) {
    let fake = Fake::start([reply]).await;
    all(upstream(&[&fake]).start(streaming()).await.unwrap()).await
}

#[tokio::test]
async fn every_event_is_one_delta_with_its_own_bytes() {
    let whole = events(&[FIRST, FINISH, TOTAL, "[DONE]"]);
    let (start, rest) = whole.split_at(40);
    for reply in [Reply::stream(&[&whole]), Reply::stream(&[start, rest]), Reply::stream(&[": ping\n\n", start, rest])]
    {
        let (raw, end) = answer(reply).await;
        assert_eq!(raw, [FIRST, FINISH, TOTAL]);
        assert_eq!(end.unwrap(), Some(USAGE));
    }
}

#[tokio::test]
async fn usage_is_read_from_a_last_chunk_with_choices_too() {
    let (_, end) = answer(Reply::stream(&[&events(&[FIRST, FINISH_AND_TOTAL, "[DONE]"])])).await;
    assert_eq!(end.unwrap(), Some(USAGE));
    let (_, end) = answer(Reply::stream(&[&events(&[FIRST, FINISH, "[DONE]"])])).await;
    assert_eq!(end.unwrap(), None);
}

#[tokio::test]
async fn a_stream_without_an_end_mark_is_complete_if_its_answer_is() {
    let (_, end) = answer(Reply::stream(&[&events(&[FIRST, FINISH, TOTAL])])).await;
    assert_eq!(end.unwrap(), Some(USAGE));
    let (_, end) = answer(Reply::stream(&[&events(&[FIRST, FINISH]), "data: [DONE]"])).await;
    assert_eq!(end.unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error() {
    let cases = [
        (Reply::stream(&[&events(&[FIRST])]), "the stream ended early"),
        (Reply::cut(&[&events(&[FIRST])]), "the stream broke off"),
        (Reply::cut(&[&events(&[FIRST, FINISH])]), "the stream broke off"),
        (Reply::stream(&[&events(&[FIRST, r#"{"choices":"#])]), "an event of the stream is no JSON object"),
    ];
    for (reply, expected) in cases {
        let (raw, end) = answer(reply).await;
        let error = end.unwrap_err();
        assert_eq!(raw[0], FIRST);
        assert_eq!((error.kind(), error.detail().origin), (Kind::Unavailable, Origin::Upstream));
        assert!(error.detail().message.starts_with(&format!("upstream \"up\": {expected}")), "{error}");
    }
}

#[tokio::test]
async fn what_breaks_after_the_end_mark_does_not_matter() {
    let (_, end) = answer(Reply::cut(&[&events(&[FIRST, TOTAL, "[DONE]"])])).await;
    assert_eq!(end.unwrap(), Some(USAGE));
    let (_, end) = answer(Reply::cut(&[&events(&[FIRST, TOTAL, "[DONE]"])]).then(Then::Hang)).await;
    assert_eq!(end.unwrap(), Some(USAGE));
}

#[tokio::test]
async fn an_error_event_ends_the_answer() {
    let told = r#"{"error":{"message":"overloaded"}}"#;
    for bad in [format!("data: {told}\n\n"), "event: error\ndata: overloaded\n\n".to_owned()] {
        let (raw, end) = answer(Reply::stream(&[&events(&[FIRST]), &bad])).await;
        assert_eq!(raw, [FIRST]);
        assert_eq!(end.unwrap_err().detail().message, r#"upstream "up": overloaded"#);

        let fake = Fake::start([Reply::stream(&[&bad])]).await;
        let error = upstream(&[&fake]).start(streaming()).await.unwrap_err();
        assert_eq!((error.kind(), error.detail().retry), (Kind::Unavailable, Retry::Elsewhere));
    }
}

#[tokio::test]
async fn nothing_is_asked_again_after_the_first_byte() {
    for reply in [Reply::cut(&[&events(&[FIRST])]), Reply::cut(&[": ping\n\n"])] {
        let fake = Fake::start([reply, Reply::stream(&[&events(&[FIRST, "[DONE]"])])]).await;
        if let Ok(completion) = upstream(&[&fake]).start(streaming()).await {
            all(completion).await.1.unwrap_err();
        }
        assert_eq!(fake.unseen(), 1);
    }
}

#[tokio::test]
async fn silence_inside_a_stream_times_out() {
    let fake = Fake::start([Reply::cut(&[&events(&[FIRST])]).then(Then::Hang)]).await;
    let upstream = Upstream::new(Config { idle_timeout: Duration::from_millis(20), ..config(&[&fake]) }).unwrap();
    let (raw, end) = all(upstream.start(streaming()).await.unwrap()).await;
    assert_eq!(raw, [FIRST]);
    assert_eq!(end.unwrap_err().kind(), Kind::Timeout);
}

#[tokio::test]
async fn dropping_a_stream_closes_the_upstreams_connection() {
    let mut fake = Fake::start([Reply::cut(&[&events(&[FIRST])]).then(Then::Hang)]).await;
    let mut completion = upstream(&[&fake]).start(streaming()).await.unwrap();
    completion.deltas.next().await.unwrap().unwrap();
    drop(completion);
    fake.left().await;
}

#[tokio::test]
async fn dropping_a_call_before_its_head_closes_the_upstreams_connection() {
    let mut fake = Fake::start([Reply::raw(&[], Then::Hang)]).await;
    let upstream = upstream(&[&fake]);
    let mut running = upstream.start(call(chat()));
    tokio::select! {
        _ = &mut running => panic!("there is no answer"),
        _ = fake.seen() => {}
    }
    drop(running);
    fake.left().await;
    assert_eq!(upstream.status().slots_busy, 0);
}

#[tokio::test]
async fn a_whole_answer_to_a_stream_becomes_a_chunk() {
    let whole = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    let (raw, end) = answer(Reply::json(whole)).await;
    assert_eq!(
        raw,
        [whole.replace("chat.completion", "chat.completion.chunk").replace(
            r#""message":{"content":"hi"},"finish_reason":"stop""#,
            r#""finish_reason":"stop","delta":{"content":"hi"}"#
        )]
    );
    assert_eq!(end.unwrap(), Some(USAGE));
}
