//! Certificates: a threshold and a promise about the risk of what it keeps.
//!
//! **Model.** A row is a score and the loss, in \[0, 1\], of keeping the answer that has it. Rows are
//! independent draws from the traffic that the certificate will speak of, labelled once, and used for
//! nothing before: score, fit and [`Grid`] come from other rows. With probability 1 − delta over the
//! draw of the rows, the threshold returned has a risk of at most alpha ([`Risk`] says which).
//!
//! **Algorithm.** Learn then Test (Angelopoulos et al. 2021): the grid's thresholds are tested from the
//! safest to the boldest, each with the p-value of "its risk is above alpha", and the walk ends at the
//! first that cannot be rejected at delta; the boldest one rejected is certified. As the order is fixed
//! beforehand, the first threshold that breaks the promise is rejected with probability delta at most,
//! and no correction for the number of thresholds is due. 0/1 losses have the exact binomial p-value
//! (the same as: the Clopper–Pearson bound is at most alpha), others Hoeffding–Bentkus.
//!
//! **Where the walk starts** matters: one unlucky error in a few rows ends it. For selective risk,
//! thresholds that keep fewer than [`Plan::smallest_kept`] rows are skipped, not failed. That number
//! follows from the count of rows, alpha and delta; skipping looks at scores, never at labels, and is
//! exact as long as the risk does not fall when the threshold does. Several starts ([`Plan::starts`])
//! share delta (Bonferroni) and make the walk robust at the price of some power.
//!
//! **Cost.** One sort of the rows, then a binomial tail per threshold. **Concurrency.** None.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::bounds::{binomial_cdf, hoeffding_bentkus, mean_upper_bound, smallest_n, upper_bound};

/// What is promised to be rare. The rows' losses must be made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// P(wrong | kept): losses of kept rows over **kept rows** (Geifman & El-Yaniv 2017). Loss: wrong.
    Selective,
    /// P(kept, wrong here, and right upstream): losses of kept rows over **all rows**. Loss: wrong here
    /// and right upstream. (Zellinger & Thomson 2025 call it regret.)
    Regret,
    /// P(kept and wrong): losses of kept rows over **all rows**. Loss: wrong. Keeping less can only
    /// lower it (Angelopoulos et al., "Conformal risk control", 2024, treat such risks).
    Joint,
}

impl Risk {
    /// Every kind.
    pub const ALL: [Risk; 3] = [Risk::Selective, Risk::Regret, Risk::Joint];

    /// The kind's name in files and headers.
    pub fn name(self) -> &'static str {
        match self {
            Risk::Selective => "selective",
            Risk::Regret => "regret",
            Risk::Joint => "joint",
        }
    }

    /// The rows among which losses are counted: those kept, or all.
    fn denominator(self, kept: usize, rows: usize) -> usize {
        match self {
            Risk::Selective => kept,
            Risk::Regret | Risk::Joint => rows,
        }
    }
}

/// "`risk` is at most `alpha`, with probability 1 − `delta` over the labelled rows".
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawPromise", into = "RawPromise")]
pub struct Promise {
    risk: Risk,
    alpha: f64,
    delta: f64,
}

#[derive(Serialize, Deserialize)]
struct RawPromise {
    risk: Risk,
    alpha: f64,
    delta: f64,
}

impl Promise {
    /// The promise; an error text when `alpha` or `delta` is not strictly between 0 and 1.
    pub fn check(risk: Risk, alpha: f64, delta: f64) -> Result<Promise, String> {
        for (name, value) in [("alpha", alpha), ("delta", delta)] {
            if !(value > 0.0 && value < 1.0) {
                return Err(format!("{name} is {value}; it must lie between 0 and 1, ends excluded"));
            }
        }
        Ok(Promise { risk, alpha, delta })
    }

    /// Which risk.
    pub fn risk(&self) -> Risk {
        self.risk
    }

    /// The most the risk may be.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The most the probability may be that it is more.
    pub fn delta(&self) -> f64 {
        self.delta
    }

    /// The promise with what the `attempt`-th attempt (from 1) on the same slice may spend:
    /// delta·6/(π²·attempt²). Over all attempts that sums to delta, so that however often somebody
    /// tries again with new labels, one broken certificate among all has probability delta at most.
    pub fn at_attempt(self, attempt: u32) -> Promise {
        let attempt = f64::from(attempt.max(1));
        Promise { delta: self.delta * 6.0 / (std::f64::consts::PI * attempt).powi(2), ..self }
    }
}

impl TryFrom<RawPromise> for Promise {
    type Error = String;

