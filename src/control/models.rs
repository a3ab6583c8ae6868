//! The local models of a configuration: `[[model]]` tables and what bounds them, checked.
//!
//! An adapter's model takes the file of the model that it adapts, so that tables with `adapter` are
//! read after the others, wherever they stand. Called by `check`.

use std::path::PathBuf;

use super::check::Checker;
use super::overlay::Tried;
use super::read::{Placed, Raw, RawAdapter, RawModel, RawResidency};
use super::values::{LOCAL_FORM, find_file, local_name};
use crate::error::Problem;
use crate::local::{Adapter, ModelConfig, Residency, check_adapter_files};
use crate::request::ModelId;

const MOST_SLOTS: u32 = 256;
/// A budget below this holds no model.
const LEAST_MEMORY: u64 = 16 << 20;

impl Checker<'_> {
    /// The budget of memory and how long a load is waited for.
    pub(super) fn memory(&mut self, raw: &Raw) {
        if let Some(memory) = &raw.memory {
            let bytes = memory.value.as_u64();
            self.checked.memory = Some(bytes);
            if bytes < LEAST_MEMORY {
                let message = format!("memory = {}: no model fits; want a size such as \"8GiB\"", memory.value);
                self.problems.push(memory.problem(message));
            }
        }
        if let Some(wait) = raw.load_wait.as_ref().and_then(|wait| wait.value.0) {
            self.checked.load_wait = wait;
        }
    }

    /// Every table; adapters last.
    pub(super) fn models(&mut self, raw: Vec<Placed<RawModel>>) {
        let (adapters, plain): (Vec<_>, Vec<_>) = raw.into_iter().partition(|model| model.value.adapter.is_some());
        for model in plain.into_iter().chain(adapters) {
            self.model(&model);
        }
    }

    fn model(&mut self, model: &Placed<RawModel>) {
        let raw = &model.value;
        let Some(name) = local_name(&raw.name) else {
            let message = format!("model name \"{}\": want local/NAME; {LOCAL_FORM}", raw.name);
            return self.problems.push(model.problem(message));
        };
        let mut problems = Vec::new();
        if let Some(slots) = raw.slots.filter(|slots| !(1..=MOST_SLOTS).contains(slots)) {
            problems.push(format!("slots = {slots}; want 1 to {MOST_SLOTS}"));
        }
        if raw.context == Some(0) {
            problems.push("context = 0; want 1 or more".to_owned());
        }
        // Without its file the name is known all the same, so that policies are not blamed.
        let (file, adapter) = match (&raw.file, &raw.adapter) {
            (Some(file), None) => (self.find(file), Ok(None)),
            (None, Some(adapter)) => self.adapter(adapter),
            (Some(_), Some(_)) => {
                (Err("file and adapter: want one; an adapter takes the file of its model".to_owned()), Ok(None))
            }
            (None, None) => {
                (Err("want file = \"…\", or adapter = { of = \"local/NAME\", file = \"…\" }".to_owned()), Ok(None))
            }
        };
        let file = file.unwrap_or_else(|message| {
            problems.push(message);
            PathBuf::new()
        });
        let adapter = adapter.unwrap_or_else(|message| {
            problems.push(message);
            None
        });
        self.problems.extend(problems.into_iter().map(|what| model.problem(format!("model \"{name}\": {what}"))));
        let usual = ModelConfig::new(ModelId::new(format!("local/{name}")), file);
        let residency = match raw.residency {
            Some(RawResidency::OnDemand) => Residency::OnDemand,
            Some(RawResidency::Pinned) | None => Residency::Pinned,
        };
        let config = ModelConfig {
            context: raw.context,
            slots: raw.slots.unwrap_or(usual.slots),
            queue: raw.queue.unwrap_or(usual.queue),
            residency,
            adapter,
            ..usual
        };
        if let Some(canary) = &raw.canary {
            let value = Tried { model: config.id.clone(), canary: canary.clone() };
            self.tried.push(Placed { value, place: model.place.clone() });
        }
        self.add_model(config, &model.place);
    }

    pub(super) fn find(&self, file: &str) -> Result<PathBuf, String> {
        find_file(file, &self.folder, &self.options.env, self.reading)
    }

    /// The file of the model that is adapted, and the adapter.
    fn adapter(&self, raw: &RawAdapter) -> (Result<PathBuf, String>, Result<Option<Adapter>, String>) {
        let base = self.base_of(raw);
        let scale = raw.scale.unwrap_or(1.0);
        let adapter = match (&base, self.find(&raw.file)) {
            _ if !scale.is_finite() => Err(format!("adapter.scale = {scale}; want a number")),
            (_, Err(message)) => Err(format!("adapter: {message}")),
            (Err(_), Ok(_)) => Ok(None),
            (Ok(base), Ok(file)) => {
                let fits =
                    if base.file.as_os_str().is_empty() { Ok(()) } else { check_adapter_files(&file, &base.file) };
                let modified = self.reading.model(&file);
                let adapter = || Adapter { of: base.id.clone(), modified, file: file.clone(), scale };
                fits.map(|()| Some(adapter())).map_err(|message| format!("adapter: {message}"))
            }
        };
        (base.map(|base| base.file.clone()), adapter)
    }

    fn base_of(&self, raw: &RawAdapter) -> Result<&ModelConfig, String> {
        let of = &raw.of;
        let id = local_name(of).map(|name| ModelId::new(format!("local/{name}")));
        let known = &self.checked.models;
        let plain = || {
            let names: Vec<&str> =
                known.iter().filter(|one| one.adapter.is_none()).map(|one| one.id.as_str()).collect();
            names.join(", ")
        };
        match known.iter().find(|one| Some(&one.id) == id.as_ref()) {
            Some(base) if base.adapter.is_some() => {
                Err(format!("adapter.of = \"{of}\" is an adapter itself; want a model of a file: {}", plain()))
            }
            Some(base) => Ok(base),
            None => Err(format!("adapter.of = \"{of}\" is no local model; known: {}", plain())),
        }
    }

    /// Adds a local model, unless its name is taken.
    pub(super) fn add_model(&mut self, model: ModelConfig, place: &str) {
        if self.checked.models.iter().any(|known| known.id == model.id) {
            let message = format!("model \"{}\" is given twice", model.id);
            return self.problems.push(Problem { place: place.to_owned(), message });
        }
        let modified = self.reading.model(&model.file);
        self.checked.models.push(ModelConfig { modified, ..model });
    }
}
