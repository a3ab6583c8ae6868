//! Answers kept under a certificate are audited behind the client's back, and a promise found broken
//! is taken back until there is a new calibration.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use tokio::sync::Notify;
use weir::account::AuditReceipt;
use weir::backend::{Backend, Call, Completion, Status};
use weir::confidence::AuditStatus;
use weir::confidence::audit::Skipped;
use weir::error::Result;
use weir::request::{Ask, Delta, Finish, Part, Request, Token, Usage};

use super::house::{House, Reply, answer, connect, read_until, upstream};
use crate::fake_upstream::{Answer, Asked, FakeUpstream, Piece};

/// Certifies a risk of .1; made for a model file that holds `abc`.
const CALIBRATION: &str = include_str!("../fixtures/calibration.json");
const PRICES: &str = "[[price]]\nmodel = \"up/*\"\ninput = 1\noutput = 2\n";
const MODELS: &str =
    "[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
const BY_MODEL: &str = "allowance = 0.05";

/// A local model that is sure of itself and says what the user said.
#[derive(Debug)]
struct Echo;

impl Backend for Echo {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let Ask::Chat(chat) = &call.request.ask else { panic!("no chat") };
        let text = chat.messages.last().unwrap().text.clone();
        let token = Token { bytes: "x".into(), logprob: -0.01, margin: 5.0, entropy: 0.0, top: Vec::new(), end: false };
        let usage = Usage { prompt_tokens: 5, cached_tokens: 0, completion_tokens: 1 };
        let parts = [Part::Text { text, tokens: vec![token] }, Part::Finish(Finish::Stop), Part::End(Some(usage))];
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

fn policy(audit: &str) -> String {
    format!(
        "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = {{ cascade = [\"local/small\", \"up/m\"], accept = {{ \
         max_error = 0.1, calibration = \"c.json\", audit = {{ share = 1, {audit} }} }} }}\n"
    )
}

/// A gateway whose state lies in this folder (none: nowhere).
async fn open_in(fake: &FakeUpstream, audit: &str, state: Option<&str>) -> House {
    let state = state.map(|folder| format!("state = \"{folder}\"\n")).unwrap_or_default();
    let config = format!("{state}{MODELS}{PRICES}{}", upstream("up", fake, "models = [\"m\"]"));
    let policy = policy(audit);
    let files = [("m.gguf", "abc"), ("c.json", CALIBRATION), ("p.toml", &policy)];
    House::open_standing_in(&config, &files, &[], &[("local/small", Arc::new(Echo))]).await
}

async fn open(fake: &FakeUpstream, audit: &str) -> House {
    open_in(fake, audit, None).await
}

/// An upstream that says `Paris`.
async fn paris() -> FakeUpstream {
    FakeUpstream::saying(Answer::json(answer("Paris"))).await
}

fn saying(text: &str) -> String {
    format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

async fn ask(house: &House, text: &str) -> Reply {
    let reply = house.chat(&saying(text)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

fn status(house: &House) -> AuditStatus {
    house.control.current().audit_statuses().remove(0)
}

/// Asks what the local model gets wrong until the alarm; how often.
async fn raise_alarm(house: &House) -> usize {
    for asked in 1.. {
        ask(house, "Rome").await;
        house.audits(asked).await;
        if status(house).state == "alarmed" {
            return asked;
        }
    }
    unreachable!()
}

fn is_kept(reply: &Reply) -> bool {
    reply.header("x-weir-served-by") == "local/small"
}

#[tokio::test]
async fn answers_kept_are_asked_of_the_grader_too_compared_and_paid_for() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    for text in ["Paris", "Rome"] {
        let reply = ask(&house, text).await;
        assert!(is_kept(&reply) && reply.text().contains(text), "{}", reply.text());
        let told = "max_error=0.1 confidence=0.9 slice=facts%2C%20short audit=disagreement by=up%2Fm alarm_above=0.15";
        assert_eq!((reply.header("x-weir-certificate"), reply.header("x-weir-audit")), (told, ""));
    }
    let mut losses: Vec<f64> = house.audits(2).await.iter().map(|audit| audit.outcome.unwrap()).collect();
    losses.sort_by(f64::total_cmp);
    assert_eq!(losses, [0.0, 1.0]);
    let AuditReceipt { usage, cost_usd, propensity, .. } = house.audits(2).await.remove(0);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, cost_usd, propensity), (10, 5, 20e-6, 1.0));
    let receipts = house.receipts(2).await;
    assert!(receipts.iter().all(|receipt| receipt.audit.is_some_and(|audit| audit.drawn)), "{receipts:?}");
    let metrics = house.rendered();
    for line in [
        "weir_audits_total{outcome=\"graded\",slice=\"facts, short\"} 2",
        "weir_audit_losses_total{rate=\"disagreement\",slice=\"facts, short\"} 1",
        "weir_audit_bound_ratio{rate=\"disagreement\",slice=\"facts, short\"} 0.15",
        "weir_audit_alarm{slice=\"facts, short\"} 0",
        "weir_audit_cost_usd_total{slice=\"facts, short\"} 0.00004",
        "weir_cost_usd_total{model=\"up/m\"} 0.00004",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_broken_promise_raises_the_alarm_and_from_the_next_request_on_the_slice_escalates_and_says_so() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    let audits = raise_alarm(&house).await;
    let next = ask(&house, "Rome").await;
    assert_eq!(next.header("x-weir-served-by"), "up/m");
    assert_eq!(next.header("x-weir-certificate"), "uncertified; why=alarmed");
    assert_eq!(status(&house).total.graded, audits as u64);
    let shown = serde_json::to_value(status(&house)).unwrap();
    for (key, value) in [("state", "alarmed"), ("rate", "disagreement"), ("measured", "disagreement with up/m by auto")]
    {
        assert_eq!(shown[key], value, "{shown}");
    }
    assert!(shown["alarmed_since"].is_string() && shown["peak"].as_f64() >= shown["alarm_at"].as_f64(), "{shown}");
    house.receipts(audits + 1).await;
    let metrics = house.rendered();
    for line in [
        "weir_audit_alarm{slice=\"facts, short\"} 1",
        "weir_cascade_total{outcome=\"escalate\",policy=\"p\",reason=\"alarmed\",stage=\"local/small\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn with_a_fallback_an_alarmed_slice_goes_by_it_uncertified() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    raise_alarm(&house).await;
    house.write("p.toml", &policy(BY_MODEL).replace("audit = ", "else_threshold = 0.5, audit = "));
    house.reload().await.unwrap();
    let reply = ask(&house, "Rome").await;
    assert!(is_kept(&reply));
    assert_eq!(reply.header("x-weir-certificate"), "uncertified; why=alarmed");
}

#[tokio::test]
async fn a_client_waits_for_no_audit_and_its_leaving_ends_none() {
    let gate = Arc::new(Notify::new());
    let late = Answer::json("").then(Piece::Wait(Arc::clone(&gate))).and(&[&answer("Paris")]);
    let fake = FakeUpstream::saying(late).await;
    let house = open(&fake, BY_MODEL).await;
    let mut client = connect(&house, &saying("Rome")).await;
    let read = read_until(&mut client, "\"total_tokens\":6").await;
    assert!(read.contains("Rome"), "{read}");
    drop(client);
    house.receipts(1).await;
    assert_eq!(status(&house).open, 1);
    gate.notify_one();
    assert_eq!(house.audits(1).await[0].outcome, Ok(1.0));
}

#[tokio::test]
async fn what_the_budget_does_not_allow_is_skipped_and_the_slice_is_unmonitored_then() {
    let fake = paris().await;
    let house = open(&fake, "allowance = 0.05, usd_per_day = 0.000001").await;
    for asked in 1..=20 {
        assert!(is_kept(&ask(&house, "Paris").await), "{asked}");
        assert_eq!(house.audits(asked).await[asked - 1].outcome, Err(Skipped::Budget));
    }
    assert_eq!(fake.asked().len(), 0);
    let next = ask(&house, "Paris").await;
    assert_eq!(next.header("x-weir-certificate"), "uncertified; why=unmonitored");
    assert_eq!(next.header("x-weir-served-by"), "up/m");
    assert!(house.rendered().contains("weir_audit_unmonitored{slice=\"facts, short\"} 1"));
}

#[tokio::test]
async fn a_grader_whose_price_nobody_knows_is_not_asked() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    let config = format!("{MODELS}{}", upstream("up", &fake, "models = [\"m\"]"));
    house.write("weir.toml", &config);
    house.reload().await.unwrap();
    ask(&house, "Paris").await;
    assert_eq!((house.audits(1).await[0].outcome, fake.asked().len()), (Err(Skipped::Budget), 0));
}

#[tokio::test]
async fn the_clients_own_key_pays_for_no_audit() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    let client_pays = upstream("up", &fake, "models = [\"m\"]\napi_key = { client = true }");
    house.write("weir.toml", &format!("{MODELS}{PRICES}{client_pays}"));
    house.reload().await.unwrap();
    let headers = [("content-type", "application/json"), ("authorization", "Bearer its-own")];
    let reply = house.post("/v1/chat/completions", &headers, saying("Paris")).await;
    assert!(is_kept(&reply), "{}", reply.text());
    house.audits(1).await;
    assert!(fake.asked().iter().all(|asked| !asked.headers.contains_key("authorization")), "{:?}", fake.asked());
}

#[tokio::test]
async fn a_grader_that_fails_or_says_nothing_to_compare_gives_no_grade() {
    for (said, why) in [
        (Answer::json("{}").status(503), Skipped::Outage),
        (Answer::json("{}").status(400), Skipped::Ungradable),
        (Answer::json(answer("")), Skipped::Ungradable),
    ] {
        let fake = FakeUpstream::saying(said).await;
        let house = open(&fake, BY_MODEL).await;
        assert!(is_kept(&ask(&house, "Paris").await));
        assert_eq!(house.audits(1).await[0].outcome, Err(why));
    }
}

#[tokio::test]
async fn a_judge_is_asked_whether_both_say_the_same_and_only_a_plain_letter_counts() {
    for (letter, outcome) in [("Y", Ok(0.0)), ("N", Ok(1.0)), ("Yes", Err(Skipped::Ungradable))] {
        let script = move |asked: &Asked| {
            let judges = String::from_utf8_lossy(&asked.body).contains("Reply with one letter");
            Answer::json(answer(if judges { letter } else { "the city of light" }))
        };
        let fake = FakeUpstream::start(script).await;
        let house = open(&fake, "allowance = 0.05, compare = \"judge\"").await;
        ask(&house, "Paris").await;
        let audit = house.audits(1).await.remove(0);
        assert_eq!((audit.outcome, audit.usage.prompt_tokens), (outcome, 20), "{letter}");
        let judged = fake.asked().pop().unwrap();
        let text = String::from_utf8_lossy(&judged.body);
        assert!(text.contains("user: Paris") && text.contains("the city of light"), "{text}");
    }
}

#[tokio::test]
async fn a_reload_keeps_the_alarm_and_a_new_calibration_ends_it() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    raise_alarm(&house).await;
    house.write("p.toml", &policy("allowance = 0.5, usd_per_day = 2"));
    // Blanks and lines are no new content.
    house.write("c.json", &format!("{CALIBRATION}\n\n"));
    house.reload().await.unwrap();
    assert!(!is_kept(&ask(&house, "Paris").await));
    house.write("c.json", &CALIBRATION.replace("2026-11-24", "2026-12-24"));
    house.reload().await.unwrap();
    assert!(is_kept(&ask(&house, "Paris").await));
    assert_eq!(status(&house).state, "watching");
}

