//! Plans against scripted backends under paused time: every branch of fallback and cascade.

mod audits;
mod canaries;
mod certificates;
mod evidence;
mod value;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http::StatusCode;
use tokio::time::timeout;

use super::{Backends, run};
use crate::account::{AttemptOutcome, Meter, Outcome, Price, Prices, Reason, Receipt, Record, Story};
use crate::backend::fake::{Fake, Step, end, finish, raw, say, say_on};
use crate::backend::{Completion, Status};
use crate::confidence::{Accept, Feature, Grant, Judge, Uncertified};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::plan::{Decision, Gate, HoldBack, OnFailure, Plan, Stage};
use crate::request::{Ask, Chat, ClientBody, Finish, Message, ModelId, Part, Request, Role, Sampling, TenantId};

const LONG: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(10);
const LOCAL: &str = "local/small";
const UP: &str = "up/large";

#[derive(Debug, Default)]
struct Book(Mutex<Vec<Receipt>>);

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }
}

fn said(text: &str) -> Message {
    Message {
        role: Role::User,
        text: text.into(),
        images: 0,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    }
}

/// Backends, a request and a tab.
struct House {
    backends: Backends,
    stream: bool,
    choices: u32,
    book: Arc<Book>,
}

/// What the client got, and what stands on the tab.
struct Told {
    text: Result<String>,
    degraded: Option<&'static str>,
    certificate: Option<String>,
    receipt: Receipt,
}

impl House {
    fn of(fakes: &[(&str, &Arc<Fake>)]) -> House {
        let mut backends = Backends::default();
        for (name, fake) in fakes {
            backends.models.insert(ModelId::new(*name), Arc::clone(fake) as Arc<_>);
        }
        House { backends, stream: true, choices: 1, book: Arc::default() }
    }

    fn not_streaming(self) -> House {
        House { stream: false, ..self }
    }

    fn meter(&self, plan: &Plan) -> Meter {
        let price = Price { input: 1.0, cached_input: None, output: 1.0 };
        let prices = Prices { table: [("up/*".to_owned(), price)].into() };
        let meter = Meter::open(self.book.clone(), Arc::new(prices));
        meter.asked(&self.request());
        meter.decided(&Decision { policy: "p".into(), rule: "r".into(), plan: plan.clone() }, 1);
        meter
    }

    fn request(&self) -> Request {
        let sampling = Sampling { n: self.choices, ..Sampling::default() };
        Request {
            id: "r-1".into(),
            tenant: TenantId::anonymous(),
            model: "auto".into(),
            stream: self.stream,
            ask: Ask::Chat(Chat { messages: vec![said(&"x".repeat(40))], sampling, ..Chat::default() }),
            body: ClientBody::default(),
            headers: Default::default(),
            authorization: None,
        }
    }

    async fn start(&self, plan: Plan) -> Result<Completion> {
        let meter = self.meter(&plan);
        let result = run(plan, Arc::new(self.request()), &self.backends, meter.clone()).await;
        if let Err(error) = &result {
            meter.failed(error);
        }
        result
    }

    async fn ask(&self, plan: Plan) -> Told {
        let meter = self.meter(&plan);
        let result = run(plan, Arc::new(self.request()), &self.backends, meter.clone()).await;
        let text = match result {
            Ok(completion) => fold(completion).await,
            Err(error) => {
                meter.failed(&error);
                Err(error)
            }
        };
        let Story { degraded, certificate, .. } = meter.story();
        drop(meter);
        Told { text, degraded, certificate, receipt: self.receipt() }
    }

    fn receipt(&self) -> Receipt {
        let mut receipts = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(receipts.len(), 1, "one receipt per request");
        receipts.remove(0)
    }
}

impl Told {
    fn reasons(&self) -> Vec<Option<Reason>> {
        self.receipt.attempts.iter().map(|attempt| attempt.reason).collect()
    }

    fn kind(&self) -> Kind {
        self.text.as_ref().unwrap_err().kind()
    }

    fn text(&self) -> &str {
        self.text.as_ref().unwrap()
    }
}

