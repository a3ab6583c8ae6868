//! One attempt on the tab: who was asked, what came, how it ended.
//!
//! Hides the counting: tokens, gaps, scores and waits are read off the deltas as they pass.
//! Promises: a followed stream yields what it wraps and ends with exactly one `End` or one error,
//! even where the backend breaks off; dropping it early marks the attempt interrupted and its
//! usage an estimate, and so does giving up before the answer begins. Called by `execute`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::time::Instant;

use super::receipt::{AttemptOutcome, AttemptReceipt, Failure, Reason, Receipt};
use super::tab::{Form, Served, State, Tab};
use super::{Drawn, Price, Said, Timing};
use crate::confidence::{Evidence, Feature, Running, Standing, Uncertified};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Delta, Finish, ModelId, Part, TraceContext, Usage};

/// What the tab holds about one attempt.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) model: ModelId,
    stage: usize,
    price: Option<Price>,
    pub(super) ending: Ending,
    reason: Option<Reason>,
    waiting: bool,
    usage: Option<Usage>,
    tokens_seen: u64,
    pub(super) first: Option<Instant>,
    last: Option<Instant>,
    pub(super) gaps: Vec<f32>,
    choices: Vec<Running>,
    finish: Option<Finish>,
    pub(super) standing: Option<Standing>,
    pub(super) evidence: Option<Evidence>,
    /// What was said, where it is captured.
    pub(super) said: Option<Said>,
    span_id: u64,
    began: Instant,
    /// When a gate began to look at the answer.
    gated: Option<Instant>,
    judged: Option<Instant>,
    ended: Option<Instant>,
}

/// Where an attempt stands.
#[derive(Debug)]
pub(super) enum Ending {
    Running,
    Complete,
    Failed(Failure),
    Interrupted,
    Skipped,
}

/// A handle on one attempt of a request.
#[derive(Debug)]
pub struct Attempt {
    tab: Arc<Tab>,
    leg: usize,
}

impl Attempt {
    pub(super) fn begin(tab: &Arc<Tab>, model: &ModelId, stage: usize) -> Attempt {
        let mut state = tab.state();
        let said = state.captured.is_some().then(Said::default);
        let (span_id, leg) = (state.tracing.span_id(), state.legs.len());
        let new = Leg { said, span_id, ..Leg::new(model, stage, tab.prices.of(model)) };
        let now = new.began;
        state.legs.push(new);
        state.wait(leg, now);
        Attempt { tab: tab.clone(), leg }
    }

    pub(super) fn skip(tab: &Tab, model: &ModelId, stage: usize, reason: Reason, standing: Option<Standing>) {
        let mut leg = Leg::new(model, stage, tab.prices.of(model));
        leg.ending = Ending::Skipped;
        leg.reason = Some(reason);
        leg.standing = standing;
        leg.ended = Some(leg.began);
        let mut state = tab.state();
        leg.span_id = state.tracing.span_id();
        state.legs.push(leg);
    }

    /// The attempt's place in a trace, to be told to the backend.
    pub fn trace(&self) -> Option<TraceContext> {
        let state = self.tab.state();
        state.tracing.told(state.legs[self.leg].span_id)
    }

    /// Awaits the answer's beginning and notes a failure. Dropped before either has come, the attempt
    /// is interrupted: what it was asked counts, as an estimate.
    ///
    /// # Errors
    /// Those of `start`.
    pub async fn begins<T>(&self, start: impl Future<Output = Result<T>>) -> Result<T> {
        let asked = Asked(Some(self));
        let begun = start.await.inspect_err(|error| self.failed(error));
        asked.done();
        begun
    }

