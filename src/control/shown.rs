//! Policies and problems as they may be shown: without what looks like a secret.
//!
//! A policy's text may hold one in a comment or a condition, and a problem quotes what it is about.
//! Promises: what leaves here has each find replaced by its kind, in every text. Used by the reloads and
//! dry runs of this room, and by the admin port.

use serde::Serialize;
use serde_json::{Value, json};

use super::Snapshot;
use crate::error::Problem;
use crate::policy::{Policy, Redactor};

/// A virtual model's policy, as it may be shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownPolicy {
    /// The virtual model.
    pub model: String,
    /// The policy's name.
    pub policy: String,
    /// Its file.
    pub place: String,
    /// Its text as it was read.
    pub text: String,
    /// Its rules in words.
    pub rules: Value,
    /// What a person should know and what is no problem.
    pub notes: Vec<String>,
}

impl Snapshot {
    /// The policies in force, by virtual model.
    ///
    /// # Errors
    /// A fault in the patterns that secrets are found by.
    pub fn shown_policies(&self) -> Result<Vec<ShownPolicy>, String> {
        let redactor = Redactor::build()?;
        let all = self.virtuals().into_iter();
        Ok(all.map(|(model, policy)| shown(model.as_str(), &policy, &redactor)).collect())
    }
}

fn shown(model: &str, policy: &Policy, redactor: &Redactor) -> ShownPolicy {
    ShownPolicy {
        model: model.to_owned(),
        policy: policy.name().to_owned(),
        place: policy.place().to_owned(),
        text: redactor.redact(policy.source()),
        rules: redacted(json!(policy.outline()), redactor),
        notes: policy.notes().iter().map(|note| redactor.redact(&note.to_string())).collect(),
    }
}

fn redacted(value: Value, redactor: &Redactor) -> Value {
    match value {
        Value::String(text) => Value::String(redactor.redact(&text)),
        Value::Array(all) => all.into_iter().map(|one| redacted(one, redactor)).collect(),
        Value::Object(all) => all.into_iter().map(|(name, one)| (name, redacted(one, redactor))).collect(),
        plain => plain,
    }
}

/// Problems without anything in them that looks like a secret.
pub(super) fn redacted_problems(mut problems: Vec<Problem>) -> Vec<Problem> {
    if let Ok(redactor) = Redactor::build() {
        problems.iter_mut().for_each(|problem| problem.message = redactor.redact(&problem.message));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Control, Options, Proposal, read};

    const CONFIG: &str = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n\
                          [[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";

    #[tokio::test]
    async fn no_secret_is_in_a_policy_that_is_shown_or_in_a_dry_run_of_one() {
        let key = format!("sk-{}", "a".repeat(30));
        let policy = |served: &str| {
            format!(
                "# {key}\nname = \"p\"\n[[rule]]\nname = \"one\"\nwhen = 'request.text.contains(\"{key}\")'\n\
                 then = {{ serve = \"up/m\" }}\n[[rule]]\nname = \"rest\"\nthen = {{ serve = \"{served}\" }}\n"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weir.toml"), CONFIG).unwrap();
        fs::write(folder.path().join("p.toml"), policy("up/m")).unwrap();
        let options = Options { config: Some(folder.path().join("weir.toml")), ..Options::default() };
        let control = Control::open(options.clone(), read(&options).unwrap()).await.unwrap();
        let shown = serde_json::to_string(&control.current().shown_policies().unwrap()).unwrap();
        assert!(shown.matches("[api-key]").count() == 3 && !shown.contains("aaaa"), "{shown}");
        let proposal = Proposal { virtual_model: Some("auto".to_owned()), policy: policy(&format!("up/{key}")) };
        let told = format!("{:?}", control.propose(vec![proposal]).await.unwrap_err());
        assert!(told.contains("up/[api-key]") && !told.contains("aaaa"), "{told}");
    }
}
