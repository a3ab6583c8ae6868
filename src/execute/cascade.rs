//! A cascade: stages asked in order, each answer believed or not by its own log-probabilities.
//!
//! **Model.** A small model answers first. The gate of its stage reads a score off the tokens as
//! they come (`confidence`) and accepts the answer or escalates to the next stage; the last stage
//! has no gate. This is the model cascade of Chen, Zaharia and Zou ("FrugalGPT", 2023) with the
//! model's own probabilities as the scorer, and with one thing added: a stream may be committed
//! to before it is complete.
//!
//! **Algorithm.** Deltas are held while the gate watches. At each one:
//! - *lost*: a score that can only fall (minimum, sum, margin) is below the threshold. No
//!   continuation can be accepted: escalate now, and drop the stream, which cancels its work.
//! - *hold-back passed*: that many tokens stand and the score is accepted: commit; what was held
//!   and what still comes flows to the client. Not accepted (a mean): escalate. What follows a
//!   commit is not judged: a larger hold-back buys certainty with time to first token.
//! - *complete*: the whole answer is judged; accepted, it is replayed. A client that does not
//!   stream, or wants several choices, always gets this; of several choices each must be accepted.
//!   A score that reads more than tokens is found out now, with further calls where they can change
//!   the verdict (`evidence`).
//!
//! Where a promise is asked for, what the gate goes by is found out for the request: its certificate,
//! where that speaks of such a request, else the operator's uncertified fallback, else nothing: the
//! stage is passed over, and the story says why. What is kept under a certificate may be drawn for
//! its audit, which changes nothing for the client (`audit`).
//!
//! A gate may decide by value instead: the answer is kept unless the gap that is predicted to the next
//! stage's answer is worth its expected cost at the price that holds the budget (`confidence::gap`,
//! `account::pacer`). A stage is passed over unasked where the prompt alone predicts a gap so large,
//! and where the conversation stays with a later stage (`pins`).
//!
//! An answer without a token has no score and escalates; one cut off at its length is judged like
//! any other. A stage that cannot serve the request, is not ready, accepts nothing or fails is
//! passed over; its reason stands on the tab. Nothing reaches the client before it is certain
//! whose answer it is.
//!
//! With `on_failure = "local"` a refused answer is kept, incomplete as it may be, and read on while
//! the later stages are asked, so that it is whole when it is wanted and leaves its slot soon. If a
//! later stage answers, it is dropped; if all fail, it is served, marked `upstream-failed`. Where none was
//! refused because the stages before were passed over (by value, or by a pin), one of them is asked then.
//!
//! **Cost.** O(1) work per delta; memory for the answer held, which the backend bounds by its
//! context. A committed stream costs one more poll per delta than a direct one. An escalation
//! costs what the small model generated until then, at most the hold-back for a lost stream; of a
//! kept answer, what it generates until a later stage answers.
//!
//! **Concurrency.** None of its own: one future, no task, no lock; a kept answer and the stage
//! asked are polled side by side. Dropping it, or the stream it returned, drops every stream and
//! call inside.

use std::pin::pin;

use futures::future::{Either, select};
use futures::stream::{self, StreamExt};

use super::pins::{Place, Session};
use super::{Asking, Begun, audit, evidence, may_go_on};
use crate::account::{Offer, Reason};
use crate::backend::Completion;
use crate::confidence::{Accept, Judge, Ruling, Running, Standing, Uncertified};
use crate::error::{Error, Result};
use crate::plan::{OnFailure, Stage, choices};
use crate::request::{Delta, Part};

/// What the story says of a refused answer that is served after all.
const UPSTREAM_FAILED: &str = "upstream-failed";

/// Asks the stages in order, from where the conversation stays, if it does.
pub(super) async fn run(
    stages: &[Stage],
    on_failure: OnFailure,
    session: Option<&Session>,
    asking: &Asking<'_>,
) -> Result<Completion> {
    open_budget(stages, asking);
    let begin = session.map_or(Place::FIRST, |session| session.place(stages, asking));
    let mut kept: Option<Held> = None;
    let mut unasked = Vec::new();
    let mut error = Error::internal("the last stage of a cascade may not have a gate");
    for (place, stage) in stages.iter().enumerate() {
        let backend = match asking.able(&stage.model, place) {
            Ok(backend) => backend,
            Err(refusal) => {
                error = refusal;
                continue;
            }
        };
        let next = stages.get(place + 1);
        let passed_over = match next {
            _ if place < begin.stage => Some(Reason::Pinned),
            Some(_) if !backend.status().ready => Some(Reason::NotReady),
            Some(next) if !begin.is_bound(place) && is_skipped(stage, next, asking) => Some(Reason::SkippedByValue),
            _ => None,
        };
        if let Some(reason) = passed_over {
            asking.meter.skipped(&stage.model, place, reason);
            unasked.extend((reason != Reason::NotReady).then_some((place, stage)));
            continue;
        }
        audit::refresh(asking, stage.gate.as_ref());
        let watch =
            if begin.is_bound(place) { None } else { Watch::of(stage, next, (place, session.is_some()), asking) };
        // A gate that accepts nothing makes an answer useless, unless it may be served for want of
        // a better one.
        if let Some(Watch { ruling: Ruling { judge: Err(why), .. }, .. }) = watch
            && on_failure == OnFailure::Error
        {
            asking.meter.uncertified(&stage.model, place, why);
            continue;
        }
        let asked = async {
            let begun = asking.begin(backend, &stage.model, place).await?;
            if begin.is_bound(place) && stage.gate.is_some() {
                begun.attempt.stands(Some(Standing::Uncertified(Uncertified::Pinned)));
            }
            judge(watch, begun, asking, place).await
        };
        match beside(kept.as_mut(), asked).await {
            Ok(Judged::Accepted(completion)) => {
                session.inspect(|session| session.answered_by(&stage.model, place, asking));
                return Ok(completion);
            }
            Ok(Judged::Refused(held)) if on_failure == OnFailure::Local => kept = Some(held),
            Ok(Judged::Refused(_)) => {}
            Err(failure) if may_go_on(&failure) => error = failure,
            Err(failure) => {
                error = failure;
                break;
            }
        }
    }
    if kept.is_none() && on_failure == OnFailure::Local {
        kept = reserve(&unasked, asking).await;
    }
    match kept {
        Some(held) => held.serve_degraded(error).await,
        None => Err(error),
    }
}

