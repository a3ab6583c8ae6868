//! What the measures and the split promise.

use rand::RngExt;
use rand::seq::SliceRandom;

use super::random::generator;
use crate::confidence::measure::{aurc, auroc, brier, ece, kept_at};
use crate::confidence::{Quality, Split};

/// Rows with many ties.
fn drawn(seed: u64, rows: usize) -> Vec<(f64, bool)> {
    let mut random = generator(seed);
    let mut row = || {
        let score = (random.random::<f64>() * 20.0).floor() / 20.0;
        (score, random.random::<f64>() < score)
    };
    (0..rows).map(|_| row()).collect()
}

#[test]
fn auroc_counts_pairs_and_half_of_the_ties() {
    for seed in 0..20 {
        let rows = drawn(seed, 40);
        let (mut above, mut pairs) = (0.0, 0.0);
        for (right, _) in rows.iter().filter(|row| row.1) {
            for (wrong, _) in rows.iter().filter(|row| !row.1) {
                pairs += 1.0;
                above += if right > wrong {
                    1.0
                } else if right == wrong {
                    0.5
                } else {
                    0.0
                };
            }
        }
        assert!((auroc(&rows).unwrap() - above / pairs).abs() < 1e-12);
    }
    assert_eq!(auroc(&[(0.5, true), (0.1, true)]), None);
    assert_eq!(auroc(&[(f64::NAN, false), (-1e9, true)]), Some(1.0));
}

#[test]
fn aurc_is_the_mean_over_orders_of_the_ties() {
    let rows = drawn(3, 60);
    let one_order = |seed: u64| {
        let mut order = rows.clone();
        order.shuffle(&mut generator(seed));
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let wrong_of = |kept: usize| order[..kept].iter().filter(|row| !row.1).count() as f64 / kept as f64;
        (1..=order.len()).map(wrong_of).sum::<f64>() / order.len() as f64
    };
    let mean = (0..400).map(one_order).sum::<f64>() / 400.0;
    assert!((aurc(&rows).unwrap() - mean).abs() < 0.003, "{mean}");
    assert_eq!(aurc(&[(0.9, true), (0.5, false)]), Some(0.25));
    assert_eq!(aurc(&[(0.5, true), (0.5, false)]), Some(0.5));
}

#[test]
fn calibration_error_and_brier_follow_their_formulas() {
    let rows = [(0.9, true), (0.9, false), (0.2, false), (0.4, true)];
    // Two bins: {.9, .9} is off by .4, {.4, .2} by .2.
    assert!((ece(&rows, 2).unwrap() - 0.3).abs() < 1e-12);
    assert!((brier(&rows).unwrap() - (0.01 + 0.81 + 0.04 + 0.36) / 4.0).abs() < 1e-12);
    assert_eq!((ece(&[], 2), brier(&[(f64::NAN, true)]), ece(&[(1.5, true)], 2)), (None, None, None));
}

#[test]
fn a_probability_that_is_true_has_little_calibration_error() {
    let mut random = generator(9);
    let mut row = || {
        let p = random.random::<f64>();
        (p, random.random::<f64>() < p)
    };
    let rows: Vec<(f64, bool)> = (0..4000).map(|_| row()).collect();
    let skewed: Vec<(f64, bool)> = rows.iter().map(|&(p, right)| (p * 0.5, right)).collect();
    assert!(ece(&rows, 10).unwrap() < 0.04);
    assert!((ece(&skewed, 10).unwrap() - 0.25).abs() < 0.04);
}

#[test]
fn the_order_of_rows_counts_for_nothing() {
    let rows = drawn(4, 80);
    let mut mixed = rows.clone();
    mixed.shuffle(&mut generator(5));
    for measure in [auroc, aurc, brier, |rows: &[(f64, bool)]| ece(rows, 7)] {
        assert!((measure(&rows).unwrap() - measure(&mixed).unwrap()).abs() < 1e-12);
    }
}

#[test]
fn a_raw_score_has_no_calibration_error() {
    let rows = drawn(6, 50);
    let (fitted, raw) = (Quality::of(&rows, true).unwrap(), Quality::of(&rows, false).unwrap());
    assert!(fitted.ece.is_some() && fitted.brier.is_some());
    assert_eq!((raw.ece, raw.brier, raw.auroc), (None, None, fitted.auroc));
}

#[test]
fn rows_that_are_all_right_have_a_quality_but_no_ranking() {
    let quality = Quality::of(&[(0.5, true), (1.0, true)], true).unwrap();
    assert_eq!((quality.rows, quality.auroc, quality.brier), (2, None, Some(0.125)));
    assert_eq!(Quality::of(&[], true), None);
}

#[test]
fn a_threshold_is_inclusive_and_keeps_no_nan() {
    let rows = [(0.5, true), (0.5, false), (0.7, true), (f64::NAN, false), (0.4, false)];
    assert_eq!(kept_at(&rows, 0.5), (3, 1));
    assert_eq!(kept_at(&rows, f64::NEG_INFINITY), (4, 2));
}

#[test]
fn the_same_question_stays_on_one_side_and_the_shares_are_kept() {
    assert_eq!(Split::of("What  is 2+2?\n", 0.5), Split::of("what is 2+2?", 0.5));
    let fit = (0..4000).filter(|row| Split::of(&format!("shared-{row:05}"), 0.3) == Split::Fit).count();
    assert!((1080..1320).contains(&fit), "{fit}");
    // Fixed for good: labels certified once must never be fitted on later.
    let sides = ["a", "b", "c", "d", "e", "f"].map(|text| Split::of(text, 0.5) == Split::Fit);
    assert_eq!(sides, [true, true, false, false, false, false]);
}
