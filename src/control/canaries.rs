//! Candidates on trial, wired between plans and backends.
//!
//! Promises: a trial goes on from generation to generation while model, candidate and terms are the same,
//! and begins anew otherwise. Called by `build`.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::overlay::CheckedCanary;
use super::snapshot::Snapshot;
use crate::execute::{Backends, Canary};
use crate::local::ModelConfig;
use crate::request::ModelId;

/// How many lost trials may be untold; one that is told makes its hearer look at all.
pub(super) const UNTOLD: usize = 16;

/// One that runs, and what it was opened with.
#[derive(Debug, Clone)]
pub(super) struct Trying {
    pub(super) canary: Arc<Canary>,
    pub(super) checked: CheckedCanary,
    current: ModelConfig,
}

/// What a trial needs beside its terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) tasks: &'a TaskTracker,
    pub(super) lost: &'a mpsc::Sender<ModelId>,
}

/// Puts every candidate into its place; its own backend and the current one's are there already.
pub(super) fn wire(
    canaries: Vec<CheckedCanary>,
    models: &[ModelConfig],
    backends: &mut Backends,
    previous: Option<&Snapshot>,
    around: Around<'_>,
) -> Result<Vec<Trying>, String> {
    let mut all = Vec::new();
    for checked in canaries {
        let model = checked.model.clone();
        let missing = |id: &ModelId| format!("model {id} is not there to be compared");
        let current = models.iter().find(|known| known.id == model).ok_or_else(|| missing(&model))?;
        let known = previous.and_then(|snapshot| snapshot.canaries.iter().find(|one| one.checked.model == model));
        let canary = match known.filter(|known| known.tries(&checked) && known.current == *current) {
            Some(known) => Arc::clone(&known.canary),
            None => Canary::open(&model, checked.terms.clone(), around.tasks.clone(), around.lost.clone())
                .map_err(|message| format!("model {model}: canary: {message}"))?,
        };
        let candidate = &checked.candidate.id;
        let pair = backends.models.get(&model).zip(backends.models.get(candidate));
        let (ours, theirs) = pair.ok_or_else(|| missing(candidate))?;
        let watched = canary.watch(ours, theirs);
        backends.models.extend(watched);
        backends.canaries.insert(model, Arc::clone(&canary));
        all.push(Trying { canary, checked, current: current.clone() });
    }
    Ok(all)
}

impl Trying {
    fn tries(&self, checked: &CheckedCanary) -> bool {
        self.checked.candidate == checked.candidate && self.checked.terms == checked.terms
    }
}
