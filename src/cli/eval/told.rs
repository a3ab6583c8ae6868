//! What `weir eval` says while it works: how far it is, and what failed.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::lab::eval::ask::Failed;

const ON_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(15);
const BAR: usize = 30;

/// How many failed rows are told one by one.
const TOLD: usize = 20;

/// A bar on a terminal, else a line now and then; on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    title: String,
    total: usize,
    terminal: bool,
    started: Instant,
    state: Mutex<(usize, Option<Instant>)>,
}

impl Progress {
    pub(super) fn new(title: &str, total: usize) -> Progress {
        Progress {
            title: title.to_owned(),
            total,
            terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// One more is done.
    pub(super) fn step(&self) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let pause = if self.terminal { ON_TERMINAL } else { ELSEWHERE };
        let due = state.1.is_none_or(|said| now - said >= pause);
        if state.0 < self.total && !due {
            return;
        }
        state.1 = Some(now);
        let done = state.0;
        let left = (now - self.started).as_secs_f64() / done as f64 * (self.total - done) as f64;
        let text = format!("{}: {done}/{}, {:.0} min left", self.title, self.total, left / 60.0);
        if self.terminal {
            let filled = BAR * done / self.total.max(1);
            let end = if done == self.total { "\n" } else { "" };
            eprint!("\r[{}{}] {text}   {end}", "#".repeat(filled), ".".repeat(BAR - filled));
        } else {
            eprintln!("{text}");
        }
    }
}

/// Tells which rows have no answer.
///
/// # Errors
/// Where there is one, so that the command fails.
pub(super) fn failures(failed: &[Failed]) -> Result<(), String> {
    for one in failed.iter().take(TOLD) {
        eprintln!("failed: {} of {}: {}", one.id, one.model, one.why);
    }
    match failed.len() {
        0 => Ok(()),
        count => {
            Err(format!("{count} rows have no answer; what was answered is kept, and the same command asks the rest"))
        }
    }
}

/// The machine in words.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("Asked on {}, {cores} cores", model.map_or("an unknown processor", |(_, name)| name))
}