/// An answer of a stage that was passed over though it could have answered: of the last one that answers now.
async fn reserve(unasked: &[(usize, &Stage)], asking: &Asking<'_>) -> Option<Held> {
    for (place, stage) in unasked.iter().rev() {
        let Ok(backend) = asking.able_to(&stage.model, &asking.request) else { continue };
        if let Ok(begun) = asking.begin(backend, &stage.model, *place).await {
            let promised = stage.gate.as_ref().and_then(|gate| gate.accept.without_promise(Uncertified::Refused));
            begun.attempt.stands(promised.and_then(|ruling| ruling.standing));
            return Some(Held { deltas: Vec::new(), begun, broken: false });
        }
    }
    None
}

/// Where a gate decides by value, all that the request costs is paid from its budget.
fn open_budget(stages: &[Stage], asking: &Asking<'_>) {
    let accepts = stages.iter().filter_map(|stage| stage.gate.as_ref()).map(|gate| &*gate.accept);
    for accept in accepts {
        if let Accept::Value(value) = accept {
            asking.meter.paid_from(&asking.backends.lasting.pacers, &value.pacing);
        }
    }
}

/// Whether the prompt alone says that the next stage answers better; not while that is not ready.
fn is_skipped(stage: &Stage, next: &Stage, asking: &Asking<'_>) -> bool {
    let is_ready = || asking.backends.of(&next.model).is_some_and(|backend| backend.status().ready);
    stage.skip.as_ref().is_some_and(|skip| is_ready() && skip.applies(&asking.request))
}

/// Awaits `work` and meanwhile reads on in a kept answer, whose backend would else pause it and in
/// the end give it up.
async fn beside<T>(kept: Option<&mut Held>, work: impl Future<Output = T>) -> T {
    let Some(held) = kept else { return work.await };
    match select(pin!(work), pin!(held.read_on())).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    }
}

/// What came of a stage that answered.
enum Judged {
    Accepted(Completion),
    Refused(Held),
}

/// An answer of which this much is held back.
struct Held {
    deltas: Vec<Delta>,
    begun: Begun,
    /// Whether it failed before its end.
    broken: bool,
}

impl Held {
    /// What was held, and then what still comes.
    fn release(mut self) -> Begun {
        let held = stream::iter(self.deltas.into_iter().map(Ok));
        self.begun.deltas = held.chain(self.begun.deltas).boxed();
        self.begun
    }

    /// Reads to the answer's end, or its failure. Dropping the future loses nothing.
    async fn read_on(&mut self) {
        while let Some(item) = self.begun.deltas.next().await {
            match item {
                Ok(delta) => self.deltas.push(delta),
                Err(_) => self.broken = true,
            }
        }
    }

    /// Serves the refused answer because a later stage failed with this error. It is read to its
    /// end first: if it breaks off, the error is the better answer.
    async fn serve_degraded(mut self, error: Error) -> Result<Completion> {
        self.read_on().await;
        if self.broken {
            return Err(error);
        }
        self.begun.attempt.served_degraded(UPSTREAM_FAILED);
        Ok(self.release().completion())
    }
}

/// A gate at work on one request.
struct Watch<'a> {
    ruling: Ruling<'a>,
    /// How many tokens are kept back; `None`: the whole answer.
    held: Option<usize>,
    /// What the next stage would cost, where that counts.
    offer: Option<Offer>,
    /// The only choice token by token, where it may be given up as unlikely.
    growing: Option<Running>,
}

