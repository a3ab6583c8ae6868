//! Prometheus families, traces and the log line of each request.
//!
//! Hides the metric library and OpenTelemetry. Promises: the families of [`names`], labels bounded by
//! the configuration and by enums, and a recording that takes no lock but an uncontended read; of
//! what is not sampled nothing but ids is made for a trace.
//! [`Metrics`] is made by `main`, receives receipts as `account`'s [`Record`], and is rendered by
//! the admin port.

mod audits;
mod canaries;
mod capture;
mod exemplars;
mod families;
mod known;
mod labels;
mod line;
mod live;
mod log;
mod models;
pub mod names;
mod openmetrics;
mod otlp;
mod promises;
mod rotating;
mod spans;
#[cfg(test)]
mod tests;
mod texts;
mod traces;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus::{Registry, TextEncoder};

use crate::account::{
    AttemptOutcome, AttemptReceipt, AuditReceipt, Outcome, Pacers, PlanKind, Reason, Receipt, Record,
};
use crate::backend::{Breaker, Figures, Status};
use crate::confidence::AuditStatus;
use crate::confidence::trial::CanaryStatus;
use crate::control::{Capture, Telemetry};
use crate::error::{Error, Origin, Result};
use crate::policy::{Gated, Promised};
use crate::request::{ModelId, TraceContext};
use capture::CaptureLog;
use exemplars::{Exemplar, Exemplars};
use families::{Families, LONG_SECONDS, OWN_SECONDS, Series};
use known::Known;
pub use known::Names;
use live::Live;
pub use live::Recent;
use traces::Traces;

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
    live: Live,
    traces: Option<Traces>,
    exemplars: Exemplars,
}

/// A port of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Clients'.
    Data,
    /// The operator's.
    Admin,
}

impl Metrics {
    /// Metrics that know no model yet; fails only on a fault in the families themselves.
    pub fn new() -> Result<Metrics> {
        let registry = Registry::new();
        let families = Families::register(&registry).map_err(|fault| Error::internal(format!("metrics: {fault}")))?;
        let (known, pacers) = (RwLock::default(), Mutex::default());
        let (scrape, exemplars, live) = (Mutex::new(()), Exemplars::default(), Live::new());
        Ok(Metrics { registry, families, known, pacers, scrape, capture: None, live, traces: None, exemplars })
    }

    /// The same, with a capture log where the configuration wants one.
    ///
    /// # Errors
    /// A log that cannot be opened.
    pub fn open(capture: Option<&Capture>) -> std::result::Result<Metrics, String> {
        Metrics::opened(capture, true)
    }

    /// The same while another process writes the log; see [`Metrics::own_capture`].
    ///
    /// # Errors
    /// A log that cannot be opened.
    pub fn open_beside(capture: Option<&Capture>) -> std::result::Result<Metrics, String> {
        Metrics::opened(capture, false)
    }

    fn opened(capture: Option<&Capture>, owned: bool) -> std::result::Result<Metrics, String> {
        let mut metrics = Metrics::new().map_err(|error| error.to_string())?;
        if let Some(settings) = capture {
            let dropped = metrics.families.capture_dropped.with_label_values::<&str>(&[]);
            metrics.capture = Some(CaptureLog::open(settings, owned, dropped)?);
        }
        Ok(metrics)
    }

    /// The same, with requests traced where the configuration wants that. Needs a runtime, on which
    /// what is traced is sent.
    ///
    /// # Errors
    /// A fault in Weir itself.
    pub fn tracing(mut self, settings: Option<&Telemetry>) -> std::result::Result<Metrics, String> {
        self.traces = settings.map(|settings| Traces::open(settings, &self.families.spans)).transpose()?;
        Ok(self)
    }

    /// Waits until what was traced is sent, at most so long.
    pub async fn flush(&self, limit: Duration) {
        if let Some(traces) = &self.traces {
            traces.flush(limit).await;
        }
    }

    /// Whether this process moves full files of the capture log away from now on, or another one does
    /// that writes it too.
    pub fn own_capture(&self, owned: bool) {
        self.capture.iter().for_each(|capture| capture.own(owned));
    }

    /// Captures nothing more, and waits until what was captured is written; blocks.
    pub fn close(&self) {
        self.capture.iter().for_each(CaptureLog::close);
    }

