//! Fitting a score to graded answers.
//!
//! Promises: the result depends on the rows and not on their order (up to rounding); it is finite
//! even where right and wrong answers can be told apart perfectly; rows that teach nothing are
//! refused with a sentence that says what is missing. Pure; called by the offline tools.

use std::iter::once;

use super::score::sigmoid;
use super::{Feature, Features, Isotonic, Logistic, Platt, Step, Term, Transform};

/// An answer that somebody graded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Graded {
    /// What its tokens say.
    pub features: Features,
    /// Whether it was right.
    pub right: bool,
}

/// A fit needs as many right and as many wrong answers.
const LEAST_OF_A_KIND: usize = 10;
/// And as many rows per feature (Peduzzi et al., "A simulation study of the number of events per
/// variable in logistic regression analysis", 1996).
const LEAST_PER_FEATURE: usize = 10;
/// The ridge penalty is this/2·Σ weight², in log-likelihood, with features of variance 1.
const LOGISTIC_PENALTY: f64 = 1.0;
/// One weight needs little of it: only so much that it stays finite.
const PLATT_PENALTY: f64 = 1e-3;

impl Logistic {
    /// Maximises the penalised likelihood by Newton's method, on standardised features.
    ///
    /// # Errors
    /// Too few rows, one kind of rows only, a feature that is not finite or the same in all rows.
    pub fn fit(rows: &[Graded], features: &[Feature]) -> Result<Logistic, String> {
        require_enough(rows, features.len())?;
        let columns: Result<Vec<Column>, String> =
            features.iter().map(|&feature| Column::of(rows, feature, Transform::Identity)).collect();
        let (columns, right) = (columns?, kinds(rows));
        let solution = Likelihood { columns: &columns, right: &right, penalty: LOGISTIC_PENALTY }.maximise()?;
        let term = |(column, &weight): (&Column, &f64)| Term {
            feature: column.feature,
            mean: column.mean,
            scale: column.scale,
            weight,
        };
        Ok(Logistic { bias: solution[0], terms: columns.iter().zip(&solution[1..]).map(term).collect() })
    }
}

impl Platt {
    /// Maximises the penalised likelihood of σ(weight·φ + bias) by Newton's method.
    ///
    /// # Errors
    /// As [`Logistic::fit`]; and a transform of a feature that is no log-probability.
    pub fn fit(rows: &[Graded], feature: Feature, transform: Transform) -> Result<Platt, String> {
        if transform != Transform::Identity && !feature.is_logprob() {
            return Err(format!("\"{feature}\" is no log-probability, so no transform but \"identity\" fits it"));
        }
        require_enough(rows, 1)?;
        let column = Column::of(rows, feature, transform)?;
        let (mean, scale) = (column.mean, column.scale);
        let columns = [column];
        let solution = Likelihood { columns: &columns, right: &kinds(rows), penalty: PLATT_PENALTY }.maximise()?;
        let weight = solution[1] / scale;
        Ok(Platt { feature, transform, weight, bias: solution[0] - weight * mean })
    }
}

impl Isotonic {
    /// The nearest never falling function in squared error, by pooling adjacent violators (Ayer et
    /// al., "An empirical distribution function for sampling with incomplete information", 1955).
    ///
    /// # Errors
    /// Too few rows, one kind of rows only, a feature that is not finite, the same in all rows, or
    /// of which more does not mean a surer model.
    pub fn fit(rows: &[Graded], feature: Feature) -> Result<Isotonic, String> {
        if !feature.is_score() {
            return Err(format!("\"{feature}\" is no score by itself: more of it does not mean a surer model"));
        }
        require_enough(rows, 1)?;
        let column = Column::of(rows, feature, Transform::Identity)?;
        let mut points: Vec<(f64, bool)> = rows.iter().map(|row| (row.features.get(feature), row.right)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut blocks: Vec<Block> = Vec::new();
        for tied in points.chunk_by(|a, b| a.0 == b.0) {
            let right = tied.iter().filter(|point| point.1).count();
            let mut block = Block { from: tied[0].0, right, rows: tied.len() };
            while let Some(last) = blocks.pop_if(|last| last.is_at_least(&block)) {
                block = Block { from: last.from, right: last.right + block.right, rows: last.rows + block.rows };
            }
            blocks.push(block);
        }
        let step = |block: &Block| Step { from: block.from, probability: block.right as f64 / block.rows as f64 };
        Ok(Isotonic { feature: column.feature, steps: blocks.iter().map(step).collect() })
    }
}

/// Neighbouring rows of one level.
#[derive(Debug)]
struct Block {
    from: f64,
    right: usize,
    rows: usize,
}

impl Block {
    fn is_at_least(&self, next: &Block) -> bool {
        self.right * next.rows >= next.right * self.rows
    }
}

fn kinds(rows: &[Graded]) -> Vec<bool> {
    rows.iter().map(|row| row.right).collect()
}

fn require_enough(rows: &[Graded], features: usize) -> Result<(), String> {
    let right = rows.iter().filter(|row| row.right).count();
    for (kind, count) in [("right", right), ("wrong", rows.len() - right)] {
        if count < LEAST_OF_A_KIND {
            let missing = LEAST_OF_A_KIND - count;
            return Err(format!(
                "{count} of {} graded answers are {kind}; a fit needs {LEAST_OF_A_KIND}: grade until there are {missing} more",
                rows.len()
            ));
        }
    }
    let least = features * LEAST_PER_FEATURE;
    if rows.len() < least {
        return Err(format!(
            "{} graded answers for {features} features; a fit needs {LEAST_PER_FEATURE} for each: grade {} more, or name fewer features",
            rows.len(),
            least - rows.len()
        ));
    }
    Ok(())
}

/// One feature of all rows, with mean 0 and variance 1.
#[derive(Debug)]
struct Column {
    feature: Feature,
    mean: f64,
    scale: f64,
    values: Vec<f64>,
}

impl Column {
    fn of(rows: &[Graded], feature: Feature, transform: Transform) -> Result<Column, String> {
        let values: Vec<f64> = rows.iter().map(|row| transform.apply(row.features.get(feature))).collect();
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!("\"{feature}\" of graded answer {} is {}, not finite", place + 1, values[place]));
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let scale = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        if scale <= 1e-12 * mean.abs().max(1.0) {
            return Err(format!(
                "\"{feature}\" is the same in all graded answers, so it teaches nothing; leave it out"
            ));
        }
        let values = values.into_iter().map(|value| (value - mean) / scale).collect();
        Ok(Column { feature, mean, scale, values })
    }
}

