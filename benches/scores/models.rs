//! What is fitted to the rows: a logistic function with or without interactions, and boosted stumps.
//!
//! Columns are standardised on the rows of the fit. How much a fit is held back (the ridge penalty,
//! the number of stumps) is chosen by cross-validation within those rows, by log-loss. Nothing here
//! sees a row that it is tested on.

use super::kernel;
use super::rows::Row;
use weir::confidence::Feature;

/// A number of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// A feature that a gate can read.
    Of(Feature),
    /// The share of right answers among the nearest prompts of the fit.
    Neighbours,
}

/// What kind of function of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one column as it is.
    Raw,
    /// A logistic function.
    Logistic,
    /// A logistic function of the columns and of all products of two.
    Interactions,
    /// A logistic function that changes with the prompt.
    Kernel,
    /// A sum of steps of one column each (Friedman, "Greedy function approximation: a gradient
    /// boosting machine", 2001).
    Stumps,
}

const PENALTIES: [f64; 6] = [0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const ROUNDS: [usize; 4] = [25, 50, 100, 200];
const RATE: f64 = 0.15;
const LEAST_LEAF: usize = 15;
const FOLDS: usize = 5;
const NEAREST: usize = 15;

/// The scores of `test` by a function fitted to `fit`.
pub(crate) fn score(kind: Kind, columns: &[Column], fit: &[&Row], test: &[&Row]) -> Vec<f64> {
    let known = table(columns, fit, fit);
    let asked = table(columns, fit, test);
    let right: Vec<bool> = fit.iter().map(|row| row.right).collect();
    let (known, asked) = match kind {
        Kind::Raw => return asked.into_iter().map(|row| row[0]).collect(),
        Kind::Interactions => (products(known), products(asked)),
        Kind::Logistic | Kind::Kernel | Kind::Stumps => (known, asked),
    };
    let scale = Scale::of(&known);
    let (known, asked) = (scale.apply(known), scale.apply(asked));
    match kind {
        Kind::Kernel => kernel::score((fit, &known), &right, (test, &asked)),
        Kind::Stumps => {
            let rounds = choose(&ROUNDS, &known, &right, |rounds, x, y| {
                let stumps = boost(x, y, rounds);
                move |row: &[f64]| odds_of(&stumps, row)
            });
            let stumps = boost(&known, &right, rounds);
            asked.iter().map(|row| sigmoid(odds_of(&stumps, row))).collect()
        }
        _ => {
            let penalty = choose(&PENALTIES, &known, &right, |penalty, x, y| {
                let weights = newton(x, y, penalty);
                move |row: &[f64]| linear(&weights, row)
            });
            let weights = newton(&known, &right, penalty);
            asked.iter().map(|row| sigmoid(linear(&weights, row))).collect()
        }
    }
}

fn table(columns: &[Column], fit: &[&Row], rows: &[&Row]) -> Vec<Vec<f64>> {
    let value = |row: &Row, column: &Column| match column {
        Column::Of(feature) => row.features.get(*feature),
        Column::Neighbours => neighbours(row, fit),
    };
    rows.iter().map(|row| columns.iter().map(|column| value(row, column)).collect()).collect()
}

/// The share of right ones among the nearest prompts of the fit, the row itself left out, shrunk by
/// one right and one wrong.
fn neighbours(row: &Row, fit: &[&Row]) -> f64 {
    let cosine = |other: &Row| row.vector.iter().zip(&other.vector).map(|(a, b)| a * b).sum::<f32>();
    let others = fit.iter().filter(|other| !std::ptr::eq(**other, row));
    let mut near: Vec<(f32, bool)> = others.map(|other| (cosine(other), other.right)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.truncate(NEAREST);
    (near.iter().filter(|one| one.1).count() + 1) as f64 / (near.len() + 2) as f64
}

fn products(rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let scale = Scale::of(&rows);
    let with_products = |row: Vec<f64>| {
        let pairs = (0..row.len()).flat_map(|i| (i + 1..row.len()).map(move |j| (i, j)));
        let products: Vec<f64> = pairs.map(|(i, j)| row[i] * row[j]).collect();
        row.into_iter().chain(products).collect()
    };
    scale.apply(rows).into_iter().map(with_products).collect()
}

/// Means and deviations of columns.
struct Scale(Vec<(f64, f64)>);

impl Scale {
    fn of(rows: &[Vec<f64>]) -> Scale {
        let count = rows.len() as f64;
        let width = rows.first().map_or(0, Vec::len);
        let column = |place: usize| {
            let mean = rows.iter().map(|row| row[place]).sum::<f64>() / count;
            let spread = (rows.iter().map(|row| (row[place] - mean).powi(2)).sum::<f64>() / count).sqrt();
            (mean, if spread > 1e-9 { spread } else { 1.0 })
        };
        Scale((0..width).map(column).collect())
    }

    fn apply(&self, rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let scaled = |row: Vec<f64>| row.iter().zip(&self.0).map(|(x, (mean, spread))| (x - mean) / spread).collect();
        rows.into_iter().map(scaled).collect()
    }
}

/// The setting with the least log-loss on folds left out.
fn choose<S: Copy, P: Fn(&[f64]) -> f64>(
    settings: &[S],
    rows: &[Vec<f64>],
    right: &[bool],
    fit: impl Fn(S, &[Vec<f64>], &[bool]) -> P,
) -> S {
    let loss = |setting: S| -> f64 {
        let fold = |fold: usize| {
            let inside = |place: &usize| place % FOLDS != fold;
            let x: Vec<Vec<f64>> = (0..rows.len()).filter(inside).map(|place| rows[place].clone()).collect();
            let y: Vec<bool> = (0..rows.len()).filter(inside).map(|place| right[place]).collect();
            let odds = fit(setting, &x, &y);
            let outside = (0..rows.len()).filter(|place| place % FOLDS == fold);
            outside.map(|place| log_loss(odds(&rows[place]), right[place])).sum::<f64>()
        };
        (0..FOLDS).map(fold).sum()
    };
    let losses = settings.iter().map(|setting| (loss(*setting), *setting));
    losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(settings[0], |(_, setting)| setting)
}

pub(crate) fn log_loss(odds: f64, right: bool) -> f64 {
    let towards = if right { odds } else { -odds };
    (-towards).max(0.0) + (-towards.abs()).exp().ln_1p()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn linear(weights: &[f64], row: &[f64]) -> f64 {
    weights[0] + weights[1..].iter().zip(row).map(|(weight, x)| weight * x).sum::<f64>()
}

/// The ridge logistic fit by Newton's method; the bias first, not penalised.
fn newton(rows: &[Vec<f64>], right: &[bool], penalty: f64) -> Vec<f64> {
    let size = rows.first().map_or(0, Vec::len) + 1;
    let mut weights = vec![0.0; size];
    for _ in 0..12 {
        let mut gradient: Vec<f64> = weights.iter().map(|weight| -penalty * weight).collect();
        gradient[0] = 0.0;
        let mut curvature = vec![vec![0.0; size]; size];
        for (place, line) in curvature.iter_mut().enumerate() {
            line[place] = if place == 0 { 1e-9 } else { penalty };
        }
        for (row, &right) in rows.iter().zip(right) {
            let p = sigmoid(linear(&weights, row));
            let (error, spread) = (f64::from(u8::from(right)) - p, p * (1.0 - p));
            let input = |place: usize| if place == 0 { 1.0 } else { row[place - 1] };
            for i in 0..size {
                gradient[i] += error * input(i);
                let part = spread * input(i);
                for (j, bend) in curvature[i].iter_mut().enumerate().take(i + 1) {
                    *bend += part * input(j);
                }
            }
        }
        let step = linear_solve(curvature, gradient);
        weights.iter_mut().zip(&step).for_each(|(weight, step)| *weight += step);
        if step.iter().all(|step| step.abs() < 1e-6) {
            break;
        }
    }
    weights
}

/// Solves A·x = b for a positive definite A, of which the lower half is read (Cholesky).
pub(crate) fn linear_solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let size = b.len();
    for i in 0..size {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - done;
            a[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / a[j][j] };
        }
    }
    for i in 0..size {
        let done: f64 = (0..i).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - done) / a[i][i];
    }
    for i in (0..size).rev() {
        let done: f64 = (i + 1..size).map(|k| a[k][i] * b[k]).sum();
        b[i] = (b[i] - done) / a[i][i];
    }
    b
}

