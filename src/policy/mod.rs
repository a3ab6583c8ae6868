//! Which plan a request gets: rules in order, first match wins. Pure.

use std::collections::BTreeSet;

use crate::backend::Status;
use crate::error::Problem;
use crate::plan::Decision;
use crate::request::{ModelId, Request};

/// What a policy file may name; handed to [`Policy::compile`] by `control`.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Every model that can be a target, by full name.
    pub models: BTreeSet<ModelId>,
    /// Short names → full names, where unambiguous (`qwen-0.5b` → `local/qwen-0.5b`).
    pub short: std::collections::BTreeMap<String, ModelId>,
    /// Upstreams that pass any model name on (`models = ["*"]`): `NAME/anything` is a target.
    pub wildcards: BTreeSet<String>,
    /// Request headers that a condition may read, lowercase.
    pub headers: BTreeSet<String>,
}

/// Live state handed to a decision, so that deciding fetches nothing.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// How each backend is now, by full model name (wildcard upstreams under `NAME/*`).
    pub models: Vec<(ModelId, Status)>,
    /// Dollars left of the tenant's budget; `None` = no budget.
    pub budget_left_usd: Option<f64>,
}

/// A compiled policy file.
#[derive(Debug)]
pub struct Policy {}

impl Policy {
    /// Compiles a policy file; `place` names the file in problems (`policies/x.toml:14: …`).
    /// Every problem is reported; nothing of a file with a problem is used.
    pub fn compile(_place: &str, _source: &str, _names: &Names) -> Result<Policy, Vec<Problem>> {
        todo!()
    }

    /// The built-in one-rule policy of a plain model name.
    pub fn direct(_model: &ModelId) -> Policy {
        todo!()
    }

    /// Decides. Total: a condition that fails at run time becomes a `Plan::Reject` (fail closed).
    pub fn decide(&self, _request: &Request, _facts: &Facts) -> Decision {
        todo!()
    }
}
