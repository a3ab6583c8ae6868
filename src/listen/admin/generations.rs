//! `/admin/generations`, `/admin/reload`, `/admin/rollback`: what has run, and how it is replaced.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::page::{Asked, json, problems, time};
use crate::api::Body;
use crate::control::{Cause, Generation, Reloaded};
use crate::error::{Error, Kind, Origin, Problem, Result};

/// The newest generations, the last one first, each with what it changed.
pub(super) fn list(asked: &Asked) -> Result<Response<Body>> {
    let kept = asked.running()?.control.generations();
    let all: Vec<Value> = kept.iter().rev().map(|one| told(one)).collect();
    json(StatusCode::OK, &json!({ "generations": all }))
}

fn told(one: &Generation) -> Value {
    json!({
        "number": one.number,
        "since": time(one.built),
        "cause": one.cause.name(),
        "who": one.cause.who(),
        "rolled_back_to": match one.cause {
            Cause::RollBack { to, .. } => Some(to),
            _ => None,
        },
        "changed": one.changed(),
        "warnings": one.warnings,
    })
}

/// One of them, with its files and their differences to the one before.
pub(super) fn show(asked: &Asked) -> Result<Response<Body>> {
    let kept = asked.running()?.control.generations();
    let one =
        kept.iter().find(|one| one.number.to_string() == asked.rest).ok_or_else(|| unknown(&asked.rest, &kept))?;
    let mut page = told(one);
    page["sources"] = json!(one.sources().map_err(Error::internal)?);
    page["diff"] = json!(one.diff().map_err(Error::internal)?);
    json(StatusCode::OK, &page)
}

fn unknown(number: &str, kept: &[Arc<Generation>]) -> Error {
    let shown: String = number.chars().take(20).collect();
    let numbers = kept.first().zip(kept.last()).map(|(first, last)| format!("{} to {}", first.number, last.number));
    let message = format!("generation {shown} is not kept; known: {}", numbers.unwrap_or_default());
    Error::new(Kind::NotFound, Origin::Client, message).param("generation")
}

/// Reads the files again.
pub(super) async fn reload(asked: Asked) -> Result<Response<Body>> {
    let running = asked.running()?.clone();
    let cause = Cause::Admin { who: asked.who.clone() };
    let done = asked.to_its_end(async move { running.reload(cause).await }).await?;
    match done {
        Ok(reloaded) => applied(&reloaded, json!({})),
        Err(problems) => refused(&problems, StatusCode::UNPROCESSABLE_ENTITY, "the files on the disk are not applied"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    generation: u64,
}

/// Makes a new generation of the files of an earlier one.
pub(super) async fn roll_back(asked: Asked) -> Result<Response<Body>> {
    let Wanted { generation } = asked.read()?;
    let running = asked.running()?.clone();
    let kept = running.control.generations();
    if !kept.iter().any(|one| one.number == generation) {
        return Err(unknown(&generation.to_string(), &kept));
    }
    let who = asked.who.clone();
    let done = asked.to_its_end(async move { running.roll_back(generation, who).await }).await?;
    let note = "the files on the disk are as they were: change them too, since the next change of a file, \
                SIGHUP or POST /admin/reload applies them again";
    match done {
        Ok(reloaded) => applied(&reloaded, json!({ "rolled_back_to": generation, "note": note })),
        Err(problems) => refused(&problems, StatusCode::CONFLICT, "what ran then cannot run now"),
    }
}

fn refused(all: &[Problem], status: StatusCode, what: &str) -> Result<Response<Body>> {
    let message = format!("{what}: {} problems; what ran goes on", all.len());
    let (class, code) = ("invalid_request_error", "configuration_refused");
    let error = json!({ "message": message, "type": class, "param": null, "code": code });
    json(status, &json!({ "error": error, "problems": problems(all) }))
}

fn applied(reloaded: &Reloaded, mut page: Value) -> Result<Response<Body>> {
    page["generation"] = json!(reloaded.generation);
    page["new"] = json!(reloaded.is_new);
    page["changed"] = json!(reloaded.changed);
    page["warnings"] = json!(reloaded.warnings);
    if !reloaded.is_new {
        page["note"] = json!("nothing has changed: the generation that ran goes on");
    }
    json(StatusCode::OK, &page)
}
