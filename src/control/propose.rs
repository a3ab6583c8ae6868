//! A policy that is proposed → compiled as it would be if its file were saved, and nothing changes.
//!
//! The running generation's own files are read once more with the proposed text in the place of the
//! policy's, so that names, prices, calibrations and problems are those that a reload would find.
//! Called by the admin port for a dry run.

use std::path::PathBuf;
use std::sync::Arc;

use super::check::{Checked, read_as};
use super::checked::policy_cases;
use super::shown::redacted_problems;
use super::sources::Reading;
use super::{Control, Snapshot};
use crate::confidence::Subject;
use crate::error::Problem;
use crate::policy::Policy;

/// A policy that somebody would like to run.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The virtual model; `None`: the one whose policy has the name that this one gives itself.
    pub virtual_model: Option<String>,
    /// The policy file's text.
    pub policy: String,
}

/// What was proposed, compiled.
#[derive(Debug)]
pub struct Proposed {
    /// By virtual model; whether it is one that runs already.
    pub policies: Vec<(String, bool, Arc<Policy>)>,
    /// What a person should know and what is no problem.
    pub notes: Vec<Problem>,
    /// Which of the policies' own examples come out otherwise.
    pub cases: Vec<Problem>,
}

impl Control {
    /// Checks policies as a reload would. Nothing that runs is changed.
    ///
    /// # Errors
    /// Every problem, the proposed text's with its line. Nothing in them or in what was noted looks like a
    /// secret.
    pub async fn propose(&self, proposals: Vec<Proposal>) -> Result<Proposed, Vec<Problem>> {
        let running = self.current();
        let (mut options, mut sources) = (self.options.clone(), (*self.history().sources()).clone());
        let mut wanted: Vec<(String, bool)> = Vec::new();
        for Proposal { virtual_model, policy } in proposals {
            let name = virtual_model.unwrap_or_else(|| named(&running, &policy));
            let file = running.policy_files.iter().find(|(known, _)| *known == name).map(|(_, file)| file.clone());
            wanted.push((name.clone(), file.is_some()));
            let file = file.unwrap_or_else(|| {
                let home = options.config.as_deref().and_then(|config| config.parent()).map(PathBuf::from);
                let file = home.unwrap_or_default().join(format!("{}.toml", name.replace('/', "_")));
                options.virtuals.push((name, file.clone()));
                file
            });
            sources.put(file, &policy);
        }
        let reading = move || read_as(&options, &Reading::of(Arc::new(sources)));
        let checked = tokio::task::spawn_blocking(reading)
            .await
            .map_err(|error| vec![Problem { place: "dry run".to_owned(), message: error.to_string() }])
            .flatten()
            .map_err(redacted_problems)?;
        Ok(proposed(checked, &wanted, &running))
    }
}

/// The virtual model that the policy is for, by the name that it gives itself.
fn named(running: &Snapshot, source: &str) -> String {
    let table: toml::Table = toml::from_str(source).unwrap_or_default();
    let own = table.get("name").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let known = running.virtuals().into_iter().find(|(_, policy)| policy.name() == own);
    known.map_or(own, |(name, _)| name.as_str().to_owned())
}

fn proposed(checked: Checked, wanted: &[(String, bool)], running: &Snapshot) -> Proposed {
    let (mut policies, mut notes, mut cases) = (Vec::new(), Vec::new(), Vec::new());
    for one in checked.virtuals {
        let Some((name, known)) = wanted.iter().find(|(name, _)| *name == one.name) else { continue };
        notes.extend(one.policy.notes().iter().cloned());
        cases.extend(policy_cases(&one.file, &one.policy));
        hear_alarms(&one.policy, running);
        policies.push((name.clone(), *known, Arc::new(one.policy)));
    }
    Proposed { policies, notes: redacted_problems(notes), cases: redacted_problems(cases) }
}

/// An alarm that stands against a certificate stands against it in the proposed policy too.
fn hear_alarms(policy: &Policy, running: &Snapshot) {
    for grant in policy.grants() {
        let (Some(auditing), Ok(subject)) = (&grant.audit, Subject::of(grant)) else { continue };
        if let Some(ledger) = running.audits().iter().find(|ledger| ledger.subject() == subject) {
            auditing.bind(Arc::clone(ledger));
        }
    }
}
