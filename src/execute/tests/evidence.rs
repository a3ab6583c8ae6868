//! What a gate that reads more than tokens asks for, when, and what is told of it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    AttemptOutcome, Error, Fake, Gate, HoldBack, House, Kind, LOCAL, LONG, OnFailure, Origin, Reason, Step, Told, UP,
    cascade, end, fake, large, say, say_on,
};
use crate::backend::Call;
use crate::confidence::{Accept, Feature, Form, Inquiry, Judge, Measure, Second};
use crate::request::{Ask, Delta, ModelId, Part, Role, Token};

const SECOND: &str = "local/second";

fn asking(feature: Feature, at_least: f64) -> Gate {
    let second = Some(Second { model: SECOND.into(), model_sha256: None });
    let inquiry = Inquiry { samples: 2, temperature: 0.8, second, compare: Form::Auto };
    let judge = Judge { measure: Measure::Asked(feature, Arc::new(inquiry)), at_least };
    Gate { accept: Arc::new(Accept::Threshold(judge)), hold_back: HoldBack::All }
}

async fn told(local: Fake, second: Fake, gate: Gate) -> (Told, Vec<Call>) {
    let (local, second, up) = (Arc::new(local), Arc::new(second), large());
    let told = House::of(&[(LOCAL, &local), (SECOND, &second), (UP, &up)]).ask(cascade(gate, OnFailure::Error)).await;
    (told, local.calls())
}

fn answering() -> Fake {
    Fake::new([say("blue", &[-0.5]), end(8, 1)])
}

fn idle() -> Fake {
    Fake::new([Step::Hang])
}

fn samples(first: &str, second: &str) -> [Step; 3] {
    [say(first, &[-0.5]), say_on(1, second, &[-0.5]), end(8, 2)]
}

/// One word and the log-probabilities of the likeliest.
fn word(top: &[(&'static str, f32)]) -> [Step; 2] {
    let top: Vec<(Bytes, f32)> = top.iter().map(|(text, p)| (Bytes::from_static(text.as_bytes()), p.ln())).collect();
    let token = Token { bytes: top[0].0.clone(), logprob: top[0].1, margin: 1.0, entropy: 0.0, top, end: false };
    [Step::Give(Delta::new(0, Part::Text { text: String::new(), tokens: vec![token] })), end(9, 1)]
}

#[tokio::test(start_paused = true)]
async fn samples_that_agree_keep_the_answer_and_cost_without_being_wasted() {
    let (told, calls) = told(answering().then(samples("Blue.", "blue")), idle(), asking(Feature::Agreement, 0.9)).await;
    assert_eq!((told.text(), told.reasons()), ("blue", vec![Some(Reason::Accepted), Some(Reason::Evidence)]));
    let evidence = &told.receipt.attempts[1];
    assert_eq!((evidence.wasted, evidence.usage.completion_tokens, evidence.scores), (false, 2, None));
    assert_eq!(told.receipt.attempts[0].evidence.map(|found| found.to_string()).as_deref(), Some("agreement=1"));
    let Ask::Chat(asked) = &calls[1].request.ask else { panic!("a chat") };
    assert_eq!((asked.sampling.n, asked.sampling.temperature, calls[1].request.stream), (2, Some(0.8), false));
}

#[tokio::test(start_paused = true)]
async fn samples_that_disagree_escalate_the_answer() {
    let (told, _) = told(answering().then(samples("red", "blue")), idle(), asking(Feature::Agreement, 0.9)).await;
    assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::LowConfidence)));
}

#[tokio::test(start_paused = true)]
async fn the_model_is_asked_about_its_answer_after_the_conversation() {
    let local = answering().then(word(&[("Y", 0.6), (" No", 0.2)]));
    let (told, calls) = told(local, idle(), asking(Feature::PTrue, 0.75)).await;
    assert_eq!((told.text(), told.reasons()[0]), ("blue", Some(Reason::Accepted)));
    let Ask::Chat(asked) = &calls[1].request.ask else { panic!("a chat") };
    let said: Vec<(Role, &str)> = asked.messages.iter().skip(1).map(|one| (one.role, &*one.text)).collect();
    let question = "Is the proposed answer correct? Answer Y or N.";
    assert_eq!(said, [(Role::Assistant, "blue"), (Role::User, question)]);
    assert_eq!(asked.sampling.max_tokens, Some(1));
}

#[tokio::test(start_paused = true)]
async fn neither_a_yes_nor_a_no_is_no_evidence() {
    let (told, _) = told(answering().then(word(&[("The", 0.9)])), idle(), asking(Feature::PTrue, 0.1)).await;
    assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::NoEvidence)));
}

#[tokio::test(start_paused = true)]
async fn a_second_model_that_agrees_keeps_the_answer() {
    for (opinion, kept) in [("blue", "blue"), ("red", "big")] {
        let second = Fake::new([say(opinion, &[-0.1]), end(8, 1)]);
        let (told, _) = told(answering(), second, asking(Feature::SecondOpinion, 1.0)).await;
        assert_eq!(told.text(), kept);
        assert_eq!(told.receipt.attempts[1].model, ModelId::new(SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn evidence_that_fails_or_never_comes_escalates() {
    let error = Error::new(Kind::Unavailable, Origin::Local, "no slot");
    for script in [vec![Step::Fail(error)], vec![Step::Hang], vec![Step::Wait(LONG)]] {
        let (told, _) = told(answering().then(script), idle(), asking(Feature::Agreement, 0.5)).await;
        assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::NoEvidence)));
        assert_ne!(told.receipt.attempts[1].outcome, AttemptOutcome::Served);
    }
}

#[tokio::test(start_paused = true)]
async fn evidence_that_comes_too_late_is_canceled_and_settled_like_every_canceled_attempt() {
    let begun = vec![say("blue", &[-0.5]), Step::Hang];
    for (script, generated) in [(vec![Step::Hang], 0), (begun, 1)] {
        let local = answering().then(script);
        let (told, _) = told(local, idle(), asking(Feature::Agreement, 0.5)).await;
        let evidence = &told.receipt.attempts[1];
        assert_eq!((evidence.outcome, evidence.reason), (AttemptOutcome::Discarded, Some(Reason::Evidence)));
        let used = (evidence.usage.prompt_tokens, evidence.usage.completion_tokens, evidence.estimated);
        assert_eq!((used, evidence.cost_usd), ((10, generated, true), Some(0.0)));
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_request_cancels_the_evidence() {
    let local = Arc::new(answering().then([say("blue", &[-0.5]), Step::Hang]));
    let house = House::of(&[(LOCAL, &local), (UP, &fake([]))]);
    let plan = cascade(asking(Feature::Agreement, 0.5), OnFailure::Error);
    assert!(tokio::time::timeout(super::SOON, house.start(plan)).await.is_err());
    assert_eq!((local.started(), local.canceled()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn several_choices_have_no_evidence() {
    let local = Fake::new([say("a", &[-0.1]), say_on(1, "b", &[-0.1]), end(8, 2)]);
    let (local, up) = (Arc::new(local), large());
    let house = House { choices: 2, ..House::of(&[(LOCAL, &local), (UP, &up)]) };
    let told = house.ask(cascade(asking(Feature::Agreement, 0.5), OnFailure::Error)).await;
    assert_eq!((told.text(), told.reasons()[0], local.started()), ("big", Some(Reason::NoEvidence), 1));
}
