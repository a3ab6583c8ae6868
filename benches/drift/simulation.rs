//! Runs of one slice: requests drawn from recorded rows, a gate, audits, the alarm.
//!
//! Deterministic for a seed. The program calls `turn` and `false_alarms` and renders what they find.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use weir::confidence::audit::Audit;
use weir::confidence::certify::Promise;

use crate::records::Answered;

/// A slice with its certificate, and how its runs are drawn.
pub(crate) struct Slice {
    pub(crate) promise: Promise,
    /// Answers of this score and above are kept.
    pub(crate) threshold: f64,
    /// What an audit says of an answer.
    pub(crate) loss: fn(&Answered) -> f64,
    pub(crate) seed: u64,
    pub(crate) runs: usize,
}

/// What came of the runs in which the traffic turned. Counts are sorted, one per run with an alarm
/// after the turn, and from the turn on.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) kept_before: f64,
    pub(crate) kept_after: f64,
    pub(crate) error_before: f64,
    pub(crate) error_after: f64,
    /// Share of runs with an alarm after the turn.
    pub(crate) alarmed: f64,
    pub(crate) audits: Vec<usize>,
    pub(crate) requests: Vec<usize>,
    /// Wrong answers kept from the turn to the alarm.
    pub(crate) wrong: Vec<usize>,
    /// Wrong answers kept after it, all runs together.
    pub(crate) wrong_after_alarm: usize,
    pub(crate) upstream_error: f64,
}

/// Requests, those kept, those of them wrong, and audits, of a part of a run.
#[derive(Debug, Default, Clone, Copy)]
struct Part {
    requests: usize,
    kept: usize,
    wrong: usize,
    audits: usize,
}

impl Slice {
    /// Runs in which `before` requests of one kind are followed by `horizon` of another.
    pub(crate) fn turn(
        &self,
        before: &[Answered],
        after: &[Answered],
        share: f64,
        (calm, horizon): (usize, usize),
    ) -> Result<Turn, String> {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let (mut found, mut early, mut late) = (Turn::default(), Part::default(), Part::default());
        for _ in 0..self.runs {
            let mut audit = Audit::check(self.promise, share, share)?;
            let first = self.feed(&mut audit, &mut random, before, calm);
            early.add(first);
            if audit.is_alarmed() {
                continue;
            }
            let second = self.feed(&mut audit, &mut random, after, horizon);
            late.add(second);
            if audit.is_alarmed() {
                found.audits.push(second.audits);
                found.requests.push(second.requests);
                found.wrong.push(second.wrong);
                found.wrong_after_alarm += self.feed(&mut audit, &mut random, after, horizon - second.requests).wrong;
            }
        }
        for counts in [&mut found.audits, &mut found.requests, &mut found.wrong] {
            counts.sort_unstable();
        }
        found.alarmed = found.audits.len() as f64 / self.runs as f64;
        (found.kept_before, found.error_before) = early.shares();
        (found.kept_after, found.error_after) = late.shares();
        found.upstream_error = after.iter().filter(|row| !row.upstream_right).count() as f64 / after.len() as f64;
        Ok(found)
    }

    /// Draws requests until the alarm, `most` of them at most. A slice whose alarm went off keeps nothing.
    fn feed(&self, audit: &mut Audit, random: &mut SmallRng, rows: &[Answered], most: usize) -> Part {
        let mut part = Part::default();
        while part.requests < most && !audit.is_alarmed() {
            let row = &rows[random.random_range(0..rows.len())];
            part.requests += 1;
            if row.score < self.threshold {
                audit.escalate();
                continue;
            }
            part.kept += 1;
            part.wrong += usize::from(!row.right);
            if let Some(ticket) = audit.keep(random.random()) {
                part.audits += 1;
                audit.grade(ticket, (self.loss)(row));
            }
        }
        part
    }

    /// Runs with an alarm although exactly alpha of what is kept loses: a lost answer is drawn with
    /// probability alpha, else one that does not lose, from the rows that are kept.
    pub(crate) fn false_alarms(&self, rows: &[Answered], share: f64, horizon: usize) -> Result<usize, String> {
        let kept = rows.iter().filter(|row| row.score >= self.threshold);
        let (lost, fine): (Vec<&Answered>, Vec<&Answered>) = kept.partition(|row| (self.loss)(row) > 0.0);
        if lost.is_empty() || fine.is_empty() {
            return Err("no kept answer loses, or all do: nothing can be drawn at a risk of alpha".to_owned());
        }
        let mut random = SmallRng::seed_from_u64(self.seed ^ 1);
        let mut alarms = 0;
        for _ in 0..self.runs {
            let mut audit = Audit::check(self.promise, share, share)?;
            let mut requests = 0;
            while requests < horizon && !audit.is_alarmed() {
                requests += 1;
                let from = if random.random::<f64>() < self.promise.alpha() { &lost } else { &fine };
                let row = from[random.random_range(0..from.len())];
                if let Some(ticket) = audit.keep(random.random()) {
                    audit.grade(ticket, (self.loss)(row));
                }
            }
            alarms += usize::from(audit.is_alarmed());
        }
        Ok(alarms)
    }
}

impl Part {
    fn add(&mut self, other: Part) {
        self.requests += other.requests;
        self.kept += other.kept;
        self.wrong += other.wrong;
        self.audits += other.audits;
    }

    /// The share of requests that are kept, and of those the share that is wrong.
    fn shares(&self) -> (f64, f64) {
        (self.kept as f64 / self.requests.max(1) as f64, self.wrong as f64 / self.kept.max(1) as f64)
    }
}
