//! The tab as a whole: what ends up on a receipt, whatever happens to the request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::{AttemptOutcome, Failure, Meter, Outcome, Price, Prices, Reason, Receipt, Record};
use crate::confidence::{Accept, Feature, Judge};
use crate::error::{Error, Kind, Origin, Result};
use crate::plan::{Decision, Gate, HoldBack, OnFailure, Plan, Stage};
use crate::request::{
    Ask, Chat, ClientBody, Delta, Embed, Message, ModelId, Part, Prompt, Raw, Request, Role, TenantId, Token, Usage,
};

#[derive(Debug, Default)]
struct Book(Mutex<Vec<Receipt>>);

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }
}

impl Book {
    fn only(&self) -> Receipt {
        let mut receipts = self.0.lock().unwrap();
        assert_eq!(receipts.len(), 1, "one receipt per meter");
        receipts.remove(0)
    }
}

fn prices() -> Arc<Prices> {
    let table = [("up/small", 1.0), ("up/large", 10.0)];
    let price = |input: f64| Price { input, cached_input: Some(input / 4.0), output: input * 2.0 };
    Arc::new(Prices { table: table.iter().map(|(name, input)| (name.to_string(), price(*input))).collect() })
}

fn open() -> (Arc<Book>, Meter) {
    let book = Arc::new(Book::default());
    (book.clone(), Meter::open(book, prices()))
}

fn request(stream: bool) -> Request {
    Request {
        id: "r-1".into(),
        tenant: TenantId::new("team"),
        model: "auto".into(),
        stream,
        ask: Ask::Chat(Chat { messages: vec![said(&"x".repeat(400))], ..Chat::default() }),
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

fn said(text: &str) -> Message {
    Message {
        role: Role::User,
        text: text.into(),
        images: 1,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    }
}

fn model(name: &str) -> ModelId {
    ModelId::new(name)
}

fn decision(models: &[&str]) -> Decision {
    let accept = Arc::new(Accept::Threshold(Judge::at_least(Feature::Margin, 0.0)));
    let gate = Gate { accept, hold_back: HoldBack::All };
    let stages = models.iter().map(|name| Stage { model: model(name), gate: Some(gate.clone()), skip: None }).collect();
    let plan = Plan::Cascade { stages, on_failure: OnFailure::Error, pin: None };
    Decision { policy: "cheap first".into(), rule: "tools; go up\n".into(), plan }
}

fn text(text: &str, logprobs: &[f32]) -> Result<Delta> {
    let token = |logprob: &f32| Token {
        bytes: Bytes::new(),
        logprob: *logprob,
        margin: 1.0,
        entropy: 0.0,
        top: Vec::new(),
        end: false,
    };
    Ok(Delta::new(0, Part::Text { text: text.into(), tokens: logprobs.iter().map(token).collect() }))
}

fn end(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Result<Delta> {
    Ok(Delta::new(0, Part::End(Some(Usage { prompt_tokens, cached_tokens, completion_tokens }))))
}

fn stream_of(items: Vec<Result<Delta>>) -> BoxStream<'static, Result<Delta>> {
    stream::iter(items).boxed()
}

/// Deltas that each take `pause` to come.
fn slow(items: Vec<Result<Delta>>, pause: Duration) -> BoxStream<'static, Result<Delta>> {
    stream::iter(items)
        .then(move |item| async move {
            sleep(pause).await;
            item
        })
        .boxed()
}

/// A client's body of two frames, the second of which takes `pause` to come.
fn slow_body(pause: Duration) -> StreamBody<BoxStream<'static, std::io::Result<Frame<Bytes>>>> {
    let frame = |bytes| Ok(Frame::data(Bytes::from_static(bytes)));
    let late = stream::once(async move {
        sleep(pause).await;
        frame(b"b")
    });
    StreamBody::new(stream::iter([frame(b"a")]).chain(late).boxed())
}

