//! Every budget of the process, with its clock, its locks and its journal.
//!
//! Promises: the number of budgets is bounded; a reload changes rates and forgets no spending. Where
//! there is a state folder, the journal holds at least what was spent of each budget, a lease more
//! than that, written before it is used: a request waits for it only where the lease is used up. A
//! clean end writes the exact figures. Asked by the Meter, read by `observe`, kept by `control`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::journal::{Journal, Kept, wall_clock};
use super::pacer::{Mean, Pace};
use crate::confidence::gap::{Pacing, Per};
use crate::request::{ModelId, TenantId};

/// The tokens of an answer of which nothing is known.
const USUAL_OUTPUT: f64 = 256.0;
/// How many budgets there may be; beyond, tenants share one.
const MOST_PACERS: usize = 1024;
/// Who pays where all pay together.
const ALL: &str = "all";
/// Who pays where there are too many to tell.
const OTHER: &str = "other";

/// Policy and payer.
type Key = (Arc<str>, Arc<str>);

/// One budget that requests share.
#[derive(Debug)]
pub(super) struct Pacer(Mutex<Pace>);

impl Pacer {
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every budget of the process, and how long upstreams' answers are.
#[derive(Debug)]
pub struct Pacers {
    opened: Instant,
    table: Mutex<Table>,
    /// The journal, while this process writes it; locked for as long as that takes.
    journal: Mutex<Option<Journal>>,
    /// Asks for it to be written; full: it was asked already.
    asking: Mutex<Option<SyncSender<()>>>,
    /// Whether the journal is there and can be written.
    is_kept: AtomicBool,
    /// Whether another process was given the journal.
    released: AtomicBool,
    /// Counts what was written.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    pacers: BTreeMap<Key, Arc<Pacer>>,
    /// Of earlier processes, not used in this one yet; moments are those of this one's clock.
    earlier: BTreeMap<Key, Kept>,
    outputs: HashMap<ModelId, Mean>,
}

/// How a budget stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Paced {
    /// The policy whose budget it is.
    pub policy: Arc<str>,
    /// Who pays: a tenant, `all`, or `other` beyond 1024 of them.
    pub tenant: Arc<str>,
    /// What a dollar must be worth.
    pub lambda: f64,
    /// Dollars spent since the budget began, by requests that are over.
    pub spent_usd: f64,
    /// Those of them that this process spent; never falls.
    pub own_usd: f64,
    /// Dollars that idle time has saved up; below 0: spent ahead of the rate.
    pub left_usd: f64,
}

/// What was spent of a budget beyond what is written in the journal; below 0: less.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Correction {
    policy: Arc<str>,
    tenant: Arc<str>,
    usd: f64,
}

impl Default for Pacers {
    fn default() -> Self {
        Pacers {
            opened: Instant::now(),
            table: Mutex::default(),
            journal: Mutex::default(),
            asking: Mutex::default(),
            is_kept: AtomicBool::new(false),
            released: AtomicBool::new(false),
            written: watch::Sender::default(),
        }
    }
}

impl Pacers {
    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.opened.elapsed().as_secs_f64()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Option<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, Option<SyncSender<()>>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The budget that this tenant's request is paid from, at the rate that is wanted now.
    pub(super) fn of(&self, pacing: &Pacing, tenant: &TenantId) -> Arc<Pacer> {
        let now = self.now();
        let payer = match pacing.per {
            Per::Tenant => tenant.as_str(),
            Per::All => ALL,
        };
        let mut table = self.table();
        let mut key: Key = (Arc::clone(&pacing.policy), Arc::from(payer));
        let is_full = table.pacers.len() + table.earlier.len() >= MOST_PACERS;
        if is_full && !table.pacers.contains_key(&key) && !table.earlier.contains_key(&key) {
            key.1 = Arc::from(OTHER);
        }
        if let Some(pacer) = table.pacers.get(&key).map(Arc::clone) {
            drop(table);
            pacer.pace().set_rate(pacing.usd_per_hour, pacing.credit, now);
            return pacer;
        }
        let pace = |at| Pace::new(pacing.usd_per_hour, pacing.credit, at);
        let pace = match table.earlier.remove(&key) {
            Some(Kept { spent_usd, ahead_usd, worth, weighed, at, .. }) => {
                pace(at).after(spent_usd, ahead_usd, Mean { count: weighed, value: worth })
            }
            None => pace(now),
        };
        let pacer = Arc::new(Pacer(Mutex::new(pace)));
        table.pacers.insert(key, Arc::clone(&pacer));
        drop(table);
        self.ask();
        pacer
    }

