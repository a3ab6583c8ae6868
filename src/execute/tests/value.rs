//! What a cascade does that decides by value, gives up early, is passed over, or stays where it was.

use super::{
    Accept, Arc, Backends, Error, Fake, Feature, Gate, HoldBack, House, Judge, Kind, LOCAL, ModelId, OnFailure, Origin,
    Plan, Reason, Status, Told, UP, end, fake, large, min_gate, promised, say, stage,
};
use crate::confidence::gap::{About, Example, Pacing, Per, Predictor, Skip, Value};
use crate::confidence::{Calibration, Early, Level, Limit, Raw, Running, Score};
use crate::error::Retry;
use crate::plan::{Pin, PinTo};
use crate::request::Trace;

fn about() -> About {
    About { local: LOCAL.into(), local_sha256: None, upstream: UP.into(), rows: 40, date: "2026-11-24".into() }
}

/// The gap is about minus the log-probability.
fn predictor() -> Arc<Predictor> {
    let example = |place: u8| {
        let logprob = -f32::from(place % 4) / 4.0;
        let trace = Trace { logprobs: vec![logprob], margins: vec![1.0], entropies: vec![0.0], ended: false };
        let features = Running::of(&trace).features().unwrap();
        Example { prompt: "x".into(), features, gap: f64::from(-logprob) }
    };
    let examples: Vec<Example> = (0..80).map(example).collect();
    Arc::new(Predictor::of_answers(about(), &examples, &[Feature::SumLogprob]))
}

fn by_value() -> Gate {
    let pacing = Pacing {
        policy: "p".into(),
        usd_per_hour: 0.0001,
        per: Per::Tenant,
        credit: std::time::Duration::from_secs(3600),
    };
    let accept = Accept::Value(Value { predictor: predictor(), pacing });
    Gate { accept: Arc::new(accept), hold_back: HoldBack::All }
}

fn plan(gate: Gate, skip: Option<Skip>, pin: Option<PinTo>) -> Plan {
    let mut first = stage(LOCAL, Some(gate));
    first.skip = skip;
    let pin = pin.map(|to| Pin { to, header: "x-session-id".into(), time_to_live: std::time::Duration::from_secs(60) });
    Plan::Cascade { stages: vec![first, stage(UP, None)], on_failure: OnFailure::Error, pin }
}

fn answering(logprob: f32) -> Arc<Fake> {
    fake([say("small", &[logprob]), end(5, 1)])
}

/// Asks once more what is remembered in `backends`.
async fn ask_again(backends: &mut Backends, local: &Arc<Fake>, up: &Arc<Fake>, plan: Plan) -> Told {
    for (name, fake) in [(LOCAL, local), (UP, up)] {
        backends.models.insert(ModelId::new(name), Arc::clone(fake) as Arc<_>);
    }
    House { backends: backends.clone(), ..House::of(&[]) }.ask(plan).await
}

#[tokio::test(start_paused = true)]
async fn an_escalation_must_be_worth_its_price_and_the_price_rises_with_what_is_spent() {
    let mut backends = Backends::default();
    let told = ask_again(&mut backends, &answering(-0.5), &large(), plan(by_value(), None, None)).await;
    assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::ByValue)), "nothing was spent yet");
    assert_eq!(told.certificate, None);
    let [budget] = &backends.lasting.pacers.stand()[..] else { panic!("one budget") };
    assert_eq!((&*budget.policy, &*budget.tenant), ("p", "anonymous"));
    assert!(
        (budget.spent_usd - told.receipt.cost_usd.unwrap()).abs() < 1e-12,
        "{budget:?}: not as expected, as it was"
    );
    for _ in 0..20 {
        ask_again(&mut backends, &answering(-0.75), &large(), plan(by_value(), None, None)).await;
    }
    let told = ask_again(&mut backends, &answering(-0.1), &large(), plan(by_value(), None, None)).await;
    assert_eq!((told.text(), told.reasons()), ("small", vec![Some(Reason::Accepted)]), "it is not worth it now");
    assert!(backends.lasting.pacers.stand()[0].lambda > 0.0);
}

