//! Candidates on trial: who is answered by whom, what a failing candidate costs, when it is given up.

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::super::canary::{Canary, Terms};
use super::*;
use crate::backend::Backend;
use crate::confidence::trial::{Bounds, Test};

const CANDIDATE: &str = "local/small@canary";

fn terms(share: f64, shadow: f64) -> Terms {
    Terms { share, tenants: Vec::new(), shadow, slower: 2.0, bounds: Bounds::default() }
}

/// A house in which `candidate` is on trial against `current`, with an upstream beside.
struct Trying {
    house: House,
    canary: Arc<Canary>,
    tasks: TaskTracker,
    told: mpsc::Receiver<ModelId>,
}

fn trying(current: &Arc<Fake>, candidate: &Arc<Fake>, up: &Arc<Fake>, terms: Terms) -> Trying {
    let mut house = House::of(&[(UP, up)]);
    let (tasks, (lost, told)) = (TaskTracker::new(), mpsc::channel(4));
    let model = ModelId::new(LOCAL);
    let canary = Canary::open(&model, terms, tasks.clone(), lost).unwrap();
    let both = [current, candidate].map(|fake| Arc::clone(fake) as Arc<dyn Backend>);
    house.backends.models.extend(canary.watch(&both[0], &both[1]));
    house.backends.canaries.insert(model, Arc::clone(&canary));
    Trying { house, canary, tasks, told }
}

impl Trying {
    /// Waits for the comparisons under way.
    async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    fn seen(&self, test: Test) -> (u64, Option<f64>) {
        let tests = self.canary.status().tests;
        tests.iter().find(|standing| standing.test == test).map(|standing| (standing.seen, standing.rate)).unwrap()
    }
}

fn says(text: &str, logprobs: &[f32]) -> Arc<Fake> {
    fake([say(text, logprobs), Step::Wait(SOON), end(10, logprobs.len() as u64)])
}

