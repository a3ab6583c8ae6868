//! Operations on models while they run: load, unload, try, promote, roll back.
//!
//! Each is an edit of the [`Overlay`] and a new generation of everything, in this order: the files are read
//! as the edit has them, models are loaded and warmed, the generation is swapped, and only then the edit
//! takes its place on the disk. Promises: what is refused has changed nothing, neither what runs nor a
//! file. Called by `listen`, for operators and when a trial is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::check::Checked;
use super::overlay::{Candidate, Draft, Entry, Overlay, Previous};
use super::sources::Sources;
use super::values::{LOCAL_FORM, local_name};
use super::{Cause, Control, Reloaded, Snapshot};
use crate::confidence::trial::CanaryStatus;
use crate::error::Problem;
use crate::request::ModelId;

/// What is to be done to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The model: `local/NAME`, or `NAME`.
    pub model: String,
    /// What.
    pub action: Action,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Load one that no configuration names.
    Load {
        /// Its file, as in `[[model]]`.
        file: String,
    },
    /// Unload one that was loaded so.
    Unload,
    /// Try a candidate beside it.
    Try(Candidate),
    /// Put its candidate into its place.
    Promote {
        /// Whether certificates that speak of the file before may lapse.
        accept_uncertified: bool,
    },
    /// End its trial; without one, go back to what it ran before it was promoted.
    RollBack,
    /// The same, since the trial is lost.
    GiveUp,
}

impl Action {
    /// Its name in the trail of changes.
    pub fn what(&self) -> &'static str {
        match self {
            Action::Load { .. } => "model_load",
            Action::Unload => "model_unload",
            Action::Try(_) => "model_canary",
            Action::Promote { .. } => "model_promote",
            Action::RollBack => "model_rollback",
            Action::GiveUp => "canary_rolled_back",
        }
    }
}

/// Why an operation is refused; nothing has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Denied {
    /// There is no such model.
    Missing(String),
    /// It cannot be done as things stand: what to do first.
    Conflict(String),
    /// These would become uncertified, each with its policy, and that was not accepted.
    Uncertified(Vec<Lapsed>),
    /// What would run has problems, or could not be loaded.
    Problems(Vec<Problem>),
}

/// A promise, or a gate, that would speak of a file that runs no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lapsed {
    /// The policy.
    pub policy: String,
    /// Its rule.
    pub rule: String,
    /// The slice of the rule's calibration, or `predictor of gaps`.
    pub slice: String,
    /// The model.
    pub model: String,
}

impl Denied {
    /// In one line, for the trail.
    fn about(&self) -> String {
        match self {
            Denied::Missing(message) | Denied::Conflict(message) => message.clone(),
            Denied::Uncertified(lapses) => format!("{} promises would become uncertified", lapses.len()),
            Denied::Problems(problems) => {
                problems.first().map_or_else(String::new, |first| format!("{} problems; {first}", problems.len()))
            }
        }
    }
}

/// A local model of a generation, for operators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// The file that it runs.
    pub file: String,
    /// The file that the configuration names, where another one was promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// What it ran before, and can go back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Whether an operator loaded it: the configuration does not name it.
    pub loaded_by_operator: bool,
    /// Whether certificates of another file lapse and are no problem.
    pub accepts_uncertified: bool,
    /// The last candidate that was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_canary: Option<String>,
    /// Who is tried beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CandidateReport>,
}

/// A candidate on trial, for operators.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateReport {
    /// Its name.
    pub name: String,
    /// Its file and the terms, as they were written.
    pub terms: Candidate,
    /// How the trial stands.
    pub status: CanaryStatus,
}

impl Snapshot {
    /// The local models that run.
    pub fn reports(&self) -> Vec<ModelReport> {
        let report = |model: &crate::local::ModelConfig| {
            let entry = self.overlay.models.get(model.id.as_str()).cloned().unwrap_or_default();
            let configured = entry.configured.map(|file| file.display().to_string());
            let file = model.file.display().to_string();
            let known = self.canaries.iter().find(|one| one.checked.model == model.id);
            ModelReport {
                name: model.id.as_str().to_owned(),
                loaded_by_operator: configured.is_none() && entry.file.is_some(),
                configured: configured.filter(|configured| *configured != file),
                file,
                previous: entry.previous.map(|previous| previous.file),
                accepts_uncertified: entry.accept_uncertified,
                refused_canary: entry.refused_canary,
                canary: known.map(|one| CandidateReport {
                    name: one.checked.candidate.id.as_str().to_owned(),
                    terms: one.checked.written.clone(),
                    status: one.canary.status(),
                }),
            }
        };
        self.models.iter().map(report).collect()
    }