    /// Notes that the answer has begun, and wraps its deltas so that what passes is noted.
    /// Dropping the wrapper drops what it wraps.
    pub fn follow(&self, deltas: BoxStream<'static, Result<Delta>>) -> BoxStream<'static, Result<Delta>> {
        self.tab.state().resume(self.leg, Instant::now());
        let attempt = Attempt { tab: self.tab.clone(), leg: self.leg };
        Followed { attempt, deltas: Some(deltas) }.boxed()
    }

    /// Reads the scores of the choices so far, one per choice with a token, without a copy.
    pub fn scores<T>(&self, read: impl FnOnce(&[Running]) -> T) -> T {
        read(&self.tab.state().legs[self.leg].choices)
    }

    /// Notes that the attempt failed.
    pub fn failed(&self, error: &Error) {
        let (mut state, now) = (self.tab.state(), Instant::now());
        state.resume(self.leg, now);
        state.legs[self.leg].fail(error, now);
    }

    /// Notes that nobody reads on; an attempt that is over stays as it is.
    fn interrupted(&self) {
        let (mut state, now) = (self.tab.state(), Instant::now());
        state.resume(self.leg, now);
        let leg = &mut state.legs[self.leg];
        if matches!(leg.ending, Ending::Running) {
            (leg.ending, leg.ended) = (Ending::Interrupted, Some(now));
        }
    }

    /// Notes that the answer is not served: its work is wasted, unless it is served after all.
    pub fn discarded(&self, reason: Reason) {
        let leg = &mut self.tab.state().legs[self.leg];
        leg.reason = Some(reason);
        leg.judge(Instant::now());
    }

    /// Notes that a gate looks at the answer from now on.
    pub fn gated(&self) {
        self.tab.state().legs[self.leg].gated = Some(Instant::now());
    }

    /// Notes what further calls said of the answer.
    pub fn found(&self, evidence: Evidence) {
        self.tab.state().legs[self.leg].evidence = Some(evidence);
    }

    /// Notes what stands behind the answer if it is kept; `None`: no promise was asked for.
    pub fn stands(&self, standing: Option<Standing>) {
        self.tab.state().legs[self.leg].standing = standing;
    }

    /// Notes whether the answer was drawn to be audited.
    pub fn drawn(&self, drawn: Drawn) {
        self.tab.state().audit = Some(drawn);
    }

    /// Notes that the client gets this answer, from now on.
    pub fn served(&self) {
        let reason = Reason::kept(self.tab.state().legs[self.leg].standing.as_ref());
        self.serve(reason);
    }

    /// Notes that the client gets this refused answer after all, and what the story says of it.
    pub fn served_degraded(&self, why: &'static str) {
        self.serve(Reason::Degraded);
        let mut state = self.tab.state();
        state.degraded = Some(why);
        let standing = &mut state.legs[self.leg].standing;
        *standing = standing.take().map(|_| Standing::Uncertified(Uncertified::Refused));
    }

    fn serve(&self, reason: Reason) {
        let (mut state, now) = (self.tab.state(), Instant::now());
        let leg = &mut state.legs[self.leg];
        leg.reason = Some(reason);
        leg.judge(now);
        state.served = Some(Served { leg: self.leg, since: now });
    }
}

impl State {
    fn wait(&mut self, leg: usize, now: Instant) {
        if !std::mem::replace(&mut self.legs[leg].waiting, true) {
            self.waits.begin(now);
        }
    }

    fn resume(&mut self, leg: usize, now: Instant) {
        if std::mem::replace(&mut self.legs[leg].waiting, false) {
            self.waits.end(now);
        }
    }
}

impl Leg {
    fn new(model: &ModelId, stage: usize, price: Option<Price>) -> Leg {
        Leg {
            model: model.clone(),
            stage,
            price,
            ending: Ending::Running,
            reason: None,
            waiting: false,
            usage: None,
            tokens_seen: 0,
            first: None,
            last: None,
            gaps: Vec::new(),
            choices: Vec::new(),
            finish: None,
            standing: None,
            evidence: None,
            said: None,
            span_id: 0,
            began: Instant::now(),
            gated: None,
            judged: None,
            ended: None,
        }
    }

    /// Notes that the gate has decided; what becomes of the answer later changes nothing.
    fn judge(&mut self, now: Instant) {
        if self.gated.is_some() {
            self.judged.get_or_insert(now);
        }
    }

    /// When what happened, since `opened`; what has not ended ends `now`.
    pub(super) fn timing(&self, opened: Instant, now: Instant) -> Timing {
        let since = |at: Instant| at - opened;
        let judged = self.gated.zip(self.judged);
        Timing {
            began: since(self.began),
            first: self.first.map(since),
            judged: judged.map(|(from, to)| (since(from), since(to))),
            ended: since(self.ended.unwrap_or(now)),
        }
    }

    fn origin(&self) -> Origin {
        if self.model.is_local() { Origin::Local } else { Origin::Upstream }
    }

    /// Notes one item of the answer; whether it was the last.
    fn note(&mut self, item: &Result<Delta>, now: Instant, form: Form) -> bool {
        let delta = match item {
            Ok(delta) => delta,
            Err(error) => {
                self.fail(error, now);
                return true;
            }
        };
        if let Some(said) = &mut self.said {
            said.add(delta);
        }
        match &delta.part {
            Part::Text { text, tokens } => {
                for token in tokens {
                    self.choice(delta.choice).push(token);
                }
                // Without tokens it is an upstream's chunk, commonly one token.
                self.tokens_seen += (tokens.len() as u64).max(u64::from(!text.is_empty()));
                if !text.is_empty() {
                    self.content(now);
                }
            }
            Part::Raw => {
                self.tokens_seen += form.tokens(delta.raw.as_ref().map_or(0, |raw| raw.bytes.len()));
                self.content(now);
            }
            Part::ToolCall(_) | Part::Embedding(_) => self.content(now),
            Part::Finish(finish) => {
                self.finish.get_or_insert(*finish);
            }
            Part::End(usage) => {
                self.usage = usage.filter(is_credible);
                self.ending = Ending::Complete;
                self.ended = Some(now);
                return true;
            }
        }
        false
    }

