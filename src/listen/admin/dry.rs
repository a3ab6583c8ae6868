//! `/admin/dry-run`: what a policy would change, told before it runs.
//!
//! It is checked as a reload would check it, then the newest captured requests are decided twice, by
//! what runs and by what is proposed, under the facts of now. Nothing is changed and nobody is asked.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{Asked, json, problems};
use crate::api::{self, Asker, Body, Limits, Route};
use crate::control::{Capture, Proposal, Proposed, Snapshot};
use crate::error::{Error, Kind, Origin, Result};
use crate::lab::dry::{DryRun, Summary};
use crate::lab::past::{Log, Past, read_last};
use crate::request::{Request, TenantId};

/// How many requests are replayed unless somebody says otherwise, and at most.
const USUAL: usize = 1000;
const MOST: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(rename = "virtual")]
    virtual_model: Option<String>,
    policy: Option<String>,
    #[serde(default)]
    policies: Vec<One>,
    last: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(rename = "virtual")]
    virtual_model: Option<String>,
    policy: String,
}

impl Wanted {
    fn proposals(self) -> Result<Vec<Proposal>> {
        let Wanted { virtual_model, policy, policies, .. } = self;
        let one = policy.map(|policy| One { virtual_model, policy });
        let all: Vec<Proposal> = one
            .into_iter()
            .chain(policies)
            .map(|One { virtual_model, policy }| Proposal { virtual_model, policy })
            .collect();
        if all.is_empty() {
            return Err(Error::invalid("policy", "want {\"policy\": TEXT}, with \"virtual\": NAME and \"last\": N"));
        }
        Ok(all)
    }
}

/// Checks and replays.
pub(super) async fn run(asked: Asked) -> Result<Response<Body>> {
    let wanted: Wanted = asked.read()?;
    let last = wanted.last.unwrap_or(USUAL).min(MOST);
    let running = asked.running()?;
    let (control, snapshot) = (Arc::clone(&running.control), running.control.current());
    let proposed = match control.propose(wanted.proposals()?).await {
        Ok(proposed) => proposed,
        Err(all) => {
            let message = format!("the policy would be refused: {} problems", all.len());
            let (class, code) = ("invalid_request_error", "policy_refused");
            let error = json!({ "message": message, "type": class, "param": "policy", "code": code });
            return json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": error, "problems": problems(&all) }));
        }
    };
    let mut page = json!({
        "generation": snapshot.generation(),
        "virtual": proposed.policies.iter().map(|(name, ..)| name).collect::<Vec<_>>(),
        "notes": problems(&proposed.notes),
        "cases": problems(&proposed.cases),
    });
    match control.capture() {
        Some(capture) => {
            let log = captured(capture, &proposed, last).await?;
            let left_out = log.left_out;
            let (summary, unread) = replay(log, &proposed, &snapshot).await;
            page["replay"] = json!(summary);
            page["left_out"] = json!(left_out + unread);
        }
        None => {
            page["replay"] = Value::Null;
            page["note"] = json!(
                "checked only: no requests are captured; a table [capture] with file = \"capture.jsonl\" keeps them from the next start on"
            );
        }
    }
    json(StatusCode::OK, &page)
}

/// The newest captured requests for these virtual models; those for all, where one of them is new.
async fn captured(capture: &Capture, proposed: &Proposed, last: usize) -> Result<Log> {
    let mut files = vec![capture.file.clone()];
    files.extend((1..=capture.keep).map(|place| {
        let mut name = capture.file.clone().into_os_string();
        name.push(format!(".{place}"));
        PathBuf::from(name)
    }));
    let any = proposed.policies.iter().any(|(_, known, _)| !known);
    let names: Vec<String> = proposed.policies.iter().map(|(name, ..)| name.clone()).collect();
    let read = move || read_last(&files, last, |model| any || names.iter().any(|name| name == model));
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Error::internal(format!("the capture log cannot be read: {error}")))
}

/// Decides each request twice; how many could not be read as they stand.
async fn replay(log: Log, proposed: &Proposed, snapshot: &Snapshot) -> (Summary, usize) {
    let (mut run, mut unread) = (DryRun::default(), 0);
    for past in &log.requests {
        // Probes are answered by the same thread.
        tokio::task::yield_now().await;
        let decided = request(past, snapshot).await.and_then(|request| {
            let before = snapshot.route(&request.model)?;
            let new = proposed.policies.iter().find(|(name, known, _)| !known || name.as_str() == &*request.model);
            let after = new.map_or(&before, |(_, _, policy)| policy);
            let then = before.decide(&request, &snapshot.facts(&before, &request));
            let now = after.decide(&request, &snapshot.facts(after, &request));
            run.add(past, &request, &then, &now);
            Ok(())
        });
        unread += usize::from(decided.is_err());
    }
    (run.finish(), unread)
}

/// The request as the gateway would read it; headers are not on record.
async fn request(past: &Past, snapshot: &Snapshot) -> Result<Request> {
    let route = match past.kind.as_str() {
        "text" => Route::Text,
        "embed" => Route::Embed,
        _ => Route::Chat,
    };
    let policy_headers = snapshot.limits().policy_headers.clone();
    let limits = Limits { policy_headers, ..Limits::of(usize::MAX) };
    let asker = Asker { id: Arc::from(past.id.as_str()), tenant: TenantId::new(past.tenant.as_str()) };
    let body = Full::new(Bytes::from(past.body.to_string()));
    let (request, _) = api::parse(route, &HeaderMap::new(), body, &limits, asker)
        .await
        .map_err(|error| Error::new(Kind::Invalid, Origin::Client, format!("request {}: {error}", past.id)))?;
    Ok(request)
}