/// All text of an answer, which must have exactly one end.
async fn fold(mut completion: Completion) -> Result<String> {
    let (mut text, mut ends) = (String::new(), 0);
    while let Some(delta) = completion.deltas.next().await {
        match delta?.part {
            Part::Text { text: more, .. } => text.push_str(&more),
            Part::End(_) => ends += 1,
            _ => {}
        }
    }
    assert_eq!(ends, 1, "exactly one end");
    Ok(text)
}

fn fake(script: impl IntoIterator<Item = Step>) -> Arc<Fake> {
    Arc::new(Fake::new(script))
}

/// An upstream that answers `big`.
fn large() -> Arc<Fake> {
    fake([Step::Wait(SOON), say("big", &[]), end(10, 1)])
}

fn failing(error: Error) -> Arc<Fake> {
    fake([Step::Wait(SOON), Step::Fail(error)])
}

fn down(retry: Retry) -> Error {
    Error::new(Kind::Unavailable, Origin::Upstream, "it is down").retry(retry)
}

fn direct(names: &[&str]) -> Plan {
    Plan::Direct { targets: names.iter().map(|name| ModelId::new(*name)).collect() }
}

fn gate(score: Feature, threshold: f64, hold_back: HoldBack) -> Gate {
    Gate { accept: Arc::new(Accept::Threshold(Judge::at_least(score, threshold))), hold_back }
}

/// A promise, and the least probability by which an answer is kept without a certificate.
fn promised(granted: std::result::Result<Arc<Grant>, Uncertified>, otherwise: Option<f64>) -> Gate {
    let accept = Accept::Promise { granted, otherwise: otherwise.map(Judge::least_probability) };
    Gate { accept: Arc::new(accept), hold_back: HoldBack::All }
}

fn stage(model: &str, gate: Option<Gate>) -> Stage {
    Stage { model: ModelId::new(model), gate, skip: None }
}

fn cascade(gate: Gate, on_failure: OnFailure) -> Plan {
    let stages = vec![stage(LOCAL, Some(gate)), stage(UP, None)];
    Plan::Cascade { stages, on_failure, pin: None }
}

/// min_logprob ≥ -1, with this hold-back.
fn min_gate(hold_back: HoldBack) -> Gate {
    gate(Feature::MinLogprob, -1.0, hold_back)
}

