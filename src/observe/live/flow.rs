//! How many requests went which way in each second of the last ten minutes, and what they cost.
//!
//! A ring of seconds; a slot whose second has passed is begun anew. Used by [`super::Live`].

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::account::{Outcome, PlanKind, Receipt};
use crate::error::Origin;

/// How many seconds are kept.
pub(super) const KEPT: u64 = 600;

/// Which way a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A model on the box served.
    Local,
    /// A cascade ended at an upstream.
    Escalated,
    /// The plan was to ask the upstream.
    Direct,
    /// Nobody served though somebody should have.
    Failed,
    /// It was refused: by a policy, or for a fault of the client's.
    Refused,
    /// The client left.
    Canceled,
}

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Class::Local => "local",
            Class::Escalated => "escalated",
            Class::Direct => "direct",
            Class::Failed => "failed",
            Class::Refused => "refused",
            Class::Canceled => "canceled",
        }
    }
}

/// Which way the request went; `None`: it was for no model (a list of models, feedback).
pub(super) fn class(receipt: &Receipt) -> Option<Class> {
    let plan = receipt.decided.as_ref().map(|decided| decided.plan);
    match receipt.outcome {
        Outcome::Canceled => Some(Class::Canceled),
        Outcome::Error(_) => {
            let error = receipt.error.as_ref();
            let refused = error.is_some_and(|error| error.code == Some("rejected_by_policy"));
            let at_fault = error.is_some_and(|error| error.origin == Origin::Client);
            Some(if refused || at_fault { Class::Refused } else { Class::Failed })
        }
        Outcome::Ok => Some(match receipt.served_by.as_ref()? {
            model if model.is_local() => Class::Local,
            _ if plan == Some(PlanKind::Cascade) => Class::Escalated,
            _ => Class::Direct,
        }),
    }
}

/// Counts and dollars.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Sums {
    local: u64,
    escalated: u64,
    direct: u64,
    failed: u64,
    refused: u64,
    canceled: u64,
    /// Requests whose cost is unknown.
    unpriced: u64,
    spent_usd: f64,
    avoided_usd: f64,
    wasted_usd: f64,
}

impl Sums {
    fn add(&mut self, class: Class, receipt: &Receipt) {
        *match class {
            Class::Local => &mut self.local,
            Class::Escalated => &mut self.escalated,
            Class::Direct => &mut self.direct,
            Class::Failed => &mut self.failed,
            Class::Refused => &mut self.refused,
            Class::Canceled => &mut self.canceled,
        } += 1;
        self.unpriced += u64::from(receipt.attempts.iter().any(|attempt| attempt.cost_usd.is_none()));
        self.spent_usd += receipt.cost_usd.unwrap_or(0.0);
        self.avoided_usd += receipt.avoided_usd.unwrap_or(0.0);
        self.wasted_usd += receipt.wasted_usd.unwrap_or(0.0);
    }
}

/// Columns, one entry per second; the last second still goes on.
#[derive(Debug, Default, Serialize)]
pub(super) struct Seconds {
    /// The second of the first entry, counted from the process's start.
    first: u64,
    local: Vec<u64>,
    escalated: Vec<u64>,
    direct: Vec<u64>,
    failed: Vec<u64>,
    refused: Vec<u64>,
    canceled: Vec<u64>,
    spent_usd: Vec<f64>,
    avoided_usd: Vec<f64>,
    wasted_usd: Vec<f64>,
}

impl Seconds {
    fn push(&mut self, sums: &Sums) {
        self.local.push(sums.local);
        self.escalated.push(sums.escalated);
        self.direct.push(sums.direct);
        self.failed.push(sums.failed);
        self.refused.push(sums.refused);
        self.canceled.push(sums.canceled);
        self.spent_usd.push(sums.spent_usd);
        self.avoided_usd.push(sums.avoided_usd);
        self.wasted_usd.push(sums.wasted_usd);
    }
}

#[derive(Debug)]
pub(super) struct Flow {
    /// The second of each slot, and its sums.
    ring: Vec<(u64, Sums)>,
    totals: Sums,
}

impl Default for Flow {
    fn default() -> Self {
        Flow { ring: vec![(0, Sums::default()); KEPT as usize], totals: Sums::default() }
    }
}

impl Flow {
    pub(super) fn add(&mut self, second: u64, class: Class, receipt: &Receipt) {
        self.slot(second).add(class, receipt);
        self.totals.add(class, receipt);
    }

    pub(super) fn spend(&mut self, second: u64, cost_usd: f64) {
        let cost_usd = cost_usd.max(0.0);
        self.slot(second).spent_usd += cost_usd;
        self.totals.spent_usd += cost_usd;
    }

    pub(super) fn totals(&self) -> &Sums {
        &self.totals
    }

    /// From `since` on, as far as they are kept, to `now`.
    pub(super) fn seconds(&mut self, now: u64, since: u64) -> Seconds {
        let oldest = (now + 1).saturating_sub(KEPT);
        let first = since.clamp(oldest, now);
        let mut columns = Seconds { first, ..Seconds::default() };
        for second in first..=now {
            columns.push(self.slot(second));
        }
        columns
    }

    fn slot(&mut self, second: u64) -> &mut Sums {
        let place = (second % KEPT) as usize;
        let (of, sums) = &mut self.ring[place];
        if *of != second {
            (*of, *sums) = (second, Sums::default());
        }
        sums
    }
}

pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
