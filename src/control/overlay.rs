//! What operators have changed of the models while they ran: `models.json` in the state folder.
//!
//! A source like any other file: read through the [`Reading`](super::sources::Reading), applied after the
//! `[[model]]` tables, watched, part of every generation. Promises: what was done to a model stands as long
//! as the configuration names the file that it named then; after that it is dropped with a warning. Edited
//! by `operate`, applied by `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::read::Placed;
use crate::confidence::trial::Bounds;
use crate::error::Problem;
use crate::execute::{Canary, Terms};
use crate::local::{ModelConfig, check_adapter_files};
use crate::request::{ModelId, TenantId};

/// A candidate as it is written: in a `[[model]]` table, in the overlay, in a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Its file, as in `[[model]]`.
    pub file: String,
    /// The share of requests that it answers.
    #[serde(default = "usual_share")]
    pub share: f64,
    /// Tenants whose every request it answers.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// The share of the current model's requests on which both are compared.
    #[serde(default = "usual_shadow")]
    pub shadow: f64,
    /// A token may take so many times as long.
    #[serde(default = "usual_slower")]
    pub slower: f64,
    /// The probability of giving up a candidate that is fit.
    #[serde(default = "usual_false_alarm")]
    pub false_alarm: f64,
    /// The most that may fail, disagree, be slower, be less sure; as [`Bounds`] has them.
    pub max_failures: Option<f64>,
    /// See `max_failures`.
    pub max_disagreement: Option<f64>,
    /// See `max_failures`.
    pub max_slower: Option<f64>,
    /// See `max_failures`.
    pub max_less_sure: Option<f64>,
}

fn usual_share() -> f64 {
    0.05
}

fn usual_shadow() -> f64 {
    0.1
}

fn usual_slower() -> f64 {
    2.0
}

fn usual_false_alarm() -> f64 {
    Bounds::default().false_alarm
}

impl Candidate {
    fn terms(&self) -> Terms {
        let usual = Bounds::default();
        let bounds = Bounds {
            false_alarm: self.false_alarm,
            max_failures: self.max_failures.unwrap_or(usual.max_failures),
            max_disagreement: self.max_disagreement.unwrap_or(usual.max_disagreement),
            max_slower: self.max_slower.unwrap_or(usual.max_slower),
            max_less_sure: self.max_less_sure.unwrap_or(usual.max_less_sure),
        };
        let tenants = self.tenants.iter().map(|tenant| TenantId::new(tenant.as_str())).collect();
        Terms { share: self.share, tenants, shadow: self.shadow, slower: self.slower, bounds }
    }
}

/// A candidate and the model that it would replace.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) model: ModelId,
    pub(super) canary: Candidate,
}

/// A candidate that can be loaded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckedCanary {
    pub(super) model: ModelId,
    /// As it was written.
    pub(super) written: Candidate,
    /// The candidate as a model of its own.
    pub(super) candidate: ModelConfig,
    pub(super) terms: Terms,
}

/// What was changed, by model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overlay {
    #[serde(default)]
    pub(super) models: BTreeMap<String, Entry>,
}

/// What was done to one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// The file that the configuration named then; `None`: the model was loaded, it is in no configuration.
    pub(super) configured: Option<PathBuf>,
    /// The file that it runs in the place of that one, or was loaded with.
    pub(super) file: Option<String>,
    /// What it ran before the last promotion.
    pub(super) previous: Option<Previous>,
    /// Who is tried; wins over the configuration's.
    pub(super) canary: Option<Candidate>,
    /// A file that was given up: the configuration's canary of that file stays out.
    pub(super) refused_canary: Option<String>,
    /// Whether calibrations for another file are a lapse and no problem.
    #[serde(default)]
    pub(super) accept_uncertified: bool,
}

/// What a model can go back to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Previous {
    pub(super) file: String,
    /// Whether it ran without certificates.
    #[serde(default)]
    pub(super) accept_uncertified: bool,
}

