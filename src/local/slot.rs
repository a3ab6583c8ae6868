//! One sequence of an engine's context: what its KV cache holds, and the run that uses it.
//!
//! A run goes from `Prefill` (its prompt is read in chunks) or `Follow` (another choice of the
//! same prompt reads it) to `Decode` (one token a step), and then leaves the slot. What it read
//! stays behind for the next request with the same beginning: in the KV cache while nobody else
//! decodes, then parked in memory of its own, where attention does not pass over it.

use std::sync::Arc;

use llama_cpp_2::context::session::SeqState;

use super::answer::Answer;
use super::schedule::Held;

/// One sequence.
#[derive(Default)]
pub(super) struct Slot {
    /// The tokens whose keys and values are here, by position: in the KV cache, or parked.
    pub(super) tokens: Vec<u32>,
    /// Their keys and values while nobody needs them.
    pub(super) parked: Option<SeqState>,
    /// When the slot was used last: smaller is longer ago.
    pub(super) used: u64,
    /// The choice being answered.
    pub(super) run: Option<Run>,
}

/// One choice being answered.
pub(super) struct Run {
    /// Whose request it is.
    pub(super) request: u64,
    /// Which of its choices.
    pub(super) choice: u32,
    /// The whole prompt, at least one token.
    pub(super) prompt: Arc<[u32]>,
    /// Text that precedes the answer (`echo`).
    pub(super) echo: Option<String>,
    /// Where it stands.
    pub(super) phase: Phase,
    /// What is answered so far.
    pub(super) answer: Answer,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the slot with this number to have read the same prompt.
    Follow(usize),
    /// Reads its prompt; how much of it is read stands in the slot.
    Prefill,
    /// Has this token to decode.
    Decode(u32),
}

impl Slot {
    /// The slot as the scheduler sees it.
    pub(super) fn held(&self) -> Held<'_> {
        Held { tokens: &self.tokens, free: self.run.is_none(), used: self.used }
    }

    /// Whether its part of the KV cache is worth moving out of the way.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.run.is_none() && self.parked.is_none() && !self.tokens.is_empty()
    }

    /// The request that is answered here.
    pub(super) fn request(&self) -> Option<u64> {
        self.run.as_ref().map(|run| run.request)
    }

    /// How many prompt tokens are not read yet; 0 when none is being read.
    pub(super) fn unread(&self) -> usize {
        match &self.run {
            Some(run) if run.phase == Phase::Prefill => run.prompt.len() - self.tokens.len(),
            _ => 0,
        }
    }

    /// The token to decode next, while decoding.
    pub(super) fn next(&self) -> Option<u32> {
        match self.run.as_ref()?.phase {
            Phase::Decode(token) => Some(token),
            _ => None,
        }
    }

    /// Whether it waits for that slot to have read the prompt.
    pub(super) fn follows(&self, leader: usize) -> bool {
        self.run.as_ref().is_some_and(|run| run.phase == Phase::Follow(leader))
    }
}
