//! What the scores and judges promise.

mod accept;
mod calibration;
mod evidence;
mod fit;
mod measure;
mod random;
mod running;
mod score;

use super::running::decimal;
use super::*;
use crate::request::{Token, Trace};

fn token(logprob: f32, margin: f32) -> Token {
    Token { bytes: "x".into(), logprob, margin, entropy: 0.5, top: vec![], end: false }
}

fn answer(tokens: &[(f32, f32)]) -> Running {
    let mut running = Running::default();
    for &(logprob, margin) in tokens {
        running.push(&token(logprob, margin));
    }
    running
}

#[test]
fn each_score_follows_its_formula() {
    let mut trace = Trace::default();
    for (logprob, margin) in [(-0.5, 2.0), (-1.25, 0.25), (-0.25, 8.0)] {
        trace.push(&token(logprob, margin));
    }
    let scores = Running::of(&trace);
    assert_eq!(scores.value(Feature::MinLogprob), Some(-1.25));
    assert_eq!(scores.value(Feature::SumLogprob), Some(-2.0));
    assert_eq!(scores.value(Feature::MeanLogprob), Some(-2.0 / 3.0));
    assert_eq!(scores.value(Feature::Margin), Some(0.25));
}

#[test]
fn pushing_tokens_gives_what_a_scan_of_the_trace_gives() {
    let mut trace = Trace::default();
    let mut running = Running::default();
    for step in 0..100u16 {
        let token = token(-f32::from(step % 7) / 3.0, f32::from(step % 11) / 4.0);
        trace.push(&token);
        running.push(&token);
        assert_eq!(running, Running::of(&trace));
    }
    assert_eq!(running.tokens(), 100);
}

#[test]
fn names_round_trip_and_unknown_ones_are_none() {
    for feature in Feature::ALL {
        assert_eq!(Feature::parse(feature.name()), Some(feature));
    }
    assert_eq!(Feature::parse("min-logprob"), None);
}

#[test]
fn a_threshold_is_inclusive() {
    let judge = Judge::at_least(Feature::MinLogprob, -1.25);
    assert!(judge.accepts(-1.25) && judge.accepts(0.0));
    assert!(!judge.accepts(-1.26));
}

#[test]
fn an_answer_without_a_token_is_never_accepted_but_not_lost() {
    for score in Feature::TOLD {
        let judge = Judge::at_least(score, f64::NEG_INFINITY);
        assert!(!judge.accepts_answer(&Running::default()));
        assert!(!judge.is_lost(&Running::default()));
    }
}

#[test]
fn nan_is_never_accepted_and_does_not_heal() {
    for tokens in [[(f32::NAN, 1.0), (-0.1, 1.0)], [(-0.1, f32::NAN), (-0.1, 1.0)]] {
        for score in Feature::TOLD {
            let judge = Judge::at_least(score, f64::NEG_INFINITY);
            assert!(!judge.accepts_answer(&answer(&tokens)), "{score}");
            assert!(judge.is_lost(&answer(&tokens)), "{score}");
        }
    }
    assert!(!Judge::at_least(Feature::Margin, f64::NAN).accepts(1.0));
}

#[test]
fn early_escalation_waits_for_a_mean_and_not_for_the_others() {
    let doubtful = answer(&[(-3.0, 0.1)]);
    assert!(Judge::at_least(Feature::MinLogprob, -1.0).is_lost(&doubtful));
    assert!(Judge::at_least(Feature::SumLogprob, -1.0).is_lost(&doubtful));
    assert!(Judge::at_least(Feature::Margin, 0.5).is_lost(&doubtful));
    assert!(!Judge::at_least(Feature::MeanLogprob, -1.0).is_lost(&doubtful));
}

#[test]
fn a_probability_is_compared_with_the_smallest_one() {
    let judge = Judge::least_probability(0.85);
    assert!(judge.accepts_answer(&answer(&[(0.86f32.ln(), 1.0), (0.99f32.ln(), 1.0)])));
    assert!(!judge.accepts_answer(&answer(&[(0.84f32.ln(), 1.0), (0.99f32.ln(), 1.0)])));
}

#[test]
fn a_judge_says_what_it_compares() {
    assert_eq!(Judge::at_least(Feature::MinLogprob, -1.2).to_string(), "min_logprob >= -1.2");
}

#[test]
fn the_header_form_names_all_scores_in_order() {
    let text = answer(&[(-0.25, 2.0), (-0.5, 0.125)]).to_string();
    assert_eq!(text, "min_logprob=-0.5, mean_logprob=-0.375, sum_logprob=-0.75, margin=0.125");
    assert_eq!(Running::default().to_string(), "");
}

#[test]
fn numbers_are_plain_decimals_of_four_places_or_digits() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (-1.2, "-1.2"),
        (-123.456_789, "-123.4568"),
        (-0.000_012_346, "-0.00001235"),
        (1e-30, "0"),
        (-1e-30, "0"),
        (120.0, "120"),
        (1e20, "100000000000000000000"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(decimal(value), text);
    }
}
