//! What is said of a score: intervals of gains, order within tasks, and tasks that the fit never saw.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use weir::confidence::measure::auroc;

use super::candidates::Candidate;
use super::models::score;
use super::rows::Row;

/// A task counts within tasks from so many rows on, with as many of each kind as the second number.
const LEAST_ROWS: usize = 10;
const LEAST_OF_A_KIND: usize = 3;
const SEED: u64 = 7;
/// Resamples of the tasks for the interval on unseen ones.
const BY_TASK: usize = 400;

/// Scores of rows that they were not fitted on.
pub(crate) struct Tested<'r> {
    pub(crate) scores: Vec<f64>,
    pub(crate) rows: Vec<&'r Row>,
}

impl Tested<'_> {
    pub(crate) fn pairs(&self) -> Vec<(f64, bool)> {
        self.scores.iter().copied().zip(self.rows.iter().map(|row| row.right)).collect()
    }

    pub(crate) fn auroc(&self) -> f64 {
        auroc(&self.pairs()).unwrap_or(f64::NAN)
    }
}

/// The middle 95 % of the gain in AUROC of one score over another on resampled rows, the same rows for both.
pub(crate) fn gain(one: &Tested<'_>, base: &Tested<'_>, resamples: usize) -> (f64, f64) {
    let (one, base) = (one.pairs(), base.pairs());
    let mut random = StdRng::seed_from_u64(SEED);
    let mut gains = Vec::new();
    for _ in 0..resamples {
        let drawn: Vec<usize> = (0..one.len()).map(|_| random.random_range(0..one.len())).collect();
        let of = |rows: &[(f64, bool)]| auroc(&drawn.iter().map(|place| rows[*place]).collect::<Vec<_>>());
        gains.extend(of(&one).zip(of(&base)).map(|(one, base)| one - base));
    }
    middle(gains)
}

/// The mean over tasks of the AUROC within each.
pub(crate) fn within(tested: &Tested<'_>) -> f64 {
    let mut tasks: BTreeMap<&str, Vec<(f64, bool)>> = BTreeMap::new();
    for (row, pair) in tested.rows.iter().zip(tested.pairs()) {
        tasks.entry(&row.task).or_default().push(pair);
    }
    let counts = |rows: &&Vec<(f64, bool)>| {
        let right = rows.iter().filter(|row| row.1).count();
        rows.len() >= LEAST_ROWS && right >= LEAST_OF_A_KIND && rows.len() - right >= LEAST_OF_A_KIND
    };
    let each: Vec<f64> = tasks.values().filter(counts).filter_map(|rows| auroc(rows)).collect();
    each.iter().sum::<f64>() / each.len() as f64
}

/// A gain and its interval.
pub(crate) struct Gain {
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The gain on tasks that the fit never saw: the tasks are split in halves again and again, the score
/// is fitted on all rows of one half and tested on those of the other.
pub(crate) fn unseen(candidate: &Candidate, base: &Candidate, rows: &[Row], splits: usize) -> Gain {
    let tasks: Vec<&str> = rows.iter().map(|row| &*row.task).collect::<BTreeSet<_>>().into_iter().collect();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut tested = Vec::new();
    for _ in 0..splits {
        let mut order = tasks.clone();
        order.shuffle(&mut random);
        let seen = &order[..order.len() / 2];
        let (fit, test): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| seen.contains(&&*row.task));
        let scored = |candidate: &Candidate| score(candidate.kind, &candidate.columns, &fit, &test);
        let scores = scored(candidate).into_iter().zip(scored(base)).zip(&test);
        tested.push(scores.map(|((one, base), row)| (&*row.task, one, base, row.right)).collect::<Vec<_>>());
    }
    let once: BTreeMap<&str, usize> = tasks.iter().map(|task| (*task, 1)).collect();
    let mean = mean_gain(&tested, &once);
    let resampled = (0..BY_TASK).map(|_| {
        let mut times = BTreeMap::new();
        for _ in &tasks {
            *times.entry(tasks[random.random_range(0..tasks.len())]).or_insert(0) += 1;
        }
        mean_gain(&tested, &times)
    });
    let (low, high) = middle(resampled.filter(|gain| gain.is_finite()).collect());
    Gain { mean, low, high }
}

type Scored<'t> = Vec<(&'t str, f64, f64, bool)>;

/// The mean over splits of the gain, each task counted so often.
fn mean_gain(splits: &[Scored<'_>], times: &BTreeMap<&str, usize>) -> f64 {
    let of = |split: &Scored<'_>| {
        let (mut one, mut base) = (Vec::new(), Vec::new());
        for (task, score, raw, right) in split {
            for _ in 0..times.get(task).copied().unwrap_or(0) {
                one.push((*score, *right));
                base.push((*raw, *right));
            }
        }
        Some(auroc(&one)? - auroc(&base)?)
    };
    let gains: Vec<f64> = splits.iter().filter_map(of).collect();
    gains.iter().sum::<f64>() / gains.len() as f64
}

fn middle(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * values.len() as f64) as usize).copied().unwrap_or(f64::NAN);
    (at(0.025), at(0.975))
}
