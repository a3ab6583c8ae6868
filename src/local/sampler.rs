//! Chooses the next token of one choice from the model's logits.
//!
//! The order is llama.cpp's: bias, penalties, mask, top-k, top-p, min-p, temperature, draw; so
//! truncation sees the distribution at temperature 1. Absent parameters are off; an absent
//! temperature is 0 for one answer and 1 for several. Every pass over the vocabulary is a
//! vectorisable loop, and buffers are reused from call to call. NaN counts as minus infinity.
//! The engine calls it once per sampled token; how sure the model was is [`score`]'s part.

mod score;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::request::Sampling;
#[cfg(feature = "local")]
pub(crate) use score::TokenScore;
use score::{BLOCK, block_max, exp_negative, maximum};
pub(crate) use score::{score, score_greedy};

/// How far below the maximum a shortlist reaches, in nats, until it is long enough.
const WIDTHS: [f32; 5] = [8.0, 16.0, 32.0, 64.0, f32::INFINITY];

/// The sampling state of one choice.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalties: Penalties,
    bias: Vec<(u32, f32)>,
    random: Xoshiro256PlusPlus,
    seen: HashMap<u32, u32>,
    edited: Vec<f32>,
    shortlist: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

/// What a token generated before loses.
#[derive(Debug, Clone, Copy)]
struct Penalties {
    presence: f32,
    frequency: f32,
    repeat: f32,
}

impl Penalties {
    fn is_off(self) -> bool {
        self.presence == 0.0 && self.frequency == 0.0 && self.repeat == 1.0
    }

    /// The logit of a token that was generated `count` times: repeat first (divided if positive,
    /// multiplied if not), then frequency and presence subtracted, as llama.cpp does.
    fn apply(self, logit: f32, count: u32) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repeat } else { logit * self.repeat };
        repeated - count as f32 * self.frequency - self.presence
    }
}