#[tokio::test(start_paused = true)]
async fn an_hour_later_the_price_is_down_again() {
    let mut backends = Backends::default();
    for _ in 0..20 {
        ask_again(&mut backends, &answering(-0.75), &large(), plan(by_value(), None, None)).await;
    }
    let kept = ask_again(&mut backends, &answering(-0.1), &large(), plan(by_value(), None, None)).await;
    tokio::time::advance(std::time::Duration::from_secs(100 * 3600)).await;
    let escalated = ask_again(&mut backends, &answering(-0.1), &large(), plan(by_value(), None, None)).await;
    assert_eq!((kept.text(), escalated.text()), ("small", "big"));
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_says_enough_passes_the_local_stage_over() {
    let predictor = Arc::new(Predictor::of_prompts(about(), [("x", 0.5)]));
    let skip = |above| Some(Skip { predictor: Arc::clone(&predictor), above });
    let (local, up) = (answering(-0.1), large());
    let mut backends = Backends::default();
    let told = ask_again(&mut backends, &local, &up, plan(min_gate(HoldBack::All), skip(0.3), None)).await;
    assert_eq!((told.text(), told.reasons()[0], local.started()), ("big", Some(Reason::SkippedByValue), 0));
    let told = ask_again(&mut backends, &local, &up, plan(min_gate(HoldBack::All), skip(0.7), None)).await;
    assert_eq!(told.text(), "small");
    up.set_status(Status::default());
    let told = ask_again(&mut backends, &answering(-0.1), &up, plan(min_gate(HoldBack::All), skip(0.3), None)).await;
    assert_eq!(told.text(), "small", "nobody else is ready");
}

#[tokio::test(start_paused = true)]
async fn an_escalated_conversation_stays_escalated_and_a_kept_one_is_judged_anew() {
    let mut backends = Backends::default();
    let pinned = || plan(min_gate(HoldBack::All), None, Some(PinTo::Upstream));
    let kept = ask_again(&mut backends, &answering(-0.1), &large(), pinned()).await;
    let escalated = ask_again(&mut backends, &answering(-5.0), &large(), pinned()).await;
    let local = answering(-0.1);
    let stays = ask_again(&mut backends, &local, &large(), pinned()).await;
    assert_eq!((kept.text(), escalated.text(), stays.text()), ("small", "big", "big"));
    assert_eq!((stays.reasons()[0], local.started()), (Some(Reason::Pinned), 0));
    assert_eq!((kept.receipt.pinned, escalated.receipt.pinned, stays.receipt.pinned), (false, false, true));
}

/// The upstream is ready, and fails when it is asked.
fn breaking() -> Arc<Fake> {
    super::failing(super::down(Retry::Elsewhere))
}

fn with_reserve(plan: Plan) -> Plan {
    let Plan::Cascade { stages, pin, .. } = plan else { panic!("no cascade") };
    Plan::Cascade { stages, on_failure: OnFailure::Local, pin }
}

#[tokio::test(start_paused = true)]
async fn a_followed_pin_has_the_local_model_in_reserve() {
    for (reserve, served) in [(true, true), (false, false)] {
        let mut backends = Backends::default();
        let pinned = || plan(promised(Ok(super::certificates::grant()), None), None, Some(PinTo::Upstream));
        let asked = || if reserve { with_reserve(pinned()) } else { pinned() };
        assert_eq!(ask_again(&mut backends, &answering(-5.0), &large(), asked()).await.text(), "big");
        let told = ask_again(&mut backends, &answering(-0.1), &breaking(), asked()).await;
        assert_eq!((told.text.is_ok(), told.receipt.pinned), (served, true));
        if served {
            assert_eq!((told.text(), told.degraded), ("small", Some("upstream-failed")));
            assert_eq!(told.certificate.as_deref(), Some("uncertified; why=refused"));
            assert_eq!(told.reasons(), [Some(Reason::Pinned), Some(Reason::Error), Some(Reason::Degraded)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_was_skipped_by_value_is_in_reserve_too() {
    let predictor = Arc::new(Predictor::of_prompts(about(), [("x", 0.5)]));
    let plan = plan(min_gate(HoldBack::All), Some(Skip { predictor, above: 0.3 }), None);
    let mut backends = Backends::default();
    let told = ask_again(&mut backends, &answering(-0.1), &breaking(), with_reserve(plan.clone())).await;
    assert_eq!((told.text(), told.degraded, &told.certificate), ("small", Some("upstream-failed"), &None));
    let local = fake([super::Step::Fail(super::down(Retry::Elsewhere))]);
    let told = ask_again(&mut backends, &local, &breaking(), with_reserve(plan)).await;
    assert_eq!(told.text.unwrap_err().kind(), Kind::Unavailable, "nobody answers");
}

#[tokio::test(start_paused = true)]
async fn a_conversation_bound_to_its_tier_is_answered_there_uncertified() {
    let mut backends = Backends::default();
    let pinned = || plan(min_gate(HoldBack::All), None, Some(PinTo::Tier));
    ask_again(&mut backends, &answering(-0.1), &large(), pinned()).await;
    let doubtful = ask_again(&mut backends, &answering(-5.0), &large(), pinned()).await;
    assert_eq!((doubtful.text(), doubtful.reasons()), ("small", vec![Some(Reason::Pinned)]));
    assert_eq!(doubtful.certificate.as_deref(), Some("uncertified; why=pinned"));
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    let later = ask_again(&mut backends, &answering(-5.0), &large(), pinned()).await;
    assert_eq!(later.text(), "big", "it was too long ago");
}

#[tokio::test(start_paused = true)]
async fn a_pin_is_not_followed_to_a_model_that_is_not_ready_or_not_there() {
    let mut backends = Backends::default();
    let pinned = || plan(min_gate(HoldBack::All), None, Some(PinTo::Upstream));
    ask_again(&mut backends, &answering(-5.0), &large(), pinned()).await;
    let up = large();
    up.set_status(Status::default());
    assert_eq!(ask_again(&mut backends, &answering(-0.1), &up, pinned()).await.text(), "small");
    let Plan::Cascade { mut stages, on_failure, pin } = pinned() else { panic!("no cascade") };
    stages[1].model = ModelId::new("up/other");
    let other = Plan::Cascade { stages, on_failure, pin };
    assert_eq!(ask_again(&mut backends, &answering(-0.1), &large(), other).await.text(), "small");
}

#[tokio::test(start_paused = true)]
async fn a_bound_stage_that_fails_leaves_the_next() {
    let mut backends = Backends::default();
    let pinned = || plan(min_gate(HoldBack::All), None, Some(PinTo::Tier));
    ask_again(&mut backends, &answering(-0.1), &large(), pinned()).await;
    let broken = Error::new(Kind::Internal, Origin::Local, "decode failed").retry(Retry::Elsewhere);
    let told = ask_again(&mut backends, &fake([super::Step::Fail(broken)]), &large(), pinned()).await;
    assert_eq!(told.text(), "big");
}

/// Kept at a sum of -2 and above; given up after two tokens below -1.
fn giving_up() -> Gate {
    let file = include_bytes!("../../../tests/fixtures/calibration.json");
    let levels = vec![Level { threshold: -2.0, limits: vec![Limit { tokens: 2, below: -1.0 }] }];
    let calibration = Calibration {
        score: Score::Feature(Raw { feature: Feature::MeanLogprob }),
        certificates: Vec::new(),
        early: Some(Early { epsilon: 0.05, levels }),
        ..Calibration::parse(file).unwrap()
    };
    let accept = Accept::Threshold(Judge::calibrated(Arc::new(calibration), -2.0));
    Gate { accept: Arc::new(accept), hold_back: HoldBack::All }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_will_hardly_become_good_enough_is_given_up() {
    let mut backends = Backends::default();
    // Both in one delta: each token is looked at.
    let local = fake([say("a b c", &[-1.0, -1.5, -0.1]), say("d", &[-0.1]), end(5, 4)]);
    let told = ask_again(&mut backends, &local, &large(), plan(giving_up(), None, None)).await;
    assert_eq!((told.text(), told.reasons()[0], local.given()), ("big", Some(Reason::EarlyUnlikely), 1));
    let later = fake([say("a b", &[-0.1, -0.1]), say("c", &[-5.0]), end(5, 3)]);
    let told = ask_again(&mut backends, &later, &large(), plan(giving_up(), None, None)).await;
    assert_eq!(told.text(), "a bc", "after two tokens it was good enough, and it is at its end");
}

#[tokio::test(start_paused = true)]
async fn each_gated_stage_has_a_gate_of_its_own() {
    const MIDDLE: &str = "local/middle";
    let gate = |threshold| super::gate(Feature::MinLogprob, threshold, HoldBack::All);
    let stages = vec![stage(LOCAL, Some(gate(-0.2))), stage(MIDDLE, Some(gate(-2.0))), stage(UP, None)];
    for (first, second, text) in [(-0.1, -9.0, "small"), (-1.0, -1.0, "small"), (-1.0, -3.0, "big")] {
        let (a, b, c) = (answering(first), answering(second), large());
        let plan = Plan::Cascade { stages: stages.clone(), on_failure: OnFailure::Error, pin: None };
        let told = House::of(&[(LOCAL, &a), (MIDDLE, &b), (UP, &c)]).ask(plan).await;
        assert_eq!(told.text(), text);
        let served = if text == "big" {
            UP
        } else if first > -0.2 {
            LOCAL
        } else {
            MIDDLE
        };
        assert_eq!(told.receipt.served_by, Some(ModelId::new(served)));
    }
}