#[tokio::test]
async fn two_rules_with_the_same_certificate_share_one_audit_and_must_say_the_same_of_it() {
    let fake = paris().await;
    let house = open(&fake, BY_MODEL).await;
    let last = policy(BY_MODEL).replace("name = \"p\"\n", "");
    let first = last.replace("name = \"r\"", "name = \"first\"\nwhen = 'request.stream'");
    house.write("p.toml", &format!("name = \"p\"\n{first}{last}"));
    house.reload().await.unwrap();
    assert_eq!(house.control.current().audit_statuses().len(), 1);
    house.write("p.toml", &format!("name = \"p\"\n{}{last}", first.replace("0.05", "0.07")));
    let problems = house.reload().await.unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("say the same in both"), "{problems:?}");
}

#[tokio::test]
async fn a_restart_keeps_the_alarm_and_what_cannot_be_read_refuses_the_start() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().to_str().unwrap();
    let fake = paris().await;
    let house = open_in(&fake, BY_MODEL, Some(folder)).await;
    raise_alarm(&house).await;
    let before = status(&house);
    house.control.close(Duration::from_secs(20)).await;
    drop(house);
    let house = open_in(&fake, BY_MODEL, Some(folder)).await;
    assert_eq!(status(&house), before);
    assert_eq!(ask(&house, "Paris").await.header("x-weir-certificate"), "uncertified; why=alarmed");
    let files: Vec<_> = std::fs::read_dir(state.path().join("audits")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::write(files[0].path(), "{}").unwrap();
    assert!(house.reload().await.is_ok(), "what runs knows better");
    let problems = house.restart().await.unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("an alarm may stand in it"), "{problems:?}");
}

