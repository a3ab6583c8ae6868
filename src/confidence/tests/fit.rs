//! What fitting promises.

use rand::RngExt;
use rand::seq::SliceRandom;

use super::random::{generator, graded, normal};
use crate::confidence::{Feature, Graded, Isotonic, Logistic, Platt, Score, Transform};

const TWO: [Feature; 2] = [Feature::MinLogprob, Feature::LogTokens];

/// Rows whose log-odds of being right are 0.5 + 1.5·a − 1·b for standard normal a, b.
fn drawn(seed: u64, rows: usize) -> Vec<Graded> {
    let mut random = generator(seed);
    let mut row = || {
        let (a, b) = (normal(&mut random), normal(&mut random));
        let p = 1.0 / (1.0 + (-(0.5 + 1.5 * a - b)).exp());
        graded(&[(TWO[0], 2.0 * a - 3.0), (TWO[1], b)], random.random::<f64>() < p)
    };
    (0..rows).map(|_| row()).collect()
}

fn value(score: &Score, row: &Graded) -> f64 {
    score.value(|feature| row.features.get(feature))
}

#[test]
fn logistic_regression_finds_the_weights_that_made_the_rows() {
    let fitted = Logistic::fit(&drawn(1, 4000), &TWO).unwrap();
    let weights: Vec<f64> = fitted.terms.iter().map(|term| term.weight / term.scale).collect();
    // The log-odds per unit of each feature: 1.5 / 2 and −1.
    assert!((weights[0] - 0.75).abs() < 0.1 && (weights[1] + 1.0).abs() < 0.15, "{weights:?}");
    assert!((fitted.bias - 0.5).abs() < 0.15, "{}", fitted.bias);
}

#[test]
fn at_the_optimum_the_gradient_is_nought() {
    let rows = drawn(2, 300);
    let fitted = Logistic::fit(&rows, &TWO).unwrap();
    let score = Score::Logistic(fitted.clone());
    let error = |row: &Graded| f64::from(u8::from(row.right)) - value(&score, row);
    assert!(rows.iter().map(error).sum::<f64>().abs() < 1e-6);
    for term in &fitted.terms {
        let input = |row: &Graded| (row.features.get(term.feature) - term.mean) / term.scale;
        let slope: f64 = rows.iter().map(|row| error(row) * input(row)).sum();
        assert!((slope - term.weight).abs() < 1e-6, "{slope} against the penalty {}", term.weight);
    }
}

#[test]
fn platt_on_a_feature_of_two_values_gives_the_shares_of_right_answers() {
    let mut rows = Vec::new();
    for (logprob, right, wrong) in [(-0.1, 30, 10), (-2.0, 12, 28)] {
        rows.extend((0..right + wrong).map(|place| graded(&[(Feature::SumLogprob, logprob)], place < right)));
    }
    for transform in [Transform::Identity, Transform::OneSided, Transform::TwoSided] {
        let score = Score::Platt(Platt::fit(&rows, Feature::SumLogprob, transform).unwrap());
        assert!((value(&score, &rows[0]) - 0.75).abs() < 1e-3, "{transform:?}");
        assert!((value(&score, &rows[79]) - 0.3).abs() < 1e-3, "{transform:?}");
    }
}

#[test]
fn what_can_be_told_apart_perfectly_still_gives_finite_weights() {
    let rows: Vec<Graded> =
        (0..60).map(|place| graded(&[(Feature::SumLogprob, -f64::from(place) / 9.0 - 0.01)], place < 30)).collect();
    let platt = Platt::fit(&rows, Feature::SumLogprob, Transform::OneSided).unwrap();
    assert!(platt.weight.is_finite() && platt.weight > 0.0 && platt.bias.is_finite());
    let logistic = Logistic::fit(&rows, &[Feature::SumLogprob]).unwrap();
    assert!(logistic.terms[0].weight.is_finite() && logistic.terms[0].weight > 0.0);
}