    /// Counts dollars of a budget as ahead of its rate before they are spent.
    pub(super) fn reserve(&self, pacer: &Pacer, usd: f64) {
        self.charge(pacer, |pace, now| pace.reserve(usd, now));
    }

    /// Puts what was spent of a budget in the place of what was reserved.
    pub(super) fn settle(&self, pacer: &Pacer, reserved: f64, usd: f64) {
        self.charge(pacer, |pace, now| pace.settle(reserved, usd, now));
    }

    fn charge(&self, pacer: &Pacer, charge: impl FnOnce(&mut Pace, f64)) {
        let now = self.now();
        let mut pace = pacer.pace();
        charge(&mut pace, now);
        let is_low = pace.is_low();
        drop(pace);
        if is_low {
            self.ask();
        }
    }

    /// Waits until a crash would forget nothing that was spent of this budget; at once where its lease
    /// reaches, or where nothing is kept.
    pub(super) async fn covered(&self, pacer: &Pacer) {
        let mut written = self.written.subscribe();
        while self.is_kept.load(Ordering::Acquire) && !pacer.pace().is_covered() {
            self.ask();
            // The sender is our own and cannot be gone.
            let _ = written.changed().await;
        }
    }

    /// How many tokens this model's answers have on average.
    pub(super) fn usual_output(&self, model: &ModelId) -> f64 {
        self.table().outputs.get(model).and_then(|mean| mean.value).unwrap_or(USUAL_OUTPUT)
    }

    /// Notes how long an answer was.
    pub(super) fn saw_output(&self, model: &ModelId, tokens: u64) {
        self.table().outputs.entry(model.clone()).or_default().add(tokens as f64);
    }

    /// How every budget stands now that was used in this process.
    pub fn stand(&self) -> Vec<Paced> {
        let now = self.now();
        let pacers: Vec<_> = self.table().pacers.iter().map(|(key, pacer)| (key.clone(), Arc::clone(pacer))).collect();
        let stand = |((policy, tenant), pacer): (Key, Arc<Pacer>)| {
            let mut pace = pacer.pace();
            let lambda = pace.lambda(now);
            Paced {
                policy,
                tenant,
                lambda,
                spent_usd: pace.spent_usd(),
                own_usd: pace.own_usd(),
                left_usd: -pace.ahead().0,
            }
        };
        pacers.into_iter().map(stand).collect()
    }

    /// Reads what earlier processes spent, and keeps what is spent from now on, in this state folder.
    /// Once kept, they are kept to the end: a second call changes nothing.
    ///
    /// # Errors
    /// A sentence with the way out: another process keeps budgets there, or the journal cannot be read.
    pub fn keep(self: &Arc<Self>, folder: &Path) -> Result<(), String> {
        let mut journal = self.journal();
        if journal.is_some() {
            return Ok(());
        }
        let (opened, kept) = Journal::open(folder)?;
        self.take_in(kept);
        let (ask, asked) = sync_channel(1);
        let pacers = Arc::downgrade(self);
        let writing = std::thread::Builder::new().name("budgets".to_owned()).spawn(move || write_all(&asked, &pacers));
        writing.map_err(|error| format!("budgets cannot be kept: {error}"))?;
        *self.asking() = Some(ask);
        *journal = Some(opened);
        self.is_kept.store(true, Ordering::Release);
        Ok(())
    }

    /// What stands in the journal; of a budget that is used already, what another process added to it.
    fn take_in(&self, kept: Vec<Kept>) {
        let (now, wall) = (self.now(), wall_clock());
        let mut table = self.table();
        for one in kept {
            let key = (Arc::clone(&one.policy), Arc::clone(&one.tenant));
            if let Some(pacer) = table.pacers.get(&key) {
                let mut pace = pacer.pace();
                let more = one.spent_usd - pace.bound();
                if more > 0.0 {
                    pace.correct(more, now);
                }
            } else {
                let at = now - (wall - one.at).max(0.0);
                table.earlier.insert(key, Kept { at, ..one });
            }
        }
    }

    fn ask(&self) {
        if let Some(asking) = &*self.asking() {
            // Full: it was asked already, and is written after what was noted before.
            let _ = asking.try_send(());
        }
    }

