//! `/admin/status`: what runs, since when, how it is, and what was refused.

use std::time::SystemTime;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::page::{Asked, json, problems, time};
use crate::api::Body;
use crate::control::{Control, Snapshot};
use crate::error::Result;

/// Shows it; before anything runs, only that.
pub(super) fn show(asked: &Asked) -> Result<Response<Body>> {
    let running = asked.running()?;
    let control = &running.control;
    let snapshot = control.current();
    let uptime = SystemTime::now().duration_since(control.began()).unwrap_or_default();
    let (models, upstreams): (Vec<Value>, Vec<Value>) = backends(&snapshot);
    json(
        StatusCode::OK,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": asked.state.unready().unwrap_or("ready".into()),
            "began": time(control.began()),
            "uptime_seconds": uptime.as_secs(),
            "generation": generation(control),
            "files": { "watched": snapshot.watches(), "are_what_runs": !control.differs_from_disk() },
            "last_refusal": refusal(control),
            "virtual": virtuals(&snapshot),
            "models": models,
            "upstreams": upstreams,
            "audits": snapshot.audit_statuses(),
        }),
    )
}

fn generation(control: &Control) -> Value {
    control.generations().last().map_or(Value::Null, |one| {
        json!({
            "number": one.number,
            "since": time(one.built),
            "cause": one.cause.name(),
            "who": one.cause.who(),
            "warnings": one.warnings,
        })
    })
}

/// The last one; it may be older than what runs.
fn refusal(control: &Control) -> Value {
    control.refusals().last().map_or(Value::Null, |one| {
        let (cause, who) = (one.cause.name(), one.cause.who());
        json!({ "when": time(one.when), "cause": cause, "who": who, "problems": problems(&one.problems) })
    })
}

fn virtuals(snapshot: &Snapshot) -> Vec<Value> {
    let all = snapshot.virtuals().into_iter();
    all.map(|(name, policy)| json!({ "name": name.as_str(), "policy": policy.name() })).collect()
}

fn backends(snapshot: &Snapshot) -> (Vec<Value>, Vec<Value>) {
    let (mut models, mut upstreams) = (Vec::new(), Vec::new());
    for (id, status) in snapshot.statuses() {
        if id.is_local() {
            models.push(json!({
                "name": id.as_str(),
                "state": if status.ready { "ready" } else { "stopped" },
                "slots": status.slots,
                "slots_busy": status.slots_busy,
                "queue": status.queue_depth,
                "kv_used_ratio": status.kv_used_ratio,
            }));
        } else {
            upstreams.push(json!({
                "name": id.as_str(),
                "state": if status.ready { "ready" } else { "unavailable" },
                "breaker": status.breaker.name(),
                "in_flight": status.slots_busy,
            }));
        }
    }
    (models, upstreams)
}
