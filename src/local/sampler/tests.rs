//! Tests of the file beside this one.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::score::exp_negative;
use super::{Sampler, score, score_greedy};
use crate::request::Sampling;

const INF: f32 = f32::INFINITY;

fn asked() -> Sampling {
    Sampling { n: 1, temperature: Some(1.0), seed: Some(11), ..Sampling::default() }
}

fn greedy() -> Sampling {
    Sampling { temperature: Some(0.0), ..asked() }
}

/// How often each token comes out of so many draws.
fn draw(sampling: &Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(sampling, 0);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits, None).unwrap() as usize] += 1;
    }
    counts
}

/// Pearson's statistic of the counts against probabilities proportional to exp(logit / t) of the
/// tokens kept; the others must not occur.
fn chi_square(counts: &[usize], logits: &[f32], temperature: f64, kept: &[usize]) -> f64 {
    let draws: usize = counts.iter().sum();
    let weigh = |token: usize| (f64::from(logits[token]) / temperature).exp();
    let total: f64 = kept.iter().map(|token| weigh(*token)).sum();
    let among: usize = kept.iter().map(|token| counts[*token]).sum();
    assert_eq!(among, draws, "a token that was cut off was drawn: {counts:?}");
    let term = |token: usize| {
        let expected = draws as f64 * weigh(token) / total;
        (counts[token] as f64 - expected).powi(2) / expected
    };
    kept.iter().map(|token| term(*token)).sum()
}

fn noise(count: usize, spread: f32) -> Vec<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    (0..count).map(|_| (random.random::<f32>() - 0.5) * spread).collect()
}

const LOGITS: [f32; 6] = [1.0, 2.5, 0.0, 2.0, -1.0, 1.5];

