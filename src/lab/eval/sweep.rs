//! What a threshold would have done: arithmetic over recorded answers.
//!
//! A [`Pair`] is one row answered by both models. A rule keeps the local answer of some pairs; an
//! escalated pair pays for both answers and waits for both. Pure; nothing here asks a model.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use serde::Serialize;

/// The shares kept at which curves are told: 0, .05, … 1.
pub const SHARES: usize = 20;

/// How often a random order is drawn.
const DRAWS: usize = 200;

/// A model's answer to a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Whether it is right.
    pub right: bool,
    /// How long it took.
    pub ms: f64,
    /// What it cost in dollars; NaN where nobody knows.
    pub usd: f64,
}

/// A row answered by both models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The local answer.
    pub local: Outcome,
    /// The upstream's.
    pub upstream: Outcome,
}

/// What a rule gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// The share of rows kept on the box.
    pub kept: f64,
    /// The share of right answers.
    pub accuracy: f64,
    /// Dollars per 1 000 requests; NaN where a price is unknown.
    pub usd_per_1000: f64,
    /// Half the requests were answered sooner.
    pub median_ms: f64,
    /// The score from which on an answer is kept; `None`: nothing is kept, or there is no score.
    pub threshold: Option<f64>,
}

/// A rule's points from nothing kept to everything kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The score that the rule goes by, or the baseline.
    pub name: String,
    /// One per share.
    pub points: Vec<Point>,
}

impl Point {
    /// Keeping the local answer of these pairs and escalating the rest; at least one pair.
    pub fn of(pairs: &[Pair], kept: &[bool], threshold: Option<f64>) -> Point {
        let total = pairs.len() as f64;
        let both = || pairs.iter().zip(kept);
        let right = both().filter(|(pair, keep)| if **keep { pair.local.right } else { pair.upstream.right }).count();
        let usd: f64 = both().map(|(pair, keep)| pair.local.usd + if *keep { 0.0 } else { pair.upstream.usd }).sum();
        let ms = both().map(|(pair, keep)| pair.local.ms + if *keep { 0.0 } else { pair.upstream.ms });
        Point {
            kept: kept.iter().filter(|keep| **keep).count() as f64 / total,
            accuracy: right as f64 / total,
            usd_per_1000: 1e3 * usd / total,
            median_ms: quantile(&ms.collect::<Vec<f64>>(), 0.5),
            threshold,
        }
    }

    /// One model for every row, without the other's cost and time.
    pub fn alone(outcomes: &[Outcome], kept: f64) -> Point {
        let total = outcomes.len() as f64;
        Point {
            kept,
            accuracy: outcomes.iter().filter(|one| one.right).count() as f64 / total,
            usd_per_1000: 1e3 * outcomes.iter().map(|one| one.usd).sum::<f64>() / total,
            median_ms: quantile(&outcomes.iter().map(|one| one.ms).collect::<Vec<f64>>(), 0.5),
            threshold: None,
        }
    }
}

/// The curve of a score: at each share the threshold that keeps at least that many. NaN is never
/// kept.
pub fn by_score(pairs: &[Pair], name: &str, scores: &[f64]) -> Curve {
    let lowest = |score: &f64| if score.is_nan() { f64::NEG_INFINITY } else { *score };
    let mut falling: Vec<f64> = scores.iter().map(lowest).collect();
    falling.sort_by(|a, b| b.total_cmp(a));
    let at = |step: usize| match step {
        0 => Point::of(pairs, &vec![false; pairs.len()], None),
        _ => {
            let place = rounded(step, pairs.len()).max(1) - 1;
            let threshold = falling[place];
            let kept: Vec<bool> = scores.iter().map(|score| *score >= threshold).collect();
            Point::of(pairs, &kept, Some(threshold))
        }
    };
    Curve { name: name.to_owned(), points: (0..=SHARES).map(at).collect() }
}

/// Keeping a random share: the mean of many draws.
pub fn by_chance(pairs: &[Pair]) -> Curve {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    let mut sums = vec![[0.0; 4]; SHARES + 1];
    for _ in 0..DRAWS {
        order.shuffle(&mut random);
        for (step, sum) in sums.iter_mut().enumerate() {
            let point = keeping_first(pairs, &order, step);
            let told = [point.kept, point.accuracy, point.usd_per_1000, point.median_ms];
            sum.iter_mut().zip(told).for_each(|(sum, value)| *sum += value / DRAWS as f64);
        }
    }
    let mean = |[kept, accuracy, usd_per_1000, median_ms]: [f64; 4]| Point {
        kept,
        accuracy,
        usd_per_1000,
        median_ms,
        threshold: None,
    };
    Curve { name: "random".to_owned(), points: sums.into_iter().map(mean).collect() }
}

/// Perfect knowledge: escalates first where only the upstream is right, last where only the local
/// model is.
pub fn by_outcome(pairs: &[Pair]) -> Curve {
    let gain = |pair: &Pair| i32::from(pair.upstream.right) - i32::from(pair.local.right);
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_key(|at| gain(&pairs[*at]));
    let points = (0..=SHARES).map(|step| keeping_first(pairs, &order, step)).collect();
    Curve { name: "perfect knowledge".to_owned(), points }
}

fn keeping_first(pairs: &[Pair], order: &[usize], step: usize) -> Point {
    let mut kept = vec![false; pairs.len()];
    order[..rounded(step, pairs.len())].iter().for_each(|at| kept[*at] = true);
    Point::of(pairs, &kept, None)
}

fn rounded(step: usize, rows: usize) -> usize {
    (step as f64 / SHARES as f64 * rows as f64).round_ties_even() as usize
}

/// The value below which this share lies, linear between neighbours; NaN without values.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut rising = values.to_vec();
    rising.sort_by(f64::total_cmp);
    let place = share * rising.len().saturating_sub(1) as f64;
    let (Some(low), Some(high)) = (rising.get(place.floor() as usize), rising.get(place.ceil() as usize)) else {
        return f64::NAN;
    };
    low + (place - place.floor()) * (high - low)
}

/// The interval of Wilson, "Probable inference, the law of succession, and statistical inference"
/// (1927), at 95 %, of so many successes in so many trials; 0 to 1 without a trial.
pub fn wilson(successes: usize, trials: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return (0.0, 1.0);
    }
    let n = trials as f64;
    let share = successes as f64 / n;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}
