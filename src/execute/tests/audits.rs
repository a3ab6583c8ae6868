//! What is read of an answer that is drawn while it flows, and what becomes of the ticket.

use super::{
    Arc, Backends, Completion, Fake, Gate, HoldBack, House, LOCAL, OnFailure, StreamExt, UP, cascade, end, fake, fold,
    promised, say,
};
use crate::confidence::audit::Counts;
use crate::confidence::{Auditing, Calibration, Compare, Form, Grader, Grant, Ledger, Risk};
use crate::request::ModelId;

/// A gate whose every kept answer is audited by the upstream; streams are judged after one token.
fn audited(risk: Risk) -> (Gate, Arc<Ledger>) {
    let file = include_bytes!("../../../tests/fixtures/calibration.json");
    let mut calibration = Calibration::parse(file).unwrap();
    calibration.key.hold_back = Some(1);
    let mut grant = Grant::find(&Arc::new(calibration), risk, 0.1, 0.9).unwrap();
    let grader = Grader::Model { model: ModelId::new(UP), compare: Compare::Form(Form::Text), usd_per_day: 1.0 };
    let auditing = Auditing::new(1.0, grader, 0.05);
    let ledger = Arc::new(Ledger::open(&grant, &auditing, Arc::default(), 0).unwrap());
    auditing.bind(Arc::clone(&ledger));
    grant.audit = Some(auditing);
    (Gate { hold_back: HoldBack::Tokens(1), ..promised(Ok(Arc::new(grant)), None) }, ledger)
}

/// A cascade on its way, and what it is audited in.
async fn begun(local: &Arc<Fake>, up: &Arc<Fake>, gate: Gate) -> (House, Completion) {
    let house = House::of(&[(LOCAL, local), (UP, up)]);
    let completion = house.start(cascade(gate, OnFailure::Error)).await.unwrap();
    (house, completion)
}

/// Waits until nothing drawn is open any more.
async fn settled(ledger: &Ledger) -> Counts {
    while ledger.status().open > 0 {
        tokio::time::sleep(super::SOON).await;
    }
    ledger.status().total
}

fn in_two_parts() -> Arc<Fake> {
    fake([say("bi", &[-0.01]), say("g", &[-0.01]), end(5, 2)])
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_flows_on_after_it_was_accepted_is_compared_whole() {
    for (said, losses) in [("big", 0.0), ("bigger", 1.0)] {
        let up = fake([say(said, &[]), end(10, 1)]);
        let (gate, ledger) = audited(Risk::Selective);
        let (_house, completion) = begun(&in_two_parts(), &up, gate).await;
        assert_eq!((ledger.status().open, up.started()), (1, 0), "nobody is asked before it is complete");
        assert_eq!(fold(completion).await.unwrap(), "big");
        let counts = settled(&ledger).await;
        assert_eq!((counts.graded, counts.losses), (1, losses));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_client_left_before_its_end_is_skipped_and_asks_nobody() {
    let up = super::large();
    let (gate, ledger) = audited(Risk::Selective);
    let (_house, mut completion) = begun(&in_two_parts(), &up, gate).await;
    completion.deltas.next().await.unwrap().unwrap();
    drop(completion);
    let counts = settled(&ledger).await;
    assert_eq!((counts.kept, counts.graded, counts.ungradable, up.started()), (1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fails_on_the_way_is_skipped() {
    let local = fake([say("bi", &[-0.01]), super::Step::Fail(super::down(super::Retry::Never))]);
    let (gate, ledger) = audited(Risk::Selective);
    let (_house, completion) = begun(&local, &super::large(), gate).await;
    assert!(fold(completion).await.is_err());
    assert_eq!(settled(&ledger).await.ungradable, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_long_to_be_compared_is_skipped_and_asks_nobody() {
    let (up, long) = (super::large(), "x".repeat(70_000));
    let local = fake([say("x", &[-0.01]), say(&long, &[-0.01]), say("x", &[-0.01]), end(5, 3)]);
    let (gate, ledger) = audited(Risk::Selective);
    let (_house, completion) = begun(&local, &up, gate).await;
    assert_eq!(fold(completion).await.unwrap().len(), long.len() + 2);
    assert_eq!((settled(&ledger).await.ungradable, up.started()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_gate_refuses_speaks_for_a_joint_promise_and_is_not_kept() {
    let unsure = fake([say("small", &[-3.0]), end(5, 1)]);
    for (risk, speaks) in [(Risk::Joint, true), (Risk::Selective, false)] {
        let (gate, ledger) = audited(risk);
        let (_house, completion) = begun(&unsure, &super::large(), gate).await;
        assert_eq!(fold(completion).await.unwrap(), "big");
        assert_eq!((ledger.status().total.kept, ledger.status().wealth < 1.0), (0, speaks));
    }
}

#[tokio::test(start_paused = true)]
async fn more_audits_than_there_is_room_for_are_skipped() {
    let (gate, ledger) = audited(Risk::Selective);
    let slow = fake([super::Step::Wait(super::LONG), say("big", &[]), end(10, 1)]);
    let (local, house) = (in_two_parts(), House::of(&[]));
    let mut backends = Backends::default();
    backends.models.insert(ModelId::new(LOCAL), local as Arc<_>);
    backends.models.insert(ModelId::new(UP), Arc::clone(&slow) as Arc<_>);
    let house = House { backends, ..house };
    for _ in 0..17 {
        fold(house.start(cascade(gate.clone(), OnFailure::Error)).await.unwrap()).await.unwrap();
    }
    let counts = ledger.status().total;
    assert_eq!((counts.drawn, counts.outage, ledger.status().open), (17, 1, 16));
    // Who never answers is given up; what each was asked, 10 tokens at a dollar per million, may be on the bill.
    assert_eq!(settled(&ledger).await.outage, 17);
    let status = ledger.status();
    assert!((status.spent_usd - 16.0 * 1e-5).abs() < 1e-12, "{status:?}");
    assert!((status.spent_today_usd - status.spent_usd).abs() < 1e-12, "{status:?}: nothing stays reserved");
}
