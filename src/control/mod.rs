//! Files → checked → [`Snapshot`]: the only way a configuration comes to run, at start and on reload.
//!
//! [`read`] finds every problem of every file; [`Control::reload`] swaps a whole generation or
//! nothing. A request reads [`Control::current`] once (in `gateway`), so it never sees a mix.
//! Called by `main` (start), `listen` (SIGHUP, readiness) and `gateway`.

mod audits;
mod build;
mod calibrations;
mod capture;
mod catalogue;
mod check;
mod checked;
mod defaults;
mod fixed;
mod hashes;
mod history;
mod read;
mod snapshot;
mod sources;
mod values;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch::Sender;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::error::Problem;
use crate::policy::Redactor;
use crate::request::ModelId;
use audits::Audits;
pub use calibrations::{Parsed, read_policy};
pub use capture::Capture;
pub use catalogue::{cache, file_hash};
pub use check::{Checked, read};
pub use checked::{Findings, check_policy, check_prices};
use fixed::Fixed;
pub use hashes::Hashes;
use history::History;
pub use history::{Cause, Generation, Refusal};
pub use snapshot::Snapshot;
pub use sources::{Changed, Source};
use sources::{Reading, Sources};
pub use watch::Watch;

/// What the command line says, and the environment.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file; none: the built-in configuration.
    pub config: Option<PathBuf>,
    /// Wins over the file's `listen`.
    pub listen: Option<String>,
    /// Wins over the file's `admin`.
    pub admin: Option<String>,
    /// Local models, `(name, file)`; they replace those of the file.
    pub models: Vec<(Option<String>, String)>,
    /// Policies beside those of the file, `(virtual model, file)`; a name wins over the file's.
    pub virtuals: Vec<(String, PathBuf)>,
    /// Where keys and folders are looked up.
    pub env: Environment,
    /// What is known of the bytes of model files; kept from generation to generation.
    pub hashes: Hashes,
    /// The calibrations and predictors that were read; kept likewise.
    pub parsed: Parsed,
    /// Where audits of kept answers run, off the clients' path; [`Control::close`] waits for them.
    pub tasks: TaskTracker,
    /// Backends that answer in the place of local models, whose files are not loaded then: for
    /// programs that bring their own, and for tests.
    pub stand_ins: BTreeMap<ModelId, Arc<dyn Backend>>,
}

/// Environment variables: the process's own, or fixed ones for tests.
#[derive(Clone, Default)]
pub struct Environment {
    fixed: Option<HashMap<String, String>>,
}

impl Environment {
    /// Only these variables.
    pub fn fixed<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let fixed = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Environment { fixed: Some(fixed) }
    }

    /// A variable that is set and not empty.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn get(&self, name: &str) -> Option<String> {
        let value = match &self.fixed {
            Some(fixed) => fixed.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    }
}

/// Values may be keys and are not shown.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.fixed.as_ref().map(|fixed| fixed.keys().collect::<BTreeSet<_>>());
        f.debug_struct("Environment").field("fixed", &names).finish()
    }
}

/// Holds the current generation and replaces it.
#[derive(Debug)]
pub struct Control {
    options: Options,
    fixed: Fixed,
    audits: Arc<Audits>,
    current: ArcSwap<Snapshot>,
    history: Mutex<History>,
    /// What the disk held when it was last read, right or wrong.
    disk: Sender<Arc<Sources>>,
    reloading: tokio::sync::Mutex<()>,
    began: SystemTime,
}

/// A reload in which nothing was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The generation that runs now.
    pub generation: u64,
    /// Whether it is a new one; `false`: nothing had changed.
    pub is_new: bool,
    /// The files that are not as they were.
    pub changed: Vec<Changed>,
    /// What holds without being an error.
    pub warnings: Vec<String>,
}

impl Control {
    /// Builds the first generation: loads models, opens pools, asks upstreams what must be asked.
    ///
    /// # Errors
    /// Every problem of what is to run.
    pub async fn open(options: Options, mut checked: Checked) -> Result<Control, Vec<Problem>> {
        tell(&checked);
        let fixed = Fixed::of(&checked);
        let audits = Audits::open(checked.state.as_deref(), options.tasks.clone());
        let sources = Arc::new(std::mem::take(&mut checked.sources));
        let warnings = std::mem::take(&mut checked.warnings);
        let snapshot = build::build(checked, None, 1, (&options.stand_ins, &audits)).await?;
        let mut history = History::default();
        let (began, built, before) = (SystemTime::now(), SystemTime::now(), Arc::clone(&sources));
        let cause = Cause::Start;
        history.ran(Generation { number: 1, built, cause, warnings, sources: Arc::clone(&sources), before });
        let (current, history, disk) = (ArcSwap::from_pointee(snapshot), Mutex::new(history), Sender::new(sources));
        let reloading = tokio::sync::Mutex::new(());
        Ok(Control { options, fixed, audits, current, history, disk, reloading, began })
    }

    /// The generation that runs now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// When the first generation began to run.
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// What is waited for at the end of the process; a change that was begun goes on in it when its
    /// caller leaves.
    pub fn tasks(&self) -> &TaskTracker {
        &self.options.tasks
    }

    /// The newest generations, the one that runs last.
    pub fn generations(&self) -> Vec<Arc<Generation>> {
        self.history().generations()
    }

    /// The newest reloads that were refused, the last one last.
    pub fn refusals(&self) -> Vec<Arc<Refusal>> {
        self.history().refusals()
    }

