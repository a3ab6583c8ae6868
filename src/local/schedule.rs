//! What the next batch holds, which slot a prompt takes, and which cached prefixes are given up.
//!
//! Pure: tables in, decisions out; no llama.cpp, no clock. The engine asks at every step. Decoding
//! sequences always get their one token; what a step may still take, measured in time and not in
//! tokens, goes to prompts.

use std::time::Duration;

/// How long a step that carries prompt tokens should take at most.
const STEP: Duration = Duration::from_millis(100);
/// Prompt tokens of a step before anything was measured, and at least when nobody else decodes.
const CHUNK_ALONE: usize = 32;
/// Prompt tokens of a step at least, so that a slow model still gets on.
const CHUNK_SHARED: usize = 8;
/// Batches smaller than this say little about the cost of a prompt token.
const TELLING: usize = 8;
/// A shorter common prefix is not worth a copy.
const WORTH_REUSING: usize = 16;

/// How fast prompts are read, measured on the steps that read them.
#[derive(Debug)]
pub(super) struct Speed {
    seconds_per_token: Option<f64>,
    batch: usize,
}

impl Speed {
    /// Nothing measured yet; no step may hold more than `batch` tokens.
    pub(super) fn new(batch: usize) -> Self {
        Speed { seconds_per_token: None, batch }
    }

    /// A step of so many tokens took so long.
    pub(super) fn observe(&mut self, tokens: usize, took: Duration) {
        if tokens < TELLING {
            return;
        }
        let now = took.as_secs_f64() / tokens as f64;
        self.seconds_per_token = Some(match self.seconds_per_token {
            Some(before) => 0.7 * before + 0.3 * now,
            None => now,
        });
    }

    /// How many prompt tokens the next step may hold beside `decoding` others.
    pub(super) fn chunk(&self, decoding: usize) -> usize {
        let affordable = match self.seconds_per_token {
            Some(seconds) if seconds > 0.0 => (STEP.as_secs_f64() / seconds).round() as usize,
            _ => CHUNK_ALONE,
        };
        let least = if decoding == 0 { CHUNK_ALONE } else { CHUNK_SHARED };
        let room = self.batch.saturating_sub(decoding);
        affordable.saturating_sub(decoding).max(least).min(room)
    }
}

/// A prompt that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefill {
    /// Where it is read.
    pub(super) slot: usize,
    /// When it came: smaller is earlier.
    pub(super) arrived: u64,
    /// Tokens not read yet, at least 1.
    pub(super) left: usize,
}

/// Divides a chunk among prompts: `(slot, tokens)`, at most `chunk` tokens in all.
///
/// A quarter goes to the oldest, so that none starves; the rest to the shortest first, which
/// brings most prompts to their first token soonest.
pub(super) fn share(prefills: &[Prefill], chunk: usize) -> Vec<(usize, usize)> {
    let Some(oldest) = prefills.iter().min_by_key(|p| p.arrived) else { return Vec::new() };
    let mut shares = vec![(oldest.slot, oldest.left.min(chunk.div_ceil(4)))];
    let mut rest = chunk - shares[0].1;
    let mut order: Vec<&Prefill> = prefills.iter().collect();
    order.sort_by_key(|p| (p.left, p.arrived));
    for prefill in order {
        if prefill.slot == oldest.slot {
            let more = rest.min(prefill.left - shares[0].1);
            shares[0].1 += more;
            rest -= more;
        } else if rest > 0 {
            let tokens = rest.min(prefill.left);
            shares.push((prefill.slot, tokens));
            rest -= tokens;
        }
    }
    shares.retain(|&(_, tokens)| tokens > 0);
    shares
}

/// What one slot holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    /// The tokens in its KV cache, by position.
    pub(super) tokens: &'a [u32],
    /// Whether a new sequence may take it.
    pub(super) free: bool,
    /// When it was used last: smaller is longer ago.
    pub(super) used: u64,
}

/// Where a prompt goes and what it finds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// The slot to take; free.
    pub(super) slot: usize,
    /// The slot whose cache to copy the prefix from, if it is another.
    pub(super) from: Option<usize>,
    /// How many of the prompt's tokens need not be read again: less than the prompt has.
    pub(super) reuse: usize,
}

/// Chooses a free slot for a prompt, or `None` if there is none.
///
/// The longest common prefix wins, in a busy slot too. A free slot that would lose most of its
/// cache keeps it, and the prefix is copied to the slot that was used longest ago. Without `copies`
/// (a recurrent state, a sliding window: no part of a sequence can be cut off or copied) only a
/// free slot is reused whose whole cache begins the prompt.
pub(super) fn place(prompt: &[u32], held: &[Held<'_>], copies: bool) -> Option<Placement> {
    let oldest = (0..held.len()).filter(|&i| held[i].free).min_by_key(|&i| (held[i].used, i))?;
    let fresh = Placement { slot: oldest, from: None, reuse: 0 };
    let best = (0..held.len())
        .map(|i| (common_prefix(prompt, held[i].tokens).min(prompt.len().saturating_sub(1)), i))
        .filter(|&(reuse, i)| copies || (held[i].free && reuse == held[i].tokens.len()))
        .max_by_key(|&(reuse, i)| (reuse, held[i].free, std::cmp::Reverse(i)));
    let Some((reuse, source)) = best.filter(|&(reuse, _)| reuse >= WORTH_REUSING) else { return Some(fresh) };
    let in_place = held[source].free && (source == oldest || !copies || 2 * reuse >= held[source].tokens.len());
    Some(match in_place {
        true => Placement { slot: source, from: None, reuse },
        false => Placement { slot: oldest, from: Some(source), reuse },
    })
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Which idle slots give up their cache: all but the one used last and, from the newest on, as
/// many as hold at most `keep` tokens together.
///
/// Parked tokens cost memory only (22 KB each for the 135M, 12 KB for the 0.5B), and less time to
/// bring back than to read again.
pub(super) fn evict(held: &[Held<'_>], keep: usize) -> Vec<usize> {
    let mut idle: Vec<usize> = (0..held.len()).filter(|&i| held[i].free && !held[i].tokens.is_empty()).collect();
    idle.sort_by_key(|&i| std::cmp::Reverse(held[i].used));
    let mut left = keep;
    let older = idle.into_iter().skip(1);
    older
        .filter(|&i| match left.checked_sub(held[i].tokens.len()) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
        .collect()
}

/// Whose choice takes the next free slot, of `(request, choices running)`: the request that has
/// least, so that one with many choices does not lock others out; among equals the oldest.
pub(super) fn next_turn(waiting: impl Iterator<Item = (u64, usize)>) -> Option<u64> {
    waiting.min_by_key(|&(request, running)| (running, request)).map(|(request, _)| request)
}

#[cfg(test)]
mod tests;
