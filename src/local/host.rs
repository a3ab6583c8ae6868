//! The models that run inside this process, by name.
//!
//! `Host::open` loads what a configuration names and carries over the engines of an earlier host
//! whose configuration is unchanged; it collects every problem and loads all or nothing. Models that
//! are loaded on demand are only looked at. Engines are shared: one ends when the last host and request
//! that hold it are gone. Called by control.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio_util::task::TaskTracker;

use super::load::{Budget, loader};
use super::memory::{Need, available_bytes};
use super::resident::{House, NotLoaded, Resident};
use super::shelf::{self, Adapters, Shelf, Usage};
use super::survey::Survey;
use super::tally::Tally;
use crate::backend::{Backend, Figures};
use crate::request::ModelId;

/// One model of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Its full name, `local/NAME`.
    pub id: ModelId,
    /// The GGUF file; of an adapter's model, that of the model it adapts.
    pub file: PathBuf,
    /// When the file was last changed, where the caller looked: one that was replaced is loaded anew.
    pub modified: Option<SystemTime>,
    /// Tokens per slot, prompt and answer together; default: what it was trained for, at most 8192.
    pub context: Option<u32>,
    /// Sequences answered at once: 1 … 256.
    pub slots: u32,
    /// Requests that may wait for a slot.
    pub queue: usize,
    /// When a client that does not read is given up.
    pub idle_timeout: Duration,
    /// When it is in memory.
    pub residency: Residency,
    /// What is added to the file's weights.
    pub adapter: Option<Adapter>,
}

/// When a model is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Residency {
    /// From the start to the end.
    #[default]
    Pinned,
    /// From its first request until others need the room.
    OnDemand,
}

impl Residency {
    /// Whether it stays whatever comes.
    pub fn is_pinned(self) -> bool {
        self == Residency::Pinned
    }
}

/// A LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The model that it adapts.
    pub of: ModelId,
    /// The adapter's GGUF file.
    pub file: PathBuf,
    /// When it was last changed, where the caller looked.
    pub modified: Option<SystemTime>,
    /// What its change is multiplied by; 0 changes nothing.
    pub scale: f32,
}

impl ModelConfig {
    /// A model with the usual settings: 4 slots, 64 waiting, 30 s, pinned. Each slot takes memory for a
    /// whole context at once: 100 MB at 8192 tokens for a model of 0.5 B parameters.
    pub fn new(id: ModelId, file: impl Into<PathBuf>) -> Self {
        ModelConfig {
            id,
            file: file.into(),
            modified: None,
            context: None,
            slots: 4,
            queue: 64,
            idle_timeout: Duration::from_secs(30),
            residency: Residency::Pinned,
            adapter: None,
        }
    }

    /// Whether one engine would do for both: all but the name and the residency is the same.
    fn makes_the_same_engine(&self, other: &ModelConfig) -> bool {
        let like =
            |config: &ModelConfig| ModelConfig { id: self.id.clone(), residency: self.residency, ..config.clone() };
        like(self) == like(other)
    }
}

/// What bounds the models of a host.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Threads that all engines together compute with at most; stands as long as the process.
    pub engine_threads: usize,
    /// Bytes that all models together may take; `None`: what the system gives.
    pub memory: Option<u64>,
    /// How long a request waits for a model to be loaded, and a load for its room.
    pub load_wait: Duration,
    /// Where loads on demand run; stands as long as the process.
    pub tasks: TaskTracker,
}

impl Terms {
    /// The usual: no budget but the system's, 60 s.
    pub fn new(engine_threads: usize) -> Self {
        Terms { engine_threads, memory: None, load_wait: Duration::from_secs(60), tasks: TaskTracker::new() }
    }
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It answers chats: it generates and has a usable chat template.
    pub chat: bool,
    /// Its template renders tools.
    pub tools: bool,
    /// It makes embeddings, and nothing else.
    pub embeddings: bool,
    /// Tokens of prompt and answer together (of one input, for embeddings).
    pub context: u32,
}

/// Why a model could not be loaded: one sentence that names the file and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The model.
    pub model: ModelId,
    /// The sentence.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model {}: {}", self.model, self.message)
    }
}

impl std::error::Error for LoadError {}

