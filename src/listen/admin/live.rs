//! What the console shows while traffic flows: the last minutes, the models as they are now, the
//! policies in force. Each answer is of one generation.

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::probes;
use super::page::{Asked, bytes};
use crate::api::Body;
use crate::control::Snapshot;
use crate::error::{Error, Result};
use crate::observe::Recent;

#[derive(Serialize)]
struct Lately {
    generation: u64,
    /// Why new requests should go elsewhere; `null`: they are welcome.
    unready: Option<String>,
    #[serde(flatten)]
    recent: Recent,
    models: Vec<Value>,
    audits: Value,
}

/// `GET /admin/recent?since=SECOND&after=NUMBER`: what a page that polls does not know yet.
pub(super) fn recent(asked: &Asked) -> Result<Response<Body>> {
    let running = asked.running()?;
    let snapshot = running.control.current();
    let number = |name: &str| asked.number(name).unwrap_or(0) as u64;
    compact(&Lately {
        generation: snapshot.generation(),
        unready: probes::unready(&asked.state),
        recent: running.metrics.recent(number("since"), number("after")),
        models: models(&snapshot),
        audits: json!(snapshot.audit_statuses()),
    })
}

fn models(snapshot: &Snapshot) -> Vec<Value> {
    let told = snapshot.statuses().into_iter().map(|(model, status)| {
        json!({
            "model": model.as_str(),
            "local": model.is_local(),
            "ready": status.ready,
            "breaker": status.breaker.name(),
            "slots": status.slots,
            "slots_busy": status.slots_busy,
            "queue_depth": status.queue_depth,
            "queue_limit": status.queue_limit,
            "kv_used_ratio": status.kv_used_ratio,
        })
    });
    told.collect()
}

/// `GET /admin/policies`: each virtual model's policy, its text as it was read, its rules in words;
/// without what looks like a secret.
pub(super) fn policies(asked: &Asked) -> Result<Response<Body>> {
    let snapshot = asked.running()?.control.current();
    let names: Vec<String> = snapshot.entries().into_iter().map(|entry| entry.id).collect();
    compact(&json!({
        "generation": snapshot.generation(),
        "policies": snapshot.shown_policies().map_err(Error::internal)?,
        "models": names,
        "headers": snapshot.limits().policy_headers,
    }))
}

/// An answer in JSON for a program that asks each second.
pub(super) fn compact(value: &impl Serialize) -> Result<Response<Body>> {
    let text =
        serde_json::to_vec(value).map_err(|error| Error::internal(format!("an answer cannot be rendered: {error}")))?;
    Ok(bytes(StatusCode::OK, "application/json", text))
}