/// What is asked, the temperature of the draw, and the tokens that may be drawn.
fn cut_table() -> [(Sampling, f64, &'static [usize]); 9] {
    // Probabilities: token 1 0.433, 3 0.263, 5 0.159, 0 0.097, 2 0.036, 4 0.013.
    [
        (asked(), 1.0, &[0, 1, 2, 3, 4, 5]),
        (Sampling { temperature: Some(2.0), ..asked() }, 2.0, &[0, 1, 2, 3, 4, 5]),
        (Sampling { temperature: Some(0.5), ..asked() }, 0.5, &[0, 1, 2, 3, 4, 5]),
        (Sampling { top_k: Some(3), ..asked() }, 1.0, &[1, 3, 5]),
        (Sampling { top_p: Some(0.69), ..asked() }, 1.0, &[1, 3]),
        (Sampling { top_p: Some(0.7), ..asked() }, 1.0, &[1, 3, 5]),
        (Sampling { min_p: Some(0.3), ..asked() }, 1.0, &[1, 3, 5]),
        // Top-p over what top-k left: 0.433 of 0.695 is 0.62.
        (Sampling { top_k: Some(2), top_p: Some(0.65), ..asked() }, 1.0, &[1, 3]),
        // Truncation sees temperature 1, the draw temperature 2.
        (Sampling { top_k: Some(4), min_p: Some(0.3), temperature: Some(2.0), ..asked() }, 2.0, &[1, 3, 5]),
    ]
}

#[test]
fn draws_follow_the_distribution_that_was_asked_for() {
    for (sampling, temperature, kept) in cut_table() {
        let counts = draw(&sampling, &LOGITS, 20_000);
        let statistic = chi_square(&counts, &LOGITS, temperature, kept);
        // Five degrees of freedom at most: 20.5 is passed once in a thousand.
        assert!(statistic < 20.5, "{statistic} for {sampling:?}: {counts:?}");
    }
}

#[test]
fn draws_from_a_large_vocabulary_follow_its_distribution() {
    let logits = noise(600, 4.0);
    let kept: Vec<usize> = (0..600).collect();
    let counts = draw(&asked(), &logits, 30_000);
    let statistic = chi_square(&counts, &logits, 1.0, &kept);
    // 599 degrees of freedom: mean 599, standard deviation 35.
    assert!((480.0..720.0).contains(&statistic), "{statistic}");
}

#[test]
fn truncation_edges() {
    let table: [(Sampling, &[usize]); 9] = [
        (Sampling { top_p: Some(1e-9), ..asked() }, &[1]),
        (Sampling { top_p: Some(0.0), ..asked() }, &[1]),
        (Sampling { min_p: Some(1.0), ..asked() }, &[1]),
        (Sampling { top_k: Some(1), ..asked() }, &[1]),
        (Sampling { top_k: Some(0), ..asked() }, &[0, 1, 2, 3, 4, 5]),
        (Sampling { top_k: Some(99), ..asked() }, &[0, 1, 2, 3, 4, 5]),
        (Sampling { top_p: Some(1.0), ..asked() }, &[0, 1, 2, 3, 4, 5]),
        (Sampling { min_p: Some(0.0), ..asked() }, &[0, 1, 2, 3, 4, 5]),
        (Sampling { top_p: Some(0.999_999), ..asked() }, &[0, 1, 2, 3, 4, 5]),
    ];
    for (sampling, kept) in table {
        let counts = draw(&sampling, &LOGITS, 3000);
        let drawn: Vec<usize> = (0..6).filter(|token| counts[*token] > 0).collect();
        assert_eq!(drawn, kept, "{sampling:?}");
    }
}

#[test]
fn the_shortlist_reaches_as_far_as_it_must() {
    // One token far above a flat rest of which half the mass must be kept.
    let mut logits = vec![-20.0; 600];
    logits[17] = 0.0;
    let all = Sampling { top_k: Some(599), ..asked() };
    let mut sampler = Sampler::new(&all, 0);
    sampler.sample(&logits, None);
    assert_eq!(sampler.shortlist.len(), 599);
    assert_eq!(sampler.shortlist[..3], [(17, 0.0), (0, -20.0), (1, -20.0)]);
    let mut flat = vec![0.0; 600];
    flat[5] = 1.0;
    let mut sampler = Sampler::new(&Sampling { top_p: Some(0.5), ..asked() }, 0);
    sampler.sample(&flat, None);
    // 599 + e = 601.72; half is 300.86 = e + 298.14.
    assert_eq!(sampler.shortlist.len(), 300);
}

#[test]
fn greedy_takes_the_first_of_the_greatest() {
    let mut sampler = Sampler::new(&greedy(), 0);
    assert!(sampler.is_plain_greedy());
    assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, -1.0], None), Some(1));
    assert_eq!(sampler.sample(&[f32::NAN, -2.0, -INF], None), Some(1));
    assert_eq!(sampler.sample(&[0.0, INF], None), Some(1));
}

#[test]
fn an_absent_temperature_is_greedy_for_one_answer_and_random_for_several() {
    let absent = Sampling { temperature: None, ..asked() };
    assert_eq!(draw(&absent, &LOGITS, 100)[1], 100);
    assert!(draw(&Sampling { n: 2, ..absent }, &LOGITS, 100)[1] < 100);
}

#[test]
fn where_nothing_is_possible_nothing_is_sampled() {
    let hot = Sampling { temperature: Some(f32::from_bits(1)), ..asked() };
    let cut = Sampling { top_k: Some(2), top_p: Some(0.5), min_p: Some(0.1), ..asked() };
    for sampling in [greedy(), asked(), cut, hot] {
        let mut sampler = Sampler::new(&sampling, 0);
        assert_eq!(sampler.sample(&[-INF; 40], None), None);
        assert_eq!(sampler.sample(&[f32::NAN; 40], None), None);
        assert_eq!(sampler.sample(&[], None), None);
        assert_eq!(sampler.sample(&[1.0; 40], Some(&[0, 0])), None);
        assert_eq!(sampler.sample(&[1.0; 40], Some(&[])), None);
        assert_eq!(sampler.sample(&[-INF, 0.5, f32::NAN, -INF], None), Some(1));
        assert_eq!(sampler.sample(&[1.0, INF, 2.0], None), Some(1));
    }
}

