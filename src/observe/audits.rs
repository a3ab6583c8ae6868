//! The families of audited slices, set anew at each scrape from how the slices stand.
//!
//! Promises: what a slice no longer has is gone from the page; where several ledgers are of one slice
//! (two models, two promises) counts are summed and the worst state shows. Used by [`super::Metrics`].

use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Registry, Result};

use super::families::{keep, opts};
use super::names;
use crate::confidence::{AuditStatus, News};

#[derive(Debug)]
pub(super) struct AuditFamilies {
    kept: IntCounterVec,
    outcomes: IntCounterVec,
    losses: CounterVec,
    bound: GaugeVec,
    wealth: GaugeVec,
    alarm: IntGaugeVec,
    unmonitored: IntGaugeVec,
    cost: CounterVec,
}

impl AuditFamilies {
    pub(super) fn register(registry: &Registry) -> Result<AuditFamilies> {
        let counts = |family: &names::Family| keep(registry, IntCounterVec::new(opts(family), family.labels)?);
        let sums = |family: &names::Family| keep(registry, CounterVec::new(opts(family), family.labels)?);
        let gauges = |family: &names::Family| keep(registry, GaugeVec::new(opts(family), family.labels)?);
        let flags = |family: &names::Family| keep(registry, IntGaugeVec::new(opts(family), family.labels)?);
        Ok(AuditFamilies {
            kept: counts(&names::AUDIT_KEPT)?,
            outcomes: counts(&names::AUDITS)?,
            losses: sums(&names::AUDIT_LOSSES)?,
            bound: gauges(&names::AUDIT_BOUND)?,
            wealth: gauges(&names::AUDIT_WEALTH)?,
            alarm: flags(&names::AUDIT_ALARM)?,
            unmonitored: flags(&names::AUDIT_UNMONITORED)?,
            cost: sums(&names::AUDIT_COST)?,
        })
    }

    /// Shows these slices and no others.
    pub(super) fn show(&self, slices: &[AuditStatus]) {
        self.kept.reset();
        self.outcomes.reset();
        self.losses.reset();
        self.bound.reset();
        self.wealth.reset();
        self.alarm.reset();
        self.unmonitored.reset();
        self.cost.reset();
        for status in slices {
            self.show_one(status);
        }
    }

    fn show_one(&self, status: &AuditStatus) {
        let (slice, total) = (status.slice.as_str(), &status.total);
        self.kept.with_label_values(&[slice]).inc_by(total.kept);
        let outcomes = [
            ("graded", total.graded),
            ("budget", total.budget),
            ("outage", total.outage),
            ("ungradable", total.ungradable),
            ("silent", total.silent),
        ];
        for (outcome, count) in outcomes {
            self.outcomes.with_label_values(&[slice, outcome]).inc_by(count);
        }
        self.losses.with_label_values(&[slice, status.rate]).inc_by(total.losses);
        self.cost.with_label_values(&[slice]).inc_by(status.spent_usd);
        let bound = self.bound.with_label_values(&[slice, status.rate]);
        bound.set(if bound.get() > 0.0 { bound.get().min(status.alarm_above) } else { status.alarm_above });
        let wealth = self.wealth.with_label_values(&[slice]);
        wealth.set(wealth.get().max(status.wealth));
        for (flag, state) in [(&self.alarm, News::Alarmed), (&self.unmonitored, News::Unmonitored)] {
            let flag = flag.with_label_values(&[slice]);
            flag.set(flag.get().max(i64::from(status.state == state.name())));
        }
    }
}
