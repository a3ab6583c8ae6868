//! Prometheus families and the log line of each request.
//!
//! Hides the metric library. Promises: the families of [`names`], labels bounded by the
//! configuration and by enums, and a recording that takes no lock but an uncontended read.
//! [`Metrics`] is made by `main`, receives receipts as `account`'s [`Record`], and is rendered by
//! the admin port.

mod audits;
mod capture;
mod families;
mod line;
mod log;
pub mod names;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus::{Registry, TextEncoder};

use crate::account::{
    AttemptOutcome, AttemptReceipt, AuditReceipt, Outcome, Pacers, PlanKind, Reason, Receipt, Record,
};
use crate::backend::{Breaker, Status};
use crate::confidence::AuditStatus;
use crate::control::Capture;
use crate::error::{Error, Origin, Result};
use crate::request::ModelId;
use capture::CaptureLog;
use families::{Families, Series};

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration is in force.
    Applied,
    /// It has a problem; the old one stays.
    Refused,
    /// No file had changed; the old one stays.
    Unchanged,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    known: RwLock<Arc<Known>>,
    /// The budgets told with each scrape.
    pacers: Mutex<Option<Arc<Pacers>>>,
    /// One scrape at a time, since the gauges are set anew for each.
    scrape: Mutex<()>,
    capture: Option<CaptureLog>,
}

/// The names that may be labels under the configuration in force.
#[derive(Debug, Default)]
struct Known {
    asked: HashSet<String>,
    series: HashMap<String, Arc<Series>>,
}

impl Known {
    fn asked(&self, name: &str) -> &str {
        self.asked.get(name).map_or(names::OTHER, String::as_str)
    }

    /// The series of a model: its own, or those of the upstream that passes any name on.
    fn series(&self, model: &ModelId) -> Option<&Arc<Series>> {
        self.series.get(model.as_str()).or_else(|| self.series.get(&format!("{}/*", model.split()?.0)))
    }
}

impl Metrics {
    /// Metrics that know no model yet; fails only on a fault in the families themselves.
    pub fn new() -> Result<Metrics> {
        let registry = Registry::new();
        let families = Families::register(&registry).map_err(|fault| Error::internal(format!("metrics: {fault}")))?;
        let (known, pacers) = (RwLock::default(), Mutex::default());
        Ok(Metrics { registry, families, known, pacers, scrape: Mutex::new(()), capture: None })
    }

    /// The same, with a capture log where the configuration wants one.
    ///
    /// # Errors
    /// A log that cannot be opened.
    pub fn open(capture: Option<&Capture>) -> std::result::Result<Metrics, String> {
        let mut metrics = Metrics::new().map_err(|error| error.to_string())?;
        if let Some(settings) = capture {
            let dropped = metrics.families.capture_dropped.with_label_values::<&str>(&[]);
            metrics.capture = Some(CaptureLog::open(settings, dropped)?);
        }
        Ok(metrics)
    }

    /// Captures nothing more, and waits until what was captured is written; blocks.
    pub fn close(&self) {
        self.capture.iter().for_each(CaptureLog::close);
    }

    /// Takes over the names of a configuration: `asked` may stand in a request's `model`,
    /// `targets` answer (full names; `NAME/*` for an upstream that passes any name on).
    pub fn adopt(
        &self,
        generation: u64,
        asked: impl IntoIterator<Item = String>,
        targets: impl IntoIterator<Item = ModelId>,
    ) {
        let series = |model: ModelId| {
            let label = model.as_str();
            (label.to_owned(), Arc::new(Series::of(&self.families, label)))
        };
        let known = Known { asked: asked.into_iter().collect(), series: targets.into_iter().map(series).collect() };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        self.families.generation.set(generation.try_into().unwrap_or(i64::MAX));
    }