/// Σ ln p(row) − penalty/2·Σ weight²: the bias is not penalised.
#[derive(Debug)]
struct Likelihood<'c> {
    columns: &'c [Column],
    right: &'c [bool],
    penalty: f64,
}

impl Likelihood<'_> {
    const MOST_STEPS: usize = 100;

    /// The bias and the weights with the highest value: it is strictly concave, so there is one.
    fn maximise(&self) -> Result<Vec<f64>, String> {
        let mut at = vec![0.0; self.columns.len() + 1];
        let mut value = self.value(&at);
        for _ in 0..Self::MOST_STEPS {
            let (gradient, curvature) = self.derivatives(&at);
            let step = solve(curvature, gradient.clone()).ok_or("the features depend on each other; name fewer")?;
            let gain: f64 = gradient.iter().zip(&step).map(|(slope, step)| slope * step).sum();
            if gain < 1e-18 * (1.0 + value.abs()) {
                return Ok(at);
            }
            let Some((better, best)) = self.climb(&at, &step, value) else { return Ok(at) };
            (at, value) = (better, best);
        }
        Err("the fit does not settle; name fewer features".to_owned())
    }

    /// The first of the step, its half, its quarter … that goes up; `None`: it is at the top as
    /// far as rounding can tell.
    fn climb(&self, at: &[f64], step: &[f64], value: f64) -> Option<(Vec<f64>, f64)> {
        (0..40).find_map(|halvings| {
            let share = 0.5f64.powi(halvings);
            let moved: Vec<f64> = at.iter().zip(step).map(|(at, step)| at + share * step).collect();
            let reached = self.value(&moved);
            (reached > value).then_some((moved, reached))
        })
    }

    fn log_odds(&self, at: &[f64], row: usize) -> f64 {
        at[0] + self.columns.iter().zip(&at[1..]).map(|(column, weight)| weight * column.values[row]).sum::<f64>()
    }

    fn value(&self, at: &[f64]) -> f64 {
        let ln_p = |(row, &right): (usize, &bool)| {
            let odds = self.log_odds(at, row);
            let towards = if right { odds } else { -odds };
            // ln σ(x), without overflow.
            towards.min(0.0) - (-towards.abs()).exp().ln_1p()
        };
        let likelihood: f64 = self.right.iter().enumerate().map(ln_p).sum();
        likelihood - self.penalty / 2.0 * at[1..].iter().map(|weight| weight * weight).sum::<f64>()
    }

    /// The gradient, and the negated matrix of second derivatives.
    fn derivatives(&self, at: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let size = at.len();
        let (mut gradient, mut curvature) = (vec![0.0; size], vec![vec![0.0; size]; size]);
        for (row, &right) in self.right.iter().enumerate() {
            let p = sigmoid(self.log_odds(at, row));
            let (error, spread) = (f64::from(u8::from(right)) - p, p * (1.0 - p));
            let inputs = || once(1.0).chain(self.columns.iter().map(|column| column.values[row]));
            for ((slope, bends), input) in gradient.iter_mut().zip(&mut curvature).zip(inputs()) {
                *slope += error * input;
                for (bend, other) in bends.iter_mut().zip(inputs()) {
                    *bend += spread * input * other;
                }
            }
        }
        for place in 1..size {
            gradient[place] -= self.penalty * at[place];
            curvature[place][place] += self.penalty;
        }
        (gradient, curvature)
    }
}

/// Solves A·x = b for a positive definite A, of which the lower half is read, by Cholesky's
/// decomposition; `None` where A is not positive definite.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let size = b.len();
    for i in 0..size {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - done;
            a[i][j] = match i == j {
                true if rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / a[j][j],
            };
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
    Some(b)
}