#[test]
fn a_mask_allows_only_its_bits() {
    let logits = noise(100, 2.0);
    let mask = [u32::MAX, 0, 0b1010];
    for sampling in [asked(), greedy(), Sampling { top_p: Some(0.99), ..asked() }] {
        let mut sampler = Sampler::new(&sampling, 0);
        for _ in 0..500 {
            let token = sampler.sample(&logits, Some(&mask)).unwrap();
            assert!(token < 32 || token == 65 || token == 67, "{token}");
        }
    }
    let mut sampler = Sampler::new(&greedy(), 0);
    assert_eq!(sampler.sample(&[9.0, 1.0, 2.0], Some(&[0b110])), Some(2));
}

#[test]
fn penalties_change_the_logits_of_tokens_seen_as_documented() {
    let presence = Sampling { presence_penalty: Some(0.5), ..greedy() };
    let frequency = Sampling { frequency_penalty: Some(0.5), ..greedy() };
    let repeat = Sampling { repeat_penalty: Some(2.0), ..greedy() };
    let all = Sampling { presence_penalty: Some(0.25), repeat_penalty: Some(2.0), ..frequency.clone() };
    let negative = Sampling { presence_penalty: Some(-1.0), ..greedy() };
    let table: [(Sampling, &[u32], [f32; 3]); 7] = [
        (presence, &[0, 0, 1], [1.5, -1.5, 0.5]),
        (frequency, &[0, 0, 1], [1.0, -1.5, 0.5]),
        (repeat, &[0, 0, 1], [1.0, -2.0, 0.5]),
        (all, &[0, 0, 1], [-0.25, -2.75, 0.5]),
        (negative, &[2], [2.0, -1.0, 1.5]),
        (Sampling { repeat_penalty: Some(0.0), ..greedy() }, &[0], [2.0, -1.0, 0.5]),
        (Sampling { logit_bias: vec![(2, 3.0), (9, 1.0)], ..greedy() }, &[0], [2.0, -1.0, 3.5]),
    ];
    for (sampling, seen, wanted) in table {
        let mut sampler = Sampler::new(&sampling, 0);
        seen.iter().for_each(|token| sampler.accept(*token));
        let mut logits = [2.0, -1.0, 0.5];
        sampler.edit(&mut logits, None);
        assert_eq!(logits, wanted, "{sampling:?} after {seen:?}");
    }
}

#[test]
fn penalties_and_bias_reach_the_choice() {
    let mut sampler = Sampler::new(&Sampling { presence_penalty: Some(2.0), ..greedy() }, 0);
    assert!(!sampler.is_plain_greedy());
    assert_eq!(sampler.sample(&[2.0, 1.0], None), Some(0));
    sampler.accept(0);
    assert_eq!(sampler.sample(&[2.0, 1.0], None), Some(1));
    let banned = Sampling { logit_bias: vec![(0, -100.0)], ..greedy() };
    assert_eq!(Sampler::new(&banned, 0).sample(&[2.0, 1.0], None), Some(1));
}

#[test]
fn a_seed_fixes_the_draws_and_choices_differ() {
    let logits = noise(300, 1.0);
    let run = |seed, choice| -> Vec<Option<u32>> {
        let mut sampler = Sampler::new(&Sampling { seed, ..asked() }, choice);
        (0..20).map(|_| sampler.sample(&logits, None)).collect()
    };
    assert_eq!(run(Some(5), 0), run(Some(5), 0));
    assert_eq!(run(Some(5), 1), run(Some(6), 0));
    assert_eq!(run(Some(u64::MAX), 1), run(Some(0), 0));
    assert_ne!(run(Some(5), 0), run(Some(5), 1));
    assert_ne!(run(None, 0), run(None, 0));
}

