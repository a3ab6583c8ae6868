//! One generation of everything that must agree: routes, policies, prices, keys, backends.
//!
//! Immutable; a request takes it once and keeps it to its last byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;

use super::canaries::Trying;
use super::overlay::Overlay;
use crate::account::{Keys, Pacers, Prices};
use crate::api::{Limits, ModelEntry};
use crate::backend::{Figures, State, Status};
use crate::confidence::trial::CanaryStatus;
use crate::confidence::{AuditStatus, Ledger};
use crate::error::{Error, Kind, Origin, Result};
use crate::execute::{Backends, Canary};
use crate::local::{Host, ModelConfig};
use crate::policy::{Explanation, Facts, Names, Policy, Promised};
use crate::request::{ModelId, Request};
use crate::upstream::Upstream;

/// One generation of the configuration, running.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) generation: u64,
    /// When, in seconds since 1970.
    pub(super) built: u64,
    pub(super) watch: bool,
    /// The files of the virtual models' policies, by name.
    pub(super) policy_files: Vec<(String, PathBuf)>,
    pub(super) limits: Limits,
    pub(super) keys: Keys,
    pub(super) operators: Keys,
    pub(super) prices: Arc<Prices>,
    pub(super) backends: Arc<Backends>,
    pub(super) routes: Routes,
    pub(super) upstreams: HashMap<String, Arc<Upstream>>,
    pub(super) host: Host,
    pub(super) audits: Vec<Arc<Ledger>>,
    pub(super) canaries: Vec<Trying>,
    pub(super) models: Vec<ModelConfig>,
    pub(super) overlay: Overlay,
}

impl Snapshot {
    /// Counts the configurations that have run in this process, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether changed files are applied by themselves.
    pub fn watches(&self) -> bool {
        self.watch
    }

    /// The virtual models, each with the name of its policy.
    pub fn virtuals(&self) -> Vec<(ModelId, Arc<Policy>)> {
        let policy = |name: &ModelId| Some((name.clone(), Arc::clone(self.routes.policies.get(name.as_str())?)));
        self.routes.virtuals.iter().filter_map(policy).collect()
    }

    /// What bounds a request.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tenants' keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The key of the admin port; none: whoever is on this machine may change what runs.
    pub fn operators(&self) -> &Keys {
        &self.operators
    }

    /// The price table.
    pub fn prices(&self) -> &Arc<Prices> {
        &self.prices
    }

    /// What was spent of every budget that is held at a rate: the same from generation to generation.
    pub fn pacers(&self) -> &Arc<Pacers> {
        &self.backends.lasting.pacers
    }

    /// Every backend by model name.
    pub fn backends(&self) -> &Arc<Backends> {
        &self.backends
    }

    /// The policy that decides for a model name: a virtual model's own, or the built-in one-rule
    /// policy of a plain name. Unknown: 404 `model_not_found` with the candidates.
    pub fn route(&self, model: &str) -> Result<Arc<Policy>> {
        self.routes.find(model)
    }

    /// What would be decided now for an example, in the form of a case file's requests, and why. Dry: no
    /// model is called, nothing is counted.
    ///
    /// # Errors
    /// An example that cannot be read, a model that nobody knows.
    pub fn explain(&self, example: &str) -> Result<Explanation> {
        let request = Policy::example(example)
            .map_err(|message| Error::new(Kind::Invalid, Origin::Client, message).param("body"))?;
        let policy = self.route(&request.model)?;
        Ok(policy.explain(&request, &self.facts(&policy, &request)))
    }

    /// Every name that a client may ask for, virtual ones first.
    pub fn entries(&self) -> Vec<ModelEntry> {
        self.routes.names().iter().map(|name| self.described(name)).collect()
    }

    /// The entry of a name that a client may ask for, under its full name: what [`Snapshot::route`]
    /// finds has one, be it a short name or `UPSTREAM/anything`.
    pub fn entry(&self, model: &str) -> Result<ModelEntry> {
        self.routes.full_name(model).map(|name| self.described(&name))
    }

    fn described(&self, name: &ModelId) -> ModelEntry {
        let owned_by = name.split().map_or("weir", |(owner, _)| owner).to_owned();
        ModelEntry { id: name.as_str().to_owned(), owned_by, created: self.built }
    }

    /// Every name that a request's `model` may have, short ones too.
    pub fn asked(&self) -> Vec<String> {
        self.routes.policies.keys().cloned().collect()
    }

    /// How each backend is now, by full model name; wildcard upstreams as `NAME/*`.
    pub fn statuses(&self) -> Vec<(ModelId, Status)> {
        let listed = self.backends.models.iter().map(|(id, backend)| (id.clone(), backend.status()));
        let wild =
            self.backends.wildcards.iter().map(|(name, backend)| (ModelId::new(format!("{name}/*")), backend.status()));
        listed.chain(wild).collect()
    }

    /// What each local model takes and has done.
    pub fn figures(&self) -> Vec<(ModelId, Figures)> {
        let mut all = self.host.figures();
        for (id, figures) in &mut all {
            if Canary::is_name(id) && figures.state == State::Warm {
                figures.state = State::Canary;
            }
        }
        all
    }

    /// How the candidates stand that are on trial.
    pub fn canary_statuses(&self) -> Vec<CanaryStatus> {
        self.canaries.iter().map(|one| one.canary.status()).collect()
    }

