//! What the features of a growing answer promise.

use rand::RngExt;

use super::random::{generator, normal};
use crate::confidence::running::Histogram;
use crate::confidence::{Feature, Running};
use crate::request::{Token, Trace};

fn token(logprob: f32, margin: f32, entropy: f32, end: bool) -> Token {
    Token { bytes: "x".into(), logprob, margin, entropy, top: vec![], end }
}

/// Log-probabilities from nearly certain to hopeless.
fn trace(seed: u64, tokens: usize) -> Trace {
    let mut random = generator(seed);
    let mut trace = Trace::default();
    for place in 0..tokens {
        let logprob = -(3.0 * normal(&mut random) - 2.0).exp() as f32;
        trace.push(&token(logprob, random.random::<f32>() * 9.0, random.random::<f32>() * 4.0, place + 1 == tokens));
    }
    trace
}

/// The features by their formulas, from all tokens at once; quantiles left out.
fn by_formula(trace: &Trace, feature: Feature) -> Option<f64> {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let (logprobs, margins, entropies) = (wide(&trace.logprobs), wide(&trace.margins), wide(&trace.entropies));
    let count = logprobs.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let min = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    Some(match feature {
        Feature::MinLogprob => min(&logprobs),
        Feature::MeanLogprob => mean(&logprobs),
        Feature::SumLogprob => logprobs.iter().sum(),
        Feature::Margin => min(&margins),
        Feature::FirstLogprob => logprobs[0],
        Feature::LogprobQ10 | Feature::LogprobQ25 | Feature::LogprobQ50 => return None,
        Feature::MeanMargin => mean(&margins),
        Feature::FirstMargin => margins[0],
        Feature::MeanEntropy => mean(&entropies),
        Feature::MaxEntropy => entropies.iter().copied().fold(0.0, f64::max),
        Feature::FirstEntropy => entropies[0],
        Feature::UncertainShare => logprobs.iter().filter(|logprob| logprob.exp() < 0.5).count() as f64 / count,
        Feature::LogTokens => count.ln(),
        Feature::Ended => f64::from(u8::from(trace.ended)),
        _ => return None,
    })
}

#[test]
fn every_feature_follows_its_formula() {
    for seed in 0..20 {
        let trace = trace(seed, 1 + seed as usize * 7);
        let features = Running::of(&trace).features().unwrap();
        for feature in Feature::ALL {
            let Some(expected) = by_formula(&trace, feature) else { continue };
            let value = features.get(feature);
            assert!((value - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{feature}: {value}, not {expected}");
        }
    }
}

#[test]
fn a_quantile_lies_in_the_bin_of_the_exact_one_and_within_what_was_seen() {
    for seed in 0..60 {
        let trace = trace(seed, 1 + seed as usize * 3);
        let running = Running::of(&trace);
        let mut unsure: Vec<f64> = trace.logprobs.iter().map(|&logprob| -f64::from(logprob)).collect();
        unsure.sort_by(f64::total_cmp);
        for (feature, share) in [(Feature::LogprobQ10, 0.9), (Feature::LogprobQ25, 0.75), (Feature::LogprobQ50, 0.5)] {
            let rank = (share * unsure.len() as f64).ceil() as usize;
            let (exact, value) = (unsure[rank - 1], -running.value(feature).unwrap());
            let off = Histogram::bin(value).abs_diff(Histogram::bin(exact));
            // A value on an edge may round to the neighbour.
            let on_edge = (value / exact).max(exact / value) < 2f64.sqrt() * (1.0 + 1e-9);
            assert!(off == 0 || off == 1 && on_edge, "{feature}: {value} for {exact}");
            assert!(unsure[0] <= value && value <= unsure[unsure.len() - 1], "{feature}");
        }
    }
}

#[test]
fn the_bins_have_the_documented_edges() {
    let edges = [(0.0, 0), (0.007, 0), (0.0079, 1), (0.012, 2), (0.6, 13), (1.0, 15), (15.9, 22), (16.1, 23)];
    for (value, bin) in edges {
        assert_eq!(Histogram::bin(value), bin, "{value}");
    }
    assert_eq!([Histogram::bin(-1e-9), Histogram::bin(f64::INFINITY)], [0, 23]);
}

#[test]
fn what_can_only_fall_or_rise_does_so_at_every_token() {
    for seed in 0..10 {
        let whole = trace(seed, 60);
        let (mut running, mut last) = (Running::default(), None);
        for place in 0..whole.len() {
            let end = place + 1 == whole.len();
            running.push(&token(whole.logprobs[place], whole.margins[place], whole.entropies[place], end));
            let features = running.features().unwrap();
            for feature in Feature::ALL {
                let (Some(before), value) = (last.as_ref(), features.get(feature)) else { continue };
                let before: f64 = crate::confidence::Features::get(before, feature);
                assert!(!feature.can_only_fall() || value <= before, "{feature} rose");
                assert!(!feature.can_only_rise() || value >= before, "{feature} fell");
            }
            last = Some(features);
        }
    }
}

#[test]
fn an_answer_cut_off_has_not_ended() {
    let mut running = Running::default();
    running.push(&token(-0.5, 1.0, 0.5, false));
    assert_eq!(running.value(Feature::Ended), Some(0.0));
    running.push(&token(-0.5, 1.0, 0.5, true));
    assert_eq!(running.value(Feature::Ended), Some(1.0));
}

#[test]
fn a_nan_in_any_number_spoils_every_feature_for_good() {
    for spoilt in
        [token(f32::NAN, 1.0, 1.0, false), token(-0.1, f32::NAN, 1.0, false), token(-0.1, 1.0, f32::NAN, false)]
    {
        let mut running = Running::default();
        running.push(&spoilt);
        running.push(&token(-0.1, 1.0, 1.0, true));
        assert!(running.is_spoilt());
        let features = running.features().unwrap();
        assert!(Feature::ALL.into_iter().all(|feature| features.get(feature).is_nan()));
    }
}

#[test]
fn there_are_no_features_without_a_token() {
    assert_eq!(Running::default().features(), None);
}