/// The memory that a model would take under its settings, from its file's header.
///
/// # Errors
/// What is wrong with the file or the settings, in one sentence.
pub fn need(config: &ModelConfig) -> Result<Need, String> {
    Survey::of(config).map(|survey| survey.need)
}

/// The models that run inside this process.
#[derive(Debug)]
pub struct Host {
    models: Models,
    house: House,
    budget: Budget,
    engine_threads: usize,
    /// What is not in force yet.
    change: Mutex<Option<Change>>,
}

impl Host {
    /// Loads the pinned models, in parallel, each with an engine, and looks at the others' files. A
    /// model of `previous` that would be loaded the same way keeps its engine, under another name too.
    /// The number of threads stands as long as the process: engines that still answer would compute
    /// beside those of a second budget. Any error: nothing is kept, and every problem is told.
    ///
    /// Must be called within a tokio runtime. Dropping the future lets a load that runs finish
    /// and then forgets it.
    pub async fn open(
        configs: Vec<ModelConfig>,
        terms: Terms,
        previous: Option<&Host>,
    ) -> Result<Host, Vec<LoadError>> {
        let host = Host::prepare(configs, terms, previous).await?;
        host.adopt();
        Ok(host)
    }

    /// As [`Host::open`], but the earlier host's bounds and pins hold until [`Host::adopt`]; dropped
    /// before, it leaves them as they were.
    pub async fn prepare(
        configs: Vec<ModelConfig>,
        terms: Terms,
        previous: Option<&Host>,
    ) -> Result<Host, Vec<LoadError>> {
        let engine_threads = previous.map_or(terms.engine_threads, |host| host.engine_threads);
        let budget = previous.map_or_else(|| Budget::new(engine_threads), |host| host.budget.clone());
        let bounds = shelf::Terms { budget: terms.memory, load_wait: terms.load_wait };
        let house = previous.map_or_else(
            || House {
                shelf: Shelf::new(bounds, available_bytes),
                loader: loader(budget.clone(), engine_threads),
                tasks: terms.tasks,
            },
            |host| host.house.clone(),
        );
        let (models, change) = fill(configs, bounds, &house, previous.map(|host| &host.models)).await?;
        Ok(Host { models, house, budget, engine_threads, change: Mutex::new(Some(change)) })
    }

    /// Puts its bounds and pins in force.
    pub fn adopt(&self) {
        let change = self.change.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(change) = change {
            change.keep();
        }
    }

    /// The model's engine, as a backend.
    pub fn backend(&self, id: &ModelId) -> Option<Arc<dyn Backend>> {
        self.models.get(id).map(|resident| Arc::clone(resident) as Arc<dyn Backend>)
    }

    /// Lets no engine compute any more, for good: blocks until the steps under way are over, about
    /// 100 ms. To be called before the process exits while requests may still run: llama.cpp's
    /// own data must not go away under a running step.
    pub fn halt(&self) {
        self.budget.close();
    }

    /// What the model can do.
    pub fn capabilities(&self, id: &ModelId) -> Option<Capabilities> {
        self.models.get(id).map(|resident| resident.capabilities())
    }

    /// What each model takes and has done.
    pub fn figures(&self) -> Vec<(ModelId, Figures)> {
        self.models.iter().map(|(id, resident)| (id.clone(), resident.figures())).collect()
    }
}

type Models = BTreeMap<ModelId, Arc<Resident>>;

/// What a configuration changes of what the running one shares with it: undone when it is dropped
/// before it is kept.
#[derive(Debug)]
struct Change {
    shelf: Arc<Shelf>,
    bounds: shelf::Terms,
    /// What was expected before; `None`: kept.
    adapters: Option<Adapters>,
    /// Models that the running configuration does not pin, and this one does.
    raised: Vec<Arc<Usage>>,
    /// Whether each model is pinned from now on.
    pins: Vec<(Arc<Usage>, bool)>,
}

