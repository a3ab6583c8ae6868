//! The scores that each gate in force has judged, kept and escalated, and its thresholds.
//!
//! The last 1024 answers of each gate; how many gates there are, the policies say. A gate that a
//! reload leaves as it was keeps what it has judged. A gate that decides by value has no threshold
//! that stands still: only its verdicts are counted. Used by [`super::Live`].

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::account::{AttemptOutcome, AttemptReceipt, Reason, Receipt};
use crate::confidence::{Accept, Feature, Judge, Measure};
use crate::policy::Gated;

/// Answers kept of each gate.
const ANSWERS: usize = 1024;
/// Columns of a histogram.
const BINS: usize = 36;
/// The share of the scores that a histogram may leave out on the left: they count in its first column.
const LEFT_OUT: f64 = 0.02;

#[derive(Debug, Default)]
pub(super) struct Gates(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    gate: Gated,
    judged: VecDeque<Judged>,
}

#[derive(Debug, Clone, Copy)]
struct Judged {
    score: Option<f64>,
    kept: bool,
}

/// The answers that a gate has judged, by their score.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    policy: Arc<str>,
    rule: Arc<str>,
    stage: usize,
    model: String,
    /// What is measured; `null` where there is no score that a threshold stands on.
    score: Option<String>,
    thresholds: Vec<Mark>,
    /// The lower end of the first column and the upper end of the last.
    low: f64,
    high: f64,
    /// Answers kept and escalated in each column.
    kept: Vec<u32>,
    escalated: Vec<u32>,
    /// All answers judged lately, those without a score too.
    judged_kept: usize,
    judged_escalated: usize,
}

/// A threshold.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Mark {
    at: f64,
    /// `certified` for requests that a certificate speaks of, `otherwise` for the rest, or `threshold`.
    of: &'static str,
}

impl Gates {
    pub(super) fn follow(&mut self, gates: Vec<Gated>) {
        let mut before = std::mem::take(&mut self.0);
        let watch = |gate: Gated| {
            let same = |known: &Watched| is_same(&known.gate, &gate) && *known.gate.accept == *gate.accept;
            let judged = before.iter_mut().find(|known| same(known)).map(|known| std::mem::take(&mut known.judged));
            Watched { gate, judged: judged.unwrap_or_default() }
        };
        self.0 = gates.into_iter().map(watch).collect();
    }

    pub(super) fn add(&mut self, receipt: &Receipt) {
        let Some(decided) = &receipt.decided else { return };
        for attempt in receipt.attempts.iter().filter(|attempt| attempt.outcome != AttemptOutcome::Skipped) {
            let of = |known: &&mut Watched| {
                let gate = &known.gate;
                gate.stage == attempt.stage
                    && gate.model == attempt.model
                    && gate.rule == decided.rule
                    && gate.policy == decided.policy
            };
            let (Some(watched), Some(judged)) = (self.0.iter_mut().find(of), judged(attempt)) else { continue };
            let score = score(&watched.gate.accept, attempt);
            if watched.judged.len() == ANSWERS {
                watched.judged.pop_front();
            }
            watched.judged.push_back(Judged { score, kept: judged });
        }
    }

    pub(super) fn spreads(&self) -> Vec<Spread> {
        self.0.iter().map(spread).collect()
    }
}

fn is_same(one: &Gated, other: &Gated) -> bool {
    (&one.policy, &one.rule, one.stage, &one.model) == (&other.policy, &other.rule, other.stage, &other.model)
}

/// Whether the gate kept the answer; `None`: it had none to judge.
fn judged(attempt: &AttemptReceipt) -> Option<bool> {
    match attempt.reason? {
        Reason::Evidence | Reason::Error | Reason::Overloaded | Reason::Context | Reason::Cannot => None,
        Reason::Degraded => Some(false),
        _ if attempt.scores.is_none() => None,
        _ => Some(!attempt.wasted),
    }
}

/// The judge whose threshold stands still; the certified one where there are two.
fn judge(accept: &Accept) -> Option<&Judge> {
    match accept {
        Accept::Threshold(judge) => Some(judge),
        Accept::Promise { granted: Ok(grant), .. } => Some(&grant.judge),
        Accept::Promise { granted: Err(_), otherwise } => otherwise.as_ref(),
        Accept::Value(_) => None,
    }
}

fn score(accept: &Accept, attempt: &AttemptReceipt) -> Option<f64> {
    let evidence = attempt.evidence.unwrap_or_default();
    judge(accept)?.decisive(attempt.scores.as_ref()?, &evidence)
}

fn marks(accept: &Accept) -> Vec<Mark> {
    match accept {
        Accept::Promise { granted: Ok(grant), otherwise } => {
            let other = otherwise.iter().filter(|judge| judge.measure == grant.judge.measure);
            let other = other.map(|judge| Mark { at: judge.at_least, of: "otherwise" });
            [Mark { at: grant.judge.at_least, of: "certified" }].into_iter().chain(other).collect()
        }
        accept => judge(accept).map(|judge| Mark { at: judge.at_least, of: "threshold" }).into_iter().collect(),
    }
}

fn spread(watched: &Watched) -> Spread {
    let Watched { gate, judged } = watched;
    let (measure, thresholds) = (judge(&gate.accept).map(|judge| &judge.measure), marks(&gate.accept));
    let mut scores: Vec<f64> = judged.iter().filter_map(|answer| answer.score).collect();
    scores.sort_unstable_by(f64::total_cmp);
    let (low, high) = range(&scores, &thresholds, measure);
    let (mut kept, mut escalated) = (vec![0; BINS], vec![0; BINS]);
    for (score, answer) in judged.iter().filter_map(|answer| Some((answer.score?, answer))) {
        let place = ((score - low) / (high - low) * BINS as f64).clamp(0.0, (BINS - 1) as f64) as usize;
        let columns = if answer.kept { &mut kept } else { &mut escalated };
        columns[place] += 1;
    }
    let judged_kept = judged.iter().filter(|answer| answer.kept).count();
    Spread {
        policy: Arc::clone(&gate.policy),
        rule: Arc::clone(&gate.rule),
        stage: gate.stage,
        model: gate.model.as_str().to_owned(),
        score: measure.map(ToString::to_string),
        thresholds,
        low,
        high,
        kept,
        escalated,
        judged_kept,
        judged_escalated: judged.len() - judged_kept,
    }
}

/// From where to where a histogram goes: its thresholds are in it, and almost all scores.
fn range(sorted: &[f64], thresholds: &[Mark], measure: Option<&Measure>) -> (f64, f64) {
    match measure {
        Some(Measure::Calibrated(calibration)) if calibration.score.is_probability() => (0.0, 1.0),
        _ => {
            let left = sorted.get((sorted.len() as f64 * LEFT_OUT) as usize).copied();
            let marks = || thresholds.iter().map(|mark| mark.at);
            let low = marks().chain(left).fold(0.0, f64::min);
            let is_logprob = matches!(measure, Some(Measure::Raw(feature)) if Feature::is_logprob(*feature));
            let most = if is_logprob { 0.0 } else { marks().chain(sorted.last().copied()).fold(0.0, f64::max) };
            let wide = (most - low).max(1e-9) * 1.04;
            // The first threshold stands on an edge, so that no column is on both sides of it.
            let right = thresholds.first().map_or(wide, |mark| most - mark.at);
            let columns = (right / wide * BINS as f64).floor().max(1.0);
            let column = if right > 0.0 { right / columns } else { wide / BINS as f64 };
            (most - column * BINS as f64, most)
        }
    }
}
