//! The names of the configuration in force: which labels there may be, and where upstreams are.
//!
//! Promises: a label's value is a name of the configuration, `other` or `none`, whatever clients ask
//! for. Made from a snapshot by `listen`, adopted by [`super::Metrics`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::families::{Families, Series};
use super::names;
use crate::control::Snapshot;
use crate::request::ModelId;

/// The names of a configuration.
#[derive(Debug, Default)]
pub struct Names {
    /// Its generation.
    pub generation: u64,
    /// What may stand in a request's `model`.
    pub asked: Vec<String>,
    /// What answers: full names; `NAME/*` for an upstream that passes any name on.
    pub targets: Vec<ModelId>,
    /// What decides.
    pub policies: BTreeSet<String>,
    /// Hosts and ports of upstreams with one address, by their names.
    pub addresses: Vec<(String, String, u16)>,
}

impl Names {
    /// Those of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Names {
        let address = |(name, uris): (&str, &[http::Uri])| {
            let [uri] = uris else { return None };
            let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
            Some((name.to_owned(), uri.host()?.to_owned(), uri.port_u16().unwrap_or(usual)))
        };
        Names {
            generation: snapshot.generation(),
            asked: snapshot.asked(),
            targets: snapshot.statuses().into_iter().map(|(model, _)| model).collect(),
            policies: snapshot.policies(),
            addresses: snapshot.addresses().filter_map(address).collect(),
        }
    }
}

/// Names to be looked up, and the series of each model.
#[derive(Debug, Default)]
pub(super) struct Known {
    generation: u64,
    asked: HashSet<String>,
    policies: BTreeSet<String>,
    series: HashMap<String, Arc<Series>>,
    addresses: HashMap<String, (String, u16)>,
}

impl Known {
    pub(super) fn of(names: Names, families: &Families) -> Known {
        let series = |model: ModelId| {
            let label = model.as_str();
            (label.to_owned(), Arc::new(Series::of(families, label)))
        };
        Known {
            generation: names.generation,
            asked: names.asked.into_iter().collect(),
            policies: names.policies,
            series: names.targets.into_iter().map(series).collect(),
            addresses: names.addresses.into_iter().map(|(name, host, port)| (name, (host, port))).collect(),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn asked(&self, name: &str) -> &str {
        self.asked.get(name).map_or(names::OTHER, String::as_str)
    }

    pub(super) fn policy(&self, name: &str) -> &str {
        self.policies.get(name).map_or(names::OTHER, String::as_str)
    }

    /// The series of a model: its own, or those of the upstream that passes any name on.
    pub(super) fn series(&self, model: &ModelId) -> Option<&Arc<Series>> {
        self.series.get(model.as_str()).or_else(|| self.series.get(&format!("{}/*", model.split()?.0)))
    }

    /// The label of an upstream.
    pub(super) fn upstream<'m>(&self, model: &'m ModelId) -> &'m str {
        let known = self.series(model).and_then(|_| model.split());
        known.map_or(names::OTHER, |(upstream, _)| upstream)
    }

    /// Host and port of an upstream that has one address.
    pub(super) fn address(&self, upstream: &str) -> Option<&(String, u16)> {
        self.addresses.get(upstream)
    }

    /// Whether a series with this label may stay.
    pub(super) fn keeps(&self, label: &str, value: &str) -> bool {
        let model = |value: &str| self.asked.contains(value) || self.series.contains_key(value);
        let usual = value == names::OTHER || value == names::NONE;
        match label {
            "model" | "served_by" | "stage" => usual || model(value),
            "policy" => usual || self.policies.contains(value),
            "upstream" => {
                let of = |model: &String| model.split_once('/').is_some_and(|(name, _)| name == value);
                usual || self.series.keys().any(of)
            }
            _ => true,
        }
    }
}
