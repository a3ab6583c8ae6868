//! The trail of changes: who has changed what runs, when, and what came of it.
//!
//! Kept in memory, the newest ones, and in `changes.jsonl` in the state folder, which its owner alone
//! may read and which makes room when it is full. Promises: one log line each; a trail that cannot be
//! written is told once and goes on in memory. Written by `Control`, read by the admin port.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// How many are kept in memory.
const KEPT: usize = 256;

/// Where the file makes room: what was in it goes to `changes.jsonl.1`.
const MOST_BYTES: u64 = 1 << 20;

/// A change, or an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in RFC 3339.
    pub when: String,
    /// Who: `token` or `loopback` with the caller's address and the name it gave; else what it came by.
    pub who: String,
    /// What was to be changed: `reload`, `rollback`, or a model's operation.
    pub what: String,
    /// The generation that ran afterwards.
    pub generation: u64,
    /// `applied`, `refused`, `unchanged`.
    pub outcome: String,
    /// More of it, in words.
    pub about: String,
}

/// The trail of this process, and what it found of those before it.
#[derive(Debug)]
pub(super) struct Trail {
    file: Option<PathBuf>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    newest: VecDeque<Change>,
    counts: BTreeMap<&'static str, u64>,
    /// Whether it was told that the file cannot be written.
    told: bool,
}

impl Trail {
    /// Goes on with the trail of this state folder.
    pub(super) fn open(state: Option<&Path>) -> Trail {
        let file = state.map(|state| state.join("changes.jsonl"));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let mut newest: VecDeque<Change> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        newest.drain(..newest.len().saturating_sub(KEPT));
        Trail { file, kept: Mutex::new(Kept { newest, ..Kept::default() }) }
    }

    /// Notes a change; `what` is a metric's label, and therefore one of few.
    pub(super) fn note(&self, what: &'static str, change: Change) {
        let Change { who, generation, outcome, about, .. } = &change;
        tracing::info!(target: "weir::change", what, who, generation, outcome, about, "change");
        let mut kept = self.kept();
        *kept.counts.entry(what).or_default() += 1;
        if let Some(file) = &self.file
            && let Err(error) = append(file, &change)
            && !std::mem::replace(&mut kept.told, true)
        {
            tracing::error!(%error, file = %file.display(), "the trail of changes cannot be written; it is in the log");
        }
        kept.newest.push_back(change);
        if kept.newest.len() > KEPT {
            kept.newest.pop_front();
        }
    }

    /// The newest, the last one first.
    pub(super) fn newest(&self) -> Vec<Change> {
        self.kept().newest.iter().rev().cloned().collect()
    }

    /// How many of each there were in this process.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.kept().counts.iter().map(|(what, count)| (*what, *count)).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, as the trail writes it.
pub(super) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn append(file: &Path, change: &Change) -> io::Result<()> {
    let line = serde_json::to_string(change)? + "\n";
    if fs::metadata(file).is_ok_and(|found| found.len() + line.len() as u64 > MOST_BYTES) {
        fs::rename(file, file.with_extension("jsonl.1"))?;
    }
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut open = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    open.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn change(about: &str) -> Change {
        let text = |text: &str| text.to_owned();
        let (who, what, outcome) = (text("loopback 127.0.0.1:9 alice"), text("reload"), text("applied"));
        Change { when: now(), who, what, generation: 2, outcome, about: text(about) }
    }

    #[test]
    fn the_trail_outlives_the_process_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        let trail = Trail::open(Some(&state));
        trail.note("reload", change("one"));
        trail.note("rollback", change("two"));
        assert_eq!(fs::metadata(state.join("changes.jsonl")).unwrap().mode() & 0o777, 0o600);
        let again = Trail::open(Some(&state));
        assert_eq!(again.newest(), trail.newest());
        assert_eq!(again.newest().iter().map(|it| it.about.as_str()).collect::<Vec<_>>(), ["two", "one"]);
        assert_eq!((trail.counts(), again.counts()), (vec![("reload", 1), ("rollback", 1)], Vec::new()));
    }

    #[test]
    fn the_trail_is_bounded_in_memory_and_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let trail = Trail::open(Some(folder.path()));
        for _ in 0..300 {
            trail.note("reload", change(&"x".repeat(10_000)));
        }
        assert_eq!(trail.newest().len(), KEPT);
        let files: Vec<u64> =
            fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).collect();
        assert!(files.len() == 2 && files.iter().all(|bytes| *bytes <= MOST_BYTES), "{files:?}");
    }

    #[test]
    fn a_trail_that_cannot_be_written_goes_on_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state"), "a file").unwrap();
        let trail = Trail::open(Some(&folder.path().join("state")));
        trail.note("reload", change("one"));
        assert_eq!(trail.newest().len(), 1);
    }
}
