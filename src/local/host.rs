//! The models that run inside this process, by name.
//!
//! `Host::open` loads what a configuration names and carries over the engines of an earlier host
//! whose configuration is unchanged; it collects every problem and loads all or nothing. Engines
//! are shared: one ends when the last host and request that hold it are gone. Called by control.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;

use super::load::{Budget, load};
use crate::backend::Backend;
use crate::request::ModelId;

/// One model of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Its full name, `local/NAME`.
    pub id: ModelId,
    /// The GGUF file.
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
}

impl ModelConfig {
    /// A model with the usual settings: 4 slots, 64 waiting, 30 s. Each slot takes memory for a
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
        }
    }
}

/// What a loaded model can do.
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

/// A model with its engine.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    /// Answers requests; the engine ends with its last handle.
    pub(super) backend: Arc<dyn Backend>,
    /// What it can do.
    pub(super) capabilities: Capabilities,
}

/// The models that run inside this process.
#[derive(Debug)]
pub struct Host {
    models: BTreeMap<ModelId, (ModelConfig, Loaded)>,
    budget: Budget,
    engine_threads: usize,
}

impl Host {
    /// Loads the models, in parallel, each with an engine; all engines together compute with at
    /// most `engine_threads` threads at once. An unchanged model of `previous` keeps its engine, and
    /// its number of threads stands as long as the process: engines that still answer would compute
    /// beside those of a second budget. Any error: nothing is kept, and every problem is told.
    ///
    /// Must be called within a tokio runtime. Dropping the future lets a load that runs finish
    /// and then forgets it.
    pub async fn open(
        configs: Vec<ModelConfig>,
        engine_threads: usize,
        previous: Option<&Host>,
    ) -> Result<Host, Vec<LoadError>> {
        let engine_threads = previous.map_or(engine_threads, |host| host.engine_threads);
        let budget = previous.map_or_else(|| Budget::new(engine_threads), |host| host.budget.clone());
        let loads = configs.into_iter().map(|config| {
            let carried = previous.and_then(|host| host.carry(&config));
            let budget = budget.clone();
            async move {
                let loaded = match carried {
                    Some(loaded) => Ok(loaded),
                    None => load_aside(config.clone(), budget, engine_threads).await,
                };
                loaded.map(|loaded| (config.id.clone(), (config, loaded)))
            }
        });
        let (mut models, mut errors) = (BTreeMap::new(), Vec::new());
        for loaded in join_all(loads).await {
            match loaded {
                Ok((id, model)) => drop(models.insert(id, model)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Host { models, budget, engine_threads }) } else { Err(errors) }
    }

    fn carry(&self, config: &ModelConfig) -> Option<Loaded> {
        let (known, loaded) = self.models.get(&config.id)?;
        (known == config && loaded.backend.status().ready).then(|| loaded.clone())
    }

    /// The model's engine, as a backend.
    pub fn backend(&self, id: &ModelId) -> Option<Arc<dyn Backend>> {
        self.models.get(id).map(|(_, loaded)| loaded.backend.clone())
    }

    /// Lets no engine compute any more, for good: blocks until the steps under way are over, about
    /// 100 ms. To be called before the process exits while requests may still run: llama.cpp's
    /// own data must not go away under a running step.
    pub fn halt(&self) {
        self.budget.close();
    }

    /// What the model can do.
    pub fn capabilities(&self, id: &ModelId) -> Option<Capabilities> {
        self.models.get(id).map(|(_, loaded)| loaded.capabilities)
    }
}

/// Loads off the async threads: it takes seconds.
async fn load_aside(config: ModelConfig, budget: Budget, threads: usize) -> Result<Loaded, LoadError> {
    let model = config.id.clone();
    let told = move |message: String| LoadError { model, message };
    let loaded = tokio::task::spawn_blocking(move || load(&config, budget, threads)).await;
    match loaded {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(message)) => Err(told(message)),
        Err(_) => Err(told("loading it failed unexpectedly".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_number_of_threads_stands_over_a_reload() {
        let first = Host::open(Vec::new(), 1, None).await.unwrap();
        let second = Host::open(Vec::new(), 4, Some(&first)).await.unwrap();
        assert_eq!(second.engine_threads, 1);
    }
}
