//! Checked → running: engines, pools and routes of one generation.
//!
//! What did not change is carried over from the generation before: an unchanged upstream keeps
//! its connections, budgets and breaker, an unchanged model its engine and cache; what was spent, and
//! which conversation stays where, is never forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::audits::Audits;
use super::bodies;
use super::canaries::{self, Around};
use super::check::{Checked, CheckedUpstream, DISCOVERY_TIMEOUT};
use super::snapshot::{Routes, Snapshot};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::error::Problem;
use crate::execute::{Backends, Canary, Lasting};
use crate::local::{Host, LoadError, ModelConfig, Terms};
use crate::policy::{Names, Policy};
use crate::request::ModelId;
use crate::upstream::Upstream;

/// What is the same from generation to generation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) stand_ins: &'a BTreeMap<ModelId, Arc<dyn Backend>>,
    pub(super) audits: &'a Arc<Audits>,
    pub(super) lasting: &'a Arc<Lasting>,
    /// Told of trials that are lost.
    pub(super) lost: &'a mpsc::Sender<ModelId>,
}

/// Builds a generation; nothing of it is used when any part fails.
pub(super) async fn build(
    mut checked: Checked,
    previous: Option<&Snapshot>,
    generation: u64,
    Given { stand_ins, audits, lasting, lost }: Given<'_>,
) -> Result<Snapshot, Vec<Problem>> {
    let upstreams = open_upstreams(&checked, previous)?;
    for one in &mut checked.upstreams {
        discover(one, &upstreams).await;
    }
    let candidates: Vec<&ModelConfig> = checked.canaries.iter().map(|one| &one.candidate).collect();
    let models = checked.models.iter().chain(candidates.iter().copied());
    let models = models.filter(|model| !stand_ins.contains_key(&model.id)).cloned().collect();
    let terms = Terms {
        engine_threads: checked.engine_threads,
        memory: checked.memory,
        load_wait: checked.load_wait,
        tasks: audits.tasks().clone(),
    };
    let host = Host::prepare(models, terms, previous.map(|snapshot| &snapshot.host)).await.map_err(|errors| {
        let problem = |error: LoadError| Problem { place: checked.place.clone(), message: error.to_string() };
        errors.into_iter().map(problem).collect::<Vec<_>>()
    })?;
    let mut backends = wire_backends(&checked, &host, &upstreams);
    let is_wanted = |id: &ModelId| !Canary::is_name(id) || candidates.iter().any(|one| one.id == *id);
    backends.models.extend(stand_ins.clone().into_iter().filter(|(id, _)| is_wanted(id)));
    let around = Around { tasks: audits.tasks(), lost };
    let canaries = std::mem::take(&mut checked.canaries);
    let canaries = canaries::wire(canaries, &checked.models, &mut backends, previous, around)
        .map_err(|message| vec![Problem { place: checked.place.clone(), message }])?;
    backends.auditor = previous.map_or_else(|| audits.auditor(), |snapshot| snapshot.backends.auditor.clone());
    backends.lasting = Arc::clone(lasting);
    let names = checked.names();
    let policy_files = checked.virtuals.iter().map(|one| (one.name.clone(), one.file.clone())).collect();
    let mut virtuals: HashMap<String, Arc<Policy>> =
        std::mem::take(&mut checked.virtuals).into_iter().map(|one| (one.name, Arc::new(one.policy))).collect();
    if checked.builtin_auto
        && let Some(policy) = builtin_auto(&checked, &host, &names)?
    {
        virtuals.insert("auto".to_owned(), Arc::new(policy));
    }
    let audits = audits.bind(virtuals.values())?;
    bodies::carry_over(&mut checked.limits, previous.map(Snapshot::limits));
    host.adopt();
    Ok(Snapshot {
        generation,
        built: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        watch: checked.watch,
        policy_files,
        limits: checked.limits,
        keys: checked.keys,
        operators: checked.operators,
        prices: Arc::new(checked.prices),
        backends: Arc::new(backends),
        routes: Routes::new(virtuals, names),
        upstreams,
        host,
        audits,
        canaries,
        models: checked.models,
        overlay: checked.overlay,
    })
}

fn open_upstreams(
    checked: &Checked,
    previous: Option<&Snapshot>,
) -> Result<HashMap<String, Arc<Upstream>>, Vec<Problem>> {
    let mut upstreams = HashMap::new();
    for one in &checked.upstreams {
        let name = &one.config.name;
        let known =
            previous.and_then(|snapshot| snapshot.upstreams.get(name)).filter(|known| *known.config() == one.config);
        let upstream = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(Upstream::new(one.config.clone()).map_err(|error| {
                vec![Problem { place: checked.place.clone(), message: format!("upstream \"{name}\": {error}") }]
            })?),
        };
        upstreams.insert(name.clone(), upstream);
    }
    Ok(upstreams)
}

/// Asks an upstream without a named model for the only one it lists.
async fn discover(one: &mut CheckedUpstream, upstreams: &HashMap<String, Arc<Upstream>>) {
    let (Some(default), Some(upstream)) = (one.discover.take(), upstreams.get(&one.config.name)) else { return };
    let listed = tokio::time::timeout(DISCOVERY_TIMEOUT, upstream.probe()).await;
    let model = match listed {
        Ok(Ok(models)) if models.len() == 1 => models.into_iter().next().unwrap_or(default),
        _ => default,
    };
    tracing::info!(upstream = one.config.name, model, "large model of the upstream");
    one.listed.push(model);
}

fn wire_backends(checked: &Checked, host: &Host, upstreams: &HashMap<String, Arc<Upstream>>) -> Backends {
    let mut backends = Backends::default();
    for model in checked.models.iter().chain(checked.canaries.iter().map(|one| &one.candidate)) {
        if let Some(backend) = host.backend(&model.id) {
            backends.models.insert(model.id.clone(), backend);
        }
    }
    for one in &checked.upstreams {
        let Some(upstream) = upstreams.get(&one.config.name) else { continue };
        let backend: Arc<dyn Backend> = Arc::clone(upstream) as Arc<dyn Backend>;
        for model in &one.listed {
            backends.models.insert(ModelId::new(format!("{}/{model}", one.config.name)), Arc::clone(&backend));
        }
        if one.any {
            backends.wildcards.insert(one.config.name.clone(), backend);
        }
    }
    backends
}

/// The policy of `auto` when no file gives one: cascade from the first local chat model to the
/// first listed upstream model, or whichever of the two there is.
fn builtin_auto(checked: &Checked, host: &Host, names: &Names) -> Result<Option<Policy>, Vec<Problem>> {
    let local =
        checked.models.iter().map(|model| &model.id).find(|id| host.capabilities(id).is_some_and(|can| can.chat));
    let upstream = checked
        .upstreams
        .iter()
        .find_map(|one| one.listed.first().map(|model| ModelId::new(format!("{}/{model}", one.config.name))));
    match (local, upstream) {
        (Some(local), Some(upstream)) => Policy::auto(local, &upstream, names).map(Some),
        (Some(local), None) => Ok(Some(Policy::direct(local))),
        (None, Some(upstream)) => Ok(Some(Policy::direct(&upstream))),
        (None, None) => Ok(None),
    }
}
