//! The calibrations that policies name: read once for a generation, and the hashes of the model
//! files that they must be for.
//!
//! A name is relative to the policy's file. What cannot be read or checked is told by
//! `Policy::compile`, on the line that names it. Called by `check`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Checked, Hashes};
use crate::confidence::Calibration;
use crate::error::Problem;
use crate::local::ModelConfig;
use crate::policy::{Names, Policy};

/// Reads and compiles a policy file for past requests: with the names of a configuration, or with any.
///
/// # Errors
/// Every problem of the file.
pub fn read_policy(file: &Path, checked: Option<&Checked>, hashes: &Hashes) -> Result<Policy, Vec<Problem>> {
    let place = file.display().to_string();
    let source = fs::read_to_string(file)
        .map_err(|error| vec![Problem { place: place.clone(), message: format!("cannot read: {error}") }])?;
    let any = || Names { any: true, ..Names::default() };
    let (names, models) = checked.map_or_else(|| (any(), Vec::new()), |it| (it.names(), it.models.clone()));
    let names = Calibrations::new(names, &models, hashes).names_for(file, &source);
    Policy::compile(&place, &source, &names)
}

type Read = Result<Arc<Calibration>, String>;

/// What a policy of this configuration may name, its calibrations aside.
#[derive(Debug)]
pub(super) struct Calibrations<'a> {
    pub(super) names: Names,
    pub(super) models: &'a [ModelConfig],
    pub(super) hashes: &'a Hashes,
    read: BTreeMap<PathBuf, Read>,
}

impl<'a> Calibrations<'a> {
    /// None read yet; `models` are those that run here.
    pub(super) fn new(names: Names, models: &'a [ModelConfig], hashes: &'a Hashes) -> Self {
        Calibrations { names, models, hashes, read: BTreeMap::new() }
    }

    /// What the policy of this file and text may name.
    pub(super) fn names_for(&mut self, file: &Path, source: &str) -> Names {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut names = self.names.clone();
        for (name, models) in Policy::calibrations(source) {
            let path = folder.join(&name);
            let read = self.read.entry(path).or_insert_with_key(|path| read(path)).clone();
            let hashed = models.iter().try_for_each(|model| self.hash(model, &mut names));
            names.calibrations.insert(name, hashed.and(read));
        }
        names
    }

    /// Adds the hash of a local model's file to the names.
    fn hash(&self, model: &str, names: &mut Names) -> Result<(), String> {
        let id = names.resolve(model);
        let Some(model) = self.models.iter().find(|model| Some(&model.id) == id.as_ref()) else {
            return Ok(());
        };
        let hash = self.hashes.sha256(&model.file).map_err(|error| {
            format!("cannot read {} to see whether it is for that file: {error}", model.file.display())
        })?;
        names.files.insert(model.id.clone(), hash);
        Ok(())
    }
}

fn read(file: &Path) -> Read {
    let bytes = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Calibration::parse(&bytes).map(Arc::new).map_err(|why| format!("{} is no calibration: {why}", file.display()))
}
