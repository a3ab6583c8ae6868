//! What scores and the judges that use them promise.

use std::sync::Arc;

use super::calibration::calibration;
use crate::confidence::{Feature, Isotonic, Judge, Logistic, Platt, Raw, Running, Score, Step, Term, Transform};
use crate::request::Token;

fn answer(logprobs: &[f32]) -> Running {
    let mut running = Running::default();
    for &logprob in logprobs {
        running.push(&Token { bytes: "x".into(), logprob, margin: 1.0, entropy: 0.5, top: vec![], end: false });
    }
    running
}

fn platt(feature: Feature, weight: f64) -> Score {
    Score::Platt(Platt { feature, transform: Transform::OneSided, weight, bias: -1.0 })
}

fn isotonic() -> Isotonic {
    let step = |from, probability| Step { from, probability };
    Isotonic { feature: Feature::SumLogprob, steps: vec![step(-2.0, 0.125), step(-1.0, 0.5), step(-0.5, 0.75)] }
}

fn logistic(terms: &[(Feature, f64)]) -> Score {
    let term = |&(feature, weight): &(Feature, f64)| Term { feature, mean: -1.0, scale: 2.0, weight };
    Score::Logistic(Logistic { bias: 0.25, terms: terms.iter().map(term).collect() })
}

#[test]
fn a_logistic_score_follows_its_formula() {
    let score = logistic(&[(Feature::MinLogprob, 1.5), (Feature::LogTokens, -0.5)]);
    let value = score.value(|feature| if feature == Feature::MinLogprob { -0.2 } else { 0.7 });
    let odds: f64 = 0.25 + 1.5 * 0.8 / 2.0 - 0.5 * 1.7 / 2.0;
    assert!((value - 1.0 / (1.0 + (-odds).exp())).abs() < 1e-15);
}

#[test]
fn a_platt_score_follows_its_formula() {
    for (transform, phi) in [(Transform::OneSided, -0.25f64.ln()), (Transform::TwoSided, -0.5f64.ln())] {
        let score = Score::Platt(Platt { feature: Feature::SumLogprob, transform, weight: 0.5, bias: -1.0 });
        let value = score.value(|_| 0.75f64.ln());
        assert!((value - 1.0 / (1.0 + (1.0 - 0.5 * phi).exp())).abs() < 1e-15);
    }
}

#[test]
fn an_isotonic_score_is_the_step_it_stands_on() {
    let score = Score::Isotonic(isotonic());
    for (x, p) in [(-9.0, 0.125), (-2.0, 0.125), (-1.01, 0.125), (-1.0, 0.5), (-0.5, 0.75), (0.0, 0.75)] {
        assert_eq!(score.value(|_| x), p, "{x}");
    }
}

#[test]
fn the_transforms_are_exact_at_both_ends() {
    let near = |value: f64, expected: f64| assert!((value / expected - 1.0).abs() < 1e-6, "{value}, not {expected}");
    // −ln(1 − e^l) is −ln(−l) for l near 0 and e^l far from it.
    near(Transform::OneSided.apply(-1e-6), -(1e-6f64).ln());
    near(Transform::OneSided.apply(-30.0), (-30.0f64).exp());
    near(Transform::TwoSided.apply(-1e-6), -(2e-6f64).ln());
    near(Transform::TwoSided.apply(-30.0), 2f64.ln() - 30.0);
    assert!(Transform::TwoSided.apply(0.5f64.ln()).abs() < 1e-15);
    for transform in [Transform::OneSided, Transform::TwoSided] {
        assert!(transform.apply(0.0).is_finite());
        assert!(transform.apply(f64::NAN).is_nan());
    }
}

#[test]
fn the_transforms_never_fall_as_the_probability_rises() {
    for transform in [Transform::Identity, Transform::OneSided, Transform::TwoSided] {
        let mut last = f64::NEG_INFINITY;
        let ends = (0..4000).map(|step| -40.0 + f64::from(step) * 0.01);
        for x in ends.chain((0..2000).map(|step| -f64::from(2000 - step) * 1e-9)) {
            let value = transform.apply(x);
            assert!(value >= last - 1e-14 * last.abs(), "{transform:?} at {x}");
            last = value;
        }
    }
}

#[test]
fn a_fitted_score_is_a_probability_and_nan_stays_nan() {
    let scores =
        [platt(Feature::MinLogprob, 2.0), Score::Isotonic(isotonic()), logistic(&[(Feature::MinLogprob, 900.0)])];
    for score in scores {
        assert!(score.is_probability());
        for x in [0.0, -1e-12, -0.3, -7.0, -1e6] {
            assert!((0.0..=1.0).contains(&score.value(|_| x)));
        }
        assert!(score.value(|_| f64::NAN).is_nan());
    }
    assert!(!Score::Feature(Raw { feature: Feature::Margin }).is_probability());
}

#[test]
fn a_score_can_only_fall_when_every_part_of_it_can() {
    let falling = [
        platt(Feature::SumLogprob, 1.0),
        Score::Isotonic(isotonic()),
        logistic(&[(Feature::MinLogprob, 1.0), (Feature::MaxEntropy, -1.0)]),
    ];
    let free = [
        platt(Feature::SumLogprob, -1.0),
        platt(Feature::MeanLogprob, 1.0),
        logistic(&[(Feature::MinLogprob, 1.0), (Feature::MeanLogprob, 1.0)]),
        logistic(&[(Feature::MaxEntropy, 1.0)]),
    ];
    assert!(falling.iter().all(Score::can_only_fall));
    assert!(!free.iter().any(Score::can_only_fall));
}

#[test]
fn a_judge_gives_up_early_only_where_the_calibrated_score_cannot_rise() {
    let judge = |score| Judge::calibrated(Arc::new(calibration(score)), 0.7);
    let doubtful = answer(&[-0.1, -3.0]);
    for (score, lost) in [
        (platt(Feature::MinLogprob, 2.0), true),
        (Score::Isotonic(isotonic()), true),
        (platt(Feature::MeanLogprob, 2.0), false),
        (logistic(&[(Feature::MinLogprob, 9.0), (Feature::MeanLogprob, 1.0)]), false),
    ] {
        let judge = judge(score);
        assert!(!judge.accepts_answer(&doubtful), "{judge}");
        assert_eq!(judge.is_lost(&doubtful), lost);
        assert!(!judge.is_lost(&Running::default()) && !judge.accepts_answer(&Running::default()));
        assert!(judge.is_lost(&answer(&[f32::NAN])));
    }
    let sure = answer(&[-0.001]);
    assert!(judge(platt(Feature::MinLogprob, 2.0)).accepts_answer(&sure));
    assert_eq!(judge(platt(Feature::MinLogprob, 2.0)).to_string(), "facts-small >= 0.7");
}