    /// The models whose trials are lost.
    pub fn lost_trials(&self) -> Vec<CanaryStatus> {
        self.canary_statuses().into_iter().filter(|status| status.lost.is_some()).collect()
    }
}

impl Control {
    /// Resolves when a trial is lost; which ones are, [`Snapshot::lost_trials`] says.
    pub async fn trial_lost(&self) {
        if self.untold.lock().await.recv().await.is_none() {
            // The sender is our own.
            std::future::pending::<()>().await;
        }
    }

    /// Does it, as a new generation, and notes it in the trail. Waits for a reload under way. Dropping the
    /// future leaves what runs.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn operate(&self, operation: &Operation, cause: Cause) -> Result<Reloaded, Denied> {
        let _one_at_a_time = self.reloading.lock().await;
        let (who, what) = (cause.who().to_owned(), operation.action.what());
        let mut told = format!("{}: {}", operation.model, operation.action.told());
        let done = self.operated(operation, &cause).await.map_err(|denied| match denied {
            Denied::Problems(problems) => Denied::Problems(self.refused(problems, cause)),
            denied => denied,
        });
        let outcome = match &done {
            Ok(Reloaded { is_new: true, .. }) => "applied",
            Ok(_) => "unchanged",
            Err(denied) => {
                told = format!("{told}; {}", denied.about());
                "refused"
            }
        };
        self.note(&who, what, outcome, told);
        done
    }

    async fn operated(&self, Operation { model, action }: &Operation, cause: &Cause) -> Result<Reloaded, Denied> {
        let Some(state) = self.fixed.state().map(std::path::Path::to_path_buf) else {
            let message = "there is no state folder to keep it in; name one with state = \"FOLDER\" and start anew";
            return Err(Denied::Conflict(message.to_owned()));
        };
        if !self.owns_state.load(Ordering::Acquire) {
            return Err(Denied::Conflict("another process serves by now; ask that one".to_owned()));
        }
        let bare = local_name(model).ok_or_else(|| {
            Denied::Missing(format!("model \"{model}\" is no local model: want local/NAME; {LOCAL_FORM}"))
        })?;
        let id = ModelId::new(format!("local/{bare}"));
        let now = self.read(Arc::default()).await.0.map_err(Denied::Problems)?;
        let mut overlay = edit(&now, &id, action)?;
        let file = Overlay::file(&state);
        let read = async |overlay: &Overlay| {
            let text = overlay.render().map_err(Denied::Conflict)?;
            let mut given = Sources::default();
            given.put(file.clone(), &text);
            let (read, sources) = self.read(Arc::new(given)).await;
            Ok::<_, Denied>((read.map_err(Denied::Problems)?, sources, text))
        };
        let (mut checked, mut sources, mut text) = read(&overlay).await?;
        if let Action::Promote { accept_uncertified } = action {
            let lapses = new_lapses(&now, &checked, &id);
            if !accept_uncertified && !lapses.is_empty() {
                return Err(Denied::Uncertified(lapses));
            }
            if all_lapses(&checked, &id).is_empty() {
                overlay.models.entry(id.as_str().to_owned()).or_default().accept_uncertified = false;
                (checked, sources, text) = read(&overlay).await?;
            }
        }
        if matches!(action, Action::Try(_)) && checked.canaries.iter().all(|one| one.model != id) {
            return Err(Denied::Conflict(format!("{id} runs that file already")));
        }
        let kept = |error: std::io::Error| Denied::Conflict(format!("{} cannot be written: {error}", file.display()));
        let draft = Draft::write(&state, &text).map_err(kept)?;
        match self.replace(checked, cause).await {
            Ok(mut done) => {
                if let Err(error) = draft.keep() {
                    tracing::error!(%error, "a model's operation is in force and not kept over a restart");
                    done.warnings.push(format!("it is not kept over a restart: {}: {error}", file.display()));
                }
                self.disk.send_replace(sources);
                Ok(done)
            }
            Err(problems) => {
                draft.discard();
                Err(Denied::Problems(problems))
            }
        }
    }
}

