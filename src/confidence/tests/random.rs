//! Numbers for tests: the same in every run.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::confidence::{Feature, Features, Graded};

pub(super) fn generator(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// About normal: the sum of twelve uniform numbers.
pub(super) fn normal(random: &mut StdRng) -> f64 {
    (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0
}

/// An answer of which these features are known and the rest is 0.
pub(super) fn graded(known: &[(Feature, f64)], right: bool) -> Graded {
    let value = |feature| known.iter().find(|(name, _)| *name == feature).map_or(0.0, |(_, value)| *value);
    Graded { features: Features::of(value), right }
}
