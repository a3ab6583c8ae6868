//! What a gate that was asked for a promise does, and what is told of it.

use super::{
    Arc, AttemptOutcome, Error, Fake, Gate, Grant, HoldBack, House, Kind, LOCAL, OnFailure, Origin, Plan, Reason, Told,
    UP, Uncertified, cascade, down, end, failing, fake, large, min_gate, promised, say, say_on, stage,
};
use crate::confidence::{Calibration, Risk};
use crate::error::Retry;

/// Certified with risk .1 from .8 on, which is a probability of the least probable token of .75.
pub(super) fn grant() -> Arc<Grant> {
    let file = include_bytes!("../../../tests/fixtures/calibration.json");
    let calibration = Arc::new(Calibration::parse(file).unwrap());
    Arc::new(Grant::find(&calibration, Risk::Selective, 0.1, 0.9).unwrap())
}

fn certified(otherwise: Option<f64>) -> Gate {
    promised(Ok(grant()), otherwise)
}

fn answering(logprob: f32) -> Arc<Fake> {
    fake([say("small", &[logprob]), end(5, 1)])
}

async fn told(local: &Arc<Fake>, house: impl FnOnce(House) -> House, gate: Gate) -> Told {
    let up = large();
    house(House::of(&[(LOCAL, local), (UP, &up)])).ask(cascade(gate, OnFailure::Error)).await
}

fn several(house: House) -> House {
    House { choices: 2, ..house }
}

const KEPT: &str = "max_error=0.1 confidence=0.9 slice=facts%2C%20short";

#[tokio::test(start_paused = true)]
async fn an_answer_kept_under_a_certificate_says_what_is_promised() {
    let told = told(&answering(0.8f32.ln()), |house| house, certified(None)).await;
    assert_eq!((told.text(), told.reasons()), ("small", vec![Some(Reason::Certified)]));
    assert_eq!(told.certificate.as_deref(), Some(KEPT));
    assert_eq!(told.receipt.standing.map(|standing| standing.to_string()).as_deref(), Some(KEPT));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_certified_threshold_refuses_escalates_without_a_word_of_certificates() {
    let told = told(&answering(0.7f32.ln()), |house| house, certified(Some(0.5))).await;
    assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::EarlyLowConfidence)));
    assert_eq!(told.certificate, None);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_key_escalates_unasked_and_says_why() {
    let local = answering(-0.01);
    let told = told(&local, several, certified(None)).await;
    assert_eq!((told.text(), told.reasons()[0], local.started()), ("big", Some(Reason::OtherKey), 0));
    assert_eq!(told.certificate.as_deref(), Some("uncertified; why=n"));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_key_is_judged_by_the_fallback_and_stays_uncertified() {
    for (least, kept, reason) in [(0.5, "smallsmall", Reason::OtherKey), (0.9, "big", Reason::EarlyLowConfidence)] {
        let (first, second) = (say("small", &[0.7f32.ln()]), say_on(1, "small", &[0.7f32.ln()]));
        let told = told(&fake([first, second, end(5, 2)]), several, certified(Some(least))).await;
        assert_eq!((told.text(), told.reasons()[0]), (kept, Some(reason)));
        assert_eq!(told.certificate.as_deref(), Some("uncertified; why=n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_judged_before_its_end_is_not_what_was_certified() {
    let gate = || Gate { hold_back: HoldBack::Tokens(1), ..certified(None) };
    let local = answering(-0.01);
    let streamed = told(&local, |house| house, gate()).await;
    assert_eq!(streamed.certificate.as_deref(), Some("uncertified; why=hold_back"));
    assert_eq!(told(&local, House::not_streaming, gate()).await.certificate.as_deref(), Some(KEPT));
}

#[tokio::test(start_paused = true)]
async fn without_any_certificate_the_stage_is_passed_over() {
    let local = answering(-0.01);
    let told = told(&local, |house| house, promised(Err(Uncertified::NoCertificate), None)).await;
    assert_eq!((told.text(), told.receipt.attempts[0].outcome), ("big", AttemptOutcome::Skipped));
    assert_eq!(told.certificate.as_deref(), Some("uncertified; why=no_certificate"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_answer_that_is_served_after_all_is_not_certified() {
    let (local, up) = (answering(-5.0), failing(down(Retry::Elsewhere)));
    let house = House::of(&[(LOCAL, &local), (UP, &up)]);
    let told = house.ask(cascade(certified(None), OnFailure::Local)).await;
    assert_eq!((told.text(), told.reasons()[0]), ("small", Some(Reason::Degraded)));
    assert_eq!(told.certificate.as_deref(), Some("uncertified; why=refused"));
}

#[tokio::test(start_paused = true)]
async fn a_local_model_that_fails_leaves_nothing_to_certify() {
    let local = failing(Error::new(Kind::Unavailable, Origin::Local, "it is down").retry(Retry::Elsewhere));
    let told = told(&local, |house| house, certified(None)).await;
    assert_eq!((told.text(), told.certificate.as_deref()), ("big", None));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_says_nothing_of_what_an_earlier_stage_let_through() {
    let (first, local, up) = (answering(-5.0), answering(-0.01), large());
    let house = House::of(&[("local/first", &first), (LOCAL, &local), (UP, &up)]);
    let stages = vec![
        stage("local/first", Some(min_gate(HoldBack::All))),
        stage(LOCAL, Some(certified(Some(0.5)))),
        stage(UP, None),
    ];
    let told = house.ask(Plan::Cascade { stages, on_failure: OnFailure::Error, pin: None }).await;
    assert_eq!((told.text(), told.certificate.as_deref()), ("small", Some("uncertified; why=keep_rule")));
}
