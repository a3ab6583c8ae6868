//! What bounds the bodies of requests: each, and all together.
//!
//! Promises: the longest body that is allowed fits; what is not named has a usual size. Called by `check`,
//! and by `build`, which lets room that did not change outlive a reload with what is in it.

use super::read::Raw;
use crate::api::{Limits, Room};
use crate::error::Problem;

/// The longest body.
const USUAL: usize = 16 << 20;
/// All bodies together.
const USUAL_TOGETHER: usize = 512 << 20;

/// The usual bounds.
pub(super) fn usual() -> Limits {
    Limits { room: Room::of(USUAL_TOGETHER), ..Limits::of(USUAL) }
}

/// The bounds that the file gives.
pub(super) fn check(raw: &Raw, limits: &mut Limits, problems: &mut Vec<Problem>) {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    if let Some(max_body) = &raw.max_body {
        limits.max_body = bytes(max_body.value);
        if limits.max_body == 0 {
            let message = "max_body = 0 would refuse every request; want a size such as \"16MiB\"";
            problems.push(max_body.problem(message));
        }
    }
    let together = match &raw.max_bodies {
        Some(max_bodies) => {
            let together = bytes(max_bodies.value);
            if together < limits.max_body {
                problems.push(max_bodies.problem("max_bodies is less than max_body: no longest body would fit"));
            }
            together
        }
        None => USUAL_TOGETHER.max(limits.max_body),
    };
    limits.room = Room::of(together);
}

/// The room of the configuration before, with what is in it, where it is as large.
pub(super) fn carry_over(limits: &mut Limits, before: Option<&Limits>) {
    if let Some(before) = before.filter(|before| before.room.bytes() == limits.room.bytes()) {
        limits.room = before.room.clone();
    }
}
