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
mod defaults;
mod fixed;
mod hashes;
mod read;
mod snapshot;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::error::Problem;
use crate::execute::Lasting;
use crate::request::ModelId;
use audits::Audits;
use build::Given;
pub use calibrations::read_policy;
pub use capture::Capture;
pub use catalogue::{cache, file_hash};
pub use check::{Checked, Findings, check_policy, check_prices, read};
use fixed::Fixed;
pub use hashes::Hashes;
pub use snapshot::Snapshot;

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
    /// Where audits of kept answers run, off the clients' path; [`Control::close`] waits for them.
    pub tasks: TaskTracker,
    /// Backends that answer in the place of local models, whose files are not loaded then: for
    /// programs that bring their own, and for tests.
    pub stand_ins: BTreeMap<ModelId, Arc<dyn Backend>>,
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
    reloading: tokio::sync::Mutex<()>,
}

impl Control {
    /// Builds the first generation: loads models, opens pools, asks upstreams what must be asked.
    pub async fn open(options: Options, checked: Checked) -> Result<Control, Vec<Problem>> {
        tell(&checked);
        let fixed = Fixed::of(&checked);
        let audits = Audits::open(checked.state.as_deref(), options.tasks.clone());
        let lasting = Arc::new(Lasting::default());
        if !options.beside {
            keep_budgets(&checked, &lasting)?;
        }
        let given = Given { stand_ins: &options.stand_ins, audits: &audits, lasting: &lasting };
        let snapshot = build::build(checked, None, 1, given).await?;
        let (current, owns_state) = (ArcSwap::from_pointee(snapshot), AtomicBool::new(!options.beside));
        let reloading = tokio::sync::Mutex::new(());
        Ok(Control { options, fixed, audits, lasting, owns_state, current, reloading })
    }

    /// The generation that runs now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
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
    pub async fn take_over(&self) -> Result<u64, Vec<Problem>> {
        self.owns_state.store(true, Ordering::Release);
        self.audits.forget();
        self.reload().await
    }

    /// Reads everything again. On any problem the running generation stays, whole, and the
    /// problems come back. Requests in flight keep the generation they began with. Addresses
    /// and numbers of threads stay those of the start; a file that changes them is warned of.
    /// Reloads wait for each other. Dropping the future leaves the running generation.
    pub async fn reload(&self) -> Result<u64, Vec<Problem>> {
        let _one_at_a_time = self.reloading.lock().await;
        let options = self.options.clone();
        let mut checked = tokio::task::spawn_blocking(move || read(&options))
            .await
            .map_err(|error| vec![Problem { place: "reload".to_owned(), message: error.to_string() }])??;
        self.fixed.keep(&mut checked);
        tell(&checked);
        if self.owns_state.load(Ordering::Acquire) {
            keep_budgets(&checked, &self.lasting)?;
        }
        let before = self.current();
        let given = Given { stand_ins: &self.options.stand_ins, audits: &self.audits, lasting: &self.lasting };
        let snapshot = build::build(checked, Some(&before), before.generation() + 1, given).await?;
        let generation = snapshot.generation();
        self.current.store(Arc::new(snapshot));
        Ok(generation)
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
