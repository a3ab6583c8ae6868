//! Renders the list of models and one entry of it.
//!
//! `gateway` hands over the names that its snapshot knows.

use http::Response;
use serde::Serialize;

use super::Body;
use super::fold::json as rendered;
use super::respond::json;
use crate::error::{Error, Kind, Origin, Result};

/// One name that clients may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// The full name: `local/NAME`, `UPSTREAM/NAME`, or a virtual model's.
    pub id: String,
    /// Who runs it: `local`, an upstream's name, or `weir` for a virtual model.
    pub owned_by: String,
    /// When it was made known, in seconds since 1970; 0 where nobody says.
    pub created: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
}

fn entry(entry: &ModelEntry) -> Entry<'_> {
    Entry { id: &entry.id, object: "model", created: entry.created, owned_by: &entry.owned_by }
}

/// Renders `GET /v1/models`.
pub fn models(entries: &[ModelEntry]) -> Response<Body> {
    let list = List { object: "list", data: entries.iter().map(entry).collect() };
    json(rendered(&list), None)
}

/// Renders `GET /v1/models/{id}`; 404 `model_not_found` where no entry has this id.
pub fn model(entries: &[ModelEntry], id: &str) -> Result<Response<Body>> {
    match entries.iter().find(|entry| entry.id == id) {
        Some(found) => Ok(json(rendered(&entry(found)), None)),
        None => {
            let shown: String = id.chars().take(200).collect();
            let known: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).take(20).collect();
            let message = format!("model: unknown model {shown:?}; known: {}", known.join(", "));
            Err(Error::new(Kind::NotFound, Origin::Client, message).code("model_not_found").param("model"))
        }
    }
}