#[test]
fn the_exponential_is_exact_to_a_few_units_in_the_last_place() {
    for step in 0..87_000 {
        let x = -(step as f32) / 1000.0;
        let exact = f64::from(x).exp();
        let error = (f64::from(exp_negative(x)) - exact).abs() / exact;
        assert!(error < 3e-7, "e^{x}: {error}");
    }
    for x in [-INF, -88.0, f32::MIN, f32::NAN] {
        assert_eq!(exp_negative(x), 0.0, "e^{x}");
    }
}

/// Log-probabilities and entropy in `f64`, straight from the definition.
fn reference(logits: &[f32]) -> (Vec<f64>, f64) {
    let max = logits.iter().fold(-INF, |a, b| a.max(*b));
    let log_sum = logits.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln();
    let logprobs: Vec<f64> = logits.iter().map(|x| f64::from(x - max) - log_sum).collect();
    let entropy = -logprobs.iter().filter(|p| p.is_finite()).map(|p| p.exp() * p).sum::<f64>();
    (logprobs, entropy)
}

#[test]
fn scores_agree_with_the_definition() {
    for (count, spread) in [(2, 3.0), (7, 1.0), (513, 60.0), (50_000, 0.1), (152_064, 30.0)] {
        let logits = noise(count, spread);
        let (logprobs, entropy) = reference(&logits);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let token = (count / 2) as u32;
        let scored = score(&logits, token, 5);
        assert!((f64::from(scored.logprob) - logprobs[token as usize]).abs() < 1e-5, "{count}");
        assert!((f64::from(scored.entropy) - entropy).abs() < 2e-5, "{count}: {entropy}");
        assert_eq!(scored.margin, logits[order[0]] - logits[order[1]]);
        assert_eq!(scored.top.len(), count.min(5));
        for ((token, logprob), wanted) in scored.top.iter().zip(&order) {
            assert_eq!(*token as usize, *wanted);
            assert!((f64::from(*logprob) - logprobs[*wanted]).abs() < 1e-5);
        }
        let (first, greedy) = score_greedy(&logits, 5);
        assert_eq!(first as usize, order[0]);
        assert_eq!(greedy, score(&logits, first, 5));
    }
}

#[test]
fn the_exponentials_of_all_logprobs_sum_to_one() {
    let logits = noise(64, 8.0);
    let sum: f64 = (0..64).map(|token| f64::from(score(&logits, token, 0).logprob).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

#[test]
fn ties_are_listed_by_id_and_lists_are_as_long_as_asked() {
    let logits = [1.0, 2.0, 2.0, 0.0, 2.0];
    let ids = |top| -> Vec<u32> { score(&logits, 0, top).top.iter().map(|(id, _)| *id).collect() };
    assert_eq!(ids(0), [0; 0]);
    assert_eq!(ids(1), [1]);
    assert_eq!(ids(4), [1, 2, 4, 0]);
    assert_eq!(ids(21), [1, 2, 4, 0, 3]);
    assert_eq!(score(&logits, 0, 1).margin, 0.0);
}

#[test]
fn scores_of_impossible_tokens_stay_finite() {
    let nowhere = score(&[-INF, f32::NAN], 0, 3);
    assert_eq!((nowhere.logprob, nowhere.margin, nowhere.entropy), (-9999.0, 0.0, 0.0));
    assert!(nowhere.top.is_empty());
    assert_eq!(score_greedy(&[], 2).1, nowhere);
    let only = score(&[0.0, -INF], 0, 3);
    assert_eq!((only.logprob, only.margin, only.entropy), (0.0, 9999.0, 0.0));
    assert_eq!(only.top, [(0, 0.0)]);
    assert_eq!(score(&[0.0, -INF], 1, 1).logprob, -9999.0);
    assert_eq!(score(&[0.0, f32::NAN], 1, 1).logprob, -9999.0);
    assert_eq!(score(&[0.0, 1.0], 7, 1).logprob, -9999.0);
    assert_eq!(score(&[0.0, INF], 1, 1).top, [(1, -9999.0)]);
}
