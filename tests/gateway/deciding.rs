//! What a cascade decides over HTTP beside its threshold: by value, skipped, pinned, by evidence, and where a
//! certificate does not speak. Each is told in headers, metrics and the capture log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use serde_json::{Value, json};
use weir::backend::{Backend, Call, Completion, Status};
use weir::confidence::gap::{About, Example, Predictor};
use weir::confidence::{Feature, Running};
use weir::error::Result;
use weir::request::{Ask, Chat, Delta, Finish, Part, Request, Token, Trace, Usage};

use super::house::{House, Reply, answer, upstream};
use crate::fake_upstream::{Answer, FakeUpstream};

const CALIBRATION: &str = include_str!("../fixtures/calibration.json");
const CONFIG: &str = "policy_headers = [\"x-session-id\"]\n[capture]\nfile = \"capture.jsonl\"\n\
    [[price]]\nmodel = \"up/*\"\ninput = 1\noutput = 2\n\
    [[model]]\nname = \"small\"\nfile = \"m.gguf\"\n[[model]]\nname = \"second\"\nfile = \"m.gguf\"\n\
    [[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
/// What the upstream's answer of 10 and 5 tokens costs.
const UP_USD: f64 = 20e-6;

/// A local model that says `blue`: surely where the user wrote `easy`, with doubt where it is `medium`, and
/// by chance where it is `hard`. It doubts that itself, asked, unless it was easy.
#[derive(Debug, Default)]
struct Small {
    started: AtomicUsize,
}

fn said(chat: &Chat) -> String {
    chat.messages.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n")
}

fn token(text: &str, logprob: f32, top: &[(&'static str, f32)]) -> Token {
    let top = top.iter().map(|(word, p)| (word.as_bytes().into(), p.ln())).collect();
    Token { bytes: text.to_owned().into(), logprob, margin: 5.0, entropy: 0.0, top, end: false }
}

fn complete(call: Call, parts: Vec<(u32, Part)>) -> BoxFuture<'static, Result<Completion>> {
    let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 1 };
    let parts = parts.into_iter().chain([(0, Part::Finish(Finish::Stop)), (0, Part::End(Some(usage)))]);
    let deltas = stream::iter(parts.map(|(choice, part)| Ok(Delta::new(choice, part))).collect::<Vec<_>>()).boxed();
    Box::pin(async move { Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas }) })
}

impl Backend for Small {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let Ask::Chat(chat) = &call.request.ask else { panic!("no chat") };
        let (text, samples) = (said(chat), chat.sampling.n);
        let last = chat.messages.last().unwrap().text.clone();
        if last.contains("Is the proposed answer correct?") {
            let yes = if text.contains("easy") { 0.9 } else { 0.2 };
            let token = token("Y", f32::ln(yes), &[("Y", yes), ("N", 0.95 - yes)]);
            return complete(call, vec![(0, Part::Text { text: "Y".into(), tokens: vec![token] })]);
        }
        let logprob = [("easy", -0.01), ("medium", -1.0), ("hard", -3.0)];
        let logprob = logprob.iter().find(|(word, _)| last.contains(word)).unwrap().1;
        let word = |choice: u32| if samples > 1 && choice > 0 && last.contains("hard") { "red" } else { "blue" };
        let parts = (0..samples)
            .map(|choice| (choice, Part::Text { text: word(choice).into(), tokens: vec![token("x", logprob, &[])] }));
        let parts = parts.collect();
        complete(call, parts)
    }

    fn status(&self) -> Status {
        Status { ready: true, ..Status::default() }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}

/// The other local model: it says `blue` too, unless the user wrote `green`.
#[derive(Debug, Default)]
struct Second {
    started: AtomicUsize,
}

impl Backend for Second {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let Ask::Chat(chat) = &call.request.ask else { panic!("no chat") };
        let text = if said(chat).contains("green") { "green" } else { "blue" };
        complete(call, vec![(0, Part::Text { text: text.into(), tokens: vec![token(text, -0.1, &[])] })])
    }

    fn status(&self) -> Status {
        Status { ready: true, ..Status::default() }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}

/// The gateway, and how often its local models were asked.
struct Deciding {
    house: House,
    small: Arc<Small>,
    second: Arc<Second>,
    _up: FakeUpstream,
}

fn cascade(rest: &str) -> String {
    format!("name = \"p\"\n[[rule]]\nname = \"r\"\nthen = {{ cascade = [\"local/small\", \"up/m\"], {rest} }}\n")
}

