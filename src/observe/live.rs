//! What happened lately, for the page at `/` of the admin port: counts per second, latency, the
//! scores that gates judged, the last decisions.
//!
//! Promises: memory is bounded, whatever clients send and however long the process runs; of texts
//! nothing is kept; one short lock per request, held for a few additions. Filled by
//! [`super::Metrics`] with every receipt, read by the admin port once a second.

mod decisions;
mod flow;
mod gates;
mod latency;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::time::Instant;

use crate::account::Receipt;
use crate::policy::Gated;
use decisions::{Decisions, Told};
use flow::{Flow, Seconds, Sums};
use gates::{Gates, Spread};
use latency::{Latency, Quantiles};

/// What happened lately.
#[derive(Debug)]
pub(super) struct Live {
    began: Instant,
    began_at: SystemTime,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    flow: Flow,
    latency: Latency,
    gates: Gates,
    decisions: Decisions,
}

/// What the page shows of the last minutes; names and units are those of its JSON (`docs/console.md`).
#[derive(Debug, Serialize)]
pub struct Recent {
    /// When the process began, in milliseconds since 1970.
    started_ms: u64,
    /// Now, in the same way.
    now_ms: u64,
    /// Counts of each second asked for, of the last ten minutes.
    seconds: Seconds,
    /// Everything since the process began.
    totals: Sums,
    /// How long answers took, by who served.
    latency: Vec<Quantiles>,
    /// The scores that each gate in force has judged.
    gates: Vec<Spread>,
    /// The last decisions after the one asked for, oldest first.
    decisions: Vec<Told>,
}

impl Live {
    pub(super) fn new() -> Live {
        Live { began: Instant::now(), began_at: SystemTime::now(), kept: Mutex::default() }
    }

    /// Judges by these gates from now on; what a gate that stays has judged is kept.
    pub(super) fn follow(&self, gates: Vec<Gated>) {
        self.lock().gates.follow(gates);
    }

    /// Notes a request; `served` is the label of the model that did.
    pub(super) fn note(&self, receipt: &Receipt, served: Option<&str>) {
        let Some(class) = flow::class(receipt) else { return };
        let second = self.began.elapsed().as_secs();
        let decision = decisions::Decided::of(receipt, class, SystemTime::now());
        let mut kept = self.lock();
        kept.flow.add(second, class, receipt);
        kept.latency.add(second, served, receipt);
        kept.gates.add(receipt);
        kept.decisions.push(decision);
    }

    /// Notes what an audit cost.
    pub(super) fn spent(&self, cost_usd: f64) {
        let second = self.began.elapsed().as_secs();
        self.lock().flow.spend(second, cost_usd);
    }

    /// What the page does not know yet: seconds from `since` on (counted from the process's start), decisions
    /// after the number `after`; the rest whole.
    pub(super) fn recent(&self, since: u64, after: u64) -> Recent {
        let second = self.began.elapsed().as_secs();
        let mut kept = self.lock();
        Recent {
            started_ms: flow::milliseconds(self.began_at),
            now_ms: flow::milliseconds(SystemTime::now()),
            seconds: kept.flow.seconds(second, since),
            totals: kept.flow.totals().clone(),
            latency: kept.latency.quantiles(second),
            gates: kept.gates.spreads(),
            decisions: kept.decisions.after(after),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
