//! Who pays and how much: keys → tenant, prices, the Meter that rides in each body, the Receipt.
//!
//! Hides how a request's tab is kept: who waits on whom, which tokens were seen, what they cost.
//! Promises: one [`Receipt`] per opened [`Meter`], made when the last handle on it is dropped,
//! whatever happened in between; the cost of a receipt is the sum of its attempts. `gateway`
//! opens a tab, `execute` notes the attempts on it, `observe` receives the receipts.

mod attempt;
mod audited;
mod body;
mod captured;
mod journal;
mod keys;
mod meter;
mod offer;
mod pacer;
mod pacers;
mod price;
mod receipt;
mod story;
mod tab;
mod traced;

#[cfg(test)]
mod tests;

use futures::future::BoxFuture;

pub use attempt::Attempt;
pub use audited::{AuditReceipt, AuditTab, Drawn};
pub use body::Awaited;
pub use captured::{Captured, Said};
pub use keys::Keys;
pub use meter::Meter;
pub use offer::Offer;
pub use pacer::Pace;
pub use pacers::{Paced, Pacers};
pub use price::{Price, Prices};
pub use receipt::{AttemptOutcome, AttemptReceipt, Decided, Failure, Outcome, PlanKind, Reason, Receipt};
pub use story::Story;
pub use traced::{Asked, AuditSpan, Timing, Traced};

use crate::request::TraceContext;

/// Receives every receipt; implemented by `observe`.
pub trait Record: Send + Sync + std::fmt::Debug {
    /// Must not block.
    fn record(&self, receipt: Receipt);

    /// The same, of audits; who counts none need not know.
    fn audited(&self, _: &AuditReceipt) {}

    /// The same, of a request whose answer is complete but for its last bytes, which wait for what
    /// comes back: it resolves when what must outlive a crash is written. `None`: nothing must.
    fn record_lasting(&self, receipt: Receipt) -> Option<BoxFuture<'static, ()>> {
        self.record(receipt);
        None
    }

    /// Whether there is anything that must.
    fn is_lasting(&self) -> bool {
        false
    }

    /// Whether the texts of the request that is being parsed are kept for its receipt.
    fn captures(&self) -> bool {
        false
    }

    /// A request's own place in a trace, given its client's. `None`: requests are not traced, and what
    /// the client gave is passed on as it is.
    fn place(&self, _given: Option<&TraceContext>) -> Option<TraceContext> {
        None
    }

    /// Whether the texts of a sampled request are kept for its spans.
    fn shows(&self) -> bool {
        false
    }
}
