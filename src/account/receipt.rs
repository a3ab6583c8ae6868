//! What is left of a request when it is over: plain data for metrics and the log line.
//!
//! Holds no key, and no prompt's text unless it is captured. Made by the tab when its last handle is dropped, received by
//! `observe` through [`super::Record`].

use std::sync::Arc;
use std::time::Duration;

use super::{Drawn, Timing};
use crate::confidence::{Evidence, Running, Standing, Uncertified};
use crate::error::{Error, Kind, Origin};
use crate::request::{Feedback, Finish, ModelId, TenantId, Usage};

/// What a request was, did and cost.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// `x-request-id`.
    pub id: Arc<str>,
    /// Who pays; anonymous where nobody was identified.
    pub tenant: TenantId,
    /// The model asked for, once a policy was found for it; else `other`.
    pub asked: Arc<str>,
    /// Who served.
    pub served_by: Option<ModelId>,
    /// What was decided; `None` where the request failed before.
    pub decided: Option<Decided>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Every target asked or passed over, in order.
    pub attempts: Vec<AttemptReceipt>,
    /// Dollars spent: the sum over the attempts; `None` where a price is unknown.
    pub cost_usd: Option<f64>,
    /// What the dearest stage of the cascade would have cost for the tokens of the answer served,
    /// minus what was spent; at least 0. `None` where a price is unknown or nothing was served.
    pub avoided_usd: Option<f64>,
    /// The share of `cost_usd` whose work was thrown away; `None` where a price is unknown.
    pub wasted_usd: Option<f64>,
    /// Time from the request's first byte to the first part of the answer that the client may see.
    pub ttft: Option<Duration>,
    /// Seconds between parts of the answer served, at most [`Receipt::MAX_GAPS`] of them.
    pub itl: Vec<f32>,
    /// Time from the request's first byte to the end of everything.
    pub e2e: Duration,
    /// Our own share of the time to the answer's head: without waiting for the client's body or
    /// for a backend. `None` where no head was written.
    pub overhead: Option<Duration>,
    /// What stands behind the answer kept on the box, or why nothing does; `None` where no promise was
    /// asked for, or a certified gate refused.
    pub standing: Option<Standing>,
    /// Whether the conversation stayed with the stage that answered before.
    pub pinned: bool,
    /// Why the answer is not what the plan wanted.
    pub degraded: Option<&'static str>,
    /// Whether the answer was drawn to be audited; `None` where such answers are not.
    pub audit: Option<Drawn>,
    /// Why the request failed.
    pub error: Option<Failure>,
    /// What the client said of an earlier answer, where that was the request.
    pub feedback: Option<Feedback>,
    /// What was asked and said, where [`super::Record::captures`] wanted it.
    pub captured: Option<Box<super::Captured>>,
    /// Its place in a trace, where it is sampled.
    pub traced: Option<Box<super::Traced>>,
}

impl Receipt {
    /// How many gaps between parts of an answer are kept.
    pub const MAX_GAPS: usize = 1024;

    /// The scores of the local answer that was served or judged last.
    pub fn confidence(&self) -> Option<&Running> {
        self.attempts.iter().rev().find_map(|attempt| attempt.scores.as_ref())
    }
}

/// What a policy decided, as far as a receipt tells it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The rule that matched.
    pub rule: Arc<str>,
    /// The generation of the configuration.
    pub generation: u64,
    /// The plan's kind.
    pub plan: PlanKind,
}

/// The kinds of [`crate::plan::Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanKind {
    /// One target, with fallbacks.
    Direct,
    /// Stages with gates.
    Cascade,
    /// A refusal.
    Reject,
}

impl PlanKind {
    /// The kind's name in logs.
    pub fn name(self) -> &'static str {
        match self {
            PlanKind::Direct => "direct",
            PlanKind::Cascade => "cascade",
            PlanKind::Reject => "reject",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was complete.
    Ok,
    /// It failed.
    Error(Kind),
    /// The client left.
    Canceled,
}

impl Outcome {
    /// The outcome's name in logs and metrics: `ok`, `canceled` or the error's kind.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error(kind) => kind.name(),
            Outcome::Canceled => Kind::Canceled.name(),
        }
    }
}

/// One target of a plan, asked or passed over.
#[derive(Debug, Clone)]
pub struct AttemptReceipt {
    /// Who was asked.
    pub model: ModelId,
    /// Its place among the targets or stages of the plan, from 0.
    pub stage: usize,
    /// [`Origin::Local`] or [`Origin::Upstream`].
    pub origin: Origin,
    /// Its tokens.
    pub usage: Usage,
    /// Whether `usage` is an estimate, because the answer broke off or did not say.
    pub estimated: bool,
    /// What it cost in dollars; `None` where the price is unknown.
    pub cost_usd: Option<f64>,
    /// Whether its work was thrown away: nothing of it was served, and it was no evidence.
    pub wasted: bool,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it was served or not; `None` where the client left first.
    pub reason: Option<Reason>,
    /// Why its (first) choice ended; `None` where it did not, or an upstream's bytes were passed on.
    pub finish: Option<Finish>,
    /// How sure a local model was; the least sure of several choices. `None` of evidence.
    pub scores: Option<Running>,
    /// What further calls said of the answer, where any were made.
    pub evidence: Option<Evidence>,
    /// What stood behind the answer, where a gate that was asked for a promise looked at it.
    pub standing: Option<Standing>,
    /// Why it failed, where it did.
    pub failure: Option<Failure>,
    /// When what happened.
    pub timing: Timing,
    /// The id of its span; 0 where the request is not sampled.
    pub span_id: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Its answer was served, to the end.
    Served,
    /// Its answer was thrown away.
    Discarded,
    /// It failed.
    Failed(Kind),
    /// The client left before it was over.
    Canceled,
    /// It was never asked.
    Skipped,
}