impl Sampler {
    /// The sampler of the choice with this index. With a seed, choice k draws from seed + k;
    /// without, every choice is random. A repeat penalty that is not positive is none.
    pub(crate) fn new(sampling: &Sampling, choice: u32) -> Sampler {
        let usual = if sampling.n > 1 { 1.0 } else { 0.0 };
        let seed = match sampling.seed {
            Some(seed) => seed.wrapping_add(u64::from(choice)),
            None => rand::random(),
        };
        Sampler {
            temperature: sampling.temperature.unwrap_or(usual),
            top_k: sampling.top_k.unwrap_or(0) as usize,
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: sampling.min_p.unwrap_or(0.0),
            penalties: Penalties {
                presence: sampling.presence_penalty.unwrap_or(0.0),
                frequency: sampling.frequency_penalty.unwrap_or(0.0),
                repeat: sampling.repeat_penalty.filter(|penalty| *penalty > 0.0).unwrap_or(1.0),
            },
            bias: sampling.logit_bias.clone(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            seen: HashMap::new(),
            edited: Vec::new(),
            shortlist: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Whether an unmasked sample is always the model's own first choice, so that
    /// [`score_greedy`] alone can make it.
    pub(crate) fn is_plain_greedy(&self) -> bool {
        self.is_greedy() && self.bias.is_empty() && self.penalties.is_off()
    }

    /// The next token, or `None` where no token is allowed (or every logit is minus infinity).
    ///
    /// `mask`: token i is allowed if bit i % 32 of word i / 32 is set; what lies beyond the mask
    /// is not allowed. Equal logits: the lowest id wins where the choice is not random.
    pub(crate) fn sample(&mut self, logits: &[f32], mask: Option<&[u32]>) -> Option<u32> {
        let touched = mask.is_some() || !self.bias.is_empty() || !self.seen.is_empty();
        if !touched {
            return self.choose(logits);
        }
        let mut edited = std::mem::take(&mut self.edited);
        edited.clear();
        edited.extend_from_slice(logits);
        self.edit(&mut edited, mask);
        let chosen = self.choose(&edited);
        self.edited = edited;
        chosen
    }

    /// Takes note of a token that became part of the answer.
    pub(crate) fn accept(&mut self, token: u32) {
        if !self.penalties.is_off() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.temperature.is_nan()
    }

    fn edit(&self, logits: &mut [f32], mask: Option<&[u32]>) {
        for (token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        for (token, count) in &self.seen {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = self.penalties.apply(*logit, *count);
            }
        }
        if let Some(mask) = mask {
            forbid(logits, mask);
        }
    }

    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        if self.is_greedy() {
            return argmax(logits);
        }
        let max = maximum(logits);
        if !max.is_finite() {
            return argmax(logits);
        }
        let cut_k = self.top_k > 0 && self.top_k < logits.len();
        let cut_p = self.top_p < 1.0;
        let cut_min = self.min_p > 0.0;
        if !(cut_k || cut_p || cut_min) {
            return self.draw_from_all(logits, max);
        }
        if cut_k {
            let k = self.top_k;
            self.list(logits, max, |list| list.len() >= k);
            self.shortlist.truncate(k);
            let total = self.shortlist.iter().map(|(_, logit)| probability(*logit, max)).sum();
            if cut_p {
                self.cut_to_nucleus(max, total);
            }
        } else if cut_p {
            let total = score::sum_of_exp(logits, max);
            let wanted = f64::from(self.top_p) * total;
            self.list(logits, max, |list| mass(list, max) >= wanted);
            self.cut_to_nucleus(max, total);
        } else {
            gather(logits, max + self.min_p.min(1.0).ln(), &mut self.shortlist);
        }
        if cut_min {
            let floor = max + self.min_p.min(1.0).ln();
            let kept = self.shortlist.partition_point(|(_, logit)| *logit >= floor);
            self.shortlist.truncate(kept);
        }
        self.draw_from_list(max)
    }

    /// Fills the shortlist with all tokens within a width of the maximum, best first: the least
    /// of [`WIDTHS`] for which `enough` holds.
    fn list(&mut self, logits: &[f32], max: f32, enough: impl Fn(&[(u32, f32)]) -> bool) {
        for width in WIDTHS {
            gather(logits, max - width, &mut self.shortlist);
            if enough(&self.shortlist) {
                break;
            }
        }
    }

    /// Keeps the fewest first tokens that hold `top_p` of `total` (Holtzman et al. 2020), at
    /// least one.
    fn cut_to_nucleus(&mut self, max: f32, total: f64) {
        let wanted = f64::from(self.top_p) * total;
        let mut held = 0.0;
        let enough = self.shortlist.iter().position(|(_, logit)| {
            held += probability(*logit, max);
            held >= wanted
        });
        if let Some(last) = enough {
            self.shortlist.truncate(last + 1);
        }
    }

    fn draw_from_list(&mut self, max: f32) -> Option<u32> {
        let temperature = self.temperature;
        let weigh = |logit: f32| f64::from(exp_negative((logit - max) / temperature));
        let total: f64 = self.shortlist.iter().map(|(_, logit)| weigh(*logit)).sum();
        let mut left = self.random.random::<f64>() * total;
        for (token, logit) in &self.shortlist {
            left -= weigh(*logit);
            if left < 0.0 {
                return Some(*token);
            }
        }
        self.shortlist.first().map(|(token, _)| *token)
    }

    /// Draws from the whole vocabulary: weighs it block by block, picks a block, then a token.
    fn draw_from_all(&mut self, logits: &[f32], max: f32) -> Option<u32> {
        let scale = 1.0 / self.temperature;
        if !scale.is_finite() {
            return argmax(logits);
        }
        let weigh = |logit: f32| exp_negative((logit - max) * scale);
        let blocks = logits.chunks(BLOCK);
        self.weights.clear();
        self.weights.extend(blocks.map(|block| f64::from(score::sum_by(block, weigh))));
        let total: f64 = self.weights.iter().sum();
        let mut left = self.random.random::<f64>() * total;
        for (index, weight) in self.weights.iter().enumerate() {
            if left < *weight {
                let start = index * BLOCK;
                let end = logits.len().min(start + BLOCK);
                return draw_from_block(&logits[start..end], left, weigh).map(|offset| (start + offset) as u32);
            }
            left -= weight;
        }
        argmax(logits)
    }
}

/// The token of a block at which the running weight passes `left`; by rounding the weights may
/// end just short of it, then the last token that weighs anything.
fn draw_from_block(block: &[f32], mut left: f64, weigh: impl Fn(f32) -> f32) -> Option<usize> {
    let mut last = None;
    for (offset, logit) in block.iter().enumerate() {
        let weight = weigh(*logit);
        if weight > 0.0 {
            last = Some(offset);
        }
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

fn probability(logit: f32, max: f32) -> f64 {
    f64::from(exp_negative(logit - max))
}

fn mass(list: &[(u32, f32)], max: f32) -> f64 {
    list.iter().map(|(_, logit)| probability(*logit, max)).sum()
}

/// Puts every token with at least this logit into the list, best first, equal ones by id.
fn gather(logits: &[f32], floor: f32, list: &mut Vec<(u32, f32)>) {
    let floor = floor.max(f32::MIN);
    list.clear();
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        if block_max(block) < floor {
            continue;
        }
        let numbered = (index * BLOCK..).zip(block);
        list.extend(numbered.filter(|(_, x)| **x >= floor).map(|(id, x)| (id as u32, *x)));
    }
    list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// The token with the greatest logit, the first of equals; `None` if none is above minus infinity.
fn argmax(logits: &[f32]) -> Option<u32> {
    let max = maximum(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|logit| *logit == max).map(|token| token as u32)
}

/// Sets the logit of every token that the mask does not allow to minus infinity.
fn forbid(logits: &mut [f32], mask: &[u32]) {
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (block, word) in logits.chunks_mut(32).zip(words) {
        match word {
            u32::MAX => {}
            0 => block.fill(f32::NEG_INFINITY),
            _ => {
                for (bit, logit) in block.iter_mut().enumerate() {
                    let allowed = word >> bit & 1 == 1;
                    *logit = if allowed { *logit } else { f32::NEG_INFINITY };
                }
            }
        }
    }
}