    /// Writes every budget, each with a lease or exactly.
    fn write(&self, journal: &Journal, leased: bool) {
        let (kept, bounds) = self.to_keep(leased);
        match journal.write(&kept) {
            Ok(()) => {
                for (pacer, bound) in bounds {
                    pacer.pace().set_bound(bound);
                }
                self.is_kept.store(true, Ordering::Release);
            }
            Err(error) => {
                // Answers are worth more than their account.
                self.is_kept.store(false, Ordering::Release);
                tracing::error!(%error, "budgets cannot be kept; a crash would forget what was spent");
            }
        }
        self.written.send_modify(|count| *count += 1);
    }

    fn to_keep(&self, leased: bool) -> (Vec<Kept>, Vec<(Arc<Pacer>, f64)>) {
        let (now, wall) = (self.now(), wall_clock());
        let table = self.table();
        let mut bounds = Vec::new();
        let mut kept: Vec<Kept> =
            table.earlier.values().map(|one| Kept { at: wall - (now - one.at), ..one.clone() }).collect();
        for ((policy, tenant), pacer) in &table.pacers {
            let pace = pacer.pace();
            let bound = if leased { pace.leased() } else { pace.committed() };
            let ((ahead, at), worth) = (pace.ahead(), pace.worth());
            kept.push(Kept {
                policy: Arc::clone(policy),
                tenant: Arc::clone(tenant),
                spent_usd: bound,
                ahead_usd: ahead + (bound - pace.committed()),
                worth: worth.value,
                weighed: worth.count,
                at: wall - (now - at),
            });
            bounds.push((Arc::clone(pacer), bound));
        }
        (kept, bounds)
    }

    /// Writes what was spent, exactly, and lets the journal go. For the end of the process.
    pub fn close(&self) {
        self.let_go(false);
    }

    /// Writes what was spent, and a lease of each budget for what is still in flight, and lets the
    /// journal go, for another process to keep it from now on.
    pub fn release(&self) {
        let was_kept = self.let_go(true);
        self.released.store(was_kept, Ordering::Release);
    }

    /// Whether there was a journal to write and to let go.
    fn let_go(&self, leased: bool) -> bool {
        *self.asking() = None;
        // Locked from the last writing on, so that it is the last.
        let mut journal = self.journal();
        journal.iter().for_each(|journal| self.write(journal, leased));
        self.is_kept.store(false, Ordering::Release);
        self.written.send_modify(|count| *count += 1);
        journal.take().is_some()
    }

    /// Whether the journal was let go for another process.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// What was spent since [`Pacers::release`] beyond, or short of, the leases that it wrote; for
    /// [`Pacers::correct`] of the process that keeps the journal now.
    pub fn corrections(&self) -> String {
        let table = self.table();
        let correction = |((policy, tenant), pacer): (&Key, &Arc<Pacer>)| {
            let pace = pacer.pace();
            let (policy, tenant) = (Arc::clone(policy), Arc::clone(tenant));
            Correction { policy, tenant, usd: pace.committed() - pace.bound() }
        };
        let all: Vec<Correction> = table.pacers.iter().map(correction).collect();
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Takes in what the process before this one said that it still spent.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn correct(&self, text: &str) -> Result<(), String> {
        let all: Vec<Correction> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let now = self.now();
        let mut table = self.table();
        let Table { pacers, earlier, .. } = &mut *table;
        for Correction { policy, tenant, usd } in all {
            let key = (Arc::clone(&policy), Arc::clone(&tenant));
            match (pacers.get(&key), earlier.get_mut(&key)) {
                (Some(pacer), _) => pacer.pace().correct(usd, now),
                (None, Some(one)) => {
                    one.spent_usd += usd;
                    one.ahead_usd += usd;
                }
                (None, None) => {
                    let (worth, weighed) = (None, 0.0);
                    let new = Kept { policy, tenant, spent_usd: usd, ahead_usd: usd, worth, weighed, at: now };
                    earlier.insert(key, new);
                }
            }
        }
        drop(table);
        self.ask();
        Ok(())
    }
}

/// Writes whenever it is asked to, until the journal is let go.
fn write_all(asked: &Receiver<()>, pacers: &Weak<Pacers>) {
    while asked.recv().is_ok() {
        let Some(pacers) = pacers.upgrade() else { return };
        let journal = pacers.journal();
        journal.iter().for_each(|journal| pacers.write(journal, true));
    }
}

#[cfg(test)]
mod tests;
