//! The log line of each request: every fact of its receipt, none of its text.
//!
//! Promises: target `weir::request`, level info, one event per request; no prompt, no answer, no
//! key. Where the level is off, nothing is rendered.

use std::fmt::Write;
use std::time::Duration;

use tracing::{Level, enabled, info};

use crate::account::{AttemptOutcome, AttemptReceipt, AuditReceipt, Receipt};
use crate::confidence::audit::Skipped;
use crate::error::Kind;
use crate::request::Verdict;

/// Writes the line.
pub(super) fn write(receipt: &Receipt) {
    if !enabled!(target: "weir::request", Level::INFO) {
        return;
    }
    let decided = receipt.decided.as_ref();
    let error = receipt.error.as_ref();
    let feedback = receipt.feedback.as_ref();
    let itl = (!receipt.itl.is_empty()).then(|| receipt.itl.iter().sum::<f32>() / receipt.itl.len() as f32);
    info!(
        target: "weir::request",
        id = &*receipt.id,
        trace_id = receipt.traced.as_ref().map(|traced| format!("{:032x}", traced.context.trace_id)),
        tenant = receipt.tenant.as_str(),
        model = &*receipt.asked,
        served_by = receipt.served_by.as_ref().map(|model| model.as_str()),
        policy = decided.map(|decided| &*decided.policy),
        rule = decided.map(|decided| &*decided.rule),
        generation = decided.map(|decided| decided.generation),
        plan = decided.map(|decided| decided.plan.name()),
        outcome = receipt.outcome.name(),
        stream = receipt.stream,
        attempts = render_attempts(&receipt.attempts),
        confidence = receipt.confidence().map(tracing::field::display),
        evidence = receipt.attempts.iter().find_map(|attempt| attempt.evidence.as_ref()).map(tracing::field::display),
        certificate = receipt.standing.as_ref().map(tracing::field::display),
        audit_propensity = receipt.audit.map(|audit| audit.propensity),
        audit_drawn = receipt.audit.map(|audit| audit.drawn),
        cost_usd = receipt.cost_usd,
        avoided_usd = receipt.avoided_usd,
        wasted_usd = receipt.wasted_usd,
        ttft_ms = receipt.ttft.map(milliseconds),
        itl_mean_ms = itl.map(|seconds| f64::from(seconds) * 1e3),
        e2e_ms = milliseconds(receipt.e2e),
        overhead_us = receipt.overhead.map(|overhead| overhead.as_micros() as u64),
        pinned = receipt.pinned.then_some(true),
        degraded = receipt.degraded,
        error = error.map(|error| error.kind.name()),
        error_code = error.and_then(|error| error.code),
        error_origin = error.map(|error| error.origin.name()),
        error_message = error.and_then(|error| error.message.as_deref()),
        feedback = feedback.map(|feedback| feedback.verdict.name()),
        feedback_score = feedback.and_then(|feedback| score(feedback.verdict)),
        feedback_request_id = feedback.map(|feedback| &*feedback.request_id),
        "request"
    );
}

/// Writes the line of an audit: target `weir::audit`, level info.
pub(super) fn write_audit(receipt: &AuditReceipt) {
    info!(
        target: "weir::audit",
        id = &*receipt.id,
        slice = receipt.slice,
        by = receipt.by.as_ref().map_or("feedback", |model| model.as_str()),
        outcome = receipt.outcome.map_or_else(Skipped::name, |_| "graded"),
        loss = receipt.outcome.ok(),
        propensity = receipt.propensity,
        wealth = receipt.wealth,
        prompt_tokens = receipt.usage.prompt_tokens,
        completion_tokens = receipt.usage.completion_tokens,
        cost_usd = receipt.cost_usd,
        "audit"
    );
}

fn score(verdict: Verdict) -> Option<f64> {
    match verdict {
        Verdict::Scored(score) => Some(score),
        Verdict::Correct | Verdict::Wrong => None,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `local/small discarded (low_confidence) prompt=10 cached=0 completion=2 usd=0; up/large served …`,
/// `~` before estimated tokens.
fn render_attempts(attempts: &[AttemptReceipt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        let separator = if text.is_empty() { "" } else { "; " };
        let reason = attempt.reason.map_or("left", |reason| reason.name());
        let about = if attempt.estimated { "~" } else { "" };
        let usage = &attempt.usage;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator}{} {} ({reason}) prompt={about}{} cached={} completion={about}{}",
            attempt.model,
            attempt.outcome.name(),
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
        );
        if let Some(cost) = attempt.cost_usd {
            let _ = write!(text, " usd={cost}");
        }
        if let Some(finish) = attempt.finish {
            let _ = write!(text, " finish={}", finish.name());
        }
        if let Some(kind) = failed(attempt) {
            let _ = write!(text, " error={}", kind.name());
        }
    }
    text
}

fn failed(attempt: &AttemptReceipt) -> Option<Kind> {
    match attempt.outcome {
        AttemptOutcome::Failed(kind) => Some(kind),
        _ => None,
    }
}
