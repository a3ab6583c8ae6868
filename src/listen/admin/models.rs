//! `/admin/models`: the local models that run, and how they are tried and replaced.
//!
//! Each operation is an edit of what is declared and a new generation; its answer comes when that runs or is
//! refused. Promises: a refusal has changed nothing, and says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::page::{Asked, json, problems};
use crate::api::Body;
use crate::control::{Action, Candidate, Cause, Denied, Lapsed, Operation, Reloaded};
use crate::error::{Error, Kind, Origin, Result};
use crate::listen::state::Running;
use crate::request::ModelId;

/// Every local model: its file, what was done to it, its figures, and who is tried beside it.
pub(super) fn list(asked: &Asked) -> Result<Response<Body>> {
    let snapshot = asked.running()?.control.current();
    let statuses: BTreeMap<_, _> = snapshot.statuses().into_iter().collect();
    let figures: BTreeMap<_, _> = snapshot.figures().into_iter().collect();
    let mut all = Vec::new();
    for report in snapshot.reports() {
        let id = ModelId::new(report.name.as_str());
        let mut one = serde_json::to_value(&report).map_err(|error| Error::internal(error.to_string()))?;
        if let Some(status) = statuses.get(&id) {
            one["state"] = json!(status.state.name());
            one["slots"] = json!({ "all": status.slots, "busy": status.slots_busy });
            one["queue"] = json!(status.queue_depth);
        }
        if let Some(figures) = figures.get(&id) {
            one["memory_bytes"] = json!({ "weights": figures.weights_bytes, "kv": figures.kv_bytes });
            one["tokens"] = json!({ "prefill": figures.prefill_tokens, "decode": figures.decode_tokens });
            one["loads"] = json!({ "ok": figures.loads, "failed": figures.failed_loads });
        }
        all.push(one);
    }
    json(StatusCode::OK, &json!({ "models": all }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    model: String,
    file: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    model: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promote {
    model: String,
    #[serde(default)]
    accept_uncertified: bool,
}

/// Loads a model that no configuration names.
pub(super) async fn load(asked: Asked) -> Result<Response<Body>> {
    let Load { model, file } = asked.read()?;
    operate(asked, model, Action::Load { file }).await
}

/// Unloads one that was loaded so.
pub(super) async fn unload(asked: Asked) -> Result<Response<Body>> {
    let Named { model } = asked.read()?;
    operate(asked, model, Action::Unload).await
}

/// Begins to try a candidate: `model`, and what a `canary` of a `[[model]]` may say.
pub(super) async fn canary(asked: Asked) -> Result<Response<Body>> {
    let mut body: Map<String, Value> = asked.read()?;
    let model = body.remove("model").and_then(|model| model.as_str().map(str::to_owned));
    let model =
        model.ok_or_else(|| Error::invalid("model", "the body is not what this page wants: model is missing"))?;
    let candidate: Candidate = serde_json::from_value(Value::Object(body))
        .map_err(|error| Error::invalid("body", format!("the body is not what this page wants: {error}")))?;
    operate(asked, model, Action::Try(candidate)).await
}

/// Puts a candidate into the place of its model.
pub(super) async fn promote(asked: Asked) -> Result<Response<Body>> {
    let Promote { model, accept_uncertified } = asked.read()?;
    operate(asked, model, Action::Promote { accept_uncertified }).await
}

/// Ends a trial, or takes a promotion back.
pub(super) async fn roll_back(asked: Asked) -> Result<Response<Body>> {
    let Named { model } = asked.read()?;
    operate(asked, model, Action::RollBack).await
}

async fn operate(asked: Asked, model: String, action: Action) -> Result<Response<Body>> {
    let running = asked.running()?.clone();
    let cause = Cause::Admin { who: asked.who.clone() };
    let operation = Operation { model, action };
    let change = {
        let running = running.clone();
        async move { running.operate(&operation, cause).await }
    };
    let done = asked.to_its_end(change).await?;
    let Reloaded { generation, is_new, changed, warnings } = match done {
        Ok(reloaded) => reloaded,
        Err(denied) => return refuse(&running, denied),
    };
    let page = json!({ "generation": generation, "new": is_new, "changed": changed, "warnings": warnings });
    json(StatusCode::OK, &page)
}

fn refuse(running: &Running, denied: Denied) -> Result<Response<Body>> {
    let (status, code, message, mut page) = match denied {
        Denied::Missing(message) => {
            return Err(Error::new(Kind::NotFound, Origin::Client, message).code("model_not_found").param("model"));
        }
        Denied::Conflict(message) => (StatusCode::CONFLICT, "conflict", message, json!({})),
        Denied::Problems(all) => {
            let message = format!("{} problems; nothing has changed", all.len());
            let page = json!({ "problems": problems(&all) });
            (StatusCode::UNPROCESSABLE_ENTITY, "configuration_refused", message, page)
        }
        Denied::Uncertified(lapses) => {
            let message = format!(
                "{} promises would become uncertified, since they speak of the file before; nothing has changed: \
                 promote with accept_uncertified = true, or calibrate the candidate first",
                lapses.len()
            );
            (StatusCode::CONFLICT, "uncertified", message, lapsed(running, &lapses))
        }
    };
    page["error"] = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": code });
    json(status, &page)
}

/// What becomes uncertified, and what that may cost: what the policies have saved per hour so far, since
/// none of it is certain any more.
fn lapsed(running: &Running, lapses: &[Lapsed]) -> Value {
    let up = SystemTime::now().duration_since(running.control.began()).unwrap_or_default();
    let policies: BTreeSet<&str> = lapses.iter().map(|one| one.policy.as_str()).collect();
    let avoided: f64 = policies.into_iter().map(|policy| running.metrics.avoided_usd(policy)).sum();
    json!({
        "uncertified": lapses,
        "extra_spend": {
            "usd_per_hour": avoided / (up.as_secs_f64() / 3600.0).max(f64::MIN_POSITIVE),
            "avoided_usd": avoided,
            "uptime_seconds": up.as_secs(),
            "how": "weir_avoided_cost_usd_total of these policies, divided by the uptime of this process: what is \
                    spent more if all that they keep on the box now escalates",
        },
    })
}
