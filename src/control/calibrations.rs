//! The calibrations and predictors that policies name: read once for a generation, and the hashes of
//! the model files that they must be for.
//!
//! A name is relative to the policy's file. What cannot be read or checked is told by
//! `Policy::compile`, on the line that names it. Called by `check`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::sources::Reading;
use super::{Checked, Hashes, Options};
use crate::account::Prices;
use crate::confidence::gap::Predictor;
use crate::confidence::{Calibration, Feature};
use crate::error::Problem;
use crate::local::{ModelConfig, parameters};
use crate::policy::{Names, Policy};
use crate::request::ModelId;

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
    let options = Options { hashes: hashes.clone(), ..Options::default() };
    let reading = Reading::default();
    let calibrations = Calibrations::new(names, &models, &options, &reading);
    let names =
        checked.map(|it| &it.prices).into_iter().fold(calibrations, Calibrations::with).names_for(file, &source);
    Policy::compile(&place, &source, &names)
}

type Read<T> = Result<Arc<T>, String>;

/// What files were made of, and their texts then.
type Kept<T> = Mutex<BTreeMap<PathBuf, (Arc<str>, Arc<T>)>>;

/// The calibrations and predictors read so far: a file whose text is the same is not checked anew.
/// Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    calibrations: Arc<Kept<Calibration>>,
    predictors: Arc<Kept<Predictor>>,
}

/// What a policy of this configuration may name, its calibrations aside.
#[derive(Debug)]
pub(super) struct Calibrations<'a> {
    pub(super) names: Names,
    pub(super) models: &'a [ModelConfig],
    hashes: &'a Hashes,
    parsed: &'a Parsed,
    reading: &'a Reading,
    /// `None`: prices are not known here.
    prices: Option<&'a Prices>,
    read: BTreeMap<PathBuf, Read<Calibration>>,
    predictors: BTreeMap<PathBuf, Read<Predictor>>,
}

impl<'a> Calibrations<'a> {
    /// None read yet, prices not known; `models` are those that run here.
    pub(super) fn new(names: Names, models: &'a [ModelConfig], options: &'a Options, reading: &'a Reading) -> Self {
        let (hashes, parsed) = (&options.hashes, &options.parsed);
        let (read, predictors) = (BTreeMap::new(), BTreeMap::new());
        Calibrations { names, models, hashes, parsed, reading, prices: None, read, predictors }
    }

    /// The same, where prices are known.
    #[must_use]
    pub(super) fn with(self, prices: &'a Prices) -> Self {
        Calibrations { prices: Some(prices), ..self }
    }

    /// What the policy of this file and text may name.
    pub(super) fn names_for(&mut self, file: &Path, source: &str) -> Names {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut names = self.names.clone();
        for (name, models) in Policy::calibrations(source) {
            let path = folder.join(&name);
            let of = |path: &PathBuf| {
                let (reading, kept) = (self.reading, &self.parsed.calibrations);
                read(path, (reading, kept), "calibration", Calibration::parse)
            };
            let read = self.read.entry(path).or_insert_with_key(of).clone();
            let hashed = models.iter().try_for_each(|model| self.hash(model, &mut names));
            let hashed = hashed.and_then(|()| second(&read).map_or(Ok(()), |model| self.hash(model, &mut names)));
            names.calibrations.insert(name, hashed.and(read));
        }
        let asks =
            |read: &Read<Calibration>| read.as_ref().is_ok_and(|read| read.score.features().contains(&Feature::PTrue));
        if source.contains(Feature::PTrue.name()) || names.calibrations.values().any(asks) {
            let size = |model: &ModelConfig| Some((model.id.clone(), parameters(&model.file)?));
            names.parameters = self.models.iter().filter_map(size).collect();
        }
        for (name, models) in Policy::predictors(source) {
            let path = folder.join(&name);
            let of = |path: &PathBuf| {
                let (reading, kept) = (self.reading, &self.parsed.predictors);
                read(path, (reading, kept), "predictor of gaps", Predictor::parse)
            };
            let read = self.predictors.entry(path).or_insert_with_key(of).clone();
            let hashed = models.iter().try_for_each(|model| self.hash(model, &mut names));
            names.predictors.insert(name, hashed.and(read));
            let resolved: Vec<ModelId> = models.iter().filter_map(|model| names.resolve(model)).collect();
            names.unpriced.extend(resolved.into_iter().filter(|model| self.is_unpriced(model)));
        }
        names
    }

    fn is_unpriced(&self, model: &ModelId) -> bool {
        self.prices.is_some_and(|prices| prices.of(model).is_none())
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

/// The model that a calibration asks for a second opinion.
fn second(read: &Read<Calibration>) -> Option<&str> {
    read.as_ref().ok()?.inquiry.as_ref()?.second.as_ref().map(|second| second.model.as_str())
}

fn read<T>(
    file: &Path,
    (reading, kept): (&Reading, &Kept<T>),
    what: &str,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Read<T> {
    let text = reading.text(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let known = kept.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
    if let Some((_, parsed)) = known.filter(|(then, _)| *then == text) {
        return Ok(parsed);
    }
    let parsed =
        parse(text.as_bytes()).map(Arc::new).map_err(|why| format!("{} is no {what}: {why}", file.display()))?;
    let one = (text, Arc::clone(&parsed));
    kept.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), one);
    Ok(parsed)
}