    /// Whether the files on the disk, as they were last read, are not those that run: they were refused,
    /// or the generation that runs was rolled back to.
    pub fn differs_from_disk(&self) -> bool {
        **self.disk.borrow() != *self.history().sources()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no local model compute any more, for good; blocks for about 100 ms. To be called just
    /// before the process exits: llama.cpp must not lose its own data under a running step.
    pub fn halt(&self) {
        self.current().host.halt();
    }

    /// Waits for the audits under way, at most so long, and writes down how every audited slice
    /// stands. For the end of the process: no request may be answered any more.
    pub async fn close(&self, limit: Duration) {
        self.audits.close(limit).await;
    }

    /// Reads everything again. On any problem the running generation stays, whole, and the
    /// problems come back. Requests in flight keep the generation they began with. Addresses
    /// and numbers of threads stay those of the start; a file that changes them is warned of.
    /// Where no file has changed and nothing has ended, there is no new generation.
    /// Reloads wait for each other. Dropping the future leaves the running generation.
    ///
    /// # Errors
    /// Every problem of what is to run.
    pub async fn reload(&self, cause: Cause) -> Result<Reloaded, Vec<Problem>> {
        let _one_at_a_time = self.reloading.lock().await;
        let (read, sources) = self.read(Arc::default()).await;
        self.disk.send_replace(Arc::clone(&sources));
        let done = match read {
            Ok(checked) => self.replace(checked, &cause).await,
            Err(problems) => Err(problems),
        };
        done.map_err(|problems| self.refused(problems, cause))
    }

    /// Makes a new generation of the files of an earlier one; those on the disk are left alone, and
    /// the next reload reads them again. Keys and models are those of the disk.
    ///
    /// # Errors
    /// A generation that is not kept, or every problem: a model is not the one of then.
    pub async fn roll_back(&self, to: u64, who: String) -> Result<Reloaded, Vec<Problem>> {
        let _one_at_a_time = self.reloading.lock().await;
        let cause = Cause::RollBack { to, who };
        let kept = self.generations();
        let place = || format!("generation {to}");
        let Some(target) = kept.iter().find(|kept| kept.number == to) else {
            let first = kept.first().map_or(0, |first| first.number);
            let message = format!("is not kept; known: {first} to {}", self.current().generation());
            return Err(vec![Problem { place: place(), message }]);
        };
        let then = Arc::clone(&target.sources);
        let (read, now) = self.read(Arc::clone(&then)).await;
        let other: Vec<Problem> = now
            .other_models(&then)
            .map(|file| {
                let message = format!("{} is not the file that it ran; put that one back", file.display());
                Problem { place: place(), message }
            })
            .collect();
        let done = match read {
            Ok(_) if !other.is_empty() => Err(other),
            Ok(checked) => self.replace(checked, &cause).await,
            Err(problems) => Err(problems),
        };
        done.map_err(|problems| self.refused(problems, cause))
    }

    /// Reads and checks, with the texts of `given` in the place of the disk's.
    async fn read(&self, given: Arc<Sources>) -> (Result<Checked, Vec<Problem>>, Arc<Sources>) {
        let (options, running) = (self.options.clone(), self.history().sources());
        let reading = move || {
            let reading = Reading::of(given);
            let read = check::read_as(&options, &reading);
            let mut sources = reading.sources();
            sources.share(&running);
            (read, Arc::new(sources))
        };
        tokio::task::spawn_blocking(reading).await.unwrap_or_else(|error| {
            let problem = Problem { place: "reload".to_owned(), message: error.to_string() };
            (Err(vec![problem]), self.disk.borrow().clone())
        })
    }

    /// Builds what was checked and puts it in the place of what runs.
    async fn replace(&self, mut checked: Checked, cause: &Cause) -> Result<Reloaded, Vec<Problem>> {
        self.fixed.keep(&mut checked);
        let running = self.current();
        let before = self.history().sources();
        if checked.sources == *before && running.stopped().is_empty() && !checked.asks_upstreams() {
            let (generation, changed) = (running.generation(), Vec::new());
            return Ok(Reloaded { generation, is_new: false, changed, warnings: checked.warnings });
        }
        if let Some(problem) = checked.open_door(&checked.admin, &checked.place) {
            return Err(vec![problem]);
        }
        tell(&checked);
        let sources = Arc::new(std::mem::take(&mut checked.sources));
        let warnings = checked.warnings.clone();
        let given = (&self.options.stand_ins, &self.audits);
        let snapshot = build::build(checked, Some(&running), running.generation() + 1, given).await?;
        let number = snapshot.generation();
        self.current.store(Arc::new(snapshot));
        let changed = sources.changed(&before);
        let built = SystemTime::now();
        let (cause, told) = (cause.clone(), warnings.clone());
        self.history().ran(Generation { number, built, cause, warnings: told, sources, before });
        Ok(Reloaded { generation: number, is_new: true, changed, warnings })
    }

    /// Keeps the problems, without anything in them that looks like a secret.
    fn refused(&self, mut problems: Vec<Problem>, cause: Cause) -> Vec<Problem> {
        if let Ok(redactor) = Redactor::build() {
            problems.iter_mut().for_each(|problem| problem.message = redactor.redact(&problem.message));
        }
        self.history().refused(Refusal { when: SystemTime::now(), cause, problems: problems.clone() });
        problems
    }
}

fn tell(checked: &Checked) {
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    for note in checked.notes() {
        tracing::info!("{note}");
    }
}
