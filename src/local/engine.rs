//! The thread that owns a llama.cpp context and answers every request of one model.
//!
//! *Model.* The context holds one sequence per slot in a unified KV cache. Each turn of the loop
//! builds one batch: one token of every decoding sequence, then prompt tokens of those being
//! read, as many as about 100 ms allow ([`super::schedule`]). One `llama_decode`, then every
//! sequence that reached its end of input samples a token and sends it.
//!
//! *Sharing.* A prompt goes to the slot with the longest common prefix, or copies that prefix
//! from another slot, busy or idle; a copy in a unified cache shares cells and costs microseconds.
//! Attention passes over every cell in use, so as soon as somebody else decodes, what idle slots
//! hold is parked outside the cache, and comes back when a prompt wants it (about 14 ms and 3 ms
//! for 1000 tokens of the 135M).
//! Further choices of one prompt wait until the first has read it and sample from its logits.
//!
//! *Concurrency.* One thread, no locks: requests come over a bounded channel, deltas leave over
//! one bounded channel per request, numbers are told in atomics. A client that reads slowly pauses
//! its own slots; one that left is noticed at the next turn. The threads of a decode come from the
//! process-wide budget. Dropping the last sender ends the loop when its requests are done.
//!
//! *Cost.* Per token: one or two passes over the logits and a few small allocations; nothing of
//! the vocabulary's size. Greedy answers depend on the shape of the batch (llama.cpp is not
//! batch-invariant): same shape, same tokens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::time::Instant;

use super::answer::Answer;
use super::gauges::Gauges;
use super::job::Job;
use super::model::Scaled;
use super::outlet::{Flow, read_too_slowly};
use super::schedule::{self, Held, Placement, Prefill, Speed};
use super::shelf::Seat;
use super::slot::{Phase, Run, Slot};
use super::tally::Tally;
use super::threads::ThreadBudget;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Kind, Origin, Retry};
use crate::request::Part;

/// How long the loop rests when every slot is paused.
const REST: Duration = Duration::from_millis(5);

/// Tokens of idle caches that are kept beside the newest.
const KEPT: usize = 2048;

/// What an engine is made of beside its context.
pub(super) struct Parts {
    /// Where requests come from.
    pub(super) requests: Receiver<Job>,
    /// Where its numbers are told.
    pub(super) gauges: Arc<Gauges>,
    /// Where they are counted.
    pub(super) tally: Arc<Tally>,
    /// The process-wide budget of compute threads.
    pub(super) budget: ThreadBudget,
    /// The tokens of the model.
    pub(super) vocabulary: Arc<Vocabulary>,
    /// How it behaves.
    pub(super) rules: Rules,
}

/// What an engine is given for its life, by whoever loads it.
pub(super) struct Lease {
    /// How it behaves.
    pub(super) rules: Rules,
    /// The process-wide budget of compute threads.
    pub(super) budget: ThreadBudget,
    /// What its context adds to the weights.
    pub(super) adapter: Option<Scaled>,
    /// Where its batches are counted.
    pub(super) tally: Arc<Tally>,
    /// Its room in memory, given back when its thread has ended.
    pub(super) seat: Seat,
}

/// How an engine behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Tokens per slot.
    pub(super) context: usize,
    /// Sequences at once.
    pub(super) slots: usize,
    /// Tokens of a batch at most, more than `slots`.
    pub(super) batch: usize,
    /// Compute threads of a decode.
    pub(super) threads: usize,
    /// When a client that does not read is given up.
    pub(super) idle_timeout: Duration,
    /// Whether a part of a sequence can be removed and copied (not so for recurrent states and
    /// sliding windows: there each choice reads the prompt).
    pub(super) copies: bool,
}

/// The loop and everything it owns.
pub(super) struct Engine<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    parts: Parts,
    slots: Vec<Slot>,
    jobs: BTreeMap<u64, Job>,
    speed: Speed,
    arrivals: u64,
    clock: u64,
    /// Sequences of the batch that decode; the rest of it is prompts.
    decoding: usize,
    open: bool,
}

/// A place of the batch whose logits a slot reads.
#[derive(Debug, Clone, Copy)]
struct Row {
    slot: usize,
    index: usize,
}