    fn try_from(raw: RawPromise) -> Result<Promise, String> {
        Promise::check(raw.risk, raw.alpha, raw.delta)
    }
}

impl From<Promise> for RawPromise {
    fn from(Promise { risk, alpha, delta }: Promise) -> RawPromise {
        RawPromise { risk, alpha, delta }
    }
}

/// One labelled answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// How far it is believed; NaN is never kept.
    pub score: f64,
    /// What keeping it loses, in \[0, 1\].
    pub loss: f64,
}

/// Which losses may occur. Declared beforehand: losses that happened to be all 0 or 1 prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Losses {
    /// 0 or 1 only: exact binomial tests.
    Binary,
    /// Anything in \[0, 1\]: Hoeffding–Bentkus.
    Bounded,
}

impl Losses {
    fn allow(self, loss: f64) -> bool {
        match self {
            Losses::Binary => loss == 0.0 || loss == 1.0,
            Losses::Bounded => (0.0..=1.0).contains(&loss),
        }
    }

    fn p_value(self, losses: f64, n: usize, alpha: f64) -> f64 {
        match self {
            Losses::Binary if n == 0 => 1.0,
            Losses::Binary => binomial_cdf(losses as usize, n, alpha),
            Losses::Bounded => hoeffding_bentkus(losses, n, alpha),
        }
    }

    fn upper_bound(self, losses: f64, n: usize, delta: f64) -> f64 {
        match self {
            Losses::Binary => upper_bound(losses as usize, n, delta),
            Losses::Bounded => mean_upper_bound(losses, n, delta),
        }
    }

    /// The fewest rows from which a certificate survives `errors` losses of 1.
    fn smallest_n(self, alpha: f64, delta: f64, errors: usize) -> usize {
        let mut n = smallest_n(alpha, delta, errors);
        // Hoeffding–Bentkus is never easier to pass than the exact test, so the count only grows.
        while self.p_value(errors as f64, n, alpha) > delta {
            n += n / 64 + 1;
        }
        n
    }
}

/// The thresholds that may be certified, from the safest to the boldest, fixed before a label is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<f64>", into = "Vec<f64>")]
pub struct Grid(Vec<f64>);

impl Grid {
    /// `points` thresholds, each keeping about one `points`-th more of the unlabelled `scores` than the
    /// one before; the last keeps them all. Scores that are not finite are left out.
    pub fn of_scores(scores: &[f64], points: usize) -> Grid {
        let mut falling: Vec<f64> = scores.iter().copied().filter(|score| score.is_finite()).collect();
        falling.sort_by(|a, b| b.total_cmp(a));
        let place = |point: usize| (point * falling.len()).div_ceil(points).checked_sub(1);
        (1..=points).filter_map(place).filter_map(|at| falling.get(at)).copied().collect::<Vec<f64>>().into()
    }

    /// The thresholds, falling, no two the same.
    pub fn thresholds(&self) -> &[f64] {
        &self.0
    }

    /// The one in the middle; `None` where there is none.
    pub fn middle(&self) -> Option<f64> {
        self.0.get(self.0.len() / 2).copied()
    }
}

/// Thresholds given by hand, in any order; those that are not finite are left out.
impl From<Vec<f64>> for Grid {
    fn from(mut thresholds: Vec<f64>) -> Grid {
        thresholds.retain(|threshold| threshold.is_finite());
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        Grid(thresholds)
    }
}

impl From<Grid> for Vec<f64> {
    fn from(grid: Grid) -> Vec<f64> {
        grid.0
    }
}

/// Everything about a certification that is fixed before a label is seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is promised.
    pub promise: Promise,
    /// Which losses may occur.
    pub losses: Losses,
    /// Which thresholds may be certified.
    pub grid: Grid,
    /// From how many places of the grid the walk starts; they share delta. 0 is taken as 1.
    pub starts: usize,
}

/// A threshold whose risk is at most the promised one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Certified {
    /// Keep at this score or above.
    pub threshold: f64,
    /// Labelled rows looked at.
    pub rows: usize,
    /// Those of them kept.
    pub kept: usize,
    /// Losses of the kept rows, summed.
    pub losses: f64,
    /// The upper confidence bound at this threshold taken alone: at most alpha. What is promised is
    /// alpha, not this, because the threshold was chosen with the same labels.
    pub bound: f64,
}

