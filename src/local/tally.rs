//! What one model has done since the process began, in atomics: over its engines, loads and
//! configurations. Written by the engine thread and by loads, read by metrics without waiting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::backend::Figures;

/// The counts of one model.
#[derive(Debug, Default)]
pub(super) struct Tally {
    loads: AtomicU64,
    failed_loads: AtomicU64,
    prefill: AtomicU64,
    decode: AtomicU64,
    batches: [AtomicU64; Figures::BATCH_BOUNDS.len() + 1],
    progress_permille: AtomicU32,
}

impl Tally {
    /// A batch was computed: so many tokens of prompts and of answers.
    #[cfg(any(test, feature = "local"))]
    pub(super) fn batch(&self, prefill: usize, decode: usize) {
        self.prefill.fetch_add(prefill as u64, Ordering::Relaxed);
        self.decode.fetch_add(decode as u64, Ordering::Relaxed);
        let size = prefill + decode;
        let bucket = Figures::BATCH_BOUNDS.iter().position(|bound| size <= *bound as usize);
        self.batches[bucket.unwrap_or(Figures::BATCH_BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
    }

    /// A load has come so far: 0 … 1.
    pub(super) fn progress(&self, share: f32) {
        self.progress_permille.store((share.clamp(0.0, 1.0) * 1000.0) as u32, Ordering::Relaxed);
    }

    /// A load has ended.
    pub(super) fn loaded(&self, succeeded: bool) {
        let count = if succeeded { &self.loads } else { &self.failed_loads };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts; what is in memory is not known here.
    pub(super) fn figures(&self) -> Figures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            progress: self.progress_permille.load(Ordering::Relaxed) as f32 / 1000.0,
            loads: read(&self.loads),
            failed_loads: read(&self.failed_loads),
            prefill_tokens: read(&self.prefill),
            decode_tokens: read(&self.decode),
            batches: std::array::from_fn(|bucket| read(&self.batches[bucket])),
            ..Figures::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_in_the_smallest_bucket_that_holds_it() {
        let tally = Tally::default();
        for (prefill, decode) in [(0, 1), (1, 1), (3, 0), (256, 0), (256, 1)] {
            tally.batch(prefill, decode);
        }
        let figures = tally.figures();
        assert_eq!(figures.batches, [1, 1, 1, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((figures.prefill_tokens, figures.decode_tokens), (516, 3));
    }
}
