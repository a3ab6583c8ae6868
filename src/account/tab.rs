//! One request's tab: everything noted while it runs, and the receipt made of it at the end.
//!
//! Hides the lock and the clock. Promises: a note is a short critical section without waiting or
//! I/O; time waited on several backends at once counts once; the receipt is made exactly once,
//! when the last [`super::Meter`], [`super::Attempt`] or followed stream is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Ending, Leg};
use super::offer::Budget;
use super::receipt::{AttemptReceipt, Decided, Failure, Outcome, Receipt};
use super::traced::Tracing;
use super::{Captured, Drawn, Price, Prices, Record};
use crate::confidence::Standing;
use crate::error::Kind;
use crate::request::{Ask, Feedback, ModelId, Request, TenantId, Usage};

#[derive(Debug)]
pub(super) struct Tab {
    pub(super) record: Arc<dyn Record>,
    pub(super) prices: Arc<Prices>,
    pub(super) opened: Instant,
    state: Mutex<State>,
}

/// What is known of the request so far.
#[derive(Debug)]
pub(super) struct State {
    pub(super) asker: Option<(Arc<str>, TenantId)>,
    pub(super) asked: Option<Arc<str>>,
    pub(super) stream: bool,
    pub(super) form: Form,
    /// Tokens of the prompt if nobody counts them.
    pub(super) prompt_estimate: u64,
    pub(super) decided: Option<Decided>,
    /// What the stages of a cascade cost; empty for other plans.
    pub(super) stage_prices: Vec<Option<Price>>,
    pub(super) legs: Vec<Leg>,
    pub(super) served: Option<Served>,
    pub(super) degraded: Option<&'static str>,
    pub(super) audit: Option<Drawn>,
    pub(super) error: Option<Failure>,
    pub(super) feedback: Option<Feedback>,
    pub(super) captured: Option<Box<Captured>>,
    pub(super) overhead: Option<Duration>,
    pub(super) waits: Waits,
    /// Whether the conversation stayed with the stage that answered before.
    pub(super) pinned: bool,
    /// The budget that all of it is paid from, where there is one.
    pub(super) budget: Option<Budget>,
    pub(super) tracing: Tracing,
    /// Whether the receipt is made already.
    settled: bool,
}

/// What the bytes of an answer that are passed on hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One chunk of a stream.
    Chunk,
    /// A whole answer.
    Whole,
    /// Vectors: no token is generated.
    Vectors,
}

impl Form {
    /// The form of this request's answer.
    pub(super) fn of(request: &Request) -> Form {
        match &request.ask {
            Ask::Embed(_) => Form::Vectors,
            Ask::Chat(_) | Ask::Text(_) if request.stream => Form::Chunk,
            Ask::Chat(_) | Ask::Text(_) => Form::Whole,
        }
    }

    /// How many tokens were generated for so many bytes; a guess.
    pub(super) fn tokens(self, bytes: usize) -> u64 {
        match self {
            Form::Chunk => 1,
            Form::Whole => bytes as u64 / 4,
            Form::Vectors => 0,
        }
    }
}

/// Which leg serves, and since when its answer flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    pub(super) leg: usize,
    pub(super) since: Instant,
}

/// The time in which we could do nothing but wait: overlapping waits count once.
#[derive(Debug)]
pub(super) struct Waits {
    waiting: u32,
    since: Instant,
    total: Duration,
}

impl Waits {
    pub(super) fn begin(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.since = now;
        }
        self.waiting += 1;
    }

    pub(super) fn end(&mut self, now: Instant) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.total += now - self.since;
        }
    }

    pub(super) fn until(&self, now: Instant) -> Duration {
        let open = if self.waiting == 0 { Duration::ZERO } else { now - self.since };
        self.total + open
    }
}

impl Tab {
    pub(super) fn open(record: Arc<dyn Record>, prices: Arc<Prices>) -> Tab {
        let now = Instant::now();
        let waits = Waits { waiting: 0, since: now, total: Duration::ZERO };
        let state = State {
            asker: None,
            asked: None,
            stream: false,
            form: Form::Whole,
            prompt_estimate: 0,
            decided: None,
            stage_prices: Vec::new(),
            legs: Vec::new(),
            served: None,
            degraded: None,
            audit: None,
            error: None,
            feedback: None,
            captured: None,
            overhead: None,
            waits,
            pinned: false,
            budget: None,
            tracing: Tracing::default(),
            settled: false,
        };
        Tab { record, prices, opened: now, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.settled {
            self.record.record(state.settle(self.opened, Instant::now()));
        }
    }
}

impl Tab {
    /// Whether something of this request must outlive a crash once its answer is complete.
    pub(super) fn is_lasting(&self) -> bool {
        let state = self.state();
        let drawn = state.captured.as_ref().is_some_and(|captured| captured.logged);
        let told = drawn || state.feedback.is_some();
        state.budget.is_some() || told && self.record.is_lasting()
    }