#[test]
fn isotonic_regression_is_the_max_min_of_means() {
    for seed in 0..30 {
        let mut random = generator(seed);
        let mut row = || {
            let x = (random.random::<f64>() * 12.0).floor() - 12.0;
            graded(&[(Feature::SumLogprob, x)], random.random::<f64>() * 16.0 < x + 14.0)
        };
        let rows: Vec<Graded> = (0..60).map(|_| row()).collect();
        let Ok(fitted) = Isotonic::fit(&rows, Feature::SumLogprob) else { continue };
        let score = Score::Isotonic(fitted);
        for row in &rows {
            let expected = max_min(&rows, row.features.get(Feature::SumLogprob));
            assert!((value(&score, row) - expected).abs() < 1e-12);
        }
    }
}

/// The closed form: at x the most over a ≤ x of the least over b ≥ x of the mean over [a, b].
fn max_min(rows: &[Graded], x: f64) -> f64 {
    let mut xs: Vec<f64> = rows.iter().map(|row| row.features.get(Feature::SumLogprob)).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let mean = |a: f64, b: f64| {
        let inside: Vec<&Graded> =
            rows.iter().filter(|row| (a..=b).contains(&row.features.get(Feature::SumLogprob))).collect();
        inside.iter().filter(|row| row.right).count() as f64 / inside.len() as f64
    };
    let least = |a: f64| xs.iter().filter(|&&b| b >= x).map(|&b| mean(a, b)).fold(f64::INFINITY, f64::min);
    xs.iter().filter(|&&a| a <= x).map(|&a| least(a)).fold(f64::NEG_INFINITY, f64::max)
}

#[test]
fn the_order_of_rows_counts_for_nothing() {
    let rows = drawn(5, 200);
    let mut mixed = rows.clone();
    mixed.shuffle(&mut generator(6));
    let fits = |rows: &[Graded]| {
        [
            Score::Logistic(Logistic::fit(rows, &TWO).unwrap()),
            Score::Platt(Platt::fit(rows, Feature::MinLogprob, Transform::Identity).unwrap()),
            Score::Isotonic(Isotonic::fit(rows, Feature::MinLogprob).unwrap()),
        ]
    };
    for (one, other) in fits(&rows).iter().zip(&fits(&mixed)) {
        for row in &rows {
            assert!((value(one, row) - value(other, row)).abs() < 1e-9);
        }
    }
}

#[test]
fn rows_that_teach_nothing_are_refused_with_what_is_missing() {
    let rows = drawn(7, 200);
    let all_right: Vec<Graded> = rows.iter().map(|row| Graded { right: true, ..*row }).collect();
    let mut infinite = rows.clone();
    infinite[4] = graded(&[(TWO[0], f64::NEG_INFINITY)], true);
    let few: Vec<Graded> = rows.iter().take(60).copied().collect();
    let fit = |rows: &[Graded]| Logistic::fit(rows, &TWO).unwrap_err();
    assert_eq!(fit(&[]), "0 of 0 graded answers are right; a fit needs 10: grade until there are 10 more");
    assert!(fit(&all_right).starts_with("0 of 200 graded answers are wrong"));
    assert_eq!(fit(&infinite), "\"min_logprob\" of graded answer 5 is -inf, not finite");
    let many = Logistic::fit(&few, &Feature::ALL).unwrap_err();
    assert_eq!(
        many,
        "60 graded answers for 33 features; a fit needs 10 for each: grade 270 more, or name fewer features"
    );
    let same = Logistic::fit(&rows, &[Feature::Margin]).unwrap_err();
    assert_eq!(same, "\"margin\" is the same in all graded answers, so it teaches nothing; leave it out");
    assert!(Platt::fit(&rows, Feature::LogTokens, Transform::OneSided).unwrap_err().contains("no log-probability"));
    assert!(Isotonic::fit(&rows, Feature::LogTokens).unwrap_err().contains("no score by itself"));
}