/// A step: what is added below the threshold, and from it on.
struct Stump {
    column: usize,
    threshold: f64,
    low: f64,
    high: f64,
}

fn odds_of(stumps: &[Stump], row: &[f64]) -> f64 {
    stumps.iter().map(|stump| if row[stump.column] < stump.threshold { stump.low } else { stump.high }).sum()
}

/// Adds, round after round, the step that lowers the log-loss most to second order.
fn boost(rows: &[Vec<f64>], right: &[bool], rounds: usize) -> Vec<Stump> {
    let width = rows.first().map_or(0, Vec::len);
    let sorted = |column: usize| {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|a, b| rows[*a][column].total_cmp(&rows[*b][column]));
        order
    };
    let orders: Vec<Vec<usize>> = (0..width).map(sorted).collect();
    let base = (right.iter().filter(|right| **right).count() as f64 + 1.0) / (rows.len() as f64 + 2.0);
    let base = (base / (1.0 - base)).ln();
    let mut stumps = vec![Stump { column: 0, threshold: f64::INFINITY, low: base, high: base }];
    let mut odds = vec![base; rows.len()];
    for _ in 0..rounds {
        let errors: Vec<(f64, f64)> = odds.iter().zip(right).map(|(odds, right)| slopes(*odds, *right)).collect();
        let found = orders.iter().enumerate().filter_map(|(column, order)| best_step(rows, column, order, &errors));
        let Some((_, stump)) = found.max_by(|a, b| a.0.total_cmp(&b.0)) else { break };
        for (odds, row) in odds.iter_mut().zip(rows) {
            *odds += if row[stump.column] < stump.threshold { stump.low } else { stump.high };
        }
        stumps.push(stump);
    }
    stumps
}