impl AttemptOutcome {
    /// The outcome's name in logs.
    pub fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Served => "served",
            AttemptOutcome::Discarded => "discarded",
            AttemptOutcome::Failed(_) => "failed",
            AttemptOutcome::Canceled => "canceled",
            AttemptOutcome::Skipped => "skipped",
        }
    }
}

/// Why a stage's answer was served, thrown away, or never asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The gate accepted, or there was none; no promise was asked for.
    Accepted,
    /// The gate accepted under a certificate that bounds errors.
    Certified,
    /// The gate accepted under a certificate that bounds the disagreement with a grader.
    CertifiedAgreement,
    /// The gate refused the whole answer.
    LowConfidence,
    /// The gate refused the whole answer, because evidence that its verdict depends on was not had.
    NoEvidence,
    /// It was no answer to the client, but evidence on one: not served, and not wasted.
    Evidence,
    /// The gate refused before the answer was complete.
    EarlyLowConfidence,
    /// The gate refused the answer because an escalation was worth its price.
    ByValue,
    /// The gate refused before the answer was complete, since it would hardly have become good enough.
    EarlyUnlikely,
    /// The stage was passed over because the prompt alone said that the next one answers better.
    SkippedByValue,
    /// The conversation stays with the stage that answered before.
    Pinned,
    /// No threshold is certified: the gate accepts nothing, or has accepted by one that only stands
    /// in for it.
    Uncertified,
    /// The same, because the certificate there is does not speak of such a request.
    OtherKey,
    /// The same, because audits have found the promise broken.
    Alarmed,
    /// The same, because too many audits got no grade.
    Unmonitored,
    /// The backend cannot serve such a request.
    Cannot,
    /// The backend is not ready.
    NotReady,
    /// The backend's queue is full.
    Overloaded,
    /// The prompt does not fit the model's context.
    Context,
    /// The backend failed.
    Error,
    /// A refused answer was served after all, because a later stage failed.
    Degraded,
}

impl Reason {
    /// The reason's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Accepted => "accepted",
            Reason::Certified => "certified",
            Reason::CertifiedAgreement => "certified_agreement",
            Reason::LowConfidence => "low_confidence",
            Reason::NoEvidence => "no_evidence",
            Reason::Evidence => "evidence",
            Reason::EarlyLowConfidence => "early_low_confidence",
            Reason::ByValue => "by_value",
            Reason::EarlyUnlikely => "early_unlikely",
            Reason::SkippedByValue => "skipped_by_value",
            Reason::Pinned => "pinned",
            Reason::Uncertified => "uncertified",
            Reason::OtherKey => "other_key",
            Reason::Alarmed => "alarmed",
            Reason::Unmonitored => "unmonitored",
            Reason::Cannot => "cannot",
            Reason::NotReady => "not_ready",
            Reason::Overloaded => "overloaded",
            Reason::Context => "context",
            Reason::Error => "error",
            Reason::Degraded => "degraded",
        }
    }

    /// The reason that an answer was kept, by what stands behind it.
    pub(super) fn kept(standing: Option<&Standing>) -> Reason {
        match standing {
            None => Reason::Accepted,
            Some(Standing::Certified(grant)) if grant.bounds_errors() => Reason::Certified,
            Some(Standing::Certified(_)) => Reason::CertifiedAgreement,
            Some(Standing::Uncertified(why)) => Reason::uncertified(*why),
        }
    }

    /// The reason where nothing certified speaks of the request.
    pub fn uncertified(why: Uncertified) -> Reason {
        match why {
            Uncertified::NoCalibration | Uncertified::NoCertificate => Reason::Uncertified,
            Uncertified::Alarmed => Reason::Alarmed,
            Uncertified::Unmonitored => Reason::Unmonitored,
            Uncertified::Pinned => Reason::Pinned,
            _ => Reason::OtherKey,
        }
    }

    /// The reason that an attempt failed with this error.
    pub fn of(error: &Error) -> Reason {
        match (error.kind(), error.detail().code) {
            (Kind::Overloaded, _) => Reason::Overloaded,
            (_, Some("context_length_exceeded")) => Reason::Context,
            _ => Reason::Error,
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What happened.
    pub kind: Kind,
    /// The machine-readable reason.
    pub code: Option<&'static str>,
    /// Whose fault it is.
    pub origin: Origin,
    /// The sentence for a person; `None` where it may quote what the client sent, as the refusals of
    /// clients' requests, by whomever, do.
    pub message: Option<String>,
}

impl Failure {
    /// What a receipt keeps of an error.
    pub(super) fn of(error: &Error) -> Failure {
        let detail = error.detail();
        let quotes_nobody = match detail.origin {
            Origin::Client => false,
            Origin::Gateway => true,
            Origin::Local | Origin::Upstream => {
                matches!(detail.kind, Kind::Unavailable | Kind::Timeout | Kind::Internal | Kind::Overloaded)
            }
        };
        let message = quotes_nobody.then(|| detail.message.clone());
        Failure { kind: detail.kind, code: detail.code, origin: detail.origin, message }
    }
}