    /// Tells these budgets with each scrape from now on.
    pub fn follow(&self, pacers: &Arc<Pacers>) {
        *self.pacers.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(pacers));
    }

    /// Counts a reload.
    pub fn reloaded(&self, reload: Reload) {
        let outcome = match reload {
            Reload::Applied => "applied",
            Reload::Refused => "refused",
            Reload::Unchanged => "unchanged",
        };
        self.families.reloads.with_label_values(&[outcome]).inc();
    }

    /// All families in Prometheus' text format, with the backends as they are now.
    pub fn render(&self, statuses: &[(ModelId, Status)]) -> String {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_gauges(statuses);
        self.set_budgets();
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|fault| {
            tracing::error!(%fault, "metrics cannot be rendered");
            String::new()
        })
    }

    /// Takes over how the audited slices stand now; for the next [`Metrics::render`].
    pub fn show_audits(&self, slices: &[AuditStatus]) {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.audits.show(slices);
    }

    fn set_gauges(&self, statuses: &[(ModelId, Status)]) {
        let gauges = &self.families;
        gauges.queue_depth.reset();
        gauges.slots.reset();
        gauges.kv_used.reset();
        gauges.breaker.reset();
        for (model, status) in statuses {
            let name = model.as_str();
            gauges.queue_depth.with_label_values(&[name]).set(status.queue_depth.into());
            gauges.slots.with_label_values(&[name, "busy"]).set(status.slots_busy.into());
            if status.slots > 0 {
                let free = status.slots.saturating_sub(status.slots_busy);
                gauges.slots.with_label_values(&[name, "free"]).set(free.into());
            }
            if model.is_local() {
                gauges.kv_used.with_label_values(&[name]).set(status.kv_used_ratio.into());
            }
            for state in [Breaker::Closed, Breaker::Open, Breaker::HalfOpen] {
                let is_it = i64::from(state == status.breaker);
                gauges.breaker.with_label_values(&[name, state.name()]).set(is_it);
            }
        }
    }

    fn set_budgets(&self) {
        let pacers = self.pacers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.families.pacer_spent.reset();
        for budget in pacers.iter().flat_map(|pacers| pacers.stand()) {
            let labels = [&*budget.policy, &*budget.tenant];
            self.families.pacer_lambda.with_label_values(&labels).set(budget.lambda);
            self.families.pacer_spent.with_label_values(&labels).inc_by(budget.spent_usd.max(0.0));
        }
    }

    fn count_request(&self, receipt: &Receipt, known: &Known) {
        let served = receipt.served_by.as_ref().map(|model| self.series_of(known, model));
        let served_by = served.as_ref().map_or(names::NONE, |series| &series.label);
        let asked = known.asked(&receipt.asked);
        self.families.requests.with_label_values(&[asked, served_by, receipt.outcome.name()]).inc();
        let e2e = receipt.e2e.as_secs_f64();
        match &served {
            Some(series) => {
                series.e2e.observe(e2e);
                receipt.ttft.iter().for_each(|ttft| series.ttft.observe(ttft.as_secs_f64()));
                receipt.itl.iter().for_each(|gap| series.itl.observe(f64::from(*gap)));
            }
            None => self.families.e2e.with_label_values(&[names::NONE]).observe(e2e),
        }
        if let Some(overhead) = receipt.overhead {
            self.families.overhead.observe(overhead.as_secs_f64());
        }
        if let Some(unpriced) = receipt.attempts.iter().find(|attempt| attempt.cost_usd.is_none()) {
            let series = self.series_of(known, &unpriced.model);
            self.families.unpriced.with_label_values(&[&series.label]).inc();
        }
    }

    fn count_attempt(&self, attempt: &AttemptReceipt, known: &Known) {
        let series = self.series_of(known, &attempt.model);
        series.prompt.inc_by(attempt.usage.prompt_tokens);
        series.cached.inc_by(attempt.usage.cached_tokens);
        series.completion.inc_by(attempt.usage.completion_tokens);
        // A counter's addend is never negative: prices are checked, and NaN fails the comparison.
        let cost = attempt.cost_usd.filter(|cost| *cost > 0.0).unwrap_or(0.0);
        series.cost.inc_by(cost);
        if attempt.wasted {
            series.wasted_tokens.inc_by(attempt.usage.completion_tokens);
            series.wasted.inc_by(cost);
        }
        if let Some(scores) = &attempt.scores {
            self.families.observe_scores(&series.label, scores);
        }
        if let (AttemptOutcome::Failed(kind), Origin::Upstream) = (attempt.outcome, attempt.origin) {
            let upstream = attempt.model.split().map_or(names::OTHER, |(upstream, _)| upstream);
            self.families.upstream_errors.with_label_values(&[upstream, kind.name()]).inc();
        }
    }

    fn count_cascade(&self, receipt: &Receipt, known: &Known) {
        let Some(decided) = receipt.decided.as_ref().filter(|decided| decided.plan == PlanKind::Cascade) else {
            return;
        };
        let answered = receipt.served_by.is_some();
        let last = receipt.attempts.len().saturating_sub(1);
        for (place, attempt) in receipt.attempts.iter().enumerate() {
            let Some(reason) = attempt.reason else {
                continue;
            };
            let served = !attempt.wasted && attempt.outcome != AttemptOutcome::Skipped;
            let outcome = match reason {
                Reason::Accepted | Reason::Certified | Reason::CertifiedAgreement | Reason::Degraded => "accept",
                Reason::Evidence => "evidence",
                Reason::Uncertified | Reason::OtherKey | Reason::Alarmed | Reason::Unmonitored | Reason::Pinned
                    if served =>
                {
                    "accept"
                }
                _ if place == last && !answered && receipt.outcome != Outcome::Canceled => "fail",
                _ => "escalate",
            };
            let stage = self.series_of(known, &attempt.model);
            let labels = [&*decided.policy, &stage.label, outcome, reason.name()];
            self.families.cascade.with_label_values(&labels).inc();
        }
        let avoided = receipt.avoided_usd.filter(|avoided| *avoided > 0.0).unwrap_or(0.0);
        self.families.avoided.with_label_values(&[&*decided.policy]).inc_by(avoided);
    }

    fn series_of(&self, known: &Known, model: &ModelId) -> Arc<Series> {
        // A request that outlives its configuration may name a model that is gone.
        known.series(model).cloned().unwrap_or_else(|| Arc::new(Series::of(&self.families, names::OTHER)))
    }
}

impl Record for Metrics {
    fn record(&self, receipt: Receipt) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.count_request(&receipt, &known);
        for attempt in &receipt.attempts {
            self.count_attempt(attempt, &known);
        }
        self.count_cascade(&receipt, &known);
        if let Some(feedback) = &receipt.feedback {
            self.families.feedback.with_label_values(&[feedback.verdict.name()]).inc();
        }
        log::write(&receipt);
        if let Some(capture) = &self.capture {
            capture.take(receipt);
        }
    }

    fn captures(&self) -> bool {
        self.capture.as_ref().is_some_and(CaptureLog::draws)
    }

    fn audited(&self, receipt: &AuditReceipt) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(model) = &receipt.by {
            let series = self.series_of(&known, model);
            series.prompt.inc_by(receipt.usage.prompt_tokens);
            series.cached.inc_by(receipt.usage.cached_tokens);
            series.completion.inc_by(receipt.usage.completion_tokens);
            series.cost.inc_by(receipt.cost_usd.max(0.0));
        }
        log::write_audit(receipt);
    }
}