impl Overlay {
    /// Where it is kept.
    pub(super) fn file(state: &Path) -> PathBuf {
        state.join("models.json")
    }

    /// The models whose calibrations may be for another file.
    pub(super) fn promoted(&self) -> BTreeSet<ModelId> {
        let accepted = self.models.iter().filter(|(_, entry)| entry.accept_uncertified);
        accepted.map(|(name, _)| ModelId::new(name.as_str())).collect()
    }

    pub(super) fn render(&self) -> Result<String, String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|error| format!("models.json cannot be rendered: {error}"))
    }

    fn parse(text: &str) -> Result<Overlay, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| format!("{}: {}", error.path(), error.inner()))
    }
}

/// A new text beside the file, which takes its place once it is in force; readable by its owner only.
#[derive(Debug)]
pub(super) struct Draft {
    beside: PathBuf,
    file: PathBuf,
}

impl Draft {
    pub(super) fn write(state: &Path, text: &str) -> io::Result<Draft> {
        fs::create_dir_all(state)?;
        let file = Overlay::file(state);
        let beside = file.with_extension("json.new");
        let mut open = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        Ok(Draft { beside, file })
    }

    /// Puts it in force.
    pub(super) fn keep(self) -> io::Result<()> {
        fs::rename(&self.beside, &self.file)?;
        self.file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Nothing has changed.
    pub(super) fn discard(self) {
        // One that stays is overwritten by the next.
        let _ = fs::remove_file(self.beside);
    }
}

impl Checker<'_> {
    /// Applies what was changed, and checks every candidate.
    pub(super) fn overlay(&mut self) {
        let known = self.checked.models.iter().map(|model| (model.id.clone(), model.file.clone()));
        self.checked.configured = known.collect();
        let (overlay, place) = self.read_overlay();
        for (name, entry) in overlay.models {
            if let Some(why) = self.stale(&name, &entry) {
                self.checked.warnings.push(format!("{place}: {name}: {why}: what was done to it is dropped"));
                continue;
            }
            self.apply(&name, &entry, &place);
            self.checked.overlay.models.insert(name, entry);
        }
        for Placed { value: Tried { model, canary }, place } in self.candidates(&place) {
            if let Err(message) = self.candidate(&model, canary) {
                let message = format!("model \"{model}\": canary: {message}");
                self.problems.push(Problem { place, message });
            }
        }
    }

