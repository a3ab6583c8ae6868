//! A direct plan: the targets in order, the first that answers serves.
//!
//! Promises: a target that cannot serve the request is never asked; one that is not ready is
//! passed over while another remains; a failure moves on only where another target may do better,
//! and never after the first delta. Called by `execute::run`.

use super::{Asking, may_go_on};
use crate::account::Reason;
use crate::backend::Completion;
use crate::error::{Error, Result};
use crate::request::ModelId;

/// Asks the targets in order.
pub(super) async fn run(targets: &[ModelId], asking: &Asking<'_>) -> Result<Completion> {
    let mut error: Option<Error> = None;
    let mut able = Vec::with_capacity(targets.len());
    for (stage, model) in targets.iter().enumerate() {
        match asking.able(model, stage) {
            Ok(backend) => able.push((stage, model, backend)),
            Err(refusal) => error = error.or(Some(refusal)),
        }
    }
    let last = able.len().saturating_sub(1);
    for (place, (stage, model, backend)) in able.into_iter().enumerate() {
        // The last one is asked however it is: it knows best why it does not answer.
        if place < last && !backend.status().ready {
            asking.meter.skipped(model, stage, Reason::NotReady);
            continue;
        }
        match asking.begin(backend, model, stage).await {
            Ok(begun) => return Ok(begun.serve()),
            Err(failure) if may_go_on(&failure) => error = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    Err(error.unwrap_or_else(|| Error::internal("the plan has no target")))
}
