//! The generations that have run and the reloads that were refused, the newest of both.
//!
//! Promises: numbers only grow; the memory is bounded; what is shown holds no secret. Written by
//! `Control`, read by the admin port.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::sources::{Changed, Source, Sources};
use crate::error::Problem;
use crate::policy::Redactor;

/// How many of each are kept.
const KEPT: usize = 32;

/// Why the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The process began.
    Start,
    /// SIGHUP.
    Signal,
    /// A file has changed.
    Files,
    /// The process that served before has gone, and left what outlives it.
    HandOver,
    /// Somebody asked for it at the admin port.
    Admin {
        /// Who.
        who: String,
    },
    /// A candidate has lost its trial.
    Canary,
    /// Somebody asked for an earlier generation.
    RollBack {
        /// Its number.
        to: u64,
        /// Who.
        who: String,
    },
}

impl Cause {
    /// The cause's name in answers and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::Signal => "signal",
            Cause::Files => "files",
            Cause::HandOver => "handover",
            Cause::Canary => "canary",
            Cause::Admin { .. } => "admin",
            Cause::RollBack { .. } => "rollback",
        }
    }

    /// On whose behalf; for what comes from outside of the admin port, what it came by.
    pub fn who(&self) -> &str {
        match self {
            Cause::Admin { who } | Cause::RollBack { who, .. } => who,
            Cause::Start | Cause::Signal | Cause::Files | Cause::HandOver | Cause::Canary => self.name(),
        }
    }
}

/// A generation that runs or has run.
#[derive(Debug)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Since when it runs.
    pub built: SystemTime,
    /// What it came of.
    pub cause: Cause,
    /// What holds without being an error.
    pub warnings: Vec<String>,
    pub(super) sources: Arc<Sources>,
    /// Those of the generation before.
    pub(super) before: Arc<Sources>,
}

impl Generation {
    /// The files that are not as they were in the generation before.
    pub fn changed(&self) -> Vec<Changed> {
        self.sources.changed(&self.before)
    }

    /// Its files.
    ///
    /// # Errors
    /// A fault in the patterns that secrets are found by.
    pub fn sources(&self) -> Result<Vec<Source>, String> {
        Ok(self.sources.shown(&Redactor::build()?))
    }

    /// A unified diff to the generation before.
    ///
    /// # Errors
    /// A fault in the patterns that secrets are found by.
    pub fn diff(&self) -> Result<String, String> {
        Ok(self.sources.diff(&self.before, &Redactor::build()?))
    }
}

/// A reload that changed nothing, because something was wrong.
#[derive(Debug)]
pub struct Refusal {
    /// When.
    pub when: SystemTime,
    /// What it came of.
    pub cause: Cause,
    /// Everything that was wrong.
    pub problems: Vec<Problem>,
}

/// The newest of both; never empty of generations.
#[derive(Debug, Default)]
pub(super) struct History {
    generations: VecDeque<Arc<Generation>>,
    refusals: VecDeque<Arc<Refusal>>,
}

impl History {
    pub(super) fn ran(&mut self, generation: Generation) {
        keep(&mut self.generations, generation);
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        keep(&mut self.refusals, refusal);
    }

    /// The oldest first.
    pub(super) fn generations(&self) -> Vec<Arc<Generation>> {
        self.generations.iter().cloned().collect()
    }

    /// The oldest first.
    pub(super) fn refusals(&self) -> Vec<Arc<Refusal>> {
        self.refusals.iter().cloned().collect()
    }

    /// What the running generation was made of.
    pub(super) fn sources(&self) -> Arc<Sources> {
        self.generations.back().map(|generation| Arc::clone(&generation.sources)).unwrap_or_default()
    }
}

fn keep<T>(all: &mut VecDeque<Arc<T>>, one: T) {
    all.push_back(Arc::new(one));
    while all.len() > KEPT {
        all.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_stays() {
        let mut history = History::default();
        for number in 1..=100 {
            let (sources, before) = (Arc::default(), Arc::default());
            let (built, cause, warnings) = (SystemTime::now(), Cause::Signal, Vec::new());
            history.ran(Generation { number, built, cause, warnings, sources, before });
            history.refused(Refusal { when: SystemTime::now(), cause: Cause::Files, problems: Vec::new() });
        }
        let numbers: Vec<u64> = history.generations().iter().map(|one| one.number).collect();
        assert_eq!(numbers, (69..=100).collect::<Vec<u64>>());
        assert_eq!(history.refusals().len(), KEPT);
    }
}
