//! The families of the promises that rules ask for, set anew at each scrape.
//!
//! Promises: exactly one state of each is 1; where a rule asks for the same of one slice twice, the worst
//! state shows. Used by [`super::Metrics`].

use std::collections::BTreeMap;

use prometheus::{GaugeVec, IntGaugeVec, Registry, Result};

use super::families::{keep, opts};
use super::names;
use crate::policy::Promised;

#[derive(Debug)]
pub(super) struct PromiseFamilies {
    state: IntGaugeVec,
    alpha: GaugeVec,
}

impl PromiseFamilies {
    pub(super) fn register(registry: &Registry) -> Result<PromiseFamilies> {
        let (state, alpha) = (&names::CERTIFICATE_STATE, &names::CERTIFICATE_ALPHA);
        Ok(PromiseFamilies {
            state: keep(registry, IntGaugeVec::new(opts(state), state.labels)?)?,
            alpha: keep(registry, GaugeVec::new(opts(alpha), alpha.labels)?)?,
        })
    }

    /// Shows these promises, each with its policy, and no others.
    pub(super) fn show(&self, promises: &[(String, Promised)]) {
        self.state.reset();
        self.alpha.reset();
        let mut worst: BTreeMap<[&str; 3], (usize, f64)> = BTreeMap::new();
        for (policy, promised) in promises {
            let labels = [policy, &*promised.rule, promised.slice.as_deref().unwrap_or(names::NONE)];
            let state = Promised::STATES.iter().position(|state| *state == promised.state()).unwrap_or_default();
            let known = worst.entry(labels).or_insert((state, promised.alpha));
            *known = (known.0.max(state), known.1.min(promised.alpha));
        }
        for ([policy, rule, slice], (state, alpha)) in worst {
            self.alpha.with_label_values(&[policy, rule, slice]).set(alpha);
            for (place, name) in Promised::STATES.iter().enumerate() {
                self.state.with_label_values(&[policy, rule, slice, name]).set(i64::from(place == state));
            }
        }
    }
}