impl<'model> Engine<'model> {
    /// An engine over a context with as many sequences and as large a batch as `parts.rules` says.
    pub(super) fn new(context: LlamaContext<'model>, parts: Parts) -> Self {
        Engine {
            context,
            batch: LlamaBatch::new(parts.rules.batch, 1),
            slots: (0..parts.rules.slots).map(|_| Slot::default()).collect(),
            jobs: BTreeMap::new(),
            speed: Speed::new(parts.rules.batch),
            arrivals: 0,
            clock: 0,
            decoding: 0,
            open: true,
            parts,
        }
    }

    /// Answers until the last sender is gone and every request is done.
    pub(super) fn run(mut self) {
        let mut busy = true;
        while self.receive(busy) {
            self.clock += 1;
            self.tend(Instant::now());
            self.admit(Instant::now());
            let rows = self.fill();
            busy = self.batch.n_tokens() > 0;
            if busy {
                match self.decode() {
                    Ok(()) => self.read(&rows),
                    Err(error) => self.fail_running(&error),
                }
                self.tend(Instant::now());
            }
            self.report();
        }
    }

    /// Takes in new requests; waits for one where there is nothing to do. `false`: the end.
    fn receive(&mut self, busy: bool) -> bool {
        let first = match (self.jobs.is_empty(), busy) {
            (true, _) => self.parts.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (false, false) => self.parts.requests.recv_timeout(REST),
            (false, true) => self.parts.requests.recv_timeout(Duration::ZERO),
        };
        match first {
            Ok(job) => self.take_in(job),
            Err(RecvTimeoutError::Disconnected) => self.open = false,
            Err(RecvTimeoutError::Timeout) => {}
        }
        while let Ok(job) = self.parts.requests.try_recv() {
            self.take_in(job);
        }
        self.open || !self.jobs.is_empty()
    }

    fn take_in(&mut self, job: Job) {
        self.arrivals += 1;
        self.jobs.insert(self.arrivals, job);
    }

    /// Sends what clients take, and lets go of requests that are done, left or stuck.
    fn tend(&mut self, now: Instant) {
        let limit = self.parts.rules.idle_timeout;
        let mut over: Vec<(u64, Option<Error>)> = Vec::new();
        for (&request, job) in &mut self.jobs {
            match job.outlet.flush(now) {
                Flow::Closed => over.push((request, None)),
                Flow::Stuck(time) if time >= limit => over.push((request, Some(read_too_slowly(limit)))),
                Flow::Clear if job.is_complete() => {
                    if let Some(begun) = job.begun() {
                        self.parts.gauges.took(now.saturating_duration_since(begun));
                    }
                    over.push((request, None));
                }
                Flow::Clear | Flow::Stuck(_) => {}
            }
        }
        for (request, error) in over {
            self.let_go(request, error);
        }
    }

    /// Frees a request's slots and forgets it.
    fn let_go(&mut self, request: u64, error: Option<Error>) {
        for slot in &mut self.slots {
            if slot.request() == Some(request) {
                slot.run = None;
            }
        }
        if let (Some(job), Some(error)) = (self.jobs.remove(&request), error) {
            job.outlet.fail(error);
        }
        self.evict();
    }

    /// Gives free slots to waiting choices.
    fn admit(&mut self, now: Instant) {
        loop {
            let waiting = self.jobs.iter().filter(|(_, job)| job.waits() && job.outlet.is_clear());
            let Some(request) = schedule::next_turn(waiting.map(|(&request, job)| (request, job.running()))) else {
                return;
            };
            if !self.give_slot(request, now) {
                return;
            }
        }
    }

    /// Gives the next choice of a request a slot; `false` if none is free.
    fn give_slot(&mut self, request: u64, now: Instant) -> bool {
        let Some(job) = self.jobs.get(&request) else { return false };
        let Some(turn) = job.turn() else { return false };
        let prompt = turn.prompt.tokens.clone();
        let shares = !turn.first && self.parts.rules.copies;
        let leader = if shares { self.reader_of(&prompt) } else { None };
        let held: Vec<Held<'_>> = self.slots.iter().map(Slot::held).collect();
        let wanted: &[u32] = if leader.is_some() { &[] } else { &prompt };
        let Some(placement) = schedule::place(wanted, &held, self.parts.rules.copies) else { return false };
        let run = Run {
            request,
            choice: turn.choice,
            echo: turn.prompt.echo.clone(),
            phase: leader.map_or(Phase::Prefill, Phase::Follow),
            answer: Answer::new(job.terms(), turn.choice, turn.prompt.limit, self.parts.vocabulary.clone()),
            prompt,
        };
        let reuse = if leader.is_some() { 0 } else { self.prepare(placement, &run.prompt) };
        self.slots[placement.slot].run = Some(run);
        self.park();
        if let Some(job) = self.jobs.get_mut(&request) {
            job.give(reuse, now);
        }
        true
    }

