//! What a checked configuration can tell: the names that policies may use, what its policies' own
//! examples say, and what a person should know.
//!
//! Beside it, files that are checked by themselves: a policy, a price list. Called by `cli` and `build`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Options;
use super::calibrations::Calibrations;
use super::check::Checked;
use super::read;
use super::sources::Reading;
use super::values::{add_price, is_loopback};
use crate::account::Prices;
use crate::error::Problem;
use crate::policy::{Names, Policy};
use crate::request::ModelId;

impl Checked {
    /// Runs the examples that stand beside the policies: `NAME.cases.jsonl` for `NAME.toml`.
    pub fn check_cases(&self) -> Vec<Problem> {
        self.virtuals.iter().flat_map(|one| policy_cases(&one.file, &one.policy)).collect()
    }

    /// What a person should know of the policies and what is no problem, each with its place.
    pub fn notes(&self) -> impl Iterator<Item = &Problem> {
        self.virtuals.iter().flat_map(|one| one.policy.notes())
    }

    /// Whether what runs depends on what an upstream says when it is asked.
    pub(super) fn asks_upstreams(&self) -> bool {
        self.upstreams.iter().any(|one| one.discover.is_some())
    }

    /// The problem of an admin port that others could reach without a token.
    pub(super) fn open_door(&self, admin: &str, place: &str) -> Option<Problem> {
        let open = self.operators.tenants.is_empty() && !is_loopback(admin);
        let message = format!(
            "admin = \"{admin}\" is reached from other machines and there is no admin_token: whoever finds it could \
             change this gateway; set admin_token = {{ env = \"NAME\" }} or {{ file = \"PATH\" }}, or keep admin on 127.0.0.1"
        );
        open.then(|| Problem { place: place.to_owned(), message })
    }

    /// What policies may name.
    pub fn names(&self) -> Names {
        let mut models: BTreeSet<ModelId> = self.models.iter().map(|model| model.id.clone()).collect();
        let mut short: BTreeMap<String, Option<ModelId>> = BTreeMap::new();
        let listed = self
            .upstreams
            .iter()
            .flat_map(|one| one.listed.iter().map(|model| ModelId::new(format!("{}/{model}", one.config.name))));
        models.extend(listed);
        // A name that could be a full one stands for that alone: what a policy keeps on the box
        // must not leave it because an upstream has a model of the same name.
        let full = |bare: &str| {
            bare.split_once('/')
                .is_some_and(|(first, _)| first == "local" || self.upstreams.iter().any(|one| one.config.name == first))
        };
        for model in &models {
            let bare = model.split().map_or(model.as_str(), |(_, bare)| bare).to_owned();
            if !full(&bare) {
                short.entry(bare).and_modify(|known| *known = None).or_insert_with(|| Some(model.clone()));
            }
        }
        Names {
            models,
            short: short.into_iter().filter_map(|(bare, model)| model.map(|model| (bare, model))).collect(),
            wildcards: self.upstreams.iter().filter(|one| one.any).map(|one| one.config.name.clone()).collect(),
            promoted: self.overlay.promoted(),
            headers: self.limits.policy_headers.iter().cloned().collect(),
            ..Names::default()
        }
    }
}

/// What was found in a policy file.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What a person should know and what is no problem.
    pub notes: Vec<Problem>,
}

/// Checks a policy file by itself, its cases included. No model's file is known here, so that a
/// calibration for another one is found with the configuration only.
pub fn check_policy(file: &Path, source: &str, names: &Names) -> Findings {
    let (options, reading) = (Options::default(), Reading::default());
    let names = Calibrations::new(names.clone(), &[], &options, &reading).names_for(file, source);
    match Policy::compile(&file.display().to_string(), source, &names) {
        Ok(policy) => Findings { problems: policy_cases(file, &policy), notes: policy.notes().to_vec() },
        Err(problems) => Findings { problems, notes: Vec::new() },
    }
}

pub(super) fn policy_cases(file: &Path, policy: &Policy) -> Vec<Problem> {
    let cases = file.with_extension("cases.jsonl");
    match std::fs::read_to_string(&cases) {
        Ok(source) => policy.check_cases(&cases.display().to_string(), &source),
        Err(_) => Vec::new(),
    }
}

/// Every problem of a price file.
pub fn check_prices(place: &str, source: &str) -> Vec<Problem> {
    let mut prices = Prices::default();
    match read::parse_prices(place, source) {
        Ok(found) => found.into_iter().filter_map(|price| add_price(&mut prices, price).err()).collect(),
        Err(problems) => problems,
    }
}