async fn drain(mut deltas: BoxStream<'static, Result<Delta>>) -> usize {
    let mut ends = 0;
    while let Some(item) = deltas.next().await {
        ends += usize::from(matches!(item, Ok(Delta { part: Part::End(_), .. })));
    }
    ends
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn an_escalated_request_tells_what_it_cost_avoided_and_wasted() {
    let (book, meter) = open();
    meter.asked(&request(false));
    meter.decided(&decision(&["up/small", "up/small", "up/large"]), 7);
    let first = meter.attempt(&model("up/small"), 0);
    drain(first.follow(stream_of(vec![text("a", &[]), end(1_000_000, 400_000, 500_000)]))).await;
    first.discarded(Reason::LowConfidence);
    let second = meter.attempt(&model("up/small"), 1);
    drain(second.follow(stream_of(vec![text("b", &[]), end(1_000_000, 0, 100_000)]))).await;
    second.served();
    drop((meter, first, second));

    let receipt = book.only();
    assert_eq!(receipt.wasted_usd, Some(0.6 + 0.1 + 1.0));
    assert_eq!(receipt.cost_usd, Some(1.7 + 1.2));
    // The large one would have cost 12 for the tokens of the second answer.
    assert_eq!(receipt.avoided_usd, Some(12.0 - 2.9));
    assert_eq!((receipt.outcome, receipt.tenant.as_str(), &*receipt.asked), (Outcome::Ok, "team", "auto"));
    let outcomes: Vec<_> = receipt.attempts.iter().map(|attempt| (attempt.outcome, attempt.reason)).collect();
    let expected =
        [(AttemptOutcome::Discarded, Some(Reason::LowConfidence)), (AttemptOutcome::Served, Some(Reason::Accepted))];
    assert_eq!(outcomes, expected);
}

#[tokio::test(start_paused = true)]
async fn what_a_local_slot_still_held_would_have_cost_its_full_price() {
    let (book, meter) = open();
    meter.asked(&request(false));
    meter.decided(&decision(&["local/a", "up/large"]), 7);
    let local = meter.attempt(&model("local/a"), 0);
    drain(local.follow(stream_of(vec![text("a", &[-0.1]), end(1_000_000, 900_000, 100_000)]))).await;
    local.served();
    drop((meter, local));
    assert_eq!(book.only().avoided_usd, Some(10.0 + 2.0));
}

#[tokio::test(start_paused = true)]
async fn the_cost_of_a_receipt_is_the_sum_of_its_attempts() {
    let mut random = StdRng::seed_from_u64(20_260);
    let names = ["local/free", "up/small", "up/large"];
    for _ in 0..300 {
        let (book, meter) = open();
        meter.asked(&request(true));
        let mut expected = 0.0;
        for stage in 0..random.random_range(0..6) {
            let name = names[random.random_range(0..names.len())];
            let price = prices().of(&model(name)).unwrap();
            let prompt_tokens = random.random_range(0..10_000_u64);
            let cached_tokens = random.random_range(0..=prompt_tokens);
            let completion_tokens = random.random_range(0..5_000_u64);
            let attempt = meter.attempt(&model(name), stage);
            match random.random_range(0..3) {
                0 => attempt.failed(&Error::internal("broken")),
                1 => {
                    let mut broken = attempt.follow(stream_of(vec![text("x", &[]), text("y", &[])]));
                    broken.next().await;
                    expected += price.cost_usd(&Usage { prompt_tokens: 100, cached_tokens: 0, completion_tokens: 1 });
                }
                _ => {
                    drain(attempt.follow(stream_of(vec![end(prompt_tokens, cached_tokens, completion_tokens)]))).await;
                    let usage = Usage { prompt_tokens, cached_tokens, completion_tokens };
                    expected += price.cost_usd(&usage);
                }
            }
        }
        let told = meter.story().cost_usd;
        drop(meter);
        let receipt = book.only();
        let sum: f64 = receipt.attempts.iter().map(|attempt| attempt.cost_usd.unwrap()).sum();
        assert!((sum - expected).abs() < 1e-12, "{sum} {expected}");
        assert_eq!((receipt.cost_usd, told), (Some(sum), Some(sum)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unpriced_upstream_makes_the_cost_unknown_but_not_before_it_answers() {
    let (book, meter) = open();
    meter.attempt(&model("other/x"), 0).failed(&Error::internal("down"));
    assert_eq!(meter.story().cost_usd, Some(0.0));
    let attempt = meter.attempt(&model("other/x"), 1);
    drain(attempt.follow(stream_of(vec![end(1, 0, 1)]))).await;
    attempt.served();
    drop((meter, attempt));
    let receipt = book.only();
    assert_eq!((receipt.cost_usd, receipt.avoided_usd, receipt.wasted_usd), (None, None, Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_pays_for_the_tokens_seen() {
    let (book, meter) = open();
    meter.asked(&request(true));
    meter.decided(&decision(&["up/small"]), 1);
    let attempt = meter.attempt(&model("up/small"), 0);
    let mut deltas = attempt.follow(stream_of(vec![text("a", &[]), text("b", &[]), text("c", &[]), end(9, 0, 3)]));
    attempt.served();
    deltas.next().await;
    deltas.next().await;
    drop((meter, attempt));
    assert!(book.0.lock().unwrap().is_empty(), "the stream still holds the tab");
    drop(deltas);

    let receipt = book.only();
    let attempt = &receipt.attempts[0];
    assert_eq!(receipt.outcome, Outcome::Canceled);
    assert_eq!((attempt.outcome, attempt.estimated, attempt.wasted), (AttemptOutcome::Canceled, true, false));
    assert_eq!(attempt.usage, Usage { prompt_tokens: 100, cached_tokens: 0, completion_tokens: 2 });
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_say_its_usage_is_estimated() {
    let (book, meter) = open();
    meter.asked(&request(false));
    let attempt = meter.attempt(&model("up/small"), 0);
    let whole = Delta { choice: 0, part: Part::Raw, raw: Some(bytes_of(80)) };
    drain(attempt.follow(stream_of(vec![Ok(whole), Ok(Delta::new(0, Part::End(None)))]))).await;
    attempt.served();
    drop((meter, attempt));
    let attempt = book.only().attempts.remove(0);
    assert_eq!((attempt.estimated, attempt.usage.completion_tokens), (true, 20));
}

#[tokio::test(start_paused = true)]
async fn an_image_in_the_body_is_not_estimated_as_text() {
    let (book, meter) = open();
    let body = ClientBody { bytes: Bytes::from(vec![b'A'; 10 << 20]), ..ClientBody::default() };
    meter.asked(&Request { body, ..request(false) });
    let attempt = meter.attempt(&model("up/small"), 0);
    drop(attempt.follow(stream_of(vec![end(1, 0, 1)])));
    drop((meter, attempt));
    assert_eq!(book.only().attempts[0].usage, Usage { prompt_tokens: 100, ..Usage::default() });
}

#[tokio::test(start_paused = true)]
async fn absurd_usage_is_as_good_as_none() {
    for absurd in [end(u64::MAX, 0, 1), end(1, 1_000_000_001, 1), end(1, 0, u64::MAX)] {
        let (book, meter) = open();
        meter.asked(&request(true));
        let attempt = meter.attempt(&model("up/small"), 0);
        drain(attempt.follow(stream_of(vec![text("a", &[]), absurd]))).await;
        attempt.served();
        drop((meter, attempt));
        let attempt = book.only().attempts.remove(0);
        let estimate = Usage { prompt_tokens: 100, cached_tokens: 0, completion_tokens: 1 };
        assert_eq!((attempt.usage, attempt.estimated), (estimate, true));
    }
}

#[tokio::test(start_paused = true)]
async fn vectors_are_no_generated_tokens() {
    let (book, meter) = open();
    let inputs = vec![Prompt::Text("four".into()), Prompt::Tokens(vec![1, 2, 3])];
    meter.asked(&Request { ask: Ask::Embed(Embed { inputs, ..Embed::default() }), ..request(false) });
    let attempt = meter.attempt(&model("up/small"), 0);
    let vectors = Delta { choice: 0, part: Part::Raw, raw: Some(bytes_of(8000)) };
    drain(attempt.follow(stream_of(vec![Ok(vectors), Ok(Delta::new(0, Part::End(None)))]))).await;
    attempt.served();
    drop((meter, attempt));
    let attempt = book.only().attempts.remove(0);
    assert_eq!((attempt.estimated, attempt.usage.prompt_tokens, attempt.usage.completion_tokens), (true, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_followed_stream_ends_once_even_where_the_backend_does_not() {
    let (book, meter) = open();
    let first = meter.attempt(&model("up/small"), 0);
    let twice = first.follow(stream_of(vec![end(1, 0, 1), end(1, 0, 1), text("late", &[])]));
    assert_eq!(drain(twice).await, 1);

    let attempt = meter.attempt(&model("up/small"), 1);
    attempt.served();
    let items: Vec<_> = attempt.follow(stream_of(vec![text("a", &[])])).collect().await;
    assert_eq!(items.len(), 2);
    assert_eq!(items[1].as_ref().unwrap_err().kind(), Kind::Unavailable);
    drop((meter, first, attempt));
    let receipt = book.only();
    assert_eq!(receipt.outcome, Outcome::Error(Kind::Unavailable));
    assert_eq!(receipt.error.unwrap().origin, Origin::Upstream);
}

#[tokio::test(start_paused = true)]
async fn overhead_is_neither_the_clients_nor_a_backends_time() {
    let (book, meter) = open();
    let frames = slow_body(5 * MS);
    let body = meter.client_body(frames).collect().await.unwrap();
    assert_eq!(body.to_bytes(), "ab");
    sleep(3 * MS).await;
    // Two waits that overlap count once.
    let first = meter.attempt(&model("local/a"), 0);
    sleep(10 * MS).await;
    let mut held = first.follow(slow(vec![text("a", &[-1.0])], 50 * MS));
    let second = meter.attempt(&model("local/b"), 1);
    assert!(futures::poll!(held.next()).is_pending());
    sleep(20 * MS).await;
    drop(held);
    sleep(4 * MS).await;
    let answer = second.follow(slow(vec![text("b", &[-1.0]), text("c", &[-1.0]), end(1, 0, 2)], 10 * MS));
    second.served();
    sleep(2 * MS).await;
    assert_eq!(drain(answer).await, 1);
    meter.head();
    sleep(30 * MS).await;
    drop((meter, first, second));

    let receipt = book.only();
    assert_eq!(receipt.overhead, Some(5 * MS));
    assert_eq!(receipt.ttft, Some(54 * MS));
    assert_eq!(receipt.e2e, 104 * MS);
    assert_eq!(receipt.itl, [0.01]);
}

#[tokio::test(start_paused = true)]
async fn time_to_first_token_counts_from_when_the_client_may_see_it() {
    let (book, meter) = open();
    let attempt = meter.attempt(&model("local/a"), 0);
    drain(attempt.follow(slow(vec![text("a", &[-1.0]), text("b", &[-1.0]), end(1, 0, 2)], 10 * MS))).await;
    attempt.served();
    drop((meter, attempt));
    assert_eq!(book.only().ttft, Some(30 * MS));
}

#[tokio::test(start_paused = true)]
async fn the_story_tells_what_is_known_so_far() {
    let (book, meter) = open();
    assert_eq!(meter.story().comment(), "cost-usd=0");
    meter.asked(&request(true));
    meter.decided(&decision(&["local/a", "up/large"]), 12);
    let local = meter.attempt(&model("local/a"), 0);
    let mut sure = local.follow(stream_of(vec![text("a", &[-0.5, -1.5]), end(10, 0, 2)]));
    sure.next().await;
    local.served();
    let headers = told(&meter);
    let head: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let confidence = "min_logprob=-1.5, mean_logprob=-1, sum_logprob=-2, margin=1";
    let expected = [
        ("x-weir-served-by", "local/a"),
        ("x-weir-policy", "cheap first@12; rule=tools%3B%20go%20up%0A"),
        ("x-weir-confidence", confidence),
    ];
    assert_eq!(head, expected, "no cost while the answer runs");
    sure.next().await;
    assert_eq!(meter.story().comment(), format!("cost-usd=0 confidence={confidence}"));
    local.served_degraded("upstream-failed");
    assert_eq!(told(&meter)["x-weir-degraded"], "upstream-failed");
    drop((meter, local, sure));
    let receipt = book.only();
    assert_eq!(receipt.attempts[0].reason, Some(Reason::Degraded));
    assert_eq!(receipt.confidence().unwrap().to_string(), confidence);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_before_its_model_is_known_names_no_model() {
    let (book, meter) = open();
    meter.asker(&"r-9".into(), &TenantId::new("team"));
    meter.asked(&request(false));
    meter.failed(&Error::new(Kind::NotFound, Origin::Client, "unknown model \"secret text\"").code("model_not_found"));
    meter.head();
    drop(meter);
    let receipt = book.only();
    assert_eq!((&*receipt.asked, receipt.outcome), ("other", Outcome::Error(Kind::NotFound)));
    let failure = receipt.error.unwrap();
    assert_eq!((failure.code, failure.message), (Some("model_not_found"), None));
}

#[test]
fn a_receipt_keeps_no_message_that_may_quote_a_prompt() {
    let kinds = [(Kind::Invalid, false), (Kind::RateLimited, false), (Kind::Unavailable, true), (Kind::Timeout, true)];
    for origin in [Origin::Local, Origin::Upstream] {
        for (kind, kept) in kinds {
            let failure = Failure::of(&Error::new(kind, origin, "because"));
            assert_eq!(failure.message.is_some(), kept, "{origin:?} {kind:?}");
        }
    }
    assert_eq!(Failure::of(&Error::new(Kind::Timeout, Origin::Client, "said x")).message, None);
    assert!(Failure::of(&Error::new(Kind::Forbidden, Origin::Gateway, "the operator's words")).message.is_some());
}

#[tokio::test(start_paused = true)]
async fn skipped_and_rejected_leave_their_reasons() {
    let (book, meter) = open();
    meter.asked(&request(false));
    let plan = Plan::Reject { status: StatusCode::FORBIDDEN, message: "no".into(), code: "rejected_by_policy" };
    meter.decided(&Decision { plan, ..decision(&[]) }, 1);
    meter.skipped(&model("up/large"), 0, Reason::Cannot);
    drop(meter);
    let receipt = book.only();
    let attempt = &receipt.attempts[0];
    assert_eq!(
        (attempt.outcome, attempt.reason, attempt.wasted),
        (AttemptOutcome::Skipped, Some(Reason::Cannot), false)
    );
    assert_eq!(receipt.decided.unwrap().plan.name(), "reject");
}

fn told(meter: &Meter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    meter.story().tell(&mut headers);
    headers
}

fn bytes_of(length: usize) -> Raw {
    Raw { bytes: Bytes::from(vec![b'x'; length]), ..Raw::default() }
}