    /// The slot that reads this very prompt now.
    fn reader_of(&self, prompt: &Arc<[u32]>) -> Option<usize> {
        self.slots.iter().position(|slot| {
            let run = slot.run.as_ref();
            run.is_some_and(|run| run.phase == Phase::Prefill && Arc::ptr_eq(&run.prompt, prompt))
        })
    }

    /// Brings a slot's cache to the prefix it shall reuse; answers how long that became.
    fn prepare(&mut self, placement: Placement, prompt: &[u32]) -> usize {
        let Placement { slot, from, reuse } = placement;
        match from {
            Some(source) => {
                self.cut(slot, 0);
                self.copy(source, slot, reuse);
            }
            None if reuse > 0 => {
                self.restore(slot, slot);
                self.cut(slot, reuse);
            }
            None => self.cut(slot, 0),
        }
        let reuse = self.slots[slot].tokens.len();
        debug_assert_eq!(self.slots[slot].tokens, prompt[..reuse]);
        reuse
    }

    /// Shortens a slot's cache to `length` tokens, or empties it where only that is possible.
    fn cut(&mut self, slot: usize, length: usize) {
        let Slot { tokens: held, parked, .. } = &mut self.slots[slot];
        if held.len() <= length {
            return;
        }
        if parked.take().is_some() {
            return held.clear();
        }
        let cut = self.context.clear_kv_cache_seq(Some(slot as u32), Some(length as u32), None);
        if matches!(cut, Ok(true)) {
            held.truncate(length);
        } else {
            // Removing a whole sequence never fails.
            let _ = self.context.clear_kv_cache_seq(Some(slot as u32), None, None);
            held.clear();
        }
    }

    /// Moves idle caches to memory of their own: attention passes over every cell in use.
    fn park(&mut self) {
        for (number, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_in_the_way()) {
            slot.parked = self.context.state_seq_get(number as i32, LlamaStateSeqFlags::empty()).ok();
            if slot.parked.is_none() {
                slot.tokens.clear();
            }
            // Removing a whole sequence never fails.
            let _ = self.context.clear_kv_cache_seq(Some(number as u32), None, None);
        }
    }

    /// Brings what is parked in `source` back to the cache, as that of `slot`, which is empty there.
    fn restore(&mut self, source: usize, slot: usize) {
        let Some(state) = &self.slots[source].parked else { return };
        let restored = self.context.state_seq_set(state, slot as i32).is_ok();
        let tokens = if restored { self.slots[source].tokens.clone() } else { Vec::new() };
        self.slots[slot].tokens = tokens;
        self.slots[slot].parked = None;
    }

    /// Copies the first `length` tokens of a slot's cache to an empty slot.
    fn copy(&mut self, source: usize, slot: usize, length: usize) {
        if self.slots[source].parked.is_some() {
            self.restore(source, slot);
            return self.cut(slot, length);
        }
        let end = Some(length as u32);
        let copied = self.context.copy_kv_cache_seq(source as i32, slot as i32, Some(0), end);
        if copied.is_ok() {
            self.slots[slot].tokens = self.slots[source].tokens[..length].to_vec();
        }
    }

    /// Gives up idle caches beyond what is worth its cost.
    fn evict(&mut self) {
        let held: Vec<Held<'_>> = self.slots.iter().map(Slot::held).collect();
        for slot in schedule::evict(&held, KEPT) {
            self.cut(slot, 0);
        }
    }