fn slopes(odds: f64, right: bool) -> (f64, f64) {
    let p = sigmoid(odds);
    (f64::from(u8::from(right)) - p, p * (1.0 - p))
}

/// The best threshold of a column, and what it gains.
fn best_step(rows: &[Vec<f64>], column: usize, order: &[usize], errors: &[(f64, f64)]) -> Option<(f64, Stump)> {
    let sum = |places: &[usize]| {
        places.iter().fold((0.0, 1.0), |sum: (f64, f64), place| (sum.0 + errors[*place].0, sum.1 + errors[*place].1))
    };
    let all = sum(order);
    let mut below = (0.0, 1.0);
    let mut best: Option<(f64, Stump)> = None;
    for split in 1..order.len() {
        let error = errors[order[split - 1]];
        below = (below.0 + error.0, below.1 + error.1);
        let (before, after) = (rows[order[split - 1]][column], rows[order[split]][column]);
        if before == after || split < LEAST_LEAF || order.len() - split < LEAST_LEAF {
            continue;
        }
        let above = (all.0 - below.0, all.1 - below.1 + 1.0);
        let gain = below.0 * below.0 / below.1 + above.0 * above.0 / above.1;
        if best.as_ref().is_none_or(|(most, _)| gain > *most) {
            let (low, high) = (RATE * below.0 / below.1, RATE * above.0 / above.1);
            best = Some((gain, Stump { column, threshold: f64::midpoint(before, after), low, high }));
        }
    }
    best
}
