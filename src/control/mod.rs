//! Files → checked → [`Snapshot`]: the only way a configuration comes to run, at start and on reload.
//!
//! [`read`] finds every problem of every file; [`Control::reload`] swaps a whole generation or
//! nothing. A request reads [`Control::current`] once (in `gateway`), so it never sees a mix.
//! Called by `main` (start), `listen` (SIGHUP, readiness) and `gateway`.

mod audits;
mod bodies;
mod build;
mod calibrations;
mod canaries;
mod capture;
mod catalogue;
mod check;
mod checked;
mod defaults;
mod fixed;
mod hashes;
mod history;
mod models;
mod operate;
mod overlay;
mod propose;
mod read;
mod shown;
mod snapshot;
mod sources;
mod telemetry;
mod trail;
mod values;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::watch::Sender;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::error::Problem;
use crate::execute::Lasting;
use crate::request::ModelId;
use audits::Audits;
use build::Given;
pub use calibrations::{Parsed, read_policy};
pub use capture::Capture;
pub use catalogue::{Entry, cache, entries, file_hash, folder, hub_file};
pub use check::{Checked, read};
pub use checked::{Findings, check_policy, check_prices};
use fixed::Fixed;
pub use hashes::Hashes;
use history::History;
pub use history::{Cause, Generation, Refusal};
pub use operate::{Action, CandidateReport, Denied, Lapsed, ModelReport, Operation};
pub use overlay::Candidate;
pub use propose::{Proposal, Proposed};
pub use shown::ShownPolicy;
pub use snapshot::Snapshot;
pub use sources::{Changed, Source};
use sources::{Reading, Sources};
pub use telemetry::{Protocol, Telemetry};
pub use trail::Change;
use trail::Trail;
pub use watch::Watch;

/// A path (relative to `folder`), a name of the catalogue, or `hf:ORG/REPO:FILE` → a file that is there.
///
/// # Errors
/// No such file, with the way to get it.
pub fn model_file(text: &str, folder: &Path, env: &Environment) -> Result<PathBuf, String> {
    values::find_file(text, folder, env, &Reading::default())
}

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
    /// The state folder of the process that runs, whatever the configuration says by now.
    pub state: Option<PathBuf>,
    /// Whether another process serves now with the same state folder, which is not this one's before
    /// [`Control::take_over`].
    pub beside: bool,
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

/// What can be changed, as the trail and the metrics call it.
const CHANGES: [&str; 8] = [
    "reload",
    "rollback",
    "model_load",
    "model_unload",
    "model_canary",
    "model_promote",
    "model_rollback",
    "canary_rolled_back",
];

/// Holds the current generation and replaces it.
#[derive(Debug)]
pub struct Control {
    options: Options,
    fixed: Fixed,
    audits: Arc<Audits>,
    lasting: Arc<Lasting>,
    /// Whether what outlives the process is this one's to write.
    owns_state: AtomicBool,
    current: ArcSwap<Snapshot>,
    history: Mutex<History>,
    trail: Trail,
    /// What the disk held when it was last read, right or wrong.
    disk: Sender<Arc<Sources>>,
    reloading: tokio::sync::Mutex<()>,
    /// Told of trials that are lost.
    lost: mpsc::Sender<ModelId>,
    untold: tokio::sync::Mutex<mpsc::Receiver<ModelId>>,
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
        let trail = Trail::open(checked.state.as_deref());
        let sources = Arc::new(std::mem::take(&mut checked.sources));
        let warnings = std::mem::take(&mut checked.warnings);
        let lasting = Arc::new(Lasting::default());
        if !options.beside {
            keep_budgets(&checked, &lasting)?;
        }
        let (lost, untold) = mpsc::channel(canaries::UNTOLD);
        let given = Given { stand_ins: &options.stand_ins, audits: &audits, lasting: &lasting, lost: &lost };
        let snapshot = build::build(checked, None, 1, given).await?;
        let mut history = History::default();
        let (began, built, before) = (SystemTime::now(), SystemTime::now(), Arc::clone(&sources));
        let cause = Cause::Start;
        history.ran(Generation { number: 1, built, cause, warnings, sources: Arc::clone(&sources), before });
        let (current, history, disk) = (ArcSwap::from_pointee(snapshot), Mutex::new(history), Sender::new(sources));
        let (owns_state, reloading) = (AtomicBool::new(!options.beside), tokio::sync::Mutex::new(()));
        let untold = tokio::sync::Mutex::new(untold);
        Ok(Control {
            options,
            fixed,
            audits,
            lasting,
            owns_state,
            current,
            history,
            trail,
            disk,
            reloading,
            lost,
            untold,
            began,
        })
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

    /// Notes a change in the trail, with the generation that runs now: on whose behalf (`who` as
    /// [`Cause::who`] has it), what was to be changed (one of few words: it is a metric's label), what came
    /// of it (`applied`, `refused`, `unchanged`), and more in words.
    pub fn note(&self, who: &str, what: &'static str, outcome: &'static str, about: String) {
        let (when, who, generation) = (trail::now(), who.to_owned(), self.current().generation());
        let change = Change { when, who, what: what.to_owned(), generation, outcome: outcome.to_owned(), about };
        self.trail.note(what, change);
    }

    /// The newest changes, the last one first.
    pub fn changes(&self) -> Vec<Change> {
        self.trail.newest()
    }