/// Says of an answer that it was right or wrong.
async fn feed_back(house: &House, id: &str, correct: bool) {
    let body = format!(r#"{{"request_id":"{id}","correct":{correct}}}"#);
    let reply = house.post("/v1/feedback", &[("content-type", "application/json")], body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn feedback_that_was_asked_for_counts_and_what_is_volunteered_does_not() {
    let fake = paris().await;
    let house = open(&fake, "by = \"feedback\"").await;
    let reply = ask(&house, "Rome").await;
    assert_eq!(reply.header("x-weir-audit"), "wanted");
    assert!(reply.header("x-weir-certificate").ends_with(" audit=errors by=feedback alarm_above=0.1"));
    let id = reply.header("x-request-id").to_owned();
    feed_back(&house, "req_of_another", false).await;
    assert_eq!(status(&house).total.graded, 0);
    feed_back(&house, &id, false).await;
    feed_back(&house, &id, false).await;
    let graded = status(&house).total;
    assert_eq!((graded.graded, graded.losses), (1, 1.0), "once");
    assert_eq!(house.audits(1).await.len(), 1);
    assert_eq!(&*house.audits(1).await[0].id, id);
    while status(&house).state != "alarmed" {
        let id = ask(&house, "Rome").await.header("x-request-id").to_owned();
        feed_back(&house, &id, false).await;
    }
    let escalated = ask(&house, "Rome").await;
    assert_eq!(escalated.header("x-weir-certificate"), "uncertified; why=alarmed");
    assert_eq!(escalated.header("x-weir-audit"), "");
}
