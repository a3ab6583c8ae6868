//! What is in memory, and who gets room: the one table of the process, over every generation of the
//! configuration.
//!
//! A [`Seat`] is the room of one engine: taken before anything is allocated, given back when the
//! engine's memory is free. Promises: seats never exceed the budget or what the system gives;
//! [`super::residency`] decides. Models of one file share their weights while any of them is seated. Its
//! lock is held for microseconds, never over a load. Called by `resident` and `host`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::host::ModelConfig;
use super::load::Shared;
use super::memory::{Need, size_of};
use super::residency::{Bounds, Decision, Holding, Wanted, decide};
use super::resident::Resident;
use crate::request::ModelId;

/// A file as it was when it was looked at.
pub(super) type Stamped = (PathBuf, Option<SystemTime>);

/// Adapters that are wanted for files.
pub(super) type Adapters = Vec<(PathBuf, Stamped)>;

/// What bounds loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) budget: Option<u64>,
    pub(super) load_wait: Duration,
}

/// The table.
pub(super) struct Shelf {
    entries: Mutex<Entries>,
    /// A seat was given back, or a model became idle.
    changed: Notify,
    clock: AtomicU64,
    available: fn() -> Option<u64>,
}

#[derive(Debug)]
struct Entries {
    terms: Terms,
    next: u64,
    held: BTreeMap<u64, Entry>,
    weights: Vec<Weak<Weights>>,
    /// Adapters that the configuration wants for a file.
    adapters: Adapters,
}

#[derive(Debug)]
struct Entry {
    weights: (u64, u64),
    own: u64,
    usage: Arc<Usage>,
    loading: bool,
    leaving: bool,
    name: ModelId,
    owner: Weak<Resident>,
}

/// How a model is used: shared by the model and its entries.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Whether it stays in memory whatever comes.
    pub(super) pinned: AtomicBool,
    running: AtomicUsize,
    used: AtomicU64,
}

/// One request in flight.
#[derive(Debug)]
pub(super) struct Using {
    usage: Arc<Usage>,
    shelf: Arc<Shelf>,
}

/// The weights of a file and the adapters loaded with them, shared by seats.
#[derive(Debug)]
pub(super) struct Weights {
    number: u64,
    file: Stamped,
    /// The adapters that are loaded with them: llama.cpp takes none later.
    pub(super) adapters: Vec<Stamped>,
    /// What llama.cpp made of them, once somebody has loaded them; locked while it does.
    pub(super) shared: Mutex<Option<Arc<Shared>>>,
}

/// Room for one engine, until it is dropped.
pub(super) struct Seat {
    number: u64,
    shelf: Arc<Shelf>,
    weights: Option<Arc<Weights>>,
}

/// Why there is no room; one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There may be when others are idle.
    Busy(String),
    /// There cannot be.
    Never(String),
}

impl Usage {
    /// Whether requests are in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.usage.used.store(self.shelf.tick(), Ordering::Relaxed);
        if self.usage.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shelf.changed.notify_waiters();
        }
    }
}

impl Shelf {
    /// An empty table; `available` tells what the system still gives.
    pub(super) fn new(terms: Terms, available: fn() -> Option<u64>) -> Arc<Shelf> {
        let entries = Entries { terms, next: 0, held: BTreeMap::new(), weights: Vec::new(), adapters: Vec::new() };
        Arc::new(Shelf { entries: Mutex::new(entries), changed: Notify::new(), clock: AtomicU64::new(1), available })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// What bounds loads of models that run.
    pub(super) fn terms(&self) -> Terms {
        self.entries().terms
    }

    /// What bounds loads from now on.
    pub(super) fn adopt(&self, terms: Terms) {
        self.entries().terms = terms;
    }

    /// The adapters that will be loaded with each file; gives those that were expected before.
    pub(super) fn expect_adapters<'a>(&self, configs: impl Iterator<Item = &'a ModelConfig>) -> Adapters {
        let of = |config: &ModelConfig| Some((real(&config.file), stamped_adapter(config)?));
        let adapters = configs.filter_map(of).collect();
        std::mem::replace(&mut self.entries().adapters, adapters)
    }

    /// Expects what was expected before.
    pub(super) fn restore_adapters(&self, adapters: Adapters) {
        self.entries().adapters = adapters;
    }

    /// Notes the beginning of a request.
    pub(super) fn begin(self: &Arc<Self>, usage: &Arc<Usage>) -> Using {
        usage.running.fetch_add(1, Ordering::AcqRel);
        usage.used.store(self.tick(), Ordering::Relaxed);
        Using { usage: Arc::clone(usage), shelf: Arc::clone(self) }
    }

