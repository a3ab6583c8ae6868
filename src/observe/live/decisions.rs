//! The last decisions, each as one line of a table.
//!
//! The last 400; names that clients choose are cut at 100 characters. What is kept shares the
//! receipt's own values, so that noting a request copies little; it is rendered when it is read.
//! Used by [`super::Live`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::flow::{Class, milliseconds};
use crate::account::{AttemptOutcome, AttemptReceipt, Reason, Receipt};
use crate::confidence::{Feature, Running, Standing};

/// Decisions kept.
const KEPT: usize = 400;
/// The longest name kept, in characters.
const LONGEST: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Decisions {
    ring: VecDeque<Decided>,
    pushed: u64,
}

/// A request that is over.
#[derive(Debug)]
pub(super) struct Decided {
    at: SystemTime,
    class: Class,
    receipt: Summary,
}

/// What is kept of a receipt.
#[derive(Debug)]
struct Summary {
    id: Arc<str>,
    tenant: Arc<str>,
    asked: Arc<str>,
    decided: Option<crate::account::Decided>,
    served_by: Option<Arc<str>>,
    reason: Option<&'static str>,
    error: Option<(&'static str, Option<&'static str>, Option<String>)>,
    scores: Option<[f64; 4]>,
    standing: Option<Standing>,
    stages: Vec<Stage>,
    times_ms: (Option<f64>, f64),
    cost_usd: Option<f64>,
    avoided_usd: Option<f64>,
    wasted_usd: Option<f64>,
    stream: bool,
    pinned: bool,
    degraded: Option<&'static str>,
}

/// A model that was asked or passed over.
#[derive(Debug, Clone, Serialize)]
struct Stage {
    model: Arc<str>,
    outcome: &'static str,
    reason: Option<&'static str>,
}

/// A decision as the page reads it.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// Counts the decisions of this process from 1.
    number: u64,
    at_ms: u64,
    id: Arc<str>,
    tenant: Arc<str>,
    asked: Arc<str>,
    policy: Option<Arc<str>>,
    rule: Option<Arc<str>>,
    generation: Option<u64>,
    /// `local`, `escalated`, `direct`, `failed`, `refused` or `canceled`.
    outcome: &'static str,
    served_by: Option<Arc<str>>,
    reason: Option<&'static str>,
    error: Option<&'static str>,
    error_code: Option<&'static str>,
    error_message: Option<String>,
    confidence: Option<Confidence>,
    certificate: Option<String>,
    stages: Vec<Stage>,
    ttft_ms: Option<f64>,
    e2e_ms: f64,
    cost_usd: Option<f64>,
    avoided_usd: Option<f64>,
    wasted_usd: Option<f64>,
    stream: bool,
    pinned: bool,
    degraded: Option<&'static str>,
}

/// The scores of the local answer that was judged last; `null` where a number was not one.
#[derive(Debug, Serialize)]
struct Confidence {
    min_logprob: f64,
    mean_logprob: f64,
    sum_logprob: f64,
    margin: f64,
}

impl Decisions {
    pub(super) fn push(&mut self, decided: Decided) {
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(decided);
        self.pushed += 1;
    }

    /// Those after this number, oldest first.
    pub(super) fn after(&self, after: u64) -> Vec<Told> {
        let first = self.pushed - self.ring.len() as u64 + 1;
        let numbered = self.ring.iter().zip(first..);
        numbered.filter(|(_, number)| *number > after).map(|(decided, number)| decided.told(number)).collect()
    }
}

impl Decided {
    pub(super) fn of(receipt: &Receipt, class: Class, at: SystemTime) -> Decided {
        let stage = |attempt: &AttemptReceipt| Stage {
            model: shortened(attempt.model.as_str()),
            outcome: attempt.outcome.name(),
            reason: attempt.reason.map(Reason::name),
        };
        let error = receipt.error.as_ref();
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let receipt = Summary {
            id: Arc::clone(&receipt.id),
            tenant: shortened(receipt.tenant.as_str()),
            asked: shortened(&receipt.asked),
            decided: receipt.decided.clone(),
            served_by: receipt.served_by.as_ref().map(|model| shortened(model.as_str())),
            reason: reason(receipt, class),
            error: error.map(|error| (error.kind.name(), error.code, error.message.clone())),
            scores: receipt.confidence().and_then(scores),
            standing: receipt.standing.clone(),
            stages: receipt.attempts.iter().map(stage).collect(),
            times_ms: (receipt.ttft.map(milliseconds), milliseconds(receipt.e2e)),
            cost_usd: receipt.cost_usd,
            avoided_usd: receipt.avoided_usd,
            wasted_usd: receipt.wasted_usd,
            stream: receipt.stream,
            pinned: receipt.pinned,
            degraded: receipt.degraded,
        };
        Decided { at, class, receipt }
    }

    fn told(&self, number: u64) -> Told {
        let it = &self.receipt;
        let decided = it.decided.as_ref();
        let error = it.error.as_ref();
        Told {
            number,
            at_ms: milliseconds(self.at),
            id: Arc::clone(&it.id),
            tenant: Arc::clone(&it.tenant),
            asked: Arc::clone(&it.asked),
            policy: decided.map(|decided| Arc::clone(&decided.policy)),
            rule: decided.map(|decided| Arc::clone(&decided.rule)),
            generation: decided.map(|decided| decided.generation),
            outcome: self.class.name(),
            served_by: it.served_by.clone(),
            reason: it.reason,
            error: error.map(|(kind, _, _)| *kind),
            error_code: error.and_then(|(_, code, _)| *code),
            error_message: error.and_then(|(_, _, message)| message.clone()),
            confidence: it.scores.map(|[min_logprob, mean_logprob, sum_logprob, margin]| Confidence {
                min_logprob,
                mean_logprob,
                sum_logprob,
                margin,
            }),
            certificate: it.standing.as_ref().map(ToString::to_string),
            stages: it.stages.clone(),
            ttft_ms: it.times_ms.0,
            e2e_ms: it.times_ms.1,
            cost_usd: it.cost_usd,
            avoided_usd: it.avoided_usd,
            wasted_usd: it.wasted_usd,
            stream: it.stream,
            pinned: it.pinned,
            degraded: it.degraded,
        }
    }
}

/// Why the request went the way it did: what kept the answer on the box, or what drove it off.
fn reason(receipt: &Receipt, class: Class) -> Option<&'static str> {
    let told = |attempt: &AttemptReceipt| attempt.reason.filter(|reason| *reason != Reason::Evidence);
    let is_served = |attempt: &&AttemptReceipt| attempt.outcome == AttemptOutcome::Served;
    let mut attempts = receipt.attempts.iter();
    let reason = match class {
        Class::Local => attempts.rfind(is_served).and_then(told),
        _ => attempts.filter(|attempt| !is_served(attempt)).filter_map(told).next_back(),
    };
    reason.map(Reason::name)
}

fn scores(running: &Running) -> Option<[f64; 4]> {
    let value = |feature| running.value(feature);
    Some([
        value(Feature::MinLogprob)?,
        value(Feature::MeanLogprob)?,
        value(Feature::SumLogprob)?,
        value(Feature::Margin)?,
    ])
}

fn shortened(name: &str) -> Arc<str> {
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]).into(),
        None => name.into(),
    }
}