impl Change {
    /// Pins at once what is carried over and must stay, so that no load takes its room.
    fn begin(house: &House, bounds: shelf::Terms, configs: &[ModelConfig], carried: &Models) -> Change {
        let is_pinned = |id: &ModelId| configs.iter().any(|config| config.id == *id && config.residency.is_pinned());
        let stay = carried.iter().filter(|(id, _)| is_pinned(id)).map(|(_, resident)| resident.usage());
        let raised = stay.filter(|usage| !usage.pinned.swap(true, Ordering::Relaxed)).cloned().collect();
        let adapters = Some(house.shelf.expect_adapters(configs.iter()));
        Change { shelf: Arc::clone(&house.shelf), bounds, adapters, raised, pins: Vec::new() }
    }

    fn keep(mut self) {
        self.shelf.adopt(self.bounds);
        for (usage, pinned) in &self.pins {
            usage.pinned.store(*pinned, Ordering::Relaxed);
        }
        self.raised.clear();
        self.adapters = None;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        for usage in &self.raised {
            usage.pinned.store(false, Ordering::Relaxed);
        }
        if let Some(adapters) = self.adapters.take() {
            self.shelf.restore_adapters(adapters);
        }
    }
}

/// Every model of a configuration in its place, or every problem; the change is not in force yet.
async fn fill(
    configs: Vec<ModelConfig>,
    bounds: shelf::Terms,
    house: &House,
    previous: Option<&Models>,
) -> Result<(Models, Change), Vec<LoadError>> {
    let mut carried = previous.map(|models| carry(models, &configs)).unwrap_or_default();
    let mut change = Change::begin(house, bounds, &configs, &carried);
    let wanted: BTreeMap<ModelId, bool> =
        configs.iter().map(|config| (config.id.clone(), config.residency.is_pinned())).collect();
    let loads = configs.into_iter().map(|config| {
        let (id, pinned) = (config.id.clone(), config.residency.is_pinned());
        let known = carried.remove(&id);
        let tally = previous.and_then(|models| Some(Arc::clone(models.get(&id)?.tally())));
        async move {
            let resident = match known {
                Some(resident) => Ok(resident),
                None => look(config, house, tally.unwrap_or_default()).await,
            };
            let placed = match resident {
                Ok(resident) if pinned => load(resident, bounds).await,
                looked => looked,
            };
            placed.map(|resident| (id.clone(), resident)).map_err(|message| LoadError { model: id, message })
        }
    });
    let (mut models, mut errors) = (Models::new(), Vec::new());
    for placed in join_all(loads).await {
        match placed {
            Ok((id, resident)) => drop(models.insert(id, resident)),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let pins = models.iter().map(|(id, resident)| (Arc::clone(resident.usage()), wanted.get(id) == Some(&true)));
    change.pins = pins.collect();
    Ok((models, change))
}

/// Looks at a model's files.
async fn look(config: ModelConfig, house: &House, tally: Arc<Tally>) -> Result<Arc<Resident>, String> {
    let looking = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Survey::of(&config))
    };
    let survey = looking.await.map_err(|_| "looking at it failed unexpectedly".to_owned())??;
    Ok(Resident::new(config, survey, house.clone(), tally))
}

async fn load(resident: Arc<Resident>, bounds: shelf::Terms) -> Result<Arc<Resident>, String> {
    Arc::clone(&resident).load(bounds).await.map_err(NotLoaded::why)?;
    Ok(resident)
}

/// The models of before that a configuration would load the same way: each under its own name, or
/// under a new one where its own is gone.
fn carry(before: &Models, configs: &[ModelConfig]) -> Models {
    let fits = |resident: &Arc<Resident>, config: &ModelConfig| {
        let is_over = config.residency.is_pinned() && resident.is_over();
        resident.config().makes_the_same_engine(config) && !is_over
    };
    let mut free: Models =
        before.iter().filter(|(id, _)| configs.iter().all(|config| config.id != **id)).map(cloned).collect();
    let mut carried = Models::new();
    for config in configs {
        let own = before.get(&config.id).filter(|resident| fits(resident, config)).cloned();
        let named_anew = || {
            let old = free.iter().find(|(_, resident)| fits(resident, config)).map(|(old, _)| old.clone())?;
            free.remove(&old)
        };
        carried.extend(own.or_else(named_anew).map(|resident| (config.id.clone(), resident)));
    }
    carried
}

fn cloned((id, resident): (&ModelId, &Arc<Resident>)) -> (ModelId, Arc<Resident>) {
    (id.clone(), Arc::clone(resident))
}

#[cfg(test)]
mod tests;
