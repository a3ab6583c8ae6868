//! Runs a plan: fallback between targets, the cascade with its gate and hold-back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::account::Meter;
use crate::backend::{Backend, Completion};
use crate::error::Result;
use crate::plan::Plan;
use crate::request::{ModelId, Request};

/// Every backend by the full name of its model.
#[derive(Debug, Clone, Default)]
pub struct Backends {
    /// Listed models.
    pub models: BTreeMap<ModelId, Arc<dyn Backend>>,
    /// Upstreams that pass any name on, by upstream name.
    pub wildcards: BTreeMap<String, Arc<dyn Backend>>,
}

/// Runs the plan; resolves when the first delta may be shown to the client, or nothing can be.
pub async fn run(_plan: Plan, _request: Arc<Request>, _backends: &Backends, _meter: Meter) -> Result<Completion> {
    todo!()
}