    /// The ledgers of the slices that are audited.
    pub fn audits(&self) -> &[Arc<Ledger>] {
        &self.audits
    }

    /// How they stand.
    pub fn audit_statuses(&self) -> Vec<AuditStatus> {
        self.audits.iter().map(|ledger| ledger.status()).collect()
    }

    /// The name of every policy that may decide.
    pub fn policies(&self) -> BTreeSet<String> {
        self.routes.policies.values().map(|policy| policy.name().to_owned()).chain(["direct".to_owned()]).collect()
    }

    /// The promises that policies ask for, with each policy's name.
    pub fn promises(&self) -> Vec<(String, Promised)> {
        let all: BTreeMap<&str, &Policy> =
            self.routes.policies.values().map(|policy| (policy.name(), &**policy)).collect();
        let of = |(name, policy): (&str, &Policy)| {
            policy.promises().iter().map(|one| (name.to_owned(), one.clone())).collect::<Vec<_>>()
        };
        all.into_iter().flat_map(of).collect()
    }

    /// The addresses of every upstream, by its name.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &[Uri])> {
        self.upstreams.iter().map(|(name, upstream)| (name.as_str(), upstream.config().endpoints.as_slice()))
    }

    /// The local models whose engines have ended: nothing but a reload starts them again.
    pub fn stopped(&self) -> Vec<String> {
        not_ready(self.statuses())
    }

    /// The live state that a decision may depend on; empty for a policy that has no conditions.
    pub fn facts(&self, policy: &Policy, _request: &Request) -> Facts {
        if !policy.reads_facts() {
            return Facts::default();
        }
        Facts { models: self.statuses(), budget_left_usd: None }
    }
}

/// Model name → policy.
#[derive(Debug)]
pub(super) struct Routes {
    policies: HashMap<String, Arc<Policy>>,
    virtuals: Vec<ModelId>,
    known: Names,
}

impl Routes {
    /// Virtual names win over short names; full names always stand for themselves.
    pub(super) fn new(virtuals: HashMap<String, Arc<Policy>>, known: Names) -> Self {
        let mut policies: HashMap<String, Arc<Policy>> = HashMap::new();
        for (bare, model) in &known.short {
            policies.insert(bare.clone(), Arc::new(Policy::direct(model)));
        }
        for model in &known.models {
            policies.insert(model.as_str().to_owned(), Arc::new(Policy::direct(model)));
        }
        let mut names: Vec<ModelId> = virtuals.keys().map(|name| ModelId::new(name.as_str())).collect();
        names.sort();
        policies.extend(virtuals);
        Routes { policies, virtuals: names, known }
    }

    fn find(&self, model: &str) -> Result<Arc<Policy>> {
        if let Some(policy) = self.policies.get(model) {
            return Ok(Arc::clone(policy));
        }
        let wild = model
            .split_once('/')
            .filter(|(upstream, rest)| self.known.wildcards.contains(*upstream) && !rest.is_empty());
        match wild {
            Some(_) => Ok(Arc::new(Policy::direct(&ModelId::new(model)))),
            None => Err(self.unknown(model)),
        }
    }

    /// What a name stands for: itself, unless it is the short name of a model.
    fn full_name(&self, model: &str) -> Result<ModelId> {
        self.find(model)?;
        let is_virtual = self.virtuals.iter().any(|name| name.as_str() == model);
        let short = self.known.short.get(model).filter(|_| !is_virtual);
        Ok(short.cloned().unwrap_or_else(|| ModelId::new(model)))
    }

    fn unknown(&self, model: &str) -> Error {
        let shown: String = model.chars().take(100).collect();
        let candidates: Vec<&str> = self
            .known
            .models
            .iter()
            .filter(|known| known.split().is_some_and(|(_, bare)| bare == model))
            .map(ModelId::as_str)
            .collect();
        let message = if candidates.len() > 1 {
            format!("the model \"{shown}\" could be any of these, name one in full: {}", candidates.join(", "))
        } else {
            let mut known: Vec<String> = self.names().iter().map(ToString::to_string).collect();
            known.extend(self.known.wildcards.iter().map(|upstream| format!("{upstream}/…")));
            format!("the model \"{shown}\" does not exist here; known: {}", known.join(", "))
        };
        Error::new(Kind::NotFound, Origin::Client, message).code("model_not_found").param("model")
    }

    fn names(&self) -> Vec<ModelId> {
        self.virtuals.iter().chain(&self.known.models).cloned().collect()
    }
}

/// An upstream never counts: its state is not ours; nor does a candidate, which fails and is given up.
fn not_ready(statuses: Vec<(ModelId, Status)>) -> Vec<String> {
    let stopped = statuses.into_iter().filter(|(id, now)| id.is_local() && !now.ready && !Canary::is_name(id));
    stopped.map(|(id, _)| id.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{ModelId, Status, not_ready};

    #[test]
    fn only_a_local_model_can_have_stopped() {
        let now = |name: &str, ready: bool| (ModelId::new(name), Status { ready, ..Status::default() });
        assert_eq!(not_ready(vec![now("local/a", true), now("up/m", false), now("up/*", false)]), [""; 0]);
        let statuses =
            vec![now("local/a", false), now("local/b@canary", false), now("local/b", true), now("up/local/c", false)];
        assert_eq!(not_ready(statuses), ["local/a"]);
    }
}
