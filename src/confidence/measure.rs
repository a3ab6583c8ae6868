//! How good a score is on graded answers: ranking, calibration, risk against coverage.
//!
//! A row is (score, right). Promises: the order of rows counts for nothing, equal scores are
//! treated alike, and a NaN score is the lowest there is, since it is never accepted. Pure; called
//! by the offline tools.

use super::Quality;

/// The bins of the calibration error that a calibration file tells.
const BINS: usize = 10;

impl Quality {
    /// The quality of a score over these rows; `None` without rows.
    pub fn of(rows: &[(f64, bool)], is_probability: bool) -> Option<Quality> {
        let if_probability = |share: Option<f64>| share.filter(|_| is_probability);
        (!rows.is_empty()).then(|| Quality {
            rows: rows.len() as u64,
            auroc: auroc(rows),
            ece: if_probability(ece(rows, BINS)),
            brier: if_probability(brier(rows)),
        })
    }
}

/// The chance that a right answer scores above a wrong one, a tie counting half (Mann and Whitney,
/// 1947); `None` unless both kinds are there.
pub fn auroc(rows: &[(f64, bool)]) -> Option<f64> {
    let (mut wrong_below, mut above) = (0.0, 0.0);
    for tied in falling(rows).chunk_by(|a, b| a.0 == b.0).rev() {
        let right = tied.iter().filter(|row| row.1).count() as f64;
        let wrong = tied.len() as f64 - right;
        above += right * (wrong_below + wrong / 2.0);
        wrong_below += wrong;
    }
    let pairs = wrong_below * (rows.len() as f64 - wrong_below);
    (pairs > 0.0).then(|| above / pairs)
}

/// Expected calibration error: the mean over bins of |mean probability − share right|, weighted by
/// rows. The bins hold equally many rows each (Nixon et al., "Measuring calibration in deep
/// learning", 2019), except that rows of one probability stay together. `None` without rows, or where a score is no probability.
pub fn ece(rows: &[(f64, bool)], bins: usize) -> Option<f64> {
    let sorted = falling(rows);
    let mut gaps = vec![0.0; bins.max(1)];
    let mut place = 0;
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let gap: f64 = tied.iter().map(|row| row.0 - f64::from(u8::from(row.1))).sum();
        let bin = place * gaps.len() / rows.len();
        gaps[bin] += gap;
        place += tied.len();
    }
    are_probabilities(rows).then(|| gaps.iter().map(|gap| gap.abs()).sum::<f64>() / rows.len() as f64)
}

/// Mean squared error of the probability (Brier, 1950); `None` without rows, or where a score is no
/// probability.
pub fn brier(rows: &[(f64, bool)]) -> Option<f64> {
    let error = |row: &(f64, bool)| (row.0 - f64::from(u8::from(row.1))).powi(2);
    are_probabilities(rows).then(|| rows.iter().map(error).sum::<f64>() / rows.len() as f64)
}

/// Area under the risk-coverage curve: the mean over k of the share of wrong answers among the k
/// that score highest (Geifman and El-Yaniv, "Selective classification for deep neural networks",
/// 2017); of equal scores any order is as likely. Less is better; `None` without rows.
pub fn aurc(rows: &[(f64, bool)]) -> Option<f64> {
    let (mut kept, mut wrong, mut risks) = (0.0, 0.0, 0.0);
    for tied in falling(rows).chunk_by(|a, b| a.0 == b.0) {
        let share = tied.iter().filter(|row| !row.1).count() as f64 / tied.len() as f64;
        for _ in tied {
            kept += 1.0;
            wrong += share;
            risks += wrong / kept;
        }
    }
    (!rows.is_empty()).then(|| risks / kept)
}

/// How many rows score `threshold` or more, and how many of those are wrong.
pub fn kept_at(rows: &[(f64, bool)], threshold: f64) -> (usize, usize) {
    let kept = rows.iter().filter(|row| row.0 >= threshold);
    kept.fold((0, 0), |(kept, wrong), row| (kept + 1, wrong + usize::from(!row.1)))
}

fn are_probabilities(rows: &[(f64, bool)]) -> bool {
    !rows.is_empty() && rows.iter().all(|row| (0.0..=1.0).contains(&row.0))
}

/// The rows by falling score.
fn falling(rows: &[(f64, bool)]) -> Vec<(f64, bool)> {
    let lowest_for_nan =
        |&(score, right): &(f64, bool)| (if score.is_nan() { f64::NEG_INFINITY } else { score }, right);
    let mut sorted: Vec<(f64, bool)> = rows.iter().map(lowest_for_nan).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    sorted
}