    /// How many changes of each kind were noted in this process.
    pub fn change_counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts: BTreeMap<&'static str, u64> = CHANGES.iter().map(|what| (*what, 0)).collect();
        counts.extend(self.trail.counts());
        counts.into_iter().collect()
    }

    /// Where requests are captured, if they are.
    pub fn capture(&self) -> Option<&Capture> {
        self.fixed.capture.as_ref()
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
    /// stands and what was spent of every budget. For the end of the process: no request may be
    /// answered any more. After a hand-over nothing is written.
    pub async fn close(&self, limit: Duration) {
        self.audits.close(limit).await;
        self.lasting.pacers.close();
    }

    /// Writes what outlives the process, and nothing more from now on: another process does, until
    /// [`Control::resume`]. Answers in flight are accounted all the same.
    pub fn hand_over(&self) {
        self.owns_state.store(false, Ordering::Release);
        self.audits.release();
        self.lasting.pacers.release();
    }

    /// Goes on after a hand-over that did not come about.
    pub fn resume(&self) {
        self.owns_state.store(true, Ordering::Release);
        self.audits.resume();
        if let Some(state) = self.fixed.state().filter(|_| self.lasting.pacers.is_released())
            && let Err(error) = self.lasting.pacers.keep(state)
        {
            tracing::error!(error, "budgets are kept no more");
        }
    }

    /// Reads again what outlives a process, once the process that served has written it, and writes it
    /// from now on; as a reload, a new generation.
    ///
    /// # Errors
    /// Every problem of what is to run.
    pub async fn take_over(&self) -> Result<Reloaded, Vec<Problem>> {
        self.owns_state.store(true, Ordering::Release);
        self.audits.forget();
        self.reload(Cause::HandOver).await
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
        self.told(done, cause)
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
        self.told(done, cause)
    }

    /// Reads and checks, with the texts of `given` in the place of the disk's.
    async fn read(&self, given: Arc<Sources>) -> (Result<Checked, Vec<Problem>>, Arc<Sources>) {
        let state = self.fixed.state().map(Path::to_path_buf);
        let (options, running) = (Options { state, ..self.options.clone() }, self.history().sources());
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
        let is_same = checked.sources == *before && *cause != Cause::HandOver;
        if is_same && running.stopped().is_empty() && !checked.asks_upstreams() {
            let (generation, changed) = (running.generation(), Vec::new());
            return Ok(Reloaded { generation, is_new: false, changed, warnings: checked.warnings });
        }
        if let Some(problem) = checked.open_door(&checked.admin, &checked.place) {
            return Err(vec![problem]);
        }
        tell(&checked);
        let sources = Arc::new(std::mem::take(&mut checked.sources));
        let warnings = checked.warnings.clone();
        if self.owns_state.load(Ordering::Acquire) {
            keep_budgets(&checked, &self.lasting)?;
        }
        let (stand_ins, audits) = (&self.options.stand_ins, &self.audits);
        let given = Given { stand_ins, audits, lasting: &self.lasting, lost: &self.lost };
        let snapshot = build::build(checked, Some(&running), running.generation() + 1, given).await?;
        let number = snapshot.generation();
        self.current.store(Arc::new(snapshot));
        let changed = sources.changed(&before);
        let built = SystemTime::now();
        let (cause, told) = (cause.clone(), warnings.clone());
        self.history().ran(Generation { number, built, cause, warnings: told, sources, before });
        Ok(Reloaded { generation: number, is_new: true, changed, warnings })
    }

    /// Notes what came of it.
    fn told(&self, done: Result<Reloaded, Vec<Problem>>, cause: Cause) -> Result<Reloaded, Vec<Problem>> {
        let (what, about) = match &cause {
            Cause::RollBack { to, .. } => ("rollback", format!("to generation {to}; ")),
            _ => ("reload", String::new()),
        };
        let who = cause.who().to_owned();
        let done = done.map_err(|problems| self.refused(problems, cause));
        match &done {
            Ok(Reloaded { is_new: false, .. }) => self.note(&who, what, "unchanged", format!("{about}no file differs")),
            Ok(Reloaded { changed, .. }) => {
                let files: Vec<String> = changed.iter().map(|one| format!("{} {}", one.how, one.file)).collect();
                self.note(&who, what, "applied", format!("{about}{}", files.join(", ")));
            }
            Err(problems) => self.note(&who, what, "refused", format!("{about}{} problems", problems.len())),
        }
        done
    }

    /// Keeps the problems, without anything in them that looks like a secret.
    fn refused(&self, problems: Vec<Problem>, cause: Cause) -> Vec<Problem> {
        let problems = shown::redacted_problems(problems);
        self.history().refused(Refusal { when: SystemTime::now(), cause, problems: problems.clone() });
        problems
    }
}

/// Where a policy has a budget, what was spent of it outlives the process.
fn keep_budgets(checked: &Checked, lasting: &Lasting) -> Result<(), Vec<Problem>> {
    if checked.virtuals.iter().all(|one| one.policy.budgets().next().is_none()) {
        return Ok(());
    }
    let Some(state) = &checked.state else {
        tracing::warn!(
            "budgets are not kept over a restart: there is no state folder; name one with state = \"FOLDER\""
        );
        return Ok(());
    };
    let problem = |message| vec![Problem { place: checked.place.clone(), message }];
    lasting.pacers.keep(state).map_err(problem)
}

fn tell(checked: &Checked) {
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    for note in checked.notes() {
        tracing::info!("{note}");
    }
}
