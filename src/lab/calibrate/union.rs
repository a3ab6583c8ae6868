//! One figure for all slices of a box: its own test, on labels kept back for it, at a stated mix.
//!
//! Promises of slices do not add up to one of the whole: how often each comes counts. Promises: the
//! sample is drawn from the mix, row by row, from labels that no threshold has seen, so that the bound
//! is exact (Clopper–Pearson) for traffic of that mix. Called by `calibrate`.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::confidence::bounds::upper_bound;
use crate::confidence::certify::{Promise, Row};
use crate::confidence::{Certificate, Risk};

const SEED: u64 = 1;

/// What is kept of traffic of a mix, and what may be wrong of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Union {
    /// Share of each slice in the traffic.
    pub mix: Vec<(String, f64)>,
    /// Which risk.
    pub risk: Risk,
    /// Labelled rows drawn from the mix.
    pub rows: usize,
    /// Those that the slices' certificates keep.
    pub kept: usize,
    /// Losses among them.
    pub wrong: usize,
    /// The upper bound on the risk of the whole.
    pub at_most: f64,
    /// The chance that the bound does not hold, all attempts together.
    pub delta: f64,
    /// Which attempt it was.
    pub attempt: u32,
}

/// A slice in the mix: its share, its certificate, and the labels kept back.
pub(super) struct Member<'m> {
    pub(super) name: &'m str,
    pub(super) share: f64,
    pub(super) certificate: Option<&'m Certificate>,
    pub(super) rows: &'m [Row],
}

impl Union {
    /// Draws rows at the mix, each slice's in a random order, while every slice drawn has one left, and
    /// bounds the risk of what is kept.
    pub(super) fn test(members: &[Member<'_>], promise: Promise, attempt: u32) -> Union {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut left: Vec<Vec<Row>> = members.iter().map(|member| member.rows.to_vec()).collect();
        left.iter_mut().for_each(|rows| rows.shuffle(&mut random));
        let (mut rows, mut kept, mut wrong) = (0, 0, 0);
        while let Some((member, row)) = draw(members, &mut left, random.random()) {
            rows += 1;
            if member.certificate.is_some_and(|certificate| row.score >= certificate.threshold) {
                kept += 1;
                wrong += row.loss as usize;
            }
        }
        let counted = if promise.risk() == Risk::Selective { kept } else { rows };
        Union {
            mix: members.iter().map(|member| (member.name.to_owned(), member.share)).collect(),
            risk: promise.risk(),
            rows,
            kept,
            wrong,
            at_most: upper_bound(wrong, counted, promise.at_attempt(attempt).delta()),
            delta: promise.delta(),
            attempt,
        }
    }
}

/// The next row of the slice that `uniform`, in [0, 1), falls on.
fn draw<'m>(members: &'m [Member<'m>], left: &mut [Vec<Row>], uniform: f64) -> Option<(&'m Member<'m>, Row)> {
    let mut below = 0.0;
    let place = members.iter().position(|member| {
        below += member.share;
        uniform < below
    });
    let place = place.unwrap_or(members.len() - 1);
    left[place].pop().map(|row| (&members[place], row))
}