mod direct_plans {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_that_answers_serves() {
        let (a, b) = (failing(down(Retry::Elsewhere)), failing(down(Retry::After(LONG))));
        let (c, d) = (large(), large());
        let told = House::of(&[("up/a", &a), ("up/b", &b), ("up/c", &c), ("up/d", &d)])
            .ask(direct(&["up/a", "up/b", "up/c", "up/d"]))
            .await;
        assert_eq!(told.text(), "big");
        assert_eq!((a.started(), b.started(), c.started(), d.started()), (1, 1, 1, 0));
        assert_eq!(told.receipt.served_by, Some(ModelId::new("up/c")));
        assert_eq!(told.reasons(), [Some(Reason::Error), Some(Reason::Error), Some(Reason::Accepted)]);
        assert_eq!(told.receipt.outcome, Outcome::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_is_the_same_everywhere_is_not_tried_elsewhere() {
        let (a, b) = (failing(Error::invalid("temperature", "temperature 9 is above 2")), large());
        let told = House::of(&[("up/a", &a), ("up/b", &b)]).ask(direct(&["up/a", "up/b"])).await;
        assert_eq!((told.kind(), b.started()), (Kind::Invalid, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_too_long_for_one_may_fit_the_next() {
        let error = Error::invalid("messages", "9000 tokens exceed 8192").code("context_length_exceeded");
        let (a, b) = (failing(error), large());
        let told = House::of(&[(LOCAL, &a), (UP, &b)]).ask(direct(&[LOCAL, UP])).await;
        assert_eq!(told.text(), "big");
        assert_eq!(told.reasons()[0], Some(Reason::Context));
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_cannot_serve_is_never_asked() {
        let refusing = |what: &str| Arc::new(Fake::new([end(1, 1)]).refusing(Error::invalid(what, "not here")));
        let (a, b) = (refusing("tools"), large());
        let told = House::of(&[("up/a", &a), ("up/b", &b)]).ask(direct(&["up/a", "up/b"])).await;
        assert_eq!((told.text(), a.started()), ("big", 0));
        assert_eq!(told.reasons()[0], Some(Reason::Cannot));

        let (a, b) = (refusing("tools"), refusing("images"));
        let told = House::of(&[("up/a", &a), ("up/b", &b)]).ask(direct(&["up/a", "up/b"])).await;
        let error = told.text.unwrap_err();
        assert_eq!((error.detail().param.as_deref(), a.started() + b.started()), (Some("tools"), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_not_ready_is_passed_over_while_another_remains() {
        let (a, b) = (large(), failing(down(Retry::Elsewhere)));
        a.set_status(Status::default());
        b.set_status(Status::default());
        let told = House::of(&[("up/a", &a), ("up/b", &b)]).ask(direct(&["up/a", "up/b"])).await;
        assert_eq!((told.kind(), a.started(), b.started()), (Kind::Unavailable, 0, 1));
        assert_eq!(told.reasons(), [Some(Reason::NotReady), Some(Reason::Error)]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_delta_nothing_moves_on() {
        let (a, b) = (fake([say("half", &[]), Step::Fail(down(Retry::Elsewhere))]), large());
        let told = House::of(&[("up/a", &a), ("up/b", &b)]).ask(direct(&["up/a", "up/b"])).await;
        assert_eq!((told.kind(), b.started()), (Kind::Unavailable, 0));
        assert_eq!(told.receipt.outcome, Outcome::Error(Kind::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_passes_any_name_on_is_found_by_its_prefix() {
        let any = fake([raw("{}"), end(1, 1)]);
        let mut house = House::of(&[]);
        house.backends.wildcards.insert("up".into(), any.clone());
        let told = house.ask(direct(&["up/org/what-ever"])).await;
        assert_eq!(told.receipt.served_by, Some(ModelId::new("up/org/what-ever")));
        assert_eq!(House::of(&[]).ask(direct(&["up/x"])).await.kind(), Kind::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusing_plan_is_an_error_with_the_policys_status() {
        for (status, kind) in [
            (418, Kind::Forbidden),
            (401, Kind::Unauthenticated),
            (404, Kind::NotFound),
            (429, Kind::RateLimited),
            (503, Kind::Unavailable),
            (500, Kind::Internal),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let plan = Plan::Reject { status, message: "not here".into(), code: "why" };
            let error = House::of(&[]).ask(plan).await.text.unwrap_err();
            let detail = error.detail();
            assert_eq!((detail.status, detail.code, detail.kind), (Some(status), Some("why"), kind));
            assert_eq!((&*detail.message, detail.origin), ("not here", Origin::Gateway));
        }
    }
}

mod cascades {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn early_escalation_comes_before_any_byte_and_cancels_the_local_work() {
        for score in [Feature::MinLogprob, Feature::SumLogprob] {
            let local = fake([say("sure ", &[-0.1]), say("unsure ", &[-3.0]), Step::Wait(LONG), say("more", &[-0.1])]);
            let up = large();
            let house = House::of(&[(LOCAL, &local), (UP, &up)]);
            let told = house.ask(cascade(gate(score, -1.0, HoldBack::All), OnFailure::Error)).await;
            assert_eq!(told.text(), "big", "not a byte of the small one's");
            assert_eq!((local.given(), local.canceled(), up.started()), (2, 1, 1));
            assert_eq!(told.reasons(), [Some(Reason::EarlyLowConfidence), Some(Reason::Accepted)]);
            let small = &told.receipt.attempts[0];
            assert_eq!((small.outcome, small.wasted, small.estimated), (AttemptOutcome::Discarded, true, true));
            assert_eq!((small.usage.prompt_tokens, small.usage.completion_tokens), (10, 2));
            assert!(told.receipt.ttft.unwrap() < LONG, "nobody waited for the rest");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_margin_escalates_early_too() {
        let (local, up) = (fake([say("close call", &[-0.1]), Step::Hang]), large());
        let plan = cascade(gate(Feature::Margin, 1.5, HoldBack::Tokens(8)), OnFailure::Error);
        assert_eq!(House::of(&[(LOCAL, &local), (UP, &up)]).ask(plan).await.text(), "big");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_flow_once_the_hold_back_is_passed() {
        let local =
            fake([say("one ", &[-0.1]), say("two ", &[-0.2]), Step::Wait(LONG), say("three", &[-9.0]), end(5, 3)]);
        let up = large();
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let completion = timeout(SOON, house.start(cascade(min_gate(HoldBack::Tokens(2)), OnFailure::Error)))
            .await
            .expect("two tokens are enough")
            .unwrap();
        assert_eq!(fold(completion).await.unwrap(), "one two three");
        let receipt = house.receipt();
        assert_eq!((up.started(), receipt.outcome), (0, Outcome::Ok), "what follows a commit is not judged");
        assert_eq!(receipt.ttft, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_shorter_than_the_hold_back_is_judged_whole() {
        let (local, up) = (fake([say("yes", &[-0.1]), finish(Finish::Stop), end(5, 1)]), large());
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::Tokens(99)), OnFailure::Error)).await;
        assert_eq!((told.text(), up.started()), ("yes", 0));
        assert_eq!(told.receipt.attempts[0].finish, Some(Finish::Stop));
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_may_rise_again_until_the_hold_back_ends() {
        let rising = || fake([say("a ", &[-3.0]), say("b ", &[-0.1]), say("c", &[-0.1]), end(5, 3)]);
        let mean = |hold_back| cascade(gate(Feature::MeanLogprob, -1.2, hold_back), OnFailure::Error);
        let (local, up) = (rising(), large());
        let told = House::of(&[(LOCAL, &local), (UP, &up)]).ask(mean(HoldBack::Tokens(3))).await;
        assert_eq!(told.text(), "a b c");
        let told = House::of(&[(LOCAL, &local), (UP, &up)]).ask(mean(HoldBack::All)).await;
        assert_eq!(told.text(), "a b c");
        let told = House::of(&[(LOCAL, &local), (UP, &up)]).ask(mean(HoldBack::Tokens(2))).await;
        assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::EarlyLowConfidence)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_stream_gets_the_whole_answer_judged() {
        let doubtful_end = fake([say("one ", &[-0.1]), say("two", &[-9.0]), end(5, 2)]);
        let up = large();
        let house = House::of(&[(LOCAL, &doubtful_end), (UP, &up)]).not_streaming();
        let told = house.ask(cascade(min_gate(HoldBack::Tokens(1)), OnFailure::Error)).await;
        assert_eq!(told.text(), "big");
        let mean = cascade(gate(Feature::MeanLogprob, -1.0, HoldBack::All), OnFailure::Error);
        let told = house.ask(mean).await;
        assert_eq!(told.reasons(), [Some(Reason::LowConfidence), Some(Reason::Accepted)]);
        assert!(!told.receipt.attempts[0].estimated, "the small one told its usage");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_choices_each_must_be_accepted() {
        let up = large();
        let with = |second: f32| {
            let steps = [say("a", &[-0.1]), say_on(1, "b", &[second]), Step::Wait(SOON), say("", &[-0.1]), end(5, 3)];
            let local = fake(steps);
            House { choices: 2, ..House::of(&[(LOCAL, &local), (UP, &up)]) }
        };
        let plan = || cascade(min_gate(HoldBack::Tokens(1)), OnFailure::Error);
        assert_eq!(with(-0.2).ask(plan()).await.text(), "ab");
        let told = with(-2.0).ask(plan()).await;
        assert_eq!(told.text(), "big");
        let confidence = told.receipt.attempts[0].scores.unwrap().to_string();
        assert!(confidence.starts_with("min_logprob=-2,"), "{confidence}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_a_token_escalates() {
        let (local, up) = (fake([finish(Finish::Stop), end(5, 0)]), large());
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(gate(Feature::MinLogprob, -99.0, HoldBack::Tokens(0)), OnFailure::Error)).await;
        assert_eq!((told.text(), told.reasons()[0]), ("big", Some(Reason::LowConfidence)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_cut_off_at_its_length_is_judged_like_any_other() {
        let (local, up) = (fake([say("cut", &[-0.1]), finish(Finish::Length), end(5, 1)]), large());
        let told =
            House::of(&[(LOCAL, &local), (UP, &up)]).ask(cascade(min_gate(HoldBack::All), OnFailure::Error)).await;
        assert_eq!((told.text(), told.receipt.attempts[0].finish), ("cut", Some(Finish::Length)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_does_not_answer_leaves_its_reason_to_the_next() {
        let overloaded = Error::new(Kind::Overloaded, Origin::Local, "queue full").retry(Retry::After(SOON));
        let too_long = Error::invalid("messages", "too long").code("context_length_exceeded");
        let broken = || Error::new(Kind::Internal, Origin::Local, "decode failed").retry(Retry::Elsewhere);
        let not_ready = large();
        not_ready.set_status(Status::default());
        let cases = [
            (failing(overloaded), Reason::Overloaded, AttemptOutcome::Failed(Kind::Overloaded)),
            (failing(too_long), Reason::Context, AttemptOutcome::Failed(Kind::Invalid)),
            (failing(broken()), Reason::Error, AttemptOutcome::Failed(Kind::Internal)),
            (fake([say("half", &[-0.1]), Step::Fail(broken())]), Reason::Error, AttemptOutcome::Failed(Kind::Internal)),
            (fake([say("half", &[-0.1])]), Reason::Error, AttemptOutcome::Failed(Kind::Unavailable)),
            (not_ready, Reason::NotReady, AttemptOutcome::Skipped),
            (
                Arc::new(Fake::new([end(1, 1)]).refusing(Error::invalid("messages", "no images here"))),
                Reason::Cannot,
                AttemptOutcome::Skipped,
            ),
        ];
        for (local, reason, outcome) in cases {
            let up = large();
            let house = House::of(&[(LOCAL, &local), (UP, &up)]);
            let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Error)).await;
            assert_eq!(told.text(), "big");
            let small = &told.receipt.attempts[0];
            assert_eq!((small.reason, small.outcome), (Some(reason), outcome));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_wrong_everywhere_fails_at_once() {
        let (local, up) = (failing(Error::invalid("stop", "empty")), large());
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Error)).await;
        assert_eq!((told.kind(), up.started()), (Kind::Invalid, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_accepts_nothing_does_not_ask_in_vain() {
        let never = || promised(Err(Uncertified::NoCertificate), None);
        let (local, up) = (fake([say("a", &[-0.1]), say("b", &[-0.1]), end(5, 2)]), large());
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(never(), OnFailure::Error)).await;
        assert_eq!((told.text(), told.reasons()[0], local.started()), ("big", Some(Reason::Uncertified), 0));

        let up = failing(down(Retry::Elsewhere));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(never(), OnFailure::Local)).await;
        assert_eq!((told.text(), told.degraded), ("ab", Some("upstream-failed")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_accepted_without_a_certificate_says_so() {
        let gate = promised(Err(Uncertified::NoCertificate), Some(0.5));
        let local = fake([say("yes", &[-0.1]), end(5, 1)]);
        let told = House::of(&[(LOCAL, &local), (UP, &large())]).ask(cascade(gate, OnFailure::Error)).await;
        assert_eq!((told.text(), told.reasons()), ("yes", vec![Some(Reason::Uncertified)]));
        assert_eq!(told.receipt.attempts[0].outcome, AttemptOutcome::Served);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_last_stage_fails_the_client_gets_its_error() {
        let (local, up) = (fake([say("doubt", &[-5.0]), end(5, 1)]), failing(down(Retry::Never)));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Error)).await;
        assert_eq!((told.kind(), told.degraded), (Kind::Unavailable, None));
        assert_eq!(told.receipt.outcome, Outcome::Error(Kind::Unavailable));
        assert_eq!(told.receipt.served_by, None);
    }
}

mod degraded {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_answer_is_finished_and_served_when_the_policy_allows() {
        for retry in [Retry::Elsewhere, Retry::Never] {
            let local = fake([say("doubt ", &[-5.0]), Step::Wait(SOON), say("ful", &[-0.1]), end(5, 2)]);
            let up = failing(down(retry));
            let house = House::of(&[(LOCAL, &local), (UP, &up)]);
            let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)).await;
            assert_eq!((told.text(), told.degraded), ("doubt ful", Some("upstream-failed")));
            assert_eq!(told.reasons(), [Some(Reason::Degraded), Some(Reason::Error)]);
            assert_eq!((told.receipt.outcome, local.canceled()), (Outcome::Ok, 0));
            assert!(!told.receipt.attempts[0].wasted);
        }
    }

    /// A long answer, doubtful from its first token, of 200 tokens in 20 s.
    fn long_doubt() -> Vec<Step> {
        let more = (0..199).flat_map(|_| [Step::Wait(10 * SOON), say("x", &[-0.1])]);
        [say("x", &[-5.0])].into_iter().chain(more).chain([end(5, 200)]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_answer_is_read_while_the_next_stage_is_asked() {
        let (local, up) = (fake(long_doubt()), fake([Step::Wait(LONG), Step::Fail(down(Retry::Elsewhere))]));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let mut asked = Box::pin(house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)));
        assert!(timeout(LONG / 2, &mut asked).await.is_err());
        assert_eq!((local.given(), local.canceled()), (201, 0), "whole, and its slot is free");
        let told = asked.await;
        assert_eq!((told.text(), told.degraded), (&*"x".repeat(200), Some("upstream-failed")));
        assert_eq!(told.receipt.e2e, LONG, "nothing was left to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_of_a_kept_answer_in_vain_is_wasted() {
        let (local, up) = (fake(long_doubt()), fake([Step::Wait(LONG), say("big", &[]), end(10, 1)]));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)).await;
        let small = &told.receipt.attempts[0];
        assert_eq!((told.text(), small.outcome, small.wasted), ("big", AttemptOutcome::Discarded, true));
        assert_eq!((small.usage.completion_tokens, small.estimated), (200, false));
        assert_eq!(small.reason, Some(Reason::EarlyLowConfidence));
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_stage_that_cannot_serve_counts_as_failed() {
        let local = fake([say("doubt", &[-5.0]), end(5, 1)]);
        let up = Arc::new(Fake::new([end(1, 1)]).refusing(Error::invalid("top_k", "not known there")));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)).await;
        assert_eq!((told.text(), told.degraded), ("doubt", Some("upstream-failed")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_answer_is_canceled_as_soon_as_a_later_stage_answers() {
        let (local, up) = (fake([say("doubt", &[-5.0]), Step::Hang]), large());
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let completion = house.start(cascade(min_gate(HoldBack::All), OnFailure::Local)).await.unwrap();
        assert_eq!(local.canceled(), 1);
        assert_eq!(fold(completion).await.unwrap(), "big");
        let receipt = house.receipt();
        assert_eq!((receipt.degraded, receipt.attempts[0].outcome), (None, AttemptOutcome::Discarded));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_answer_that_breaks_off_leaves_the_later_stages_error() {
        let broken = Error::new(Kind::Timeout, Origin::Local, "idle");
        let local = fake([say("doubt", &[-5.0]), Step::Fail(broken)]);
        let up = failing(down(Retry::Elsewhere));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)).await;
        assert_eq!((told.kind(), told.degraded), (Kind::Unavailable, None));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_earlier_answer_the_error_stands() {
        let (local, up) = (failing(down(Retry::Elsewhere)), failing(down(Retry::After(LONG))));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let told = house.ask(cascade(min_gate(HoldBack::All), OnFailure::Local)).await;
        assert_eq!(told.text.unwrap_err().detail().retry, Retry::After(LONG), "the last error");
    }
}

mod leaving {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_cancels_both_stages() {
        let (local, up) = (fake([say("doubt", &[-5.0]), Step::Hang]), fake([Step::Hang]));
        let house = House::of(&[(LOCAL, &local), (UP, &up)]);
        let left = timeout(LONG, house.start(cascade(min_gate(HoldBack::All), OnFailure::Local))).await;
        assert!(left.is_err());
        assert_eq!((local.canceled(), up.canceled()), (1, 1));
        let receipt = house.receipt();
        assert_eq!((receipt.outcome, receipt.error.is_none()), (Outcome::Canceled, true));
        let upstream = &receipt.attempts[1];
        assert_eq!((upstream.outcome, upstream.estimated), (AttemptOutcome::Canceled, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_a_committed_stream_cancels_it() {
        let local = fake([say("one ", &[-0.1]), say("two", &[-0.1]), Step::Hang]);
        let house = House::of(&[(LOCAL, &local)]);
        let mut completion = house.start(cascade(min_gate(HoldBack::Tokens(1)), OnFailure::Error)).await.unwrap();
        completion.deltas.next().await.unwrap().unwrap();
        assert_eq!(local.canceled(), 0);
        drop(completion);
        assert_eq!(local.canceled(), 1);
        assert_eq!(house.receipt().outcome, Outcome::Canceled);
    }
}