impl Deciding {
    async fn open(rest: &str, files: &[(&str, &str)]) -> Deciding {
        let up = FakeUpstream::saying(Answer::json(answer("large"))).await;
        let (small, second) = (Arc::<Small>::default(), Arc::<Second>::default());
        let config = format!("{CONFIG}{}", upstream("up", &up, "models = [\"m\"]"));
        let policy = cascade(rest);
        let files: Vec<_> =
            [("m.gguf", "abc"), ("p.toml", policy.as_str())].into_iter().chain(files.to_vec()).collect();
        let stand_ins: [(&str, Arc<dyn Backend>); 2] =
            [("local/small", small.clone()), ("local/second", second.clone())];
        let house = House::open_standing_in(&config, &files, &[], &stand_ins).await;
        Deciding { house, small, second, _up: up }
    }

    /// What a user says, after the turns before.
    async fn ask(&self, turns: &[&str]) -> Reply {
        self.ask_in(turns, &[]).await
    }

    async fn ask_in(&self, turns: &[&str], headers: &[(&str, &str)]) -> Reply {
        let mut messages: Vec<Value> = Vec::new();
        for (place, text) in turns.iter().enumerate() {
            let role = if place % 2 == 0 { "user" } else { "assistant" };
            messages.push(json!({"role": role, "content": text}));
        }
        let body = json!({"model": "auto", "messages": messages}).to_string();
        let headers: Vec<_> = [("content-type", "application/json")].into_iter().chain(headers.to_vec()).collect();
        let reply = self.house.post("/v1/chat/completions", &headers, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply
    }

    fn asked(&self) -> (usize, usize) {
        (self.small.started.load(Ordering::SeqCst), self.second.started.load(Ordering::SeqCst))
    }

    /// All lines of the capture log and of the metrics; the last that is asked of the gateway.
    async fn close(self, requests: usize) -> (Vec<Value>, String) {
        self.house.receipts(requests).await;
        let metrics = self.house.rendered();
        self.house.metrics.close();
        let text = std::fs::read_to_string(self.house.path("capture.jsonl")).unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), metrics)
    }
}

fn served_by(reply: &Reply) -> &str {
    reply.header("x-weir-served-by")
}

/// Of each attempt of a captured request, the model and the reason.
fn reasons(line: &Value) -> Vec<(&str, &str)> {
    let attempts = line["attempts"].as_array().unwrap().iter();
    attempts.map(|one| (one["model"].as_str().unwrap(), one["reason"].as_str().unwrap())).collect()
}

