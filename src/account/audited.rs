//! What audits of kept answers cost, noted when the request itself is long over.
//!
//! Promises: an [`AuditTab`] holds what an audit needs to know of its request and nothing of the
//! request's own tab, so that the receipt does not wait for the audit. Opened from the Meter by
//! `execute`, settled there; `observe` receives the [`AuditReceipt`]s.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{AuditSpan, Price, Prices, Record};
use crate::confidence::{Draw, audit::Skipped};
use crate::request::{ModelId, TenantId, TraceContext, Usage};

/// Notes one audit.
#[derive(Debug, Clone)]
pub struct AuditTab {
    pub(super) record: Arc<dyn Record>,
    pub(super) prices: Arc<Prices>,
    pub(super) id: Arc<str>,
    pub(super) tenant: TenantId,
    /// Its place in a trace of its own, and the request's; `None`: it is not traced.
    pub(super) trace: Option<(TraceContext, TraceContext)>,
}

impl AuditTab {
    /// The id of the request whose answer is audited.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Who got the answer.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// What a model costs, where that is known.
    pub fn price(&self, model: &ModelId) -> Option<Price> {
        self.prices.of(model)
    }

    /// The audit's place in a trace, where it is traced.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref().map(|(own, _)| own)
    }

    /// The span of an audit that began then and ends now, where it is traced.
    pub fn span(&self, began: Instant) -> Option<Box<AuditSpan>> {
        let (context, of) = self.trace.clone()?;
        let took = began.elapsed();
        Some(Box::new(AuditSpan { context, of, began: SystemTime::now() - took, took }))
    }

    /// Notes how the audit ended.
    pub fn settle(&self, receipt: &AuditReceipt) {
        self.record.audited(receipt);
    }
}

/// How the audit of one answer ended. Holds no text.
#[derive(Debug, Clone)]
pub struct AuditReceipt {
    /// The id of the request whose answer was audited.
    pub id: Arc<str>,
    /// The slice.
    pub slice: String,
    /// The model that graded; `None`: feedback.
    pub by: Option<ModelId>,
    /// The loss, 0 (the promise was kept) to 1, or why there is none.
    pub outcome: Result<f64, Skipped>,
    /// The probability with which the answer was drawn.
    pub propensity: f64,
    /// The grader's tokens.
    pub usage: Usage,
    /// What they cost, in dollars.
    pub cost_usd: f64,
    /// The evidence against the slice's promise now.
    pub wealth: f64,
    /// When it was, where it is traced.
    pub span: Option<Box<AuditSpan>>,
}

/// Whether an answer kept under a certificate was drawn to be audited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The probability with which it was drawn.
    pub propensity: f64,
    /// Whether it was.
    pub drawn: bool,
    /// Whether feedback is wanted.
    pub wanted: bool,
}

impl Drawn {
    /// What the tab notes of a draw; `wanted`: feedback is.
    pub fn of(draw: Draw, wanted: bool) -> Drawn {
        Drawn { propensity: draw.propensity, drawn: draw.ticket.is_some(), wanted }
    }
}