impl Action {
    fn told(&self) -> String {
        match self {
            Action::Load { file } => format!("load {file}"),
            Action::Unload => "unload".to_owned(),
            Action::Try(canary) => format!("try {} on {} of requests", canary.file, canary.share),
            Action::Promote { accept_uncertified: true } => "promote, uncertified answers accepted".to_owned(),
            Action::Promote { .. } => "promote".to_owned(),
            Action::RollBack => "roll back".to_owned(),
            Action::GiveUp => "the canary has lost its trial".to_owned(),
        }
    }
}

/// The overlay after the action.
fn edit(now: &Checked, id: &ModelId, action: &Action) -> Result<Overlay, Denied> {
    let mut overlay = now.overlay.clone();
    let name = id.as_str().to_owned();
    let runs = now.models.iter().any(|model| model.id == *id);
    let configured = now.configured.get(id).cloned();
    let conflict = |message: &str| Err(Denied::Conflict(format!("{id} {message}")));
    if !runs && !matches!(action, Action::Load { .. }) {
        let known: Vec<&str> = now.models.iter().map(|model| model.id.as_str()).collect();
        return Err(Denied::Missing(format!("there is no model {id}; known: {}", known.join(", "))));
    }
    let mut entry = overlay.models.remove(&name).unwrap_or_else(|| Entry { configured, ..Entry::default() });
    let tried = now.canaries.iter().find(|one| one.model == *id).map(|one| one.written.file.clone());
    match action {
        Action::Load { .. } if runs => return conflict("is there already; try another file beside it as a canary"),
        Action::Load { file } => entry.file = Some(file.clone()),
        Action::Unload if entry.configured.is_some() => {
            return conflict("is part of the configuration; take its [[model]] out there");
        }
        Action::Unload => return Ok(overlay),
        Action::Try(canary) => {
            entry.refused_canary = entry.refused_canary.filter(|refused| *refused != canary.file);
            entry.canary = Some(canary.clone());
        }
        Action::Promote { .. } => {
            let Some(file) = tried else {
                return conflict("has no canary to promote; begin one with /admin/models/canary");
            };
            let before = entry.configured.as_ref().map(|file| file.display().to_string());
            let accept_uncertified = entry.accept_uncertified;
            entry.previous = entry.file.take().or(before).map(|file| Previous { file, accept_uncertified });
            (entry.file, entry.canary, entry.refused_canary) = (Some(file), None, None);
            // Whether that is acceptable is decided on what it brings.
            entry.accept_uncertified = true;
        }
        Action::RollBack | Action::GiveUp => match tried {
            Some(file) => (entry.canary, entry.refused_canary) = (None, Some(file)),
            None if *action == Action::GiveUp => return conflict("has no canary any more"),
            None => {
                if let Err(message) = go_back(&mut entry) {
                    return conflict(message);
                }
            }
        },
    }
    let untouched = Entry { configured: entry.configured.clone(), ..Entry::default() };
    if entry != untouched {
        overlay.models.insert(name, entry);
    }
    Ok(overlay)
}

/// To what it ran before it was promoted.
fn go_back(entry: &mut Entry) -> Result<(), &'static str> {
    let previous = entry.previous.take().ok_or("has no canary and was not promoted: there is nothing to go back to")?;
    entry.refused_canary = entry.file.take();
    let configured = entry.configured.as_ref().map(|file| file.display().to_string());
    entry.accept_uncertified = previous.accept_uncertified;
    entry.file = Some(previous.file).filter(|file| configured.as_ref() != Some(file));
    Ok(())
}

/// What policies lost by promotions of this model.
fn all_lapses(checked: &Checked, id: &ModelId) -> Vec<Lapsed> {
    let mut all: Vec<Lapsed> = Vec::new();
    for policy in checked.virtuals.iter().map(|one| &one.policy) {
        for lapse in policy.lapses().iter().filter(|lapse| lapse.model == *id) {
            let (policy, rule) = (policy.name().to_owned(), lapse.rule.to_string());
            let one = Lapsed { policy, rule, slice: lapse.slice.clone(), model: id.as_str().to_owned() };
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    all
}

/// Those that were not there before.
fn new_lapses(before: &Checked, after: &Checked, id: &ModelId) -> Vec<Lapsed> {
    let known = all_lapses(before, id);
    all_lapses(after, id).into_iter().filter(|lapse| !known.contains(lapse)).collect()
}