    /// Settles now, with what is known; resolves when what must outlive a crash is written.
    pub(super) fn settle_lasting(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state();
        let mut covered = None;
        let mut receipt = None;
        if !std::mem::replace(&mut state.settled, true) {
            covered = state.budget.as_ref().map(Budget::covered);
            receipt = Some(state.settle(self.opened, Instant::now()));
        }
        drop(state);
        let written = receipt.and_then(|receipt| self.record.record_lasting(receipt));
        async move {
            for waiting in [covered, written].into_iter().flatten() {
                waiting.await;
            }
        }
    }
}

impl State {
    /// Dollars of all attempts so far; `None` where one is unpriced.
    pub(super) fn cost_usd(&self) -> Option<f64> {
        sum_usd(self.legs.iter().map(|leg| leg.cost_usd(self.prompt_estimate)))
    }

    fn settle(&mut self, opened: Instant, now: Instant) -> Receipt {
        let attempts = self.attempts(opened, now);
        let cost_usd = sum_usd(attempts.iter().map(|attempt| attempt.cost_usd));
        let wasted_usd = sum_usd(attempts.iter().filter(|attempt| attempt.wasted).map(|attempt| attempt.cost_usd));
        if let Some(budget) = self.budget.take() {
            budget.settle(&self.legs, cost_usd);
        }
        let (id, tenant) = self.asker.take().unwrap_or_else(|| ("".into(), TenantId::anonymous()));
        Receipt {
            id,
            tenant,
            asked: self.asked.take().filter(|_| self.decided.is_some()).unwrap_or_else(|| "other".into()),
            served_by: self.served.map(|served| self.legs[served.leg].model.clone()),
            outcome: self.outcome(),
            stream: self.stream,
            avoided_usd: self.avoided_usd(cost_usd),
            cost_usd,
            wasted_usd,
            ttft: self.ttft(opened),
            itl: self.served.map(|served| std::mem::take(&mut self.legs[served.leg].gaps)).unwrap_or_default(),
            e2e: now - opened,
            overhead: self.overhead,
            standing: self.standing().cloned(),
            degraded: self.degraded,
            audit: self.audit,
            error: self.failure(),
            feedback: self.feedback.take(),
            pinned: self.pinned,
            captured: self.captured(),
            traced: self.tracing.traced.take(),
            decided: self.decided.take(),
            attempts,
        }
    }

    fn attempts(&self, opened: Instant, now: Instant) -> Vec<AttemptReceipt> {
        let served = self.served.map(|served| served.leg);
        let receipt = |(index, leg): (usize, &Leg)| {
            leg.receipt(served == Some(index), self.prompt_estimate, leg.timing(opened, now))
        };
        self.legs.iter().enumerate().map(receipt).collect()
    }

    /// The texts, with the answer that was served.
    fn captured(&mut self) -> Option<Box<Captured>> {
        let mut captured = self.captured.take()?;
        let said = self.served.and_then(|served| self.legs[served.leg].said.take());
        captured.said = said.unwrap_or_default();
        Some(captured)
    }

    fn failure(&self) -> Option<Failure> {
        let broke_off = || match &self.legs[self.served?.leg].ending {
            Ending::Failed(failure) => Some(failure.clone()),
            _ => None,
        };
        self.error.clone().or_else(broke_off)
    }

    fn outcome(&self) -> Outcome {
        if let Some(failure) = self.failure() {
            return match failure.kind {
                Kind::Canceled => Outcome::Canceled,
                kind => Outcome::Error(kind),
            };
        }
        let complete = match self.served {
            Some(served) => matches!(self.legs[served.leg].ending, Ending::Complete),
            // What needs no model is answered with its head.
            None => self.decided.is_none() && self.overhead.is_some(),
        };
        if complete { Outcome::Ok } else { Outcome::Canceled }
    }

    fn avoided_usd(&self, cost_usd: Option<f64>) -> Option<f64> {
        let served = &self.legs[self.served?.leg];
        let (mut usage, _) = served.usage(self.prompt_estimate);
        if served.model.is_local() {
            // What a slot here still held is in no upstream's cache.
            usage.cached_tokens = 0;
        }
        let dearest = dearest_usd(&self.stage_prices, &usage)?;
        Some((dearest - cost_usd?).max(0.0))
    }

    fn ttft(&self, opened: Instant) -> Option<Duration> {
        let served = self.served?;
        let first = self.legs[served.leg].first?;
        Some(first.max(served.since) - opened)
    }

    /// What stands behind the answer served; of an escalated one, what was wanting.
    pub(super) fn standing(&self) -> Option<&Standing> {
        let served = self.served.and_then(|served| self.legs[served.leg].standing.as_ref());
        let wanting = || self.legs.iter().rev().filter_map(|leg| leg.standing.as_ref()).find(|it| it.is_wanting());
        served.or_else(wanting)
    }

    /// The model that serves, as far as it is known.
    pub(super) fn served_by(&self) -> Option<&ModelId> {
        self.served.map(|served| &self.legs[served.leg].model)
    }
}

/// The sum, in order; `None` where one is unknown.
fn sum_usd(mut costs: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    costs.try_fold(0.0, |sum, cost| Some(sum + cost?))
}

/// What these tokens cost at the dearest of the prices; 0 without any, `None` where one is unknown.
fn dearest_usd(prices: &[Option<Price>], usage: &Usage) -> Option<f64> {
    prices.iter().try_fold(0.0, |most: f64, price| Some(most.max((*price)?.cost_usd(usage))))
}
