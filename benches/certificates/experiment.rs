//! One cell of the experiment: traffic whose true risk is known, labelled samples of it, a certificate
//! for each sample, and how often that broke its promise.
//!
//! Deterministic for a seed. The program calls `Draws::run`; the traffic is given or made here.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use weir::confidence::certify::{Grid, Plan, Promise, Risk, Row};

/// Thresholds tried: one for each hundredth of the traffic.
const POINTS: usize = 100;
/// Below this share of samples with a certificate, a cell says nothing about certificates.
const FEWEST_CERTIFIED: f64 = 0.05;
/// Standard deviations of Monte-Carlo error granted to a promise.
const GRANTED: f64 = 3.0;
const SYNTHETIC_ROWS: usize = 20_000;

/// The first lines of a table of cells.
pub(crate) const HEAD: &str = "\
| slice | rows | alpha | broken | certified | broken of those | kept | best | plain tuning: broken | kept | verdict |
|---|---|---|---|---|---|---|---|---|---|---|";

/// A row of the traffic: what its label says keeping it loses, and what it does lose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) score: f64,
    pub(crate) label: f64,
    pub(crate) truth: f64,
}

/// What is certified, and on which traffic.
pub(crate) struct Trial<'a> {
    pub(crate) traffic: &'a [Outcome],
    pub(crate) risk: Risk,
    pub(crate) alpha: f64,
}

/// How samples are drawn.
pub(crate) struct Draws {
    pub(crate) labels: usize,
    pub(crate) draws: usize,
    pub(crate) seed: u64,
    pub(crate) delta: f64,
}

/// Counts and sums over the samples of a cell.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    certified: usize,
    broken: usize,
    kept: f64,
    tuned_broken: usize,
    tuned_kept: f64,
    best: f64,
}

/// The true share kept and risk at each threshold of a grid.
struct Truth {
    thresholds: Vec<f64>,
    kept: Vec<f64>,
    risk: Vec<f64>,
}

impl Truth {
    fn of(trial: &Trial<'_>, grid: &Grid) -> Truth {
        let thresholds = grid.thresholds().to_vec();
        let all = trial.traffic.len() as f64;
        let at = |threshold: f64| {
            let kept = trial.traffic.iter().filter(|row| row.score >= threshold);
            kept.fold((0.0, 0.0), |(count, losses), row| (count + 1.0, losses + row.truth))
        };
        let counts: Vec<(f64, f64)> = thresholds.iter().map(|threshold| at(*threshold)).collect();
        let risk = |&(kept, losses): &(f64, f64)| losses / denominator(trial.risk, kept, all);
        Truth {
            thresholds,
            kept: counts.iter().map(|(kept, _)| kept / all).collect(),
            risk: counts.iter().map(risk).collect(),
        }
    }

    fn at(&self, threshold: f64) -> (f64, f64) {
        let place = self.thresholds.iter().position(|one| *one == threshold).unwrap_or_default();
        (self.kept[place], self.risk[place])
    }

    fn best(&self, alpha: f64) -> f64 {
        let within = self.kept.iter().zip(&self.risk).filter(|(_, risk)| **risk <= alpha);
        within.map(|(kept, _)| *kept).fold(0.0, f64::max)
    }
}

fn denominator(risk: Risk, kept: f64, all: f64) -> f64 {
    if risk == Risk::Selective { kept } else { all }
}

impl Draws {
    /// The most samples, as a share, that may break a promise without anything being wrong.
    pub(crate) fn tolerated(&self) -> f64 {
        self.delta + GRANTED * (self.delta * (1.0 - self.delta) / self.draws as f64).sqrt()
    }

    /// Draws samples, with replacement, and certifies each.
    pub(crate) fn run(&self, trial: &Trial<'_>) -> Cell {
        let scores: Vec<f64> = trial.traffic.iter().map(|row| row.score).collect();
        let grid = Grid::of_scores(&scores, POINTS);
        let truth = Truth::of(trial, &grid);
        let mut cell = Cell { best: truth.best(trial.alpha), ..Cell::default() };
        let Ok(promise) = Promise::check(trial.risk, trial.alpha, self.delta) else { return cell };
        let plan = Plan::new(promise, grid);
        let mut random = SmallRng::seed_from_u64(self.seed);
        for _ in 0..self.draws {
            let rows: Vec<Row> = (0..self.labels)
                .map(|_| trial.traffic[random.random_range(0..trial.traffic.len())])
                .map(|row| Row { score: row.score, loss: row.label })
                .collect();
            if let Ok(found) = plan.certify(&rows) {
                let (kept, risk) = truth.at(found.threshold);
                cell.certified += 1;
                cell.kept += kept;
                cell.broken += usize::from(risk > trial.alpha);
            }
            if let Some(threshold) = tune(&plan.grid, &rows, trial) {
                let (kept, risk) = truth.at(threshold);
                cell.tuned_kept += kept;
                cell.tuned_broken += usize::from(risk > trial.alpha);
            }
        }
        cell
    }
}

