//! The families of local models, set anew at each scrape from what the models say they take and did.
//!
//! Promises: a model that is gone is gone from the page; counts are the engines' own, so that nothing
//! is counted twice. The histogram of batches is counted by the engines and only shown here. Used by
//! [`super::Metrics`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGaugeVec, Registry, Result};

use super::families::{keep, opts};
use super::names;
use crate::backend::{Figures, State};
use crate::request::ModelId;

#[derive(Debug)]
pub(super) struct ModelFamilies {
    memory: IntGaugeVec,
    state: IntGaugeVec,
    loads: IntCounterVec,
    tokens: IntCounterVec,
    batches: Batches,
}

impl ModelFamilies {
    pub(super) fn register(registry: &Registry) -> Result<ModelFamilies> {
        let gauges = |family: &names::Family| keep(registry, IntGaugeVec::new(opts(family), family.labels)?);
        let counts = |family: &names::Family| keep(registry, IntCounterVec::new(opts(family), family.labels)?);
        let labels = names::ENGINE_BATCH.labels.iter().map(|label| (*label).to_owned()).collect();
        let (name, help) = (names::ENGINE_BATCH.name.to_owned(), names::ENGINE_BATCH.help.to_owned());
        let desc = Desc::new(name, help, labels, HashMap::new())?;
        Ok(ModelFamilies {
            memory: gauges(&names::MODEL_MEMORY)?,
            state: gauges(&names::MODEL_STATE)?,
            loads: counts(&names::MODEL_LOADS)?,
            tokens: counts(&names::ENGINE_TOKENS)?,
            batches: keep(registry, Batches { desc, shown: Arc::default() })?,
        })
    }

    /// Shows these models and no others.
    pub(super) fn show(&self, models: &[(ModelId, Figures)]) {
        self.memory.reset();
        self.state.reset();
        self.loads.reset();
        self.tokens.reset();
        for (model, figures) in models {
            let name = model.as_str();
            let bytes = [("weights", figures.weights_bytes), ("kv", figures.kv_bytes)];
            for (kind, bytes) in bytes {
                self.memory.with_label_values(&[name, kind]).set(bytes.try_into().unwrap_or(i64::MAX));
            }
            for state in State::ALL {
                self.state.with_label_values(&[name, state.name()]).set(i64::from(state == figures.state));
            }
            for (outcome, loads) in [("ok", figures.loads), ("failed", figures.failed_loads)] {
                self.loads.with_label_values(&[name, outcome]).inc_by(loads);
            }
            for (kind, tokens) in [("prefill", figures.prefill_tokens), ("decode", figures.decode_tokens)] {
                self.tokens.with_label_values(&[name, kind]).inc_by(tokens);
            }
        }
        *self.batches.shown.lock().unwrap_or_else(PoisonError::into_inner) = models.to_vec();
    }
}

/// A histogram whose counts come from elsewhere.
#[derive(Debug, Clone)]
struct Batches {
    desc: Desc,
    shown: Arc<Mutex<Vec<(ModelId, Figures)>>>,
}

impl Collector for Batches {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(shown.iter().map(|(model, figures)| metric(model, figures)).collect());
        vec![family]
    }
}

fn metric(model: &ModelId, figures: &Figures) -> Metric {
    let mut label = LabelPair::default();
    label.set_name("model".to_owned());
    label.set_value(model.as_str().to_owned());
    let mut below = 0;
    let bucket = |(bound, count): (&u32, &u64)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(*bound));
        bucket.set_cumulative_count(below);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(Figures::BATCH_BOUNDS.iter().zip(&figures.batches).map(bucket).collect());
    histogram.set_sample_count(figures.batches.iter().sum());
    histogram.set_sample_sum((figures.prefill_tokens + figures.decode_tokens) as f64);
    let mut metric = Metric::from_label(vec![label]);
    metric.set_histogram(histogram);
    metric
}
