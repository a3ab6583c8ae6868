//! The families as the metric library has them, and the series of one model resolved once.
//!
//! Hides registration and label look-ups. Promises: recording a request on a known model takes
//! one hash of its name, however many series it touches. Used by [`super::Metrics`] alone.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
};

use super::audits::AuditFamilies;
use super::canaries::CanaryFamilies;
use super::models::ModelFamilies;
use super::names::{self, Family};
use super::promises::PromiseFamilies;
use crate::confidence::{Feature, Running};

/// Seconds, for waits of a person: 5 ms … 300 s.
pub(super) const LONG_SECONDS: &[f64] = &[
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.5, 4.0, 6.0, 10.0, 20.0, 40.0, 80.0,
    150.0, 300.0,
];
/// Seconds between tokens: 1 ms … 10 s.
const GAP_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of our own: 20 µs … 250 ms.
pub(super) const OWN_SECONDS: &[f64] = &[
    20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3,
];
/// Log-probabilities to the left of 0, margins to the right.
const SCORES: &[f64] = &[
    -200.0, -100.0, -50.0, -20.0, -10.0, -7.0, -5.0, -4.0, -3.0, -2.5, -2.0, -1.5, -1.2, -1.0, -0.8, -0.6, -0.4, -0.3,
    -0.2, -0.1, -0.05, -0.02, -0.01, 0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0,
];

#[derive(Debug)]
pub(super) struct Families {
    pub(super) requests: IntCounterVec,
    pub(super) tokens: IntCounterVec,
    pub(super) cost: CounterVec,
    pub(super) avoided: CounterVec,
    pub(super) wasted: CounterVec,
    pub(super) unpriced: IntCounterVec,
    pub(super) cascade: IntCounterVec,
    pub(super) confidence: HistogramVec,
    pub(super) ttft: HistogramVec,
    pub(super) itl: HistogramVec,
    pub(super) e2e: HistogramVec,
    pub(super) overhead: Histogram,
    pub(super) upstream_errors: IntCounterVec,
    pub(super) queue_depth: IntGaugeVec,
    pub(super) slots: IntGaugeVec,
    pub(super) kv_used: GaugeVec,
    pub(super) breaker: IntGaugeVec,
    pub(super) pacer_lambda: GaugeVec,
    pub(super) pacer_spent: CounterVec,
    pub(super) budget_spent: GaugeVec,
    pub(super) budget_left: GaugeVec,
    pub(super) promises: PromiseFamilies,
    pub(super) feedback: IntCounterVec,
    pub(super) audits: AuditFamilies,
    pub(super) models: ModelFamilies,
    pub(super) canaries: CanaryFamilies,
    pub(super) capture_dropped: IntCounterVec,
    pub(super) spans: IntCounterVec,
    pub(super) connections: IntGaugeVec,
    pub(super) draining: IntGauge,
    pub(super) reloads: IntCounterVec,
    pub(super) changes: IntCounterVec,
    pub(super) generation: IntGauge,
}

