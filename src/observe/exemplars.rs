//! The last traced request of each bucket and counter: from a number on a board to a trace.
//!
//! Promises: bounded by the series there are, since it keeps one per bucket of a model's histograms and one
//! per counter; touched by sampled requests only. Filled by [`super::Metrics`], rendered by `openmetrics`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::request::TraceContext;

/// A traced request in a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace_id: u128,
    pub(super) span_id: u64,
    pub(super) value: f64,
    pub(super) at: SystemTime,
}

impl Exemplar {
    pub(super) fn new(context: &TraceContext, value: f64) -> Exemplar {
        Exemplar { trace_id: context.trace_id, span_id: context.span_id, value, at: SystemTime::now() }
    }
}

/// By family, model (empty where the family has no such label) and bucket (0 of a counter).
type Key = (&'static str, String, usize);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<Key, Exemplar>>);

impl Exemplars {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Exemplar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it in its bucket; `bounds` are the buckets' upper ends.
    pub(super) fn note(&self, family: &'static str, model: &str, bounds: &[f64], exemplar: Exemplar) {
        let bucket = bounds.partition_point(|bound| *bound < exemplar.value);
        self.all().insert((family, model.to_owned(), bucket), exemplar);
    }

    /// That of a bucket.
    pub(super) fn of(&self, family: &'static str, model: &str, bucket: usize) -> Option<Exemplar> {
        self.all().get(&(family, model.to_owned(), bucket)).copied()
    }

    /// Lets those of other models go.
    pub(super) fn keep(&self, known: impl Fn(&str) -> bool) {
        self.all().retain(|(_, model, _), _| model.is_empty() || known(model));
    }
}