impl<'a> Watch<'a> {
    /// The stage's gate, if it has one.
    fn of(
        stage: &'a Stage,
        next: Option<&Stage>,
        (place, pins): (usize, bool),
        asking: &Asking<'_>,
    ) -> Option<Watch<'a>> {
        let ruling = stage.ruling(&asking.request, place, pins)?;
        let held = stage.gate.as_ref()?.tokens_held(&asking.request);
        let by_value = ruling.judge.as_ref().is_ok_and(|judge| judge.is_by_value());
        let offer = next.filter(|_| by_value).and_then(|next| asking.meter.offer(&next.model));
        let gives_up = ruling.judge.as_ref().is_ok_and(|judge| judge.gives_up()) && choices(&asking.request) == 1;
        Some(Watch { ruling, held, offer, growing: gives_up.then(Running::default) })
    }

    /// Takes in what is new; whether the answer will hardly become good enough.
    fn is_unlikely(&mut self, delta: &Delta) -> bool {
        let (Some(growing), Ok(judge), Part::Text { tokens, .. }) =
            (&mut self.growing, &self.ruling.judge, &delta.part)
        else {
            return false;
        };
        tokens.iter().any(|token| {
            growing.push(token);
            !token.end && judge.is_unlikely(growing)
        })
    }

    /// Whether the answer is complete, and judged by more than its tokens.
    fn goes_by_the_whole(&self, delta: &Delta) -> bool {
        matches!(delta.part, Part::End(_))
            && self.ruling.judge.as_ref().is_ok_and(|judge| judge.measure.is_of_the_whole())
    }

    /// Has the complete answer judged at the price of this moment.
    fn price(&mut self, choices: &[Running]) {
        if let (Some(offer), Ok(judge)) = (&self.offer, &mut self.ruling.judge) {
            let gaps = choices.iter().filter_map(|choice| judge.measure.value(choice)).map(|value| -value);
            offer.weigh(gaps.fold(0.0, f64::max));
            judge.to_mut().at_least = -offer.price();
        }
    }

    fn verdict(&mut self, delta: &Delta, choices: &[Running]) -> Verdict {
        if self.is_unlikely(delta) {
            return Verdict::Refuse(Reason::EarlyUnlikely);
        }
        let complete = matches!(delta.part, Part::End(_));
        if complete {
            self.price(choices);
        }
        match &self.ruling.judge {
            Ok(judge) => verdict(judge, choices, self.held, complete),
            Err(why) => Verdict::Refuse(Reason::uncertified(*why)),
        }
    }
}

/// Holds the answer back until it is accepted or refused; an error is the backend's.
async fn judge(watch: Option<Watch<'_>>, begun: Begun, asking: &Asking<'_>, stage: usize) -> Result<Judged> {
    let Some(mut watch) = watch else {
        return Ok(Judged::Accepted(begun.serve()));
    };
    begun.attempt.stands(watch.ruling.standing.clone());
    begun.attempt.gated();
    let mut held = Held { deltas: Vec::new(), begun, broken: false };
    while let Some(item) = held.begun.deltas.next().await {
        let delta = item?;
        let of_the_whole = watch.goes_by_the_whole(&delta);
        let verdict = match &watch.ruling.judge {
            Ok(judge) if of_the_whole => {
                held.deltas.push(delta);
                let Held { deltas, begun, .. } = &held;
                let whole = evidence::Whole { stage, model: &begun.model, deltas, attempt: &begun.attempt };
                // Boxed: most gates go by tokens alone.
                Box::pin(evidence::weigh(asking, judge, whole)).await
            }
            _ => {
                let verdict = held.begun.attempt.scores(|choices| watch.verdict(&delta, choices));
                held.deltas.push(delta);
                verdict
            }
        };
        match verdict {
            Verdict::Wait => {}
            Verdict::Accept => {
                if let Some(Standing::Certified(grant)) = &watch.ruling.standing {
                    audit::attend(asking, grant, &held.deltas, &mut held.begun);
                }
                return Ok(Judged::Accepted(held.release().serve()));
            }
            Verdict::Refuse(reason) => {
                if let Some(Standing::Certified(grant)) = &watch.ruling.standing {
                    audit::refused(grant);
                }
                held.begun.attempt.discarded(reason);
                if let Some(offer) = watch.offer.take() {
                    offer.take().await;
                }
                return Ok(Judged::Refused(held));
            }
        }
    }
    Err(Error::internal("an answer was neither accepted nor refused at its end"))
}

/// What the gate says of the answer so far.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Wait,
    Accept,
    Refuse(Reason),
}

fn verdict(judge: &Judge, choices: &[Running], hold_back: Option<usize>, complete: bool) -> Verdict {
    let accepted = !choices.is_empty() && choices.iter().all(|choice| judge.accepts_answer(choice));
    let lost = choices.iter().any(|choice| judge.is_lost(choice));
    let tokens = choices.iter().map(Running::tokens).sum::<u64>();
    let passed = hold_back.is_some_and(|held| tokens >= held.max(1) as u64);
    match (accepted, complete) {
        (true, true) => Verdict::Accept,
        (false, true) if judge.is_by_value() => Verdict::Refuse(Reason::ByValue),
        (false, true) => Verdict::Refuse(Reason::LowConfidence),
        (true, false) if passed => Verdict::Accept,
        (false, false) if passed || lost => Verdict::Refuse(Reason::EarlyLowConfidence),
        _ => Verdict::Wait,
    }
}
