//! The local models of a generation; the one place that knows whether llama.cpp is compiled in.
//!
//! Without the feature `local` a configuration with local models is refused, and everything else
//! works.

use std::sync::Arc;

use super::check::LocalModel;
use crate::backend::Backend;
use crate::request::ModelId;

#[cfg(feature = "local")]
use crate::local::{Host, ModelConfig};

/// The engines of a generation.
#[derive(Debug, Clone, Default)]
pub(super) struct Engines {
    #[cfg(feature = "local")]
    host: Option<Arc<Host>>,
}

#[cfg(feature = "local")]
impl Engines {
    /// Loads the models; those that are unchanged are carried over.
    pub(super) async fn open(models: &[LocalModel], threads: usize, previous: Option<&Engines>) -> Result<Self, Vec<String>> {
        if models.is_empty() {
            return Ok(Engines::default());
        }
        let configs = models.iter().map(config).collect();
        let before = previous.and_then(|engines| engines.host.as_deref());
        match Host::open(configs, threads, before).await {
            Ok(host) => Ok(Engines { host: Some(Arc::new(host)) }),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    /// The backend of a local model.
    pub(super) fn backend(&self, id: &ModelId) -> Option<Arc<dyn Backend>> {
        self.host.as_ref()?.backend(id)
    }

    /// Whether the model can hold a conversation.
    pub(super) fn chats(&self, id: &ModelId) -> bool {
        self.host.as_ref().and_then(|host| host.capabilities(id)).is_some_and(|can| can.chat)
    }
}

#[cfg(feature = "local")]
fn config(model: &LocalModel) -> ModelConfig {
    ModelConfig {
        context: model.context,
        slots: model.slots,
        queue: model.queue,
        ..ModelConfig::new(model.id.clone(), model.file.clone())
    }
}

#[cfg(not(feature = "local"))]
impl Engines {
    /// Refuses local models.
    pub(super) async fn open(models: &[LocalModel], _threads: usize, _previous: Option<&Engines>) -> Result<Self, Vec<String>> {
        std::future::ready(match models.first() {
            Some(model) => Err(vec![format!("{}: this build has no local models; build with the feature \"local\"", model.id)]),
            None => Ok(Engines::default()),
        })
        .await
    }

    /// None.
    pub(super) fn backend(&self, _id: &ModelId) -> Option<Arc<dyn Backend>> {
        None
    }

    /// None.
    pub(super) fn chats(&self, _id: &ModelId) -> bool {
        false
    }
}