fn assert_told(metrics: &str, lines: &[&str]) {
    for line in lines {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

fn about() -> About {
    let local_sha256 = Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into());
    About { local: "local/small".into(), local_sha256, upstream: "up/m".into(), rows: 80, date: "2026-11-24".into() }
}

/// Predicts the gap from prompt and answer: about minus the log-probability.
fn by_answer() -> String {
    let example = |place: u8| {
        let logprob = -f32::from(place % 4);
        let trace = Trace { logprobs: vec![logprob], margins: vec![5.0], entropies: vec![0.0], ended: false };
        Example { prompt: "x".into(), features: Running::of(&trace).features().unwrap(), gap: f64::from(-logprob) }
    };
    let examples: Vec<Example> = (0..80).map(example).collect();
    Predictor::of_answers(about(), &examples, &[Feature::SumLogprob]).render().unwrap()
}

/// Predicts a large gap of what is hard, and none of what is easy.
fn by_prompt() -> String {
    let rows = (0..80).map(|place| if place % 2 == 0 { ("hard one", 0.9) } else { ("easy one", 0.0) });
    Predictor::of_prompts(about(), rows).render().unwrap()
}

#[tokio::test]
async fn by_value_an_answer_is_escalated_while_it_is_worth_its_price_and_the_rate_is_held() {
    // A quarter of an hour at this rate buys one answer and a quarter.
    let gap = by_answer();
    let house = Deciding::open("accept = { value = \"gap.json\", usd_per_hour = 0.0001 }", &[("gap.json", &gap)]).await;
    let first = house.ask(&["hard"]).await;
    assert_eq!((served_by(&first), first.header("x-weir-cost-usd")), ("up/m", "0.00002"));
    assert_eq!((first.header("x-weir-certificate"), first.header("x-weir-policy")), ("", "p@1; rule=r"));
    assert!(first.header("x-weir-confidence").contains("sum_logprob=-3"), "{:?}", first.headers);
    house.house.receipts(1).await;
    let mut escalated = 1;
    for asked in 2..=12 {
        let reply = house.ask(&["hard"]).await;
        escalated += usize::from(served_by(&reply) == "up/m");
        house.house.receipts(asked).await;
    }
    assert!((1..=3).contains(&escalated), "{escalated} of 12 at a rate for one or two");
    let kept = house.ask(&["easy"]).await;
    assert_eq!((served_by(&kept), kept.header("x-weir-cost-usd")), ("local/small", "0"));
    let (lines, metrics) = house.close(13).await;
    assert_eq!(reasons(&lines[0]), [("local/small", "by_value"), ("up/m", "accepted")]);
    assert_eq!(reasons(&lines[12]), [("local/small", "accepted")]);
    assert_told(
        &metrics,
        &[&format!(
            "weir_cascade_total{{outcome=\"escalate\",policy=\"p\",reason=\"by_value\",stage=\"local/small\"}} {escalated}"
        )],
    );
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{policy=\"p\",tenant=\"all\"}}")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!((value("weir_pacer_spent_usd_total") - escalated as f64 * UP_USD).abs() < 1e-12);
    assert!(value("weir_pacer_lambda") > 0.0);
}

#[tokio::test]
async fn a_prompt_that_says_enough_goes_straight_up_and_the_local_model_is_not_asked() {
    let rest =
        "accept = { score = \"min_logprob\", at_least = -5.0 }, skip_local = { scorer = \"gap.json\", above = 0.4 }";
    let scorer = by_prompt();
    let house = Deciding::open(rest, &[("gap.json", &scorer)]).await;
    let up = house.ask(&["hard one"]).await;
    assert_eq!((served_by(&up), up.header("x-weir-confidence"), house.asked().0), ("up/m", "", 0));
    assert_eq!(served_by(&house.ask(&["easy one"]).await), "local/small");
    let (lines, metrics) = house.close(2).await;
    assert_eq!(reasons(&lines[0]), [("local/small", "skipped_by_value"), ("up/m", "accepted")]);
    assert_eq!(lines[0]["attempts"][0]["outcome"], "skipped");
    assert_told(
        &metrics,
        &["weir_cascade_total{outcome=\"escalate\",policy=\"p\",reason=\"skipped_by_value\",stage=\"local/small\"} 1"],
    );
}

const BY_SCORE: &str = "accept = { score = \"min_logprob\", at_least = -0.5 }";

#[tokio::test]
async fn an_escalated_conversation_stays_up_and_says_so_unless_the_policy_says_otherwise() {
    for (pin, stays) in [("", false), (", pin = \"upstream\"", true)] {
        let house = Deciding::open(&format!("{BY_SCORE}{pin}"), &[]).await;
        assert_eq!(served_by(&house.ask(&["hard"]).await), "up/m");
        let turn = house.ask(&["hard", "large", "easy"]).await;
        assert_eq!((served_by(&turn) == "up/m", turn.header("x-weir-policy").ends_with("; pinned")), (stays, stays));
        assert_eq!(served_by(&house.ask(&["easy", "blue", "easy"]).await), "local/small", "another conversation");
        let asked = house.asked().0;
        let (lines, metrics) = house.close(3).await;
        if stays {
            assert_eq!((asked, reasons(&lines[1])), (2, vec![("local/small", "pinned"), ("up/m", "accepted")]));
            let line =
                "weir_cascade_total{outcome=\"escalate\",policy=\"p\",reason=\"pinned\",stage=\"local/small\"} 1";
            assert_told(&metrics, &[line]);
        }
    }
}

#[tokio::test]
async fn a_conversation_bound_to_its_tier_is_answered_there_uncertified_and_known_by_its_header() {
    let pin = "pin = { to = \"tier\", header = \"x-session-id\" }";
    let house = Deciding::open(&format!("{BY_SCORE}, {pin}"), &[]).await;
    let named = [("x-session-id", "one")];
    assert_eq!(served_by(&house.ask_in(&["easy"], &named).await), "local/small");
    let turn = house.ask_in(&["hard"], &named).await;
    assert_eq!((served_by(&turn), turn.header("x-weir-certificate")), ("local/small", "uncertified; why=pinned"));
    assert!(turn.header("x-weir-policy").ends_with("; pinned"));
    assert_eq!(served_by(&house.ask_in(&["hard"], &[("x-session-id", "two")]).await), "up/m");
    let (lines, _) = house.close(3).await;
    assert_eq!(lines[1]["certificate"], "uncertified; why=pinned");
    assert_eq!(reasons(&lines[1]), [("local/small", "pinned")]);
}

#[tokio::test]
async fn agreement_of_samples_and_what_the_model_says_of_its_answer_decide_and_are_told() {
    for (accept, found, doubted) in [
        ("{ score = \"agreement\", samples = 2, at_least = 0.9 }", "agreement=1", "agreement=0.5"),
        ("{ score = \"p_true\", at_least = 0.6 }", "p_true=", "p_true="),
    ] {
        let house = Deciding::open(&format!("accept = {accept}"), &[]).await;
        let kept = house.ask(&["easy"]).await;
        assert_eq!(served_by(&kept), "local/small");
        assert!(kept.header("x-weir-confidence").contains(found), "{:?}", kept.headers);
        let escalated = house.ask(&["hard"]).await;
        assert_eq!(served_by(&escalated), "up/m");
        assert!(escalated.header("x-weir-confidence").contains(doubted), "{:?}", escalated.headers);
        assert_eq!(house.asked().0, 4, "two answers, and each asked about once");
        let (lines, metrics) = house.close(2).await;
        assert_eq!(reasons(&lines[0]), [("local/small", "accepted"), ("local/small", "evidence")]);
        let after = [("local/small", "low_confidence"), ("local/small", "evidence"), ("up/m", "accepted")];
        assert_eq!(reasons(&lines[1]), after);
        let line = "weir_cascade_total{outcome=\"evidence\",policy=\"p\",reason=\"evidence\",stage=\"local/small\"} 2";
        assert_told(&metrics, &[line, "weir_tokens_total{kind=\"wasted\",model=\"local/small\"} 1"]);
    }
}

#[tokio::test]
async fn a_second_opinion_is_asked_only_where_it_can_change_the_verdict() {
    let score = json!({"kind": "logistic", "bias": 1.0, "terms": [
        {"feature": "min_logprob", "mean": 0.0, "scale": 1.0, "weight": 2.0},
        {"feature": "second_opinion", "mean": 0.0, "scale": 1.0, "weight": 2.0},
    ]});
    let inquiry = json!({"samples": 2, "temperature": 0.8, "second": {"model": "local/second"}, "compare": "auto"});
    let mut calibration: Value = serde_json::from_str(CALIBRATION).unwrap();
    (calibration["score"], calibration["inquiry"], calibration["certificates"]) = (score, inquiry, json!([]));
    let file = calibration.to_string();
    let house = Deciding::open("accept = { calibration = \"c.json\", at_least = 0.6 }", &[("c.json", &file)]).await;
    for (text, served, seconds) in
        [("easy", "local/small", 0), ("hard", "up/m", 0), ("medium", "local/small", 1), ("medium green", "up/m", 2)]
    {
        let reply = house.ask(&[text]).await;
        assert_eq!((served_by(&reply), house.asked().1), (served, seconds), "{text}");
        assert_eq!(reply.header("x-weir-confidence").contains("second_opinion="), text.starts_with("medium"), "{text}");
    }
    let (lines, metrics) = house.close(4).await;
    assert_eq!(reasons(&lines[2]), [("local/small", "accepted"), ("local/second", "evidence")]);
    let line = "weir_cascade_total{outcome=\"evidence\",policy=\"p\",reason=\"evidence\",stage=\"local/second\"} 2";
    assert_told(&metrics, &[line]);
}

#[tokio::test]
async fn beside_skip_local_or_a_pin_a_selective_certificate_does_not_speak() {
    let scorer = by_prompt();
    let files = [("gap.json", scorer.as_str()), ("c.json", CALIBRATION)];
    let promise = "accept = { max_error = 0.1, calibration = \"c.json\", else_threshold = 0.5 }";
    for (rest, told) in [
        ("", "max_error=0.1 confidence=0.9 slice=facts%2C%20short"),
        (", skip_local = { scorer = \"gap.json\", above = 0.4 }", "uncertified; why=keep_rule"),
        (", pin = \"upstream\"", "uncertified; why=keep_rule"),
    ] {
        let house = Deciding::open(&format!("{promise}{rest}"), &files).await;
        let kept = house.ask(&["easy one"]).await;
        assert_eq!((served_by(&kept), kept.header("x-weir-certificate")), ("local/small", told), "{rest}");
        let (lines, metrics) = house.close(1).await;
        assert_eq!(lines[0]["certificate"], told);
        let reason = if rest.is_empty() { "certified" } else { "other_key" };
        let line = format!(
            "weir_cascade_total{{outcome=\"accept\",policy=\"p\",reason=\"{reason}\",stage=\"local/small\"}} 1"
        );
        assert_told(&metrics, &[&line]);
    }
}
