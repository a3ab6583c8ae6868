//! The families of candidates on trial, set anew at each scrape from how the trials stand.
//!
//! Promises: a trial that is over is gone from the page; counts are the trial's own. Used by
//! [`super::Metrics`].

use prometheus::{GaugeVec, IntCounterVec, Registry, Result};

use super::families::{keep, opts};
use super::names;
use crate::confidence::trial::{CanaryStatus, Test};

#[derive(Debug)]
pub(super) struct CanaryFamilies {
    requests: IntCounterVec,
    agreement: GaugeVec,
    evidence: GaugeVec,
}

impl CanaryFamilies {
    pub(super) fn register(registry: &Registry) -> Result<CanaryFamilies> {
        let gauges = |family: &names::Family| keep(registry, GaugeVec::new(opts(family), family.labels)?);
        let requests = IntCounterVec::new(opts(&names::CANARY_REQUESTS), names::CANARY_REQUESTS.labels)?;
        Ok(CanaryFamilies {
            requests: keep(registry, requests)?,
            agreement: gauges(&names::CANARY_AGREEMENT)?,
            evidence: gauges(&names::CANARY_EVIDENCE)?,
        })
    }

    /// Shows these trials and no others.
    pub(super) fn show(&self, trials: &[CanaryStatus]) {
        self.requests.reset();
        self.agreement.reset();
        self.evidence.reset();
        for trial in trials {
            let model = trial.model.as_str();
            for (arm, outcome, count) in [
                ("current", "ok", trial.current_answered),
                ("current", "failed", trial.current_failed),
                ("canary", "ok", trial.answered),
                ("canary", "failed", trial.failed),
            ] {
                self.requests.with_label_values(&[model, arm, outcome]).inc_by(count);
            }
            for test in &trial.tests {
                self.evidence.with_label_values(&[model, test.test.name()]).set(test.evidence);
                if let (Test::Disagreement, Some(rate)) = (test.test, test.rate) {
                    self.agreement.with_label_values(&[model]).set(1.0 - rate);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use crate::confidence::trial::Standing;

    #[test]
    fn a_trial_is_shown_by_arm_and_test_and_is_gone_when_it_is_over() {
        let registry = Registry::new();
        let families = CanaryFamilies::register(&registry).unwrap();
        let test = Test::Disagreement;
        let trial = CanaryStatus {
            model: "local/a".to_owned(),
            share: 0.1,
            tenants: Vec::new(),
            answered: 3,
            failed: 1,
            current_answered: 20,
            current_failed: 0,
            tests: vec![Standing { test, seen: 4, rate: Some(0.25), limit: 0.3, evidence: 1.5, gives_up_at: 80.0 }],
            lost: None,
        };
        families.show(&[trial]);
        let page = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "weir_canary_requests_total{arm=\"canary\",model=\"local/a\",outcome=\"failed\"} 1",
            "weir_canary_requests_total{arm=\"current\",model=\"local/a\",outcome=\"ok\"} 20",
            "weir_canary_agreement_ratio{model=\"local/a\"} 0.75",
            "weir_canary_evidence{model=\"local/a\",test=\"disagreement\"} 1.5",
        ] {
            assert!(page().lines().any(|own| own == line), "{line}\n{}", page());
        }
        families.show(&[]);
        assert!(!page().contains("local/a"), "{}", page());
    }
}
