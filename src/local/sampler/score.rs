//! How sure the model was of one token, from its raw logits, in two passes over the vocabulary.
//!
//! The first finds the best few, skipping every block whose maximum is too low; the second sums
//! exponentials for the log-normaliser and the entropy. Both are written as loops over lanes that
//! the compiler turns into vector code, sums in `f32` within a block and in `f64` across blocks
//! (error of a log-probability below 1e-5). The sampler shares the loops.

/// Floats per block: sums stay exact enough in `f32`, and a block fits the first-level cache.
pub(super) const BLOCK: usize = 256;
const LANES: usize = 8;

/// The log-probability of a token that is impossible, as OpenAI writes it; nothing is below it.
const FLOOR: f32 = -9999.0;

/// How sure the model was of a token. All numbers are finite.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenScore {
    /// Natural log-softmax of the raw logits at temperature 1, from -9999 to 0.
    pub(crate) logprob: f32,
    /// Greatest logit minus second greatest, from 0 to 9999.
    pub(crate) margin: f32,
    /// Entropy of the distribution in nats, at least 0.
    pub(crate) entropy: f32,
    /// The most probable tokens and their log-probabilities, best first, equal ones by id; as
    /// many as were asked for, fewer where no more have a logit above minus infinity.
    pub(crate) top: Vec<(u32, f32)>,
}

/// Scores `token` on raw logits and lists the `top` best. Where no logit is finite, the
/// log-probability is -9999, margin and entropy are 0.
pub(crate) fn score(logits: &[f32], token: u32, top: usize) -> TokenScore {
    let best = best(logits, top.max(2));
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    score_among(logits, &best, logit, top)
}

/// The token with the greatest raw logit (the first of equals; 0 where there is none) and its
/// score, in the passes of [`score`] alone.
pub(crate) fn score_greedy(logits: &[f32], top: usize) -> (u32, TokenScore) {
    let best = best(logits, top.max(2));
    let (token, logit) = best.first().copied().unwrap_or((0, f32::NEG_INFINITY));
    (token, score_among(logits, &best, logit, top))
}

fn score_among(logits: &[f32], best: &[(u32, f32)], logit: f32, top: usize) -> TokenScore {
    let max = best.first().map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
    let second = best.get(1).map_or(f32::NEG_INFINITY, |(_, logit)| *logit);
    let (sum, weighted) = sums(logits, max);
    if !(max.is_finite() && sum > 0.0) {
        let top = best.iter().take(top).map(|(token, _)| (*token, FLOOR)).collect();
        return TokenScore { logprob: FLOOR, margin: 0.0, entropy: 0.0, top };
    }
    let log_sum = sum.ln();
    let logprob = |logit: f32| {
        let number = greater(f32::NEG_INFINITY, logit);
        ((f64::from(number - max) - log_sum) as f32).clamp(FLOOR, 0.0)
    };
    TokenScore {
        logprob: logprob(logit),
        margin: (max - second).min(-FLOOR),
        entropy: (log_sum - weighted / sum).max(0.0) as f32,
        top: best.iter().take(top).map(|(token, logit)| (*token, logprob(*logit))).collect(),
    }
}

/// The `count` greatest logits above minus infinity, best first, the lower id of equals first.
fn best(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        if block_max(block) <= least {
            continue;
        }
        for (id, logit) in (index * BLOCK..).zip(block) {
            if *logit > least {
                let place = best.partition_point(|(_, better)| better >= logit);
                best.insert(place, (id as u32, *logit));
                best.truncate(count);
                least = if best.len() < count { f32::NEG_INFINITY } else { best[count - 1].1 };
            }
        }
    }
    best
}

/// The greatest logit; minus infinity for none. NaN is ignored.
pub(super) fn maximum(logits: &[f32]) -> f32 {
    logits.chunks(BLOCK).map(block_max).fold(f32::NEG_INFINITY, greater)
}

/// The greatest of a block; minus infinity for none. NaN is ignored.
pub(super) fn block_max(block: &[f32]) -> f32 {
    let (rows, rest) = block.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for row in rows {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *lane = greater(*lane, *x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// The second if it is greater: one instruction, and NaN never wins.
fn greater(best: f32, x: f32) -> f32 {
    if x > best { x } else { best }
}

/// Sum of exp(logit - max) over all logits.
pub(super) fn sum_of_exp(logits: &[f32], max: f32) -> f64 {
    let sum = |block| f64::from(sum_by(block, |x| exp_negative(x - max)));
    logits.chunks(BLOCK).map(sum).sum()
}

/// Sum of a function over one block, lane by lane.
pub(super) fn sum_by(block: &[f32], weigh: impl Fn(f32) -> f32) -> f32 {
    let (rows, rest) = block.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for row in rows {
        let weights = row.map(&weigh);
        for (lane, weight) in lanes.iter_mut().zip(weights) {
            *lane += weight;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| weigh(*x)).sum::<f32>()
}

/// Sum of exp(d) and of d · exp(d), d = logit - max: with Z the first and W the second, the
/// entropy is ln Z - W / Z.
fn sums(logits: &[f32], max: f32) -> (f64, f64) {
    let mut total = (0.0, 0.0);
    for block in logits.chunks(BLOCK) {
        let (rows, rest) = block.as_chunks::<LANES>();
        let (mut sum, mut weighted) = ([0.0; LANES], [0.0; LANES]);
        let mut add = |lane: usize, x: f32| {
            let exp = exp_negative(x - max);
            sum[lane] += exp;
            weighted[lane] += exp * finite(x - max);
        };
        for row in rows {
            for (lane, x) in row.iter().enumerate() {
                add(lane, *x);
            }
        }
        for x in rest {
            add(0, *x);
        }
        total.0 += f64::from(sum.iter().sum::<f32>());
        total.1 += f64::from(weighted.iter().sum::<f32>());
    }
    total
}

/// The exponent, or the lowest at which [`exp_negative`] is not 0 (so that 0 · d is never NaN).
fn finite(x: f32) -> f32 {
    greater(LOWEST, x)
}

/// Below it e^x is not a normal `f32`.
const LOWEST: f32 = -87.0;

/// e^x for x ≤ 0, relative error below 3e-7; 0 below -87 and for NaN. No branch and no call, so
/// that loops over it become vector code.
///
/// Range reduction x = n ln 2 + r in two steps (Cody and Waite 1980), Taylor polynomial in r,
/// n added to the exponent bits.
pub(super) fn exp_negative(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to the nearest integer, left in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// The leading bits of ln 2, so that n · LN2_HIGH is exact; and the rest.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let bounded = finite(x);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN2_HIGH - n * LN2_LOW;
    let low = 1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0)));
    let high = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let square = r * r;
    let power = low + square * square * high;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let keep = 0_u32.wrapping_sub(u32::from(x > LOWEST));
    f32::from_bits((power * scale).to_bits() & keep)
}
