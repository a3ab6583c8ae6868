//! The bare decode loop: a batch of one token per sequence, `llama_decode`, the greatest logit.
//!
//! Its context has the engine's parameters. It knows no requests, no scores, no text.

use std::num::NonZeroU32;
use std::path::Path;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use tokio::time::Instant;

use crate::pass::{Clocks, Pass};
use crate::{CONTEXT, SLOTS};

/// Tokens of a batch at most, as in the engine.
const BATCH: usize = 256;

/// The weights, loaded for the loop alone.
pub(crate) struct Weights {
    backend: LlamaBackend,
    model: LlamaModel,
}

/// Loads a file. An engine must have set llama.cpp up before.
pub(crate) fn load(file: &Path) -> std::mem::ManuallyDrop<Weights> {
    let backend = LlamaBackend {};
    let model = LlamaModel::load_from_file(&backend, file, &Default::default()).expect("the model loads");
    // The engine set the backend up, so this one must not tear it down.
    std::mem::ManuallyDrop::new(Weights { backend, model })
}

impl Weights {
    /// As many prompts that no greedy answer ends soon, new in every round from the first words on.
    pub(crate) fn prompts(&self, round: usize, sequences: usize) -> Vec<Vec<u32>> {
        let prompt = |sequence: usize| {
            let first = 1000 * (round + 1) + 37 * sequence;
            let numbers: Vec<String> = (first..first + 3).map(|number| number.to_string()).collect();
            let text = format!("{first} is the first: {}, ", numbers.join(", "));
            let tokens = self.model.vocab().tokenize(text.as_bytes(), false, false);
            tokens.into_iter().map(|token| token.0.cast_unsigned()).collect()
        };
        (0..sequences).map(prompt).collect()
    }
}

/// A context and its loop.
pub(crate) struct Bare<'w> {
    context: LlamaContext<'w>,
    batch: LlamaBatch<'static>,
    held: usize,
}

/// A token to decode: of which sequence, where, and whether the logits after it are read.
type Entry = (LlamaToken, usize, i32, bool);

impl<'w> Bare<'w> {
    /// An empty context.
    pub(crate) fn new(weights: &'w Weights) -> Self {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT * SLOTS))
            .with_n_batch(BATCH as u32)
            .with_n_ubatch(BATCH as u32)
            .with_n_seq_max(SLOTS + 1)
            .with_kv_unified(true)
            .with_n_threads(1)
            .with_n_threads_batch(1)
            .with_no_perf(true);
        let context = weights.model.new_context(&weights.backend, params).expect("a context");
        Bare { context, batch: LlamaBatch::new(BATCH, 1), held: 0 }
    }

    /// Fills the cache with so many tokens of a sequence that nobody decodes.
    pub(crate) fn hold(&mut self, tokens: usize) {
        self.clear();
        if tokens < self.held {
            self.remove(SLOTS as usize, tokens);
        }
        let more: Vec<Entry> =
            (self.held..tokens).map(|at| (LlamaToken(1000 + at as i32), SLOTS as usize, at as i32, false)).collect();
        for entries in more.chunks(BATCH) {
            self.decode(entries);
        }
        self.held = tokens;
    }

    /// Reads the prompts, makes each sequence so many tokens longer, then decodes one token of
    /// every sequence per step.
    pub(crate) fn pass(&mut self, prompts: &[Vec<u32>], grown: &[usize], steps: usize) -> Pass {
        self.clear();
        let begun = Instant::now();
        let mut next: Vec<LlamaToken> = Vec::new();
        let mut first_tokens = Vec::new();
        for entries in read_all(prompts).chunks(BATCH) {
            self.decode(entries);
            for (row, entry) in entries.iter().enumerate() {
                if entry.3 {
                    next.push(self.greatest(row));
                    first_tokens.push(begun.elapsed().as_secs_f64());
                }
            }
        }
        for entries in grow(prompts, grown).chunks(BATCH) {
            self.decode(entries);
        }
        let clocks = Clocks::read();
        for step in 0..steps {
            let entry = |(sequence, &token): (usize, &LlamaToken)| {
                (token, sequence, (prompts[sequence].len() + grown[sequence] + step) as i32, true)
            };
            let entries: Vec<Entry> = next.iter().enumerate().map(entry).collect();
            self.decode(&entries);
            next = (0..entries.len()).map(|row| self.greatest(row)).collect();
        }
        clocks.pass(steps * prompts.len(), first_tokens)
    }

    fn clear(&mut self) {
        (0..SLOTS as usize).for_each(|sequence| self.remove(sequence, 0));
    }

    fn remove(&mut self, sequence: usize, from: usize) {
        let removed = self.context.clear_kv_cache_seq(Some(sequence as u32), Some(from as u32), None);
        assert!(matches!(removed, Ok(true)), "a sequence of these models can be cut anywhere");
    }

    fn decode(&mut self, entries: &[Entry]) {
        self.batch.clear();
        for &(token, sequence, position, last) in entries {
            self.batch.add(token, position, &[sequence as i32], last).expect("the batch has room");
        }
        self.context.decode(&mut self.batch).expect("the batch decodes");
    }

    fn greatest(&self, row: usize) -> LlamaToken {
        LlamaToken(argmax(self.context.get_logits_ith(row as i32)) as i32)
    }
}

fn read_all(prompts: &[Vec<u32>]) -> Vec<Entry> {
    let numbered = prompts.iter().enumerate();
    let entries = numbered.flat_map(|(sequence, prompt)| {
        let entry = move |(at, &token): (usize, &u32)| {
            (LlamaToken(token.cast_signed()), sequence, at as i32, at + 1 == prompt.len())
        };
        prompt.iter().enumerate().map(entry)
    });
    entries.collect()
}

/// More tokens of each sequence, as after a while of decoding: its prompt's first ones again.
fn grow(prompts: &[Vec<u32>], grown: &[usize]) -> Vec<Entry> {
    let numbered = prompts.iter().zip(grown).enumerate();
    let entries = numbered.flat_map(|(sequence, (prompt, &more))| {
        let entry = move |(at, &token): (usize, &u32)| {
            (LlamaToken(token.cast_signed()), sequence, (prompt.len() + at) as i32, false)
        };
        prompt.iter().cycle().take(more).enumerate().map(entry)
    });
    entries.collect()
}

/// Where the greatest logit is, in two passes that the compiler makes vector code of.
fn argmax(logits: &[f32]) -> usize {
    let (rows, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::MIN; 16];
    for row in rows {
        for (lane, &logit) in lanes.iter_mut().zip(row) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let greatest = lanes.iter().chain(rest).copied().fold(f32::MIN, f32::max);
    logits.iter().position(|&logit| logit == greatest).expect("a greatest logit")
}