    fn content(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        if let Some(last) = self.last.replace(now)
            && self.gaps.len() < Receipt::MAX_GAPS
        {
            self.gaps.push((now - last).as_secs_f32());
        }
    }

    fn choice(&mut self, choice: u32) -> &mut Running {
        let index = choice as usize;
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Running::default());
        }
        &mut self.choices[index]
    }

    fn fail(&mut self, error: &Error, now: Instant) {
        self.ended = Some(now);
        self.reason.get_or_insert(Reason::of(error));
        self.ending = Ending::Failed(Failure::of(error));
    }

    /// The scores of the choice with the least probable token; `None` before the first token, and of
    /// what is only evidence on another answer.
    pub(super) fn least_sure(&self) -> Option<Running> {
        if self.reason == Some(Reason::Evidence) {
            return None;
        }
        let least = |running: &Running| {
            let value = running.value(Feature::MinLogprob)?;
            Some(if value.is_nan() { f64::NEG_INFINITY } else { value })
        };
        let scored = self.choices.iter().filter_map(|running| Some((least(running)?, running)));
        scored.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, running)| *running)
    }

    /// The tokens, and whether they are an estimate: where nobody said, the prompt's as given and
    /// the generated ones as seen. What fails before it answers costs nothing.
    pub(super) fn usage(&self, prompt_estimate: u64) -> (Usage, bool) {
        let nothing_done = match self.ending {
            Ending::Skipped => true,
            Ending::Failed(_) => self.tokens_seen == 0,
            _ => false,
        };
        match self.usage {
            Some(usage) => (usage, false),
            None if nothing_done => (Usage::default(), false),
            None => {
                let (prompt_tokens, completion_tokens) = (prompt_estimate, self.tokens_seen);
                (Usage { prompt_tokens, completion_tokens, cached_tokens: 0 }, true)
            }
        }
    }

    /// Dollars; `None` where tokens were used at an unknown price.
    pub(super) fn cost_usd(&self, prompt_estimate: u64) -> Option<f64> {
        let (usage, _) = self.usage(prompt_estimate);
        if usage == Usage::default() {
            return Some(0.0);
        }
        self.price.map(|price| price.cost_usd(&usage))
    }

    pub(super) fn receipt(&self, served: bool, prompt_estimate: u64, timing: Timing) -> AttemptReceipt {
        let (usage, estimated) = self.usage(prompt_estimate);
        let outcome = match &self.ending {
            Ending::Skipped => AttemptOutcome::Skipped,
            Ending::Failed(failure) => AttemptOutcome::Failed(failure.kind),
            Ending::Complete if served => AttemptOutcome::Served,
            _ if !served && self.reason.is_some() => AttemptOutcome::Discarded,
            _ => AttemptOutcome::Canceled,
        };
        AttemptReceipt {
            model: self.model.clone(),
            stage: self.stage,
            origin: self.origin(),
            usage,
            estimated,
            cost_usd: self.cost_usd(prompt_estimate),
            wasted: !served && outcome != AttemptOutcome::Skipped && self.reason != Some(Reason::Evidence),
            outcome,
            reason: self.reason,
            finish: self.finish,
            scores: self.least_sure(),
            evidence: self.evidence,
            standing: self.standing.clone(),
            failure: match &self.ending {
                Ending::Failed(failure) => Some(failure.clone()),
                _ => None,
            },
            timing,
            span_id: self.span_id,
        }
    }
}

/// An attempt whose answer has not begun; dropped so, nobody waits for it any more.
struct Asked<'a>(Option<&'a Attempt>);

impl Asked<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|attempt| attempt.interrupted());
    }
}

/// The deltas of an attempt, noted as they pass.
struct Followed {
    attempt: Attempt,
    deltas: Option<BoxStream<'static, Result<Delta>>>,
}

impl Stream for Followed {
    type Item = Result<Delta>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(deltas) = self.deltas.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = deltas.as_mut().poll_next(context);
        let now = Instant::now();
        let leg = self.attempt.leg;
        let mut state = self.attempt.tab.state();
        let Poll::Ready(item) = polled else {
            state.wait(leg, now);
            return Poll::Pending;
        };
        state.resume(leg, now);
        let form = state.form;
        let item = item.unwrap_or_else(|| Err(broke_off(&state.legs[leg])));
        let over = state.legs[leg].note(&item, now, form);
        drop(state);
        if over {
            self.deltas = None;
        }
        Poll::Ready(Some(item))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.attempt.interrupted();
    }
}

/// Whether an answer can have taken so many tokens; a backend that says more has not said.
fn is_credible(usage: &Usage) -> bool {
    const MOST: u64 = 1_000_000_000;
    usage.prompt_tokens.max(usage.cached_tokens).max(usage.completion_tokens) <= MOST
}

fn broke_off(leg: &Leg) -> Error {
    let message = format!("the answer of {} broke off: its end never came", leg.model);
    Error::new(Kind::Unavailable, leg.origin(), message).retry(Retry::Elsewhere)
}