impl Families {
    pub(super) fn register(registry: &Registry) -> Result<Families> {
        let build = keep(registry, IntGaugeVec::new(opts(&names::BUILD), names::BUILD.labels)?)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let started = keep(registry, Gauge::with_opts(opts(&names::START_TIME))?)?;
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let counts = |family: &Family| keep(registry, IntCounterVec::new(opts(family), family.labels)?);
        let spans = counts(&names::SPANS)?;
        for outcome in ["exported", "dropped"] {
            spans.with_label_values(&[outcome]);
        }
        let dollars = |family: &Family| keep(registry, CounterVec::new(opts(family), family.labels)?);
        let gauges = |family: &Family| keep(registry, IntGaugeVec::new(opts(family), family.labels)?);
        let spread = |family: &Family, buckets: &[f64]| {
            keep(registry, HistogramVec::new(spread_opts(family, buckets), family.labels)?)
        };
        let overhead = Histogram::with_opts(spread_opts(&names::OVERHEAD, OWN_SECONDS))?;
        Ok(Families {
            requests: counts(&names::REQUESTS)?,
            tokens: counts(&names::TOKENS)?,
            cost: dollars(&names::COST)?,
            avoided: dollars(&names::AVOIDED)?,
            wasted: dollars(&names::WASTED)?,
            unpriced: counts(&names::UNPRICED)?,
            cascade: counts(&names::CASCADE)?,
            confidence: spread(&names::CONFIDENCE, SCORES)?,
            ttft: spread(&names::TTFT, LONG_SECONDS)?,
            itl: spread(&names::ITL, GAP_SECONDS)?,
            e2e: spread(&names::E2E, LONG_SECONDS)?,
            overhead: keep(registry, overhead)?,
            upstream_errors: counts(&names::UPSTREAM_ERRORS)?,
            queue_depth: gauges(&names::QUEUE_DEPTH)?,
            slots: gauges(&names::SLOTS)?,
            kv_used: keep(registry, GaugeVec::new(opts(&names::KV_USED), names::KV_USED.labels)?)?,
            breaker: gauges(&names::BREAKER)?,
            pacer_lambda: keep(registry, GaugeVec::new(opts(&names::PACER_LAMBDA), names::PACER_LAMBDA.labels)?)?,
            pacer_spent: dollars(&names::PACER_SPENT)?,
            budget_spent: keep(registry, GaugeVec::new(opts(&names::BUDGET_SPENT), names::BUDGET_SPENT.labels)?)?,
            budget_left: keep(registry, GaugeVec::new(opts(&names::BUDGET_LEFT), names::BUDGET_LEFT.labels)?)?,
            promises: PromiseFamilies::register(registry)?,
            feedback: counts(&names::FEEDBACK)?,
            audits: AuditFamilies::register(registry)?,
            models: ModelFamilies::register(registry)?,
            canaries: CanaryFamilies::register(registry)?,
            capture_dropped: counts(&names::CAPTURE_DROPPED)?,
            spans,
            connections: gauges(&names::CONNECTIONS)?,
            draining: keep(registry, IntGauge::with_opts(opts(&names::DRAINING))?)?,
            reloads: counts(&names::RELOADS)?,
            changes: counts(&names::CHANGES)?,
            generation: keep(registry, IntGauge::with_opts(opts(&names::GENERATION))?)?,
        })
    }
}

pub(super) fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn spread_opts(family: &Family, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec())
}

pub(super) fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// The series of one model that answers.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) prompt: IntCounter,
    pub(super) cached: IntCounter,
    pub(super) completion: IntCounter,
    pub(super) wasted_tokens: IntCounter,
    pub(super) cost: prometheus::Counter,
    pub(super) wasted: prometheus::Counter,
    pub(super) ttft: Histogram,
    pub(super) itl: Histogram,
    pub(super) e2e: Histogram,
}

impl Series {
    pub(super) fn of(families: &Families, label: &str) -> Series {
        let tokens = |kind: &str| families.tokens.with_label_values(&[label, kind]);
        Series {
            label: label.to_owned(),
            prompt: tokens("prompt"),
            cached: tokens("cached"),
            completion: tokens("completion"),
            wasted_tokens: tokens("wasted"),
            cost: families.cost.with_label_values(&[label]),
            wasted: families.wasted.with_label_values(&[label]),
            ttft: families.ttft.with_label_values(&[label]),
            itl: families.itl.with_label_values(&[label]),
            e2e: families.e2e.with_label_values(&[label]),
        }
    }
}

impl Families {
    /// Notes the scores of a model's answer.
    pub(super) fn observe_scores(&self, label: &str, scores: &Running) {
        for score in Feature::TOLD {
            if let Some(value) = scores.value(score).filter(|value| value.is_finite()) {
                self.confidence.with_label_values(&[label, score.name()]).observe(value);
            }
        }
    }
}
