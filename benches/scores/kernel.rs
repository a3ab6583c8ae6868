//! A logistic function that changes from one kind of prompt to another.
//!
//! Kernel logistic regression (Zhu and Hastie, "Kernel logistic regression and the import vector
//! machine", 2005): two rows are alike as far as their prompts' vectors and their columns are, so that
//! what a log-probability is worth is learned from prompts like this one. Kernel and penalties were
//! chosen by cross-validation on the rows of the fit; nothing here sees a row that it is tested on.

use super::models::{linear_solve, log_loss, sigmoid};
use super::rows::Row;

/// How quickly prompts become strangers: exp(−NEARNESS·(1 − cosine)).
const NEARNESS: f64 = 6.0;
/// What columns count beside the prompt alone.
const COLUMNS: f64 = 3.0;
/// A constant is hardly penalised.
const CONSTANT: f64 = 10.0;
/// Standard deviations beyond which a column tells no more.
const CLIP: f64 = 4.0;
const PENALTIES: [f64; 4] = [1.0, 3.0, 10.0, 30.0];
const FOLDS: usize = 3;
const STEPS: usize = 8;

/// A row's prompt vector, of length 1, and its standardised columns.
struct Point {
    vector: Vec<f64>,
    columns: Vec<f64>,
}

/// The scores of `test`; the columns are standardised on the fit.
pub(crate) fn score(fit: (&[&Row], &[Vec<f64>]), right: &[bool], test: (&[&Row], &[Vec<f64>])) -> Vec<f64> {
    let (known, asked) = (points(fit), points(test));
    let alike = matrix(&known, &known);
    let all: Vec<usize> = (0..known.len()).collect();
    let losses = PENALTIES.iter().map(|penalty| (loss(&alike, right, *penalty), *penalty));
    let penalty = losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(PENALTIES[0], |(_, penalty)| penalty);
    let weights = weigh(&alike, right, &all, penalty);
    asked.iter().map(|one| sigmoid(known.iter().zip(&weights).map(|(other, w)| w * kernel(one, other)).sum())).collect()
}

fn points((rows, columns): (&[&Row], &[Vec<f64>])) -> Vec<Point> {
    let point = |(row, columns): (&&Row, &Vec<f64>)| {
        let length = row.vector.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        Point {
            vector: row.vector.iter().map(|x| f64::from(*x) / length).collect(),
            columns: columns.iter().map(|x| x.clamp(-CLIP, CLIP)).collect(),
        }
    };
    rows.iter().zip(columns).map(point).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn kernel(one: &Point, other: &Point) -> f64 {
    let near = (-NEARNESS * (1.0 - dot(&one.vector, &other.vector))).exp();
    let linear = dot(&one.columns, &other.columns) / one.columns.len() as f64;
    near * (1.0 + COLUMNS * linear) + linear + CONSTANT
}

fn matrix(rows: &[Point], others: &[Point]) -> Vec<Vec<f64>> {
    rows.iter().map(|row| others.iter().map(|other| kernel(row, other)).collect()).collect()
}

/// The log-loss on folds left out.
fn loss(alike: &[Vec<f64>], right: &[bool], penalty: f64) -> f64 {
    let fold = |fold: usize| {
        let (outside, inside): (Vec<usize>, Vec<usize>) = (0..right.len()).partition(|place| place % FOLDS == fold);
        let weights = weigh(alike, right, &inside, penalty);
        let odds = |row: usize| inside.iter().zip(&weights).map(|(other, w)| w * alike[row][*other]).sum();
        outside.iter().map(|row| log_loss(odds(*row), right[*row])).sum::<f64>()
    };
    (0..FOLDS).map(fold).sum()
}

/// The weights of these rows: f = K·w, by iteratively reweighted least squares.
fn weigh(alike: &[Vec<f64>], right: &[bool], rows: &[usize], penalty: f64) -> Vec<f64> {
    let mut odds = vec![0.0; rows.len()];
    let mut weights = odds.clone();
    for _ in 0..STEPS {
        let slope = |odds: f64| (sigmoid(odds) * (1.0 - sigmoid(odds))).max(1e-4);
        let wanted =
            |(odds, row): (&f64, &usize)| odds + (f64::from(u8::from(right[*row])) - sigmoid(*odds)) / slope(*odds);
        let aim = odds.iter().zip(rows).map(wanted).collect();
        let ridge = |(i, row): (usize, &usize)| {
            let mut line: Vec<f64> = rows.iter().map(|other| alike[*row][*other]).collect();
            line[i] += penalty / slope(odds[i]);
            line
        };
        weights = linear_solve(rows.iter().enumerate().map(ridge).collect(), aim);
        let now: Vec<f64> =
            rows.iter().map(|row| rows.iter().zip(&weights).map(|(other, w)| w * alike[*row][*other]).sum()).collect();
        let moved = now.iter().zip(&odds).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        odds = now;
        if moved < 1e-3 {
            break;
        }
    }
    weights
}