/// Plain tuning: the boldest threshold whose risk on the sample is alpha at most.
fn tune(grid: &Grid, rows: &[Row], trial: &Trial<'_>) -> Option<f64> {
    let mut falling = rows.to_vec();
    falling.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (mut kept, mut losses, mut best) = (0, 0.0, None);
    for &threshold in grid.thresholds() {
        while falling.get(kept).is_some_and(|row| row.score >= threshold) {
            losses += falling[kept].loss;
            kept += 1;
        }
        let n = denominator(trial.risk, kept as f64, rows.len() as f64);
        if kept > 0 && losses / n <= trial.alpha {
            best = Some(threshold);
        }
    }
    best
}

impl Cell {
    /// Whether the promise was kept, but for Monte-Carlo error.
    pub(crate) fn holds(&self, draws: &Draws) -> bool {
        self.broken as f64 / draws.draws as f64 <= draws.tolerated()
    }

    /// Whether it says anything about certificates.
    pub(crate) fn tests(&self, draws: &Draws) -> bool {
        self.certified as f64 / draws.draws as f64 >= FEWEST_CERTIFIED
    }

    /// The cell as a line of the table of [`HEAD`]; `promised`: whether what is called broken was
    /// promised at all.
    pub(crate) fn render(&self, name: &str, trial: &Trial<'_>, draws: &Draws, promised: bool) -> String {
        let share = |count: f64| count / draws.draws as f64;
        let of_those = match self.certified {
            0 => "–".to_owned(),
            certified => format!("{:.3}", self.broken as f64 / certified as f64),
        };
        let verdict = match self.holds(draws) {
            _ if !self.tests(draws) => "no test",
            _ if !promised => "no promise",
            true => "holds",
            false => "broken",
        };
        format!(
            "| {name} | {} | {} | {:.3} | {:.3} | {of_those} | {:.3} | {:.3} | {:.3} | {:.3} | {verdict} |",
            trial.traffic.len(),
            trial.alpha,
            share(self.broken as f64),
            share(self.certified as f64),
            share(self.kept),
            self.best,
            share(self.tuned_broken as f64),
            share(self.tuned_kept),
        )
    }
}

type Boundary = fn(Risk, f64) -> Vec<Outcome>;

/// Traffic at the boundary, by name: of selective or regret risk `alpha`.
pub(crate) const BOUNDARIES: [(&str, Boundary); 2] =
    [("just above alpha throughout", flat), ("crosses alpha at half", rising)];

/// For selective risk every threshold's risk is a hair above alpha: any certificate is false. Risk over
/// all rows grows with what is kept, and passes alpha at the very last threshold.
fn flat(_: Risk, alpha: f64) -> Vec<Outcome> {
    traffic(|_| 1.002 * alpha)
}

/// The risk of keeping the best share u is 2·alpha·u: alpha at one half. Over all rows that is a loss of
/// probability 2·alpha, over the kept ones a probability that rises with u.
fn rising(risk: Risk, alpha: f64) -> Vec<Outcome> {
    traffic(|share| if risk == Risk::Selective { (4.0 * alpha * share).min(1.0) } else { 2.0 * alpha })
}

/// Rows of falling score; losses are spread so evenly that the sum over the best u is its expectation,
/// rounded up to a whole loss.
fn traffic(loss_at: impl Fn(f64) -> f64) -> Vec<Outcome> {
    let mut owed = 0.999;
    let row = |at: usize| {
        let share = (at as f64 + 0.5) / SYNTHETIC_ROWS as f64;
        owed += loss_at(share);
        let loss = if owed >= 1.0 { 1.0 } else { 0.0 };
        owed -= loss;
        Outcome { score: 1.0 - share, label: loss, truth: loss }
    };
    (0..SYNTHETIC_ROWS).map(row).collect()
}
