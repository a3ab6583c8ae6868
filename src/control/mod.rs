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
mod models;
mod read;
mod snapshot;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::error::Problem;
use crate::request::ModelId;
use audits::Audits;
pub use calibrations::read_policy;
pub use capture::Capture;
pub use catalogue::{Entry, cache, entries, file_hash, folder, hub_file};
pub use check::{Checked, Findings, check_policy, check_prices, read};
use fixed::Fixed;
pub use hashes::Hashes;
pub use snapshot::Snapshot;
pub use values::find_file as model_file;

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
    reloading: tokio::sync::Mutex<()>,
}

impl Control {
    /// Builds the first generation: loads models, opens pools, asks upstreams what must be asked.
    pub async fn open(options: Options, checked: Checked) -> Result<Control, Vec<Problem>> {
        tell(&checked);
        let fixed = Fixed::of(&checked);
        let audits = Audits::open(checked.state.as_deref(), options.tasks.clone());
        let snapshot = build::build(checked, None, 1, (&options.stand_ins, &audits)).await?;
        let current = ArcSwap::from_pointee(snapshot);
        Ok(Control { options, fixed, audits, current, reloading: tokio::sync::Mutex::new(()) })
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
    /// stands. For the end of the process: no request may be answered any more.
    pub async fn close(&self, limit: Duration) {
        self.audits.close(limit).await;
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
        let before = self.current();
        let given = (&self.options.stand_ins, &self.audits);
        let snapshot = build::build(checked, Some(&before), before.generation() + 1, given).await?;
        let generation = snapshot.generation();
        self.current.store(Arc::new(snapshot));
        Ok(generation)
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