/// Why no threshold was certified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// Fewer labels than the mathematics needs, whatever they say.
    TooFew {
        /// Rows there are.
        have: usize,
        /// Rows needed; where too few of them are kept, at the share kept so far.
        need: usize,
    },
    /// The safest threshold tested already may break the promise.
    TooRisky {
        /// The threshold.
        threshold: f64,
        /// Rows it keeps.
        kept: usize,
        /// Their losses, summed.
        losses: f64,
        /// The upper confidence bound on its risk, above alpha.
        bound: f64,
    },
    /// A loss that the plan does not allow.
    BadLoss {
        /// Its place among the rows, from 0.
        row: usize,
        /// Its value.
        loss: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TooFew { have, need } => {
                write!(f, "{have} labels are too few to certify anything: about {} more are needed", need - have)
            }
            Refusal::TooRisky { threshold, kept, losses, bound } => write!(
                f,
                "the safest threshold tested, {threshold}, keeps {kept} rows with losses of {losses}: the risk may be \
                 {bound:.4}, which is more than promised; a better score or a larger promise is needed"
            ),
            Refusal::BadLoss { row, loss } => {
                write!(f, "row {row} has a loss of {loss}; losses are 0 or 1, or in [0, 1] where declared as bounded")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// What a threshold of the grid does to the labelled rows.
struct Point {
    threshold: f64,
    kept: usize,
    losses: f64,
}

/// How far a walk came among the points tested.
struct Walk {
    best: Option<usize>,
    whole: bool,
}

impl Plan {
    /// A walk from the safest threshold over 0/1 losses: the usual plan.
    pub fn new(promise: Promise, grid: Grid) -> Plan {
        Plan { promise, losses: Losses::Binary, grid, starts: 1 }
    }

    /// The fewest kept rows at which a threshold is tested for selective risk, given the count of
    /// labelled rows: the count that survives one loss, or 8/alpha where there are 25/alpha rows and
    /// more. Looks at no label and no score.
    pub fn smallest_kept(&self, rows: usize) -> usize {
        self.smallest_at(rows, self.promise.delta)
    }

    fn smallest_at(&self, rows: usize, delta: f64) -> usize {
        let alpha = self.promise.alpha;
        let survives_one = self.losses.smallest_n(alpha, delta / self.starts.max(1) as f64, 1);
        let many = rows as f64 >= 25.0 / alpha;
        if many { survives_one.max((8.0 / alpha).ceil() as usize) } else { survives_one }
    }

    /// The boldest threshold whose risk is at most alpha, with probability 1 − delta over the rows.
    ///
    /// # Errors
    /// A [`Refusal`]: too few labels, too high a risk, or a loss out of range. It promises nothing.
    pub fn certify(&self, rows: &[Row]) -> Result<Certified, Refusal> {
        let delta = self.promise.delta;
        let points = self.points(rows, delta)?;
        self.conclude(&points, rows.len(), delta, &self.walk(&points, rows.len(), delta))
    }

    /// The points to test, from the safest: with rows enough to be tested at `delta`, and some kept.
    fn points(&self, rows: &[Row], delta: f64) -> Result<Vec<Point>, Refusal> {
        if let Some((row, bad)) = rows.iter().enumerate().find(|(_, row)| !self.losses.allow(row.loss)) {
            return Err(Refusal::BadLoss { row, loss: bad.loss });
        }
        let all = points(&self.grid, rows);
        let most = all.last().map_or(0, |point| point.kept);
        let (alpha, level) = (self.promise.alpha, delta / self.starts.max(1) as f64);
        let (counted, need) = match self.promise.risk {
            Risk::Selective => (most, self.smallest_at(rows.len(), delta)),
            Risk::Regret | Risk::Joint => (rows.len(), self.losses.smallest_n(alpha, level, 0)),
        };
        if counted < need || most == 0 {
            let need = (need.max(1) * rows.len().max(1)).div_ceil(counted.max(1)).max(rows.len() + 1);
            return Err(Refusal::TooFew { have: rows.len(), need });
        }
        let tested = |point: &Point| point.kept > 0 && self.promise.risk.denominator(point.kept, rows.len()) >= need;
        Ok(all.into_iter().filter(tested).collect())
    }

    /// Walks the points from each start until the first that is not rejected.
    fn walk(&self, points: &[Point], rows: usize, delta: f64) -> Walk {
        let starts = self.starts.max(1);
        let Promise { risk, alpha, .. } = self.promise;
        let passes = |point: &Point| {
            let n = risk.denominator(point.kept, rows);
            self.losses.p_value(point.losses, n, alpha) <= delta / starts as f64
        };
        let mut passed = vec![false; points.len()];
        for start in (0..starts).map(|start| start * points.len() / starts) {
            let rejected = points[start..].iter().take_while(|point| passes(point)).count();
            passed[start..start + rejected].fill(true);
        }
        Walk { best: passed.iter().rposition(|passed| *passed), whole: passed.iter().all(|passed| *passed) }
    }

    fn conclude(&self, points: &[Point], rows: usize, delta: f64, walk: &Walk) -> Result<Certified, Refusal> {
        let Point { threshold, kept, losses } = points[walk.best.unwrap_or(0)];
        let n = self.promise.risk.denominator(kept, rows);
        let bound = self.losses.upper_bound(losses, n, delta / self.starts.max(1) as f64);
        match walk.best {
            Some(_) => Ok(Certified { threshold, rows, kept, losses, bound }),
            None => Err(Refusal::TooRisky { threshold, kept, losses, bound }),
        }
    }
}

/// What each threshold of the grid keeps.
fn points(grid: &Grid, rows: &[Row]) -> Vec<Point> {
    let mut falling: Vec<Row> = rows.iter().copied().filter(|row| !row.score.is_nan()).collect();
    falling.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (mut kept, mut losses) = (0, 0.0);
    let mut point = |&threshold: &f64| {
        while kept < falling.len() && falling[kept].score >= threshold {
            losses += falling[kept].loss;
            kept += 1;
        }
        Point { threshold, kept, losses }
    };
    grid.thresholds().iter().map(&mut point).collect()
}

/// Certifies declared slices so that **all** their promises hold together with probability 1 − delta,
/// delta being the smallest of the plans'. Every slice begins with an equal share of delta; a slice
/// whose whole grid is certified has nothing left to lose and leaves its share to the others, which
/// walk again (Holm 1979, on walks instead of single tests: Bretz et al., "A graphical approach to
/// sequentially rejective multiple test procedures", 2009). One result per slice, in their order.
pub fn certify_together(slices: &[(&Plan, &[Row])]) -> Vec<Result<Certified, Refusal>> {
    let delta = slices.iter().map(|(plan, _)| plan.promise.delta).fold(1.0, f64::min);
    // What is tested is fixed at the first share, so that a walk can only be prolonged.
    let share = delta / slices.len() as f64;
    let tested: Vec<_> = slices.iter().map(|(plan, rows)| plan.points(rows, share)).collect();
    let mut left = slices.len();
    let level = loop {
        let level = delta / left as f64;
        let each = slices.iter().zip(&tested);
        let whole = each.filter(|((plan, rows), points)| {
            points.as_ref().is_ok_and(|points| plan.walk(points, rows.len(), level).whole)
        });
        let open = slices.len() - whole.count();
        if open == left || open == 0 {
            break level;
        }
        left = open;
    };
    let each = slices.iter().zip(tested);
    each.map(|((plan, rows), points)| {
        let points = points?;
        plan.conclude(&points, rows.len(), level, &plan.walk(&points, rows.len(), level))
    })
    .collect()
}

/// The boldest threshold of the grid with (Σ losses of kept rows + 1)/(rows + 1) ≤ `alpha`: conformal
/// risk control (Angelopoulos et al. 2024). For a joint or regret loss.
///
/// **Bounds the expectation only**: the risk is at most alpha on average over draws of the labelled
/// rows, and above it in about half of them. It is no certificate; a [`Plan`] makes those. `None` when
/// no threshold qualifies, or a loss is not in \[0, 1\].
pub fn control_expectation(grid: &Grid, rows: &[Row], alpha: f64) -> Option<f64> {
    if !rows.iter().all(|row| Losses::Bounded.allow(row.loss)) {
        return None;
    }
    let holds = |point: &Point| (point.losses + 1.0) / (rows.len() as f64 + 1.0) <= alpha;
    points(grid, rows).iter().take_while(|point| holds(point)).last().map(|point| point.threshold)
}

/// An error rate at most `at_most`, with probability 1 − `delta`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorBound {
    /// The bound on P(wrong | kept and agrees).
    pub beta: f64,
    /// The most the error rate may be.
    pub at_most: f64,
    /// The probability that it is more.
    pub delta: f64,
}

/// From "P(disagrees with the grader | kept) ≤ alpha" and a gold sample to an error rate:
/// P(wrong | kept) ≤ alpha + beta, where beta bounds P(wrong | kept and agrees) at `delta` after
/// `wrong` of `agreed` answers drawn at random from those that agree (a wrong answer either disagrees,
/// or agrees and is wrong). Both deltas add up: split one over the two.
pub fn error_from_disagreement(disagreement: &Promise, wrong: usize, agreed: usize, delta: f64) -> ErrorBound {
    let beta = upper_bound(wrong, agreed, delta);
    ErrorBound { beta, at_most: (disagreement.alpha + beta).min(1.0), delta: disagreement.delta + delta }
}

#[cfg(test)]
mod tests;
