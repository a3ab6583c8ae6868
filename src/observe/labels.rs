//! Series of names that the configuration has no more, taken off the page.
//!
//! Promises: what is counted under a name lives as long as the name; a name that comes back counts from 0.
//! Called by [`super::Metrics`] when it adopts a configuration.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

use super::families::Families;

/// Takes off every series of which a label's value is not kept.
pub(super) fn prune(families: &Families, keeps: impl Fn(&str, &str) -> bool) {
    let Families { requests, tokens, cost, avoided, wasted, unpriced, cascade, .. } = families;
    let Families { confidence, ttft, itl, e2e, upstream_errors, .. } = families;
    for counts in [requests, tokens, unpriced, cascade, upstream_errors] {
        prune_one(counts, &keeps);
    }
    for dollars in [cost, avoided, wasted] {
        prune_one(dollars, &keeps);
    }
    for spread in [confidence, ttft, itl, e2e] {
        prune_one(spread, &keeps);
    }
}

fn prune_one<T: MetricVecBuilder>(series: &MetricVec<T>, keeps: impl Fn(&str, &str) -> bool) {
    for family in series.collect() {
        for metric in family.get_metric() {
            let labels: HashMap<&str, &str> =
                metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if !labels.iter().all(|(name, value)| keeps(name, value)) {
                // One that is gone already is what is wanted.
                let _ = series.remove(&labels);
            }
        }
    }
}