    /// Builds the next batch; answers whose logits will be read.
    fn fill(&mut self) -> Vec<Row> {
        self.batch.clear();
        let mut rows = Vec::with_capacity(self.slots.len());
        let mut prefills = Vec::new();
        for number in 0..self.slots.len() {
            let slot = &self.slots[number];
            let Some(run) = &slot.run else { continue };
            if !self.jobs.get(&run.request).is_some_and(|job| job.outlet.is_clear()) {
                continue;
            }
            if let Some(token) = slot.next() {
                rows.extend(self.add(number, &[token], true));
            } else if slot.unread() > 0 {
                prefills.push(Prefill { slot: number, arrived: run.request, left: slot.unread() });
            }
        }
        self.decoding = rows.len();
        let chunk = self.speed.chunk(rows.len());
        for (number, tokens) in schedule::share(&prefills, chunk) {
            let slot = &self.slots[number];
            let Some(run) = &slot.run else { continue };
            let (prompt, start) = (run.prompt.clone(), slot.tokens.len());
            let last = start + tokens == prompt.len();
            rows.extend(self.add(number, &prompt[start..start + tokens], last));
        }
        rows
    }

    /// Adds the next tokens of a sequence to the batch; `last`: the logits after them are read.
    fn add(&mut self, number: usize, tokens: &[u32], last: bool) -> Option<Row> {
        let slot = &mut self.slots[number];
        slot.used = self.clock;
        for (offset, &token) in tokens.iter().enumerate() {
            let logits = last && offset + 1 == tokens.len();
            let position = slot.tokens.len() as i32;
            // The schedule never exceeds the batch; a token left out would only come later.
            if self.batch.add(LlamaToken(token as i32), position, &[number as i32], logits).is_err() {
                return None;
            }
            slot.tokens.push(token);
        }
        last.then(|| Row { slot: number, index: self.batch.n_tokens() as usize - 1 })
    }

    /// Runs the batch under a permit of the thread budget.
    fn decode(&mut self) -> Result<(), Error> {
        let permit = self.parts.budget.acquire(self.parts.rules.threads);
        let begun = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        let took = begun.elapsed();
        drop(permit);
        let tokens = self.batch.n_tokens() as usize;
        self.speed.observe(tokens, took);
        self.parts.tally.batch(tokens.saturating_sub(self.decoding), self.decoding);
        decoded.map_err(|error| {
            let message = format!("the model could not decode a batch: {error}");
            Error::new(Kind::Internal, Origin::Local, message).retry(Retry::Elsewhere)
        })
    }

    /// Samples a token for every row.
    fn read(&mut self, rows: &[Row]) {
        let mut failed = Vec::new();
        for row in rows {
            let readers = self.readers(row.slot);
            let logits = self.context.get_logits_ith(row.index as i32);
            for number in readers {
                let slot = &mut self.slots[number];
                let Some(run) = &mut slot.run else { continue };
                let Some(job) = self.jobs.get_mut(&run.request) else { continue };
                match run.answer.step(logits) {
                    Ok(step) => {
                        let echo = run.echo.take().map(|text| Part::Text { text, tokens: Vec::new() });
                        job.note(run.choice, echo.into_iter().chain(step.parts));
                        match step.next {
                            Some(token) => run.phase = Phase::Decode(token),
                            None => slot.run = None,
                        }
                    }
                    Err(error) => failed.push((run.request, error)),
                }
            }
        }
        for (request, error) in failed {
            self.let_go(request, Some(error));
        }
    }

    /// Who samples from a slot's logits: itself, and those that waited for it to read the prompt;
    /// these get a copy of its cache.
    fn readers(&mut self, leader: usize) -> Vec<usize> {
        let mut readers = vec![leader];
        for number in 0..self.slots.len() {
            if self.slots[number].follows(leader) {
                self.cut(number, 0);
                self.copy(leader, number, self.slots[leader].tokens.len());
                self.slots[number].used = self.clock;
                readers.push(number);
            }
        }
        readers
    }

    /// A batch failed: nobody knows what the cache holds, so everything that ran has failed.
    fn fail_running(&mut self, error: &Error) {
        tracing::error!(%error, "a batch failed; its requests are given up");
        self.context.clear_kv_cache();
        let running: Vec<u64> = self.slots.iter().filter_map(Slot::request).collect();
        for slot in &mut self.slots {
            slot.tokens.clear();
            slot.parked = None;
        }
        for request in running {
            self.let_go(request, Some(error.clone()));
        }
    }

    fn report(&self) {
        let busy = self.slots.iter().filter(|slot| slot.run.is_some()).count();
        let in_cache = self.slots.iter().filter(|slot| slot.parked.is_none());
        let held: usize = in_cache.map(|slot| slot.tokens.len()).sum();
        let room = self.parts.rules.context * self.parts.rules.slots;
        self.parts.gauges.report(busy, held as f64 / room as f64);
    }
}
