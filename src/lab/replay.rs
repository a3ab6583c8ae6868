//! Replays a log: what each router would have done with past requests, without calling anybody.
//!
//! Intervals are percentiles over resampled rows (Efron, "Bootstrap methods", 1979); every router
//! sees the same resamples, so differences are paired. A learned router is not fitted anew on each:
//! the intervals are about the rows, not about the training. Called by `cli`; renders nothing
//! (`report` does).

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::logs::{Log, Row};
use super::metrics::{Curve, Ranked, apgr, sort};
use super::report::{Figures, Interval, Report};
use super::routers::{self, Ranking, resample};
use crate::confidence::gap::{About, Predictor};

/// How a log is replayed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In how many parts learned routers cross-validate; at least 2.
    pub folds: usize,
    /// Of the folds and of the bootstrap.
    pub seed: u64,
    /// How many resamples; 0: no intervals.
    pub resamples: usize,
    /// At which shares of upstream calls quality is told.
    pub shares: Vec<f64>,
}

/// Replays every router on the log. `given`: a scorer trained elsewhere.
pub fn replay(log: &Log, settings: &Settings, given: Option<&Predictor>) -> Report {
    let rankings = routers::all(log, settings.folds, settings.seed, given);
    let samples: Vec<Vec<f64>> = rankings.iter().map(|ranking| resampled(&log.rows, ranking, settings)).collect();
    let of = |name: &str| rankings.iter().zip(&samples).find(|(ranking, _)| ranking.name == name).map(|(_, s)| s);
    let plain = of("prompt length").or_else(|| of("random"));
    let mut figures = Vec::new();
    for (ranking, samples) in rankings.iter().zip(&samples) {
        let mut told = figures_of(&log.rows, ranking, &settings.shares);
        told.apgr_interval = interval(samples.iter().copied());
        let gains = plain.into_iter().flat_map(|plain| samples.iter().zip(plain).map(|(one, other)| one - other));
        told.gain_interval = interval(gains);
        figures.push(told);
    }
    Report::new(log, settings, figures)
}

/// The scorer that learns from every row of the log, dated `date`.
pub fn train(log: &Log, date: &str) -> Predictor {
    let about = About {
        local: log.local.clone(),
        local_sha256: None,
        upstream: log.upstream.clone(),
        rows: log.rows.len() as u64,
        date: date.to_owned(),
    };
    Predictor::of_prompts(about, log.rows.iter().map(|row| (row.prompt.as_str(), row.upstream - row.local)))
}

fn ranked(rows: &[Row], ranking: &Ranking) -> Vec<Ranked> {
    let one = |(row, &rank): (&Row, &f64)| Ranked { rank, local: row.local, upstream: row.upstream, cost: row.cost };
    rows.iter().zip(&ranking.ranks).map(one).collect()
}

fn figures_of(rows: &[Row], ranking: &Ranking, shares: &[f64]) -> Figures {
    let mut sorted = ranked(rows, ranking);
    sort(&mut sorted);
    let curve = Curve::of(&sorted);
    let chosen = ranking.threshold.map(|threshold| {
        let share = sorted.iter().filter(|row| row.rank > threshold).count() as f64 / sorted.len() as f64;
        curve.at(share)
    });
    Figures {
        router: ranking.name.clone(),
        knows: ranking.knows,
        apgr: apgr(&sorted),
        apgr_interval: None,
        gain_interval: None,
        cpt50: curve.share_closing(0.5),
        cpt80: curve.share_closing(0.8),
        spend_at_95: curve.spend_reaching(0.95),
        spend_at_99: curve.spend_reaching(0.99),
        at_shares: shares.iter().map(|&share| curve.at(share)).collect(),
        chosen,
        curve: (0..=100).map(|percent| curve.at(f64::from(percent) / 100.0)).collect(),
    }
}

/// The APGR of every resample; NaN where it has none.
fn resampled(rows: &[Row], ranking: &Ranking, settings: &Settings) -> Vec<f64> {
    let ranked = ranked(rows, ranking);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| ranked[b].rank.total_cmp(&ranked[a].rank));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
    let mut drawn = Vec::with_capacity(rows.len());
    let mut one = || {
        let counts = resample(rows.len(), &mut random);
        drawn.clear();
        for &at in &order {
            drawn.extend(std::iter::repeat_n(ranked[at], counts[at].into()));
        }
        apgr(&drawn).unwrap_or(f64::NAN)
    };
    (0..settings.resamples).map(|_| one()).collect()
}

/// The middle 95 % of the values; `None` where there are none or one of them is NaN.
fn interval(values: impl Iterator<Item = f64>) -> Option<Interval> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let at = |share: f64| values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied();
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
}