    /// Takes room for a model, unloading what may go and waiting for what will.
    pub(super) async fn seat(self: &Arc<Self>, resident: &Arc<Resident>, terms: Terms) -> Result<Seat, NoRoom> {
        let deadline = Instant::now() + terms.load_wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let owners = match self.try_seat(resident, terms)? {
                Tried::Seated(seat) => return Ok(seat),
                Tried::Unload(owners) => owners,
                Tried::Wait => Vec::new(),
            };
            let raced = owners.iter().filter(|owner| !owner.upgrade().is_some_and(|owner| owner.unload())).count();
            if raced > 0 {
                continue;
            }
            if timeout_at(deadline, changed).await.is_err() {
                let need = resident.need();
                return Err(NoRoom::Busy(format!("needs {need}, and the models that hold the room are answering")));
            }
        }
    }

    fn try_seat(self: &Arc<Self>, resident: &Arc<Resident>, terms: Terms) -> Result<Tried, NoRoom> {
        let need = resident.need();
        let mut entries = self.entries();
        let weights = entries.weights_for(resident.config());
        let weighed = (weights.number, need.weights);
        let (numbers, holdings): (Vec<u64>, Vec<Holding>) =
            entries.held.iter().map(|(number, entry)| (*number, entry.holding())).unzip();
        let bounds = Bounds { budget: terms.budget, available: (self.available)() };
        match decide(Wanted { weights: weighed, own: need.own() }, &holdings, bounds) {
            Decision::Fits => {}
            Decision::Wait => return Ok(Tried::Wait),
            Decision::Unload(places) => {
                let owner = |place: usize| entries.held.get(&numbers[place]).map(|entry| entry.owner.clone());
                return Ok(Tried::Unload(places.into_iter().filter_map(owner).collect()));
            }
            Decision::Never { left, limit } => {
                let by_budget = bounds.budget == Some(limit);
                return Err(NoRoom::Never(entries.refusal(need, (left, limit), by_budget)));
            }
        }
        entries.next += 1;
        let number = entries.next;
        let entry = Entry {
            weights: weighed,
            own: need.own(),
            usage: Arc::clone(resident.usage()),
            loading: true,
            leaving: false,
            name: resident.config().id.clone(),
            owner: Arc::downgrade(resident),
        };
        entry.usage.used.store(self.tick(), Ordering::Relaxed);
        entries.held.insert(number, entry);
        Ok(Tried::Seated(Seat { number, shelf: Arc::clone(self), weights: Some(weights) }))
    }

    /// The model in this seat has taken its memory.
    pub(super) fn settle(&self, seat: u64) {
        if let Some(entry) = self.entries().held.get_mut(&seat) {
            entry.loading = false;
        }
        self.changed.notify_waiters();
    }

    /// The model in this seat is on its way out.
    pub(super) fn leave(&self, seat: u64) {
        if let Some(entry) = self.entries().held.get_mut(&seat) {
            entry.leaving = true;
        }
    }
}

/// What came of one try.
enum Tried {
    Seated(Seat),
    Unload(Vec<Weak<Resident>>),
    Wait,
}

impl Entries {
    /// The weights of a model's file, if they are there with its adapter; else new ones.
    fn weights_for(&mut self, config: &ModelConfig) -> Arc<Weights> {
        let file = (real(&config.file), config.modified);
        let own = stamped_adapter(config);
        self.weights.retain(|known| known.strong_count() > 0);
        let fits = |known: &Arc<Weights>| {
            known.file == file && own.as_ref().is_none_or(|adapter| known.adapters.contains(adapter))
        };
        if let Some(known) = self.weights.iter().filter_map(Weak::upgrade).find(fits) {
            return known;
        }
        let expected = self.adapters.iter().filter(|(of, _)| *of == file.0).map(|(_, adapter)| adapter.clone());
        let mut adapters: Vec<Stamped> = expected.chain(own).collect();
        adapters.sort();
        adapters.dedup();
        self.next += 1;
        let new = Arc::new(Weights { number: self.next, file, adapters, shared: Mutex::default() });
        self.weights.push(Arc::downgrade(&new));
        new
    }

    fn refusal(&self, need: &Need, (left, limit): (u64, u64), by_budget: bool) -> String {
        let of = match by_budget {
            true => format!("of memory = {}", size_of(limit)),
            false => format!("of {} that the system gives", size_of(limit)),
        };
        let mut pinned: Vec<&str> =
            self.held.values().filter(|entry| entry.is_pinned()).map(|entry| entry.name.as_str()).collect();
        pinned.sort_unstable();
        pinned.dedup();
        let unload = if pinned.is_empty() { String::new() } else { format!(", or unload {}", pinned.join(" or ")) };
        format!("needs {need}, {} {of} left; lower `slots` or `context`{unload}", size_of(left))
    }
}

impl Entry {
    /// Pinned by a configuration that is in force: a replaced model goes when its answers end.
    fn is_pinned(&self) -> bool {
        self.owner.strong_count() > 0 && self.usage.pinned.load(Ordering::Relaxed)
    }

    fn holding(&self) -> Holding {
        Holding {
            weights: self.weights,
            own: self.own,
            pinned: self.is_pinned(),
            busy: self.usage.is_busy() || self.owner.strong_count() == 0,
            leaving: self.leaving,
            loading: self.loading,
            used: self.usage.used.load(Ordering::Relaxed),
        }
    }
}

impl Seat {
    /// Which one it is.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The weights of its model's file.
    pub(super) fn weights(&self) -> Option<&Arc<Weights>> {
        self.weights.as_ref()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The weights first: room is free when memory is.
        self.weights = None;
        self.shelf.entries().held.remove(&self.number);
        self.shelf.changed.notify_waiters();
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("seats", &self.entries().held.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A file by its real name, so that links to one file are one.
fn real(file: &Path) -> PathBuf {
    std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())
}

/// The adapter of a model, as its file was when it was looked at.
pub(super) fn stamped_adapter(config: &ModelConfig) -> Option<Stamped> {
    config.adapter.as_ref().map(|adapter| (real(&adapter.file), adapter.modified))
}
