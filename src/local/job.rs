//! One request inside an engine: what it needs, what it has got, and the way to its client.

use std::sync::Arc;

use tokio::time::Instant;

use super::answer::Terms;
use super::gauges::Place;
use super::outlet::Outlet;
use crate::request::{Delta, Part, Usage};

/// One prompt of a request.
pub(super) struct Prompt {
    /// At least one token.
    pub(super) tokens: Arc<[u32]>,
    /// Text that precedes each of its answers (`echo`).
    pub(super) echo: Option<String>,
    /// How many tokens each of its answers may have, at least 1.
    pub(super) limit: u32,
}

/// What a request needs, prepared outside the engine thread.
pub(super) struct Work {
    /// At least one.
    pub(super) prompts: Vec<Prompt>,
    /// Answers per prompt, at least 1.
    pub(super) n: u32,
    /// How to answer.
    pub(super) terms: Terms,
}

/// One request inside an engine.
pub(super) struct Job {
    work: Work,
    /// The way to the client.
    pub(super) outlet: Outlet,
    place: Option<Place>,
    begun: Option<Instant>,
    given: u32,
    finished: u32,
    usage: Usage,
}

/// The next choice of a job to be given a slot.
pub(super) struct Turn<'a> {
    /// Which choice of the request.
    pub(super) choice: u32,
    /// What it answers.
    pub(super) prompt: &'a Prompt,
    /// Whether no choice of this prompt had a slot before.
    pub(super) first: bool,
}

impl Job {
    /// A request that waits in this place of the queue.
    pub(super) fn new(work: Work, outlet: Outlet, place: Place) -> Self {
        Job { work, outlet, place: Some(place), begun: None, given: 0, finished: 0, usage: Usage::default() }
    }

    /// How to answer.
    pub(super) fn terms(&self) -> &Terms {
        &self.work.terms
    }

    fn choices(&self) -> u32 {
        self.work.prompts.len() as u32 * self.work.n
    }

    /// How many choices run now.
    pub(super) fn running(&self) -> usize {
        (self.given - self.finished) as usize
    }

    /// Whether a choice waits for a slot.
    pub(super) fn waits(&self) -> bool {
        self.given < self.choices()
    }

    /// The choice that gets the next slot; only while [`Job::waits`].
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let prompt = self.work.prompts.get((self.given / self.work.n) as usize)?;
        Some(Turn { choice: self.given, prompt, first: self.given.is_multiple_of(self.work.n) })
    }

    /// The choice of [`Job::turn`] got a slot. `cached`: how much of its prompt need not be read.
    pub(super) fn give(&mut self, cached: usize, now: Instant) {
        if self.given.is_multiple_of(self.work.n) {
            let prompt = &self.work.prompts[(self.given / self.work.n) as usize];
            self.usage.prompt_tokens += prompt.tokens.len() as u64;
            self.usage.cached_tokens += cached as u64;
        }
        self.given += 1;
        self.begun.get_or_insert(now);
        self.place = None;
    }

    /// A choice sampled a token and brought these parts.
    pub(super) fn note(&mut self, choice: u32, parts: impl Iterator<Item = Part>) {
        for part in parts {
            let finished = matches!(part, Part::Finish(_));
            if let Part::Text { tokens, .. } = &part {
                self.usage.completion_tokens += tokens.len() as u64;
            }
            self.outlet.push(Delta::new(choice, part));
            self.finished += u32::from(finished);
        }
        if self.finished == self.choices() {
            self.outlet.push(Delta::new(choice, Part::End(Some(self.usage))));
        }
    }

    /// Whether nothing is left but to bring the deltas to the client.
    pub(super) fn is_complete(&self) -> bool {
        self.finished == self.choices()
    }

    /// When its first choice got a slot.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun
    }
}