    fn read_overlay(&mut self) -> (Overlay, String) {
        let Some(state) = self.options.state.as_ref().or(self.checked.state.as_ref()) else {
            return (Overlay::default(), String::new());
        };
        let file = Overlay::file(state);
        let place = file.display().to_string();
        let read = match self.reading.text(&file) {
            Ok(text) => Overlay::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Overlay::default()),
            Err(error) => Err(format!("cannot read: {error}")),
        };
        let overlay = read.unwrap_or_else(|message| {
            self.problems.push(Problem { place: place.clone(), message });
            Overlay::default()
        });
        (overlay, place)
    }

    /// Why an entry does not speak of the models of this configuration.
    fn stale(&self, name: &str, entry: &Entry) -> Option<String> {
        let now = self.checked.configured.get(&ModelId::new(name));
        match (&entry.configured, now) {
            (Some(then), Some(now)) if then == now => None,
            (Some(then), Some(_)) => Some(format!("the configuration names another file than {}", then.display())),
            (Some(_), None) => Some("the configuration has no such model any more".to_owned()),
            (None, Some(_)) => Some("the configuration has a model of that name by now".to_owned()),
            (None, None) => None,
        }
    }

    fn apply(&mut self, name: &str, entry: &Entry, place: &str) {
        let Some(text) = &entry.file else { return };
        let id = ModelId::new(name);
        let file = self.find(text).unwrap_or_else(|message| {
            self.problems.push(Problem { place: place.to_owned(), message: format!("model \"{name}\": {message}") });
            PathBuf::new()
        });
        if entry.configured.is_none() {
            return self.add_model(ModelConfig::new(id, file), place);
        }
        let modified = self.reading.model(&file);
        for model in &mut self.checked.models {
            if model.id == id {
                (model.file, model.modified) = (file.clone(), modified);
            } else if let Some(adapter) = model.adapter.as_ref().filter(|adapter| adapter.of == id) {
                if let Err(message) = check_adapter_files(&adapter.file, &file) {
                    let message = format!("model \"{}\": adapter: {message}", model.id);
                    self.problems.push(Problem { place: place.to_owned(), message });
                }
                (model.file, model.modified) = (file.clone(), modified);
            }
        }
    }

    /// Who is to be tried: the overlay's candidates, then the configuration's that were not given up.
    fn candidates(&mut self, place: &str) -> Vec<Placed<Tried>> {
        let entries = &self.checked.overlay.models;
        let mut all: Vec<Placed<Tried>> = Vec::new();
        for (name, entry) in entries {
            let value = entry.canary.clone().map(|canary| Tried { model: ModelId::new(name.as_str()), canary });
            all.extend(value.map(|value| Placed { value, place: place.to_owned() }));
        }
        for tried in std::mem::take(&mut self.tried) {
            let Tried { model, canary } = &tried.value;
            let entry = entries.get(model.as_str());
            let refused = entry.is_some_and(|entry| entry.refused_canary.as_ref() == Some(&canary.file));
            if refused {
                let warning = format!("{}: the canary {} of {model} was given up", tried.place, canary.file);
                self.checked.warnings.push(warning);
            } else if all.iter().all(|one| one.value.model != *model) {
                all.push(tried);
            }
        }
        all
    }

    fn candidate(&mut self, model: &ModelId, written: Candidate) -> Result<(), String> {
        let Some(current) = self.checked.models.iter().find(|known| known.id == *model).cloned() else {
            return Err("there is no such local model".to_owned());
        };
        if current.adapter.is_some() {
            return Err("an adapter's model has none; add the other adapter as a model of its own".to_owned());
        }
        let (file, terms) = (self.find(&written.file)?, written.terms());
        terms.check()?;
        let tenants = &self.checked.keys.tenants;
        let is_known = |tenant: &&TenantId| tenants.iter().any(|(known, _)| known == *tenant);
        if let Some(tenant) = terms.tenants.iter().find(|tenant| !is_known(tenant) && **tenant != TenantId::anonymous())
        {
            let known: Vec<&str> = tenants.iter().map(|(known, _)| known.as_str()).collect();
            return Err(format!("tenants: no tenant \"{}\"; known: {}", tenant.as_str(), known.join(", ")));
        }
        // One that was promoted is no candidate any more.
        if file == current.file {
            return Ok(());
        }
        let modified = self.reading.model(&file);
        let candidate = ModelConfig { id: Canary::name(model), file, modified, ..current };
        self.checked.canaries.push(CheckedCanary { model: model.clone(), written, candidate, terms });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_draft_changes_nothing_until_it_is_kept_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        Draft::write(&state, "one").unwrap().discard();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        Draft::write(&state, "two").unwrap().keep().unwrap();
        let file = Overlay::file(&state);
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn what_is_written_is_read_again_and_what_is_odd_is_refused_by_its_place() {
        let canary: Candidate = serde_json::from_str(r#"{"file": "b.gguf"}"#).unwrap();
        assert_eq!((canary.share, canary.shadow, canary.slower), (0.05, 0.1, 2.0));
        let mut overlay = Overlay::default();
        overlay.models.insert("local/a".to_owned(), Entry { canary: Some(canary), ..Entry::default() });
        assert_eq!(Overlay::parse(&overlay.render().unwrap()), Ok(overlay));
        let odd = Overlay::parse(r#"{"models": {"local/a": {"canary": {"file": "x", "share": "much"}}}}"#);
        assert!(odd.unwrap_err().starts_with("models.local/a.canary.share: "));
    }
}