#[tokio::test(start_paused = true)]
async fn a_drawn_request_is_answered_by_the_candidate_and_the_others_are_not() {
    let (old, new, up) = (says("old", &[-0.1, -0.1]), says("new", &[-0.1, -0.1]), large());
    let all = trying(&old, &new, &up, terms(1.0, 0.0));
    let told = all.house.ask(direct(&[LOCAL])).await;
    assert_eq!((told.text(), told.receipt.served_by.clone()), ("new", Some(ModelId::new(CANDIDATE))));
    let none = trying(&old, &new, &up, terms(0.0, 0.0));
    let told = none.house.ask(direct(&[LOCAL])).await;
    assert_eq!((told.text(), told.receipt.served_by.clone()), ("old", Some(ModelId::new(LOCAL))));
    let named = Terms { tenants: vec![TenantId::anonymous()], ..terms(0.0, 0.0) };
    let told = trying(&old, &new, &up, named).house.ask(direct(&[LOCAL])).await;
    assert_eq!(told.text(), "new");
    let status = all.canary.status();
    assert_eq!((status.answered, status.failed, status.current_answered), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_fails_costs_its_client_nothing_and_in_the_end_its_place() {
    let (old, new) = (says("old", &[-0.1]), failing(Error::internal("no weights")));
    let mut trying = trying(&old, &new, &large(), terms(1.0, 0.0));
    let mut asked = 0;
    while trying.canary.status().lost.is_none() {
        assert_eq!(trying.house.ask(direct(&[LOCAL])).await.text(), "old");
        asked += 1;
        assert!(asked < 100, "never given up");
    }
    assert_eq!(trying.canary.status().lost, Some(Test::Failures));
    assert_eq!(trying.told.try_recv().unwrap(), ModelId::new(LOCAL));
    assert!(trying.told.try_recv().is_err(), "control is told once");
    let before = new.started();
    assert_eq!(trying.house.ask(direct(&[LOCAL])).await.text(), "old");
    assert_eq!(new.started(), before, "nothing is drawn any more");
}

#[tokio::test(start_paused = true)]
async fn what_the_client_did_wrong_is_no_failure_of_the_candidate() {
    let (old, new) = (says("old", &[-0.1]), failing(Error::invalid("temperature", "9 is above 2")));
    let trying = trying(&old, &new, &large(), terms(1.0, 0.0));
    trying.house.ask(direct(&[LOCAL])).await;
    assert_eq!(trying.seen(Test::Failures), (0, None));
}

#[tokio::test(start_paused = true)]
async fn in_a_cascade_the_candidate_is_kept_without_a_promise_only() {
    let (old, new, up) = (says("old", &[-0.1]), says("new", &[-0.1]), large());
    let trying = trying(&old, &new, &up, terms(1.0, 0.0));
    let strict = promised(Err(Uncertified::NoCertificate), None);
    let told = trying.house.ask(cascade(strict, OnFailure::Error)).await;
    assert_eq!((told.text(), new.started()), ("big", 0));
    assert_eq!(told.certificate.as_deref(), Some("uncertified; why=canary"));
    let lax = promised(Err(Uncertified::NoCertificate), Some(0.5));
    let told = trying.house.ask(cascade(lax, OnFailure::Error)).await;
    assert_eq!((told.text(), told.certificate.as_deref()), ("new", Some("uncertified; why=canary")));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_fails_in_the_last_stage_of_a_cascade_is_followed_by_the_current_model() {
    let plan = || Plan::Cascade { stages: vec![stage(LOCAL, None)], on_failure: OnFailure::Error, pin: None };
    let (old, new) = (says("old", &[-0.1]), failing(Error::internal("no weights")));
    let told = trying(&old, &new, &large(), terms(1.0, 0.0)).house.ask(plan()).await;
    assert_eq!((told.text(), told.receipt.served_by.clone()), ("old", Some(ModelId::new(LOCAL))));
    let new = says("new", &[-9.0]);
    let told = trying(&old, &new, &large(), terms(1.0, 0.0)).house.ask(plan()).await;
    assert_eq!(told.text(), "new", "kept without a gate");
}

#[tokio::test(start_paused = true)]
async fn both_are_compared_off_the_path_on_what_they_say_how_fast_and_how_surely() {
    let old = fake([say("4", &[-0.1, -0.1]), Step::Wait(SOON), say("", &[-0.1]), end(10, 3)]);
    let slow = fake([say("5", &[-0.5, -0.1]), Step::Wait(5 * SOON), say("", &[-0.1]), end(10, 3)]);
    let trying = trying(&old, &slow, &large(), terms(0.0, 1.0));
    let told = trying.house.ask(direct(&[LOCAL])).await;
    assert_eq!(told.text(), "4");
    assert_eq!(told.receipt.attempts.len(), 1, "the client's request pays for one");
    trying.settle().await;
    for test in [Test::Disagreement, Test::Slower, Test::LessSure] {
        assert_eq!(trying.seen(test), (1, Some(1.0)), "{test:?}");
    }
    assert_eq!((old.started(), slow.started()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_as_good_stays() {
    let (old, new) = (says("the same", &[-0.1, -0.2]), says("the same", &[-0.1, -0.1]));
    let trying = trying(&old, &new, &large(), terms(0.5, 1.0));
    for _ in 0..60 {
        trying.house.ask(direct(&[LOCAL])).await;
        trying.settle().await;
    }
    let status = trying.canary.status();
    assert_eq!(status.lost, None);
    assert!(status.answered > 10 && status.current_answered > 10, "{status:?}");
    assert!(trying.seen(Test::Disagreement).0 > 10);
}

#[test]
fn a_term_that_is_none_is_refused() {
    let open = |terms| {
        let (lost, _) = mpsc::channel(1);
        Canary::open(&ModelId::new(LOCAL), terms, TaskTracker::new(), lost).unwrap_err()
    };
    assert_eq!(open(terms(1.5, 0.0)), "share = 1.5: want 0 to 1");
    assert_eq!(open(terms(0.0, f64::NAN)), "shadow = NaN: want 0 to 1");
    assert_eq!(open(Terms { slower: 0.5, ..terms(0.0, 0.0) }), "slower = 0.5: want 1 or more");
}
