//! What is replayed is what a live cascade does: both are asked the same, and must say the same.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::account::{AttemptOutcome, Meter, Prices, Receipt, Record};
use crate::backend::fake::{Fake, end, say, say_on};
use crate::confidence::gap::{About, Predictor, Skip};
use crate::confidence::{Accept, Calibration, Early, Grant, Level, Limit, Risk, Running, Uncertified};
use crate::execute::{Backends, run};
use crate::plan::{HoldBack, PinTo, Stage};
use crate::request::{Ask, Chat, ClientBody, Message, Role, Sampling, TenantId};

const LOCAL: &str = "local/small";
const MIDDLE: &str = "local/middle";
const UP: &str = "up/large";

#[derive(Debug, Default)]
struct Book(std::sync::Mutex<Vec<Receipt>>);

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().unwrap().push(receipt);
    }
}

fn request(choices: u32) -> Request {
    let message = Message {
        role: Role::User,
        text: "hi".into(),
        images: 0,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    };
    let sampling = Sampling { n: choices, ..Sampling::default() };
    Request {
        id: "r".into(),
        tenant: TenantId::anonymous(),
        model: "auto".into(),
        stream: false,
        ask: Ask::Chat(Chat { messages: vec![message], sampling, ..Chat::default() }),
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

/// What is certified: a least probable token of .8 (selective risk) or .7 (joint); in words, the rest.
fn calibration() -> Calibration {
    Calibration::parse(include_bytes!("../../../tests/fixtures/calibration.json")).unwrap()
}

fn promised(granted: Result<Risk, Uncertified>, otherwise: Option<f64>) -> Gate {
    let grant = |risk| Arc::new(Grant::find(&Arc::new(calibration()), risk, 0.1, 0.9).unwrap());
    let accept = Accept::Promise { granted: granted.map(grant), otherwise: otherwise.map(Judge::least_probability) };
    Gate { accept: Arc::new(accept), hold_back: HoldBack::All }
}

fn threshold(at_least: f64) -> Gate {
    let accept = Accept::Threshold(Judge::at_least(Feature::MinLogprob, at_least));
    Gate { accept: Arc::new(accept), hold_back: HoldBack::All }
}

fn stage(model: &str, gate: Option<Gate>) -> Stage {
    Stage { model: ModelId::new(model), gate, skip: None }
}

fn skip(above: f64) -> Option<Skip> {
    let about = About { local: LOCAL.into(), local_sha256: None, upstream: UP.into(), rows: 1, date: "d".into() };
    Some(Skip { predictor: Arc::new(Predictor::of_prompts(about, [("hi", 0.5)])), above })
}

fn pin(to: PinTo) -> Option<Pin> {
    Some(Pin { to, header: "x-session-id".into(), time_to_live: Duration::from_secs(60) })
}

fn traced(logprob: f32) -> Recorded {
    let trace = Trace { logprobs: vec![logprob], margins: vec![1.0], entropies: vec![0.0], ended: false };
    Recorded { features: Running::of(&trace).features(), trace: Some(trace), ..Recorded::default() }
}

/// Who serves and who was asked in vain, where these local models are as sure as that.
async fn live(plan: &Plan, logprobs: [f32; 2]) -> Fate {
    let mut backends = Backends::default();
    let fakes = [(LOCAL, logprobs[0]), (MIDDLE, logprobs[1]), (UP, 0.0)];
    for (name, logprob) in fakes {
        let fake = Fake::new([say("x", &[logprob]), end(5, 1)]);
        backends.models.insert(ModelId::new(name), Arc::new(fake) as Arc<_>);
    }
    let book = Arc::new(Book::default());
    let meter = Meter::open(Arc::clone(&book) as Arc<dyn Record>, Arc::new(Prices::default()));
    let answered = run(plan.clone(), Arc::new(request(1)), &backends, meter.clone()).await;
    drop((answered, meter));
    let receipt = book.0.lock().unwrap().remove(0);
    let asked = receipt.attempts.iter().filter(|one| one.outcome != AttemptOutcome::Skipped).map(|one| &one.model);
    match &receipt.served_by {
        Some(model) => {
            Fate::Served { model: model.clone(), refused: asked.filter(|one| *one != model).cloned().collect() }
        }
        None => Fate::Rejected,
    }
}

/// Cascades of two gated stages, of every kind there is.
fn plans() -> Vec<Plan> {
    let selective = || promised(Ok(Risk::Selective), None);
    let fallback = || promised(Ok(Risk::Selective), Some(0.5));
    let joint = || promised(Ok(Risk::Joint), None);
    let none = || promised(Err(Uncertified::NoCertificate), None);
    let firsts: Vec<(Gate, Option<Skip>)> = vec![
        (selective(), None),
        (selective(), skip(0.9)),
        (selective(), skip(0.1)),
        (fallback(), skip(0.9)),
        (joint(), skip(0.9)),
        (none(), None),
        (threshold(-0.3), None),
    ];
    let laters = [selective(), fallback(), joint(), threshold(-0.3)];
    let pins = [None, pin(PinTo::Upstream), pin(PinTo::Tier)];
    let mut plans = Vec::new();
    for place in 0..firsts.len() * laters.len() * pins.len() * 2 {
        let (first, place) = (&firsts[place % firsts.len()], place / firsts.len());
        let (later, place) = (&laters[place % laters.len()], place / laters.len());
        let (pin, place) = (&pins[place % pins.len()], place / pins.len());
        let on_failure = [OnFailure::Error, OnFailure::Local][place];
        let mut stages = vec![stage(LOCAL, Some(first.0.clone())), stage(MIDDLE, Some(later.clone())), stage(UP, None)];
        stages[0].skip = first.1.clone();
        plans.push(Plan::Cascade { stages, on_failure, pin: pin.clone() });
    }
    plans
}

#[tokio::test(start_paused = true)]
async fn a_replay_says_who_would_have_served_and_who_would_have_been_asked_in_vain() {
    let mut kept = 0;
    for plan in plans() {
        for logprobs in [[-0.05, -0.05], [-0.05, -5.0], [-0.5, -0.05], [-0.5, -0.5], [-5.0, -5.0]] {
            let records = [(LOCAL, logprobs[0]), (MIDDLE, logprobs[1])];
            let records = records.map(|(name, logprob)| (ModelId::new(name), traced(logprob))).into();
            let decision = Decision { policy: "p".into(), rule: "r".into(), plan: plan.clone() };
            let told = fate(&decision, &request(1), &records);
            assert_eq!(told, live(&plan, logprobs).await, "{plan:?} {logprobs:?}");
            kept += usize::from(matches!(&told, Fate::Served { model, .. } if model.is_local()));
        }
    }
    assert!(kept > 200 && kept < 700, "both ends are seen: {kept} of 840");
}

fn of(gate: &Gate, choices: u32, records: &[(&str, Recorded)]) -> Fate {
    let stages = vec![stage(LOCAL, Some(gate.clone())), stage(UP, None)];
    let plan = Plan::Cascade { stages, on_failure: OnFailure::Error, pin: None };
    let decision = Decision { policy: "p".into(), rule: "r".into(), plan };
    let records = records.iter().map(|(name, record)| (ModelId::new(*name), record.clone())).collect();
    fate(&decision, &request(choices), &records)
}

#[tokio::test(start_paused = true)]
async fn of_several_answers_one_that_is_refused_decides_and_one_that_is_kept_does_not() {
    let gate = threshold(-0.3);
    assert!(matches!(of(&gate, 2, &[(LOCAL, traced(-0.5))]), Fate::Served { model, .. } if model.as_str() == UP));
    assert_eq!(of(&gate, 2, &[(LOCAL, traced(-0.1))]), Fate::Unknown(Unknown::Choices(ModelId::new(LOCAL))));
    let mut backends = Backends::default();
    let two = Fake::new([say("x", &[-0.1]), say_on(1, "y", &[-0.5]), end(5, 2)]);
    backends.models.insert(ModelId::new(LOCAL), Arc::new(two) as Arc<_>);
    let plan = Plan::Cascade {
        stages: vec![stage(LOCAL, Some(gate)), stage(UP, None)],
        on_failure: OnFailure::Error,
        pin: None,
    };
    let meter = Meter::open(Arc::new(Book::default()), Arc::new(Prices::default()));
    assert!(run(plan, Arc::new(request(2)), &backends, meter).await.is_err(), "nobody else answers");
}

#[test]
fn an_answer_that_would_have_been_given_up_is_known_by_its_tokens_only() {
    let early =
        Early { epsilon: 0.05, levels: vec![Level { threshold: 0.1, limits: vec![Limit { tokens: 1, below: 0.7 }] }] };
    let calibration = Calibration { early: Some(early), ..calibration() };
    let accept = Accept::Threshold(Judge::calibrated(Arc::new(calibration), 0.1));
    let gate = Gate { accept: Arc::new(accept), hold_back: HoldBack::All };
    let two = |first: f32| {
        let trace = Trace { logprobs: vec![first, -1.0], margins: vec![1.0; 2], entropies: vec![0.0; 2], ended: false };
        Recorded { features: Running::of(&trace).features(), trace: Some(trace), ..Recorded::default() }
    };
    let served = |record: Recorded| match of(&gate, 1, &[(LOCAL, record)]) {
        Fate::Served { model, .. } => model.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((served(two(-0.1)), served(two(-1.5))), (LOCAL.to_owned(), UP.to_owned()));
    let untraced = Recorded { trace: None, ..two(-0.1) };
    assert_eq!(of(&gate, 1, &[(LOCAL, untraced)]), Fate::Unknown(Unknown::Early(ModelId::new(LOCAL))));
}
