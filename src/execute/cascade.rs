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
//! An answer without a token has no score and escalates; one cut off at its length is judged like
//! any other. A stage that cannot serve the request, is not ready, accepts nothing or fails is
//! passed over; its reason stands on the tab. Nothing reaches the client before it is certain
//! whose answer it is.
//!
//! With `on_failure = "local"` a refused answer is kept, incomplete as it may be, and read on while
//! the later stages are asked, so that it is whole when it is wanted and leaves its slot soon. If a
//! later stage answers, it is dropped; if all fail, it is served, marked `upstream-failed`.
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

use super::{Asking, Begun, audit, evidence, may_go_on};
use crate::account::Reason;
use crate::backend::Completion;
use crate::confidence::{Judge, Ruling, Running, Standing};
use crate::error::{Error, Result};
use crate::plan::{OnFailure, Stage};
use crate::request::{Delta, Part, Request};

/// What the story says of a refused answer that is served after all.
const UPSTREAM_FAILED: &str = "upstream-failed";

/// Asks the stages in order.
pub(super) async fn run(stages: &[Stage], on_failure: OnFailure, asking: &Asking<'_>) -> Result<Completion> {
    let mut kept: Option<Held> = None;
    let mut error = Error::internal("the last stage of a cascade may not have a gate");
    for (place, stage) in stages.iter().enumerate() {
        let backend = match asking.able(&stage.model, place) {
            Ok(backend) => backend,
            Err(refusal) => {
                error = refusal;
                continue;
            }
        };
        let last = place + 1 == stages.len();
        if !backend.status().ready && !last {
            asking.meter.skipped(&stage.model, place, Reason::NotReady);
            continue;
        }
        audit::refresh(asking, stage.gate.as_ref());
        let watch = Watch::of(stage, &asking.request);
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
            judge(watch, begun, asking, place).await
        };
        match beside(kept.as_mut(), asked).await {
            Ok(Judged::Accepted(completion)) => return Ok(completion),
            Ok(Judged::Refused(held)) if on_failure == OnFailure::Local => kept = Some(held),
            Ok(Judged::Refused(_)) => {}
            Err(failure) if may_go_on(&failure) => error = failure,
            Err(failure) => {
                error = failure;
                break;
            }
        }
    }
    match kept {
        Some(held) => held.serve_degraded(error).await,
        None => Err(error),
    }
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
}

impl<'a> Watch<'a> {
    /// The stage's gate, if it has one.
    fn of(stage: &'a Stage, request: &Request) -> Option<Watch<'a>> {
        let gate = stage.gate.as_ref()?;
        Some(Watch { ruling: gate.ruling(request), held: gate.tokens_held(request) })
    }
}

/// Holds the answer back until it is accepted or refused; an error is the backend's.
async fn judge(watch: Option<Watch<'_>>, begun: Begun, asking: &Asking<'_>, stage: usize) -> Result<Judged> {
    let Some(Watch { ruling, held: tokens }) = watch else {
        return Ok(Judged::Accepted(begun.serve()));
    };
    begun.attempt.stands(ruling.standing.clone());
    let mut held = Held { deltas: Vec::new(), begun, broken: false };
    while let Some(item) = held.begun.deltas.next().await {
        let delta = item?;
        let complete = matches!(delta.part, Part::End(_));
        held.deltas.push(delta);
        let verdict = match ruling.judge {
            Ok(judge) if complete && judge.measure.is_of_the_whole() => {
                let Held { deltas, begun, .. } = &held;
                let whole = evidence::Whole { stage, model: &begun.model, deltas, attempt: &begun.attempt };
                // Boxed: most gates go by tokens alone.
                Box::pin(evidence::weigh(asking, judge, whole)).await
            }
            Ok(judge) => held.begun.attempt.scores(|choices| verdict(judge, choices, tokens, complete)),
            Err(why) => Verdict::Refuse(Reason::uncertified(why)),
        };
        match verdict {
            Verdict::Wait => {}
            Verdict::Accept => {
                if let Some(Standing::Certified(grant)) = &ruling.standing {
                    audit::attend(asking, grant, &held.deltas, &mut held.begun);
                }
                return Ok(Judged::Accepted(held.release().serve()));
            }
            Verdict::Refuse(reason) => {
                if let Some(Standing::Certified(grant)) = &ruling.standing {
                    audit::refused(grant);
                }
                held.begun.attempt.discarded(reason);
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
        (false, true) => Verdict::Refuse(Reason::LowConfidence),
        (true, false) if passed => Verdict::Accept,
        (false, false) if passed || lost => Verdict::Refuse(Reason::EarlyLowConfidence),
        _ => Verdict::Wait,
    }
}