    /// Takes over the names of a configuration; what was counted under others is gone. One that is older
    /// than what was taken over already changes nothing.
    pub fn adopt(&self, names: Names) {
        let generation = names.generation.try_into().unwrap_or(i64::MAX);
        // Whoever records holds this lock, so that no series of an old name comes back.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if names.generation < known.generation() {
            return;
        }
        let new = Arc::new(Known::of(names, &self.families));
        labels::prune(&self.families, |label, value| new.keeps(label, value));
        self.exemplars.keep(|model| new.keeps("model", model));
        *known = new;
        self.families.generation.set(generation);
    }

    /// Tells these budgets with each scrape from now on.
    pub fn follow(&self, pacers: &Arc<Pacers>) {
        *self.pacers.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(pacers));
    }

    /// Watches these gates from now on, for [`Metrics::recent`].
    pub fn watch(&self, gates: Vec<Gated>) {
        self.live.follow(gates);
    }

    /// What happened lately: the seconds from `since` on (counted from the start), the decisions after
    /// number `after`, and the rest whole; at most ten minutes and 400 decisions.
    pub fn recent(&self, since: u64, after: u64) -> Recent {
        self.live.recent(since, after)
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

    /// How many connections a port has open; for the next [`Metrics::render`].
    pub fn show_connections(&self, port: Port, open: usize) {
        let name = match port {
            Port::Data => "data",
            Port::Admin => "admin",
        };
        self.families.connections.with_label_values(&[name]).set(open.try_into().unwrap_or(i64::MAX));
    }

    /// Whether the process drains; for the next [`Metrics::render`].
    pub fn show_draining(&self, draining: bool) {
        self.families.draining.set(draining.into());
    }

    /// The promises that policies ask for, each with its policy; for the next [`Metrics::render`].
    pub fn show_promises(&self, promises: &[(String, Promised)]) {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.promises.show(promises);
    }

    /// The page for a scraper that accepts these media types, and its own: OpenMetrics with exemplars
    /// where that is among them, else Prometheus' text format.
    pub fn page(&self, accept: Option<&str>, statuses: &[(ModelId, Status)]) -> (String, &'static str) {
        if !accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            return (self.render(statuses), "text/plain; version=0.0.4; charset=utf-8");
        }
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_gauges(statuses);
        self.set_budgets();
        (openmetrics::render(&self.registry.gather(), &self.exemplars), openmetrics::MEDIA_TYPE)
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

    /// Takes over how many changes there were of each kind; for the next [`Metrics::render`].
    pub fn show_changes(&self, counts: &[(&'static str, u64)]) {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.changes.reset();
        for (what, count) in counts {
            self.families.changes.with_label_values(&[what]).inc_by(*count);
        }
    }

    /// Takes over what the local models take and have done; for the next [`Metrics::render`].
    pub fn show_models(&self, models: &[(ModelId, Figures)]) {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.models.show(models);
    }

    /// Takes over how the candidates on trial stand; for the next [`Metrics::render`].
    pub fn show_canaries(&self, trials: &[CanaryStatus]) {
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.families.canaries.show(trials);
    }

    /// The dollars that a policy has avoided so far.
    pub fn avoided_usd(&self, policy: &str) -> f64 {
        self.families.avoided.with_label_values(&[policy]).get()
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
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let budgets = pacers.iter().flat_map(|pacers| pacers.stand());
        self.families.pacer_spent.reset();
        self.families.pacer_lambda.reset();
        self.families.budget_spent.reset();
        self.families.budget_left.reset();
        for budget in budgets.filter(|budget| known.keeps("policy", &budget.policy)) {
            let labels = [&*budget.policy, &*budget.tenant];
            self.families.pacer_lambda.with_label_values(&labels).set(budget.lambda);
            self.families.pacer_spent.with_label_values(&labels).inc_by(budget.own_usd.max(0.0));
            self.families.budget_spent.with_label_values(&labels).set(budget.spent_usd);
            self.families.budget_left.with_label_values(&labels).set(budget.left_usd);
        }
    }

    /// Counts all of a receipt under the names known now.
    fn count(&self, receipt: &Receipt) -> Arc<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        self.count_request(receipt, &known);
        for attempt in &receipt.attempts {
            self.count_attempt(attempt, &known);
        }
        self.count_cascade(receipt, &known);
        Arc::clone(&known)
    }

    fn count_request(&self, receipt: &Receipt, known: &Known) {
        let served = receipt.served_by.as_ref().map(|model| self.series_of(known, model));
        self.live.note(receipt, served.as_ref().map(|series| series.label.as_str()));
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
        if let Some(traced) = &receipt.traced {
            let label = served.as_ref().map_or(names::NONE, |series| &series.label);
            self.exemplify(receipt, &traced.context, label, known);
        }
        if let Some(unpriced) = receipt.attempts.iter().find(|attempt| attempt.cost_usd.is_none()) {
            let series = self.series_of(known, &unpriced.model);
            self.families.unpriced.with_label_values(&[&series.label]).inc();
        }
    }

    /// Puts a sampled request beside the numbers it went into.
    fn exemplify(&self, receipt: &Receipt, context: &TraceContext, served_by: &str, known: &Known) {
        let times = [
            (&names::E2E, served_by, LONG_SECONDS, Some(receipt.e2e)),
            (&names::TTFT, served_by, LONG_SECONDS, receipt.ttft),
            (&names::OVERHEAD, "", OWN_SECONDS, receipt.overhead),
        ];
        for (family, label, bounds, time) in times {
            if let Some(time) = time {
                self.exemplars.note(family.name, label, bounds, Exemplar::new(context, time.as_secs_f64()));
            }
        }
        for attempt in &receipt.attempts {
            if let Some(cost) = attempt.cost_usd.filter(|cost| *cost > 0.0) {
                let of = TraceContext { span_id: attempt.span_id, ..context.clone() };
                let label = &self.series_of(known, &attempt.model).label;
                self.exemplars.note(names::COST.name, label, &[], Exemplar::new(&of, cost));
            }
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
            let upstream = known.upstream(&attempt.model);
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
            let labels = [known.policy(&decided.policy), &stage.label, outcome, reason.name()];
            self.families.cascade.with_label_values(&labels).inc();
        }
        let avoided = receipt.avoided_usd.filter(|avoided| *avoided > 0.0).unwrap_or(0.0);
        self.families.avoided.with_label_values(&[known.policy(&decided.policy)]).inc_by(avoided);
    }

    fn series_of(&self, known: &Known, model: &ModelId) -> Arc<Series> {
        // A request that outlives its configuration may name a model that is gone.
        known.series(model).cloned().unwrap_or_else(|| Arc::new(Series::of(&self.families, names::OTHER)))
    }
}

impl Metrics {
    /// Tells of a request everywhere but in the capture log, which takes the receipt itself.
    fn tell(&self, receipt: &Receipt) {
        let known = self.count(receipt);
        if let Some(feedback) = &receipt.feedback {
            self.families.feedback.with_label_values(&[feedback.verdict.name()]).inc();
        }
        log::write(receipt);
        if let Some(traces) = self.traces.as_ref().filter(|_| receipt.traced.is_some()) {
            traces.take(&known, Box::new(receipt.clone()));
        }
    }
}

impl Record for Metrics {
    fn record(&self, receipt: Receipt) {
        self.tell(&receipt);
        if let Some(capture) = &self.capture {
            capture.take(receipt);
        }
    }

    fn record_lasting(&self, receipt: Receipt) -> Option<BoxFuture<'static, ()>> {
        if !self.is_lasting() {
            self.record(receipt);
            return None;
        }
        self.tell(&receipt);
        self.capture.as_ref()?.take_acknowledged(receipt)
    }

    fn is_lasting(&self) -> bool {
        self.capture.as_ref().is_some_and(CaptureLog::is_acknowledged)
    }

    fn place(&self, given: Option<&TraceContext>) -> Option<TraceContext> {
        self.traces.as_ref().map(|traces| traces.place(given))
    }

    fn shows(&self) -> bool {
        self.traces.as_ref().is_some_and(Traces::shows)
    }

    fn captures(&self) -> bool {
        self.capture.as_ref().is_some_and(CaptureLog::draws)
    }

    fn audited(&self, receipt: &AuditReceipt) {
        self.live.spent(receipt.cost_usd);
        if let Some(model) = &receipt.by {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let series = self.series_of(&known, model);
            series.prompt.inc_by(receipt.usage.prompt_tokens);
            series.cached.inc_by(receipt.usage.cached_tokens);
            series.completion.inc_by(receipt.usage.completion_tokens);
            series.cost.inc_by(receipt.cost_usd.max(0.0));
        }
        log::write_audit(receipt);
        if let Some(traces) = &self.traces {
            traces.take_audit(receipt);
        }
    }
}
