//! From a policy file's text to rules: every name resolved, every condition checked.
//!
//! Hides the file's form (`docs/policy.md`). Promises: all problems at once, each with its line;
//! what compiles cannot fail on a name or a type later. Called by `Policy::compile` only.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;

use super::condition::Condition;
use super::form::{Entry, Form, Section};
use super::vocabulary::Vocabulary;
use super::{File, Lapse, Names, Outcome, Policy, Promised};
use crate::confidence::gap::Pacing;
use crate::error::Problem;
use crate::plan::Plan;
use crate::request::ModelId;

/// Compiles the text of one file.
pub(super) fn compile(place: &str, source: &str, names: &Names) -> Result<Policy, Vec<Problem>> {
    let mut compiler = Compiler {
        form: Form::new(place, source),
        vocabulary: Vocabulary::new(names),
        policy: "".into(),
        pacing: None,
        rule: "".into(),
        promises: Vec::new(),
        lapses: Vec::new(),
    };
    match compiler.file() {
        Some(policy) if compiler.form.sound() => {
            let file = File { place: place.into(), text: source.into() };
            Ok(Policy { notes: compiler.form.into_notes(), file, ..policy })
        }
        _ => Err(compiler.form.into_problems()),
    }
}

/// Reads one file. A cascade is read in `stages`, what a gate accepts by in `accept` and `value`.
pub(super) struct Compiler<'s, 'n> {
    pub(super) form: Form<'s>,
    pub(super) vocabulary: Vocabulary<'n>,
    /// The policy's name.
    pub(super) policy: Arc<str>,
    /// Its budget, once a rule has named one.
    pub(super) pacing: Option<Pacing>,
    /// The rule that is being read.
    pub(super) rule: Arc<str>,
    /// What rules have promised so far.
    pub(super) promises: Vec<Promised>,
    /// What they lost by a promotion.
    pub(super) lapses: Vec<Lapse>,
}

struct Rule {
    when: Option<Condition>,
    outcome: Outcome,
}

impl<'s> Compiler<'s, '_> {
    fn file(&mut self) -> Option<Policy> {
        let file = self.form.parse()?;
        let top = Section { title: "policy".into(), table: file.get_ref(), span: 0..0 };
        self.form.check_keys(&top, &["name", "rule"]);
        let name = self.form.required(&top, "name").and_then(|entry| self.policy_name(entry));
        name.clone().into_iter().for_each(|name| self.policy = name);
        let entries = self.form_rules(&top);
        let mut rules = self.rules(entries)?;
        let last = rules.pop()?.outcome;
        let guarded = rules.into_iter().filter_map(|rule| Some((rule.when?, rule.outcome))).collect();
        let (promises, lapses) = (std::mem::take(&mut self.promises), std::mem::take(&mut self.lapses));
        Some(Policy { name: name?, rules: guarded, last, notes: Vec::new(), promises, lapses, file: File::default() })
    }

    /// A policy's name stands in a header and in a metric's label: it is kept plain.
    fn policy_name(&mut self, entry: &Entry<'s>) -> Option<Arc<str>> {
        let name = self.form.text("policy", "name", entry)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.len() > 64 || !name.chars().all(plain) {
            let message = format!("policy: name \"{name}\" must be at most 64 letters, digits, \"-\", \"_\" or \".\"");
            self.form.problem(entry.span(), message);
            return None;
        }
        Some(name.into())
    }

    fn form_rules<'t>(&mut self, top: &Section<'t, 's>) -> Vec<&'t Entry<'s>> {
        let Some(entry) = self.form.required(top, "rule") else {
            return Vec::new();
        };
        match entry.get_ref().as_array() {
            Some(array) => array.iter().collect(),
            None => {
                self.form.problem(entry.span(), "policy: write a rule as [[rule]], not as [rule]");
                Vec::new()
            }
        }
    }

    /// All rules, or `None` when one has a problem or the order has.
    fn rules(&mut self, entries: Vec<&Entry<'s>>) -> Option<Vec<Rule>> {
        let mut seen = BTreeSet::new();
        let mut open = None;
        let mut rules = Vec::new();
        let count = entries.len();
        for (index, entry) in entries.into_iter().enumerate() {
            let section = self.rule_section(index, entry)?;
            if let Some(earlier) = &open {
                let message = format!(
                    "{}: never reached, since {earlier} before it has no \"when\"; move it up or remove it",
                    section.title
                );
                self.form.problem(section.span.clone(), message);
            }
            let conditional = section.table.contains_key("when");
            if !conditional && open.is_none() {
                open = Some(section.title.clone());
            }
            if conditional && index + 1 == count {
                let message = format!(
                    "{}: the last rule must have no \"when\", so that every request gets a plan",
                    section.title
                );
                self.form.problem(section.span.clone(), message);
            }
            rules.push(self.rule(&section, &mut seen));
        }
        rules.into_iter().collect()
    }

    fn rule_section<'t>(&mut self, index: usize, entry: &'t Entry<'s>) -> Option<Section<'t, 's>> {
        let number = index + 1;
        let Some(table) = entry.get_ref().as_table() else {
            return self.form.wrong_type("policy", "rule", "an array of tables", entry);
        };
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let title = name.map_or(format!("rule {number}"), |name| format!("rule \"{name}\""));
        Some(Section { title, table, span: entry.span() })
    }

    fn rule(&mut self, section: &Section<'_, 's>, seen: &mut BTreeSet<String>) -> Option<Rule> {
        let title = &section.title;
        self.form.check_keys(section, &["name", "when", "then"]);
        let name_entry = self.form.required(section, "name");
        let name = name_entry.and_then(|entry| self.form.text(title, "name", entry));
        if let (Some(entry), Some(name)) = (name_entry, name)
            && !seen.insert(name.to_owned())
        {
            self.form.problem(entry.span(), format!("{title}: a rule of this name stands above"));
        }
        let when = match section.table.get("when") {
            Some(entry) => self.when(title, entry).map(Some),
            None => Some(None),
        };
        name.into_iter().for_each(|name| self.rule = name.into());
        let then = self.form.required(section, "then");
        let then = then.and_then(|entry| self.form.table(title, "then", entry));
        let plan = then.and_then(|then| self.then(&then));
        let outcome = Outcome { rule: name?.into(), plan: plan? };
        Some(Rule { when: when?, outcome })
    }

    fn when(&mut self, title: &str, entry: &Entry<'s>) -> Option<Condition> {
        let text = self.form.text(title, "when", entry)?;
        match Condition::compile(text, &self.vocabulary) {
            Ok(condition) => Some(condition),
            Err(flaws) => {
                let first = self.form.text_line(entry.span());
                for flaw in flaws {
                    let message = format!("{title}: when: {}", flaw.message);
                    self.form.problem_at_line(first + flaw.line, message);
                }
                None
            }
        }
    }

    fn then(&mut self, then: &Section<'_, 's>) -> Option<Plan> {
        let kinds = ["serve", "cascade", "reject"];
        let given: Vec<&str> = kinds.into_iter().filter(|kind| then.table.contains_key(*kind)).collect();
        let known: &[&str] = match given.as_slice() {
            ["serve"] => &["serve"],
            ["reject"] => &["reject"],
            ["cascade"] => &["cascade", "accept", "hold_back", "on_failure", "skip_local", "pin"],
            _ => {
                let message = format!("{}: needs exactly one of serve, cascade, reject", then.title);
                self.form.problem(then.span.clone(), message);
                return None;
            }
        };
        self.form.check_keys(then, known);
        match given.as_slice() {
            ["serve"] => self.serve(then),
            ["reject"] => self.reject(then),
            _ => self.cascade(then),
        }
    }

    fn serve(&mut self, then: &Section<'_, 's>) -> Option<Plan> {
        let entry = self.form.required(then, "serve")?;
        let targets = self.models(&then.title, "serve", entry)?;
        Some(Plan::Direct { targets })
    }

    fn reject(&mut self, then: &Section<'_, 's>) -> Option<Plan> {
        let entry = self.form.required(then, "reject")?;
        let reject = self.form.table(&then.title, "reject", entry)?;
        self.form.check_keys(&reject, &["status", "message"]);
        let status = self.form.required(&reject, "status").and_then(|entry| {
            let number = self.form.whole(&reject.title, "status", entry)?;
            let status = u16::try_from(number).ok().filter(|n| (400..=599).contains(n));
            match status.and_then(|number| StatusCode::from_u16(number).ok()) {
                Some(status) => Some(status),
                None => self.form.wrong_type(&reject.title, "status", "400 to 599", entry),
            }
        });
        let message = self.form.required(&reject, "message");
        let message = message.and_then(|entry| self.form.text(&reject.title, "message", entry));
        Some(Plan::Reject { status: status?, message: message?.into(), code: "rejected_by_policy" })
    }

    /// One model's name or an array of them, all known, none twice.
    fn models(&mut self, title: &str, key: &str, entry: &Entry<'s>) -> Option<Vec<ModelId>> {
        let wanted = "a model's name or an array of names";
        let entries: Vec<&Entry<'s>> = match (entry.get_ref().as_array(), entry.get_ref().as_str()) {
            (Some(array), _) => array.iter().collect(),
            (None, Some(_)) => vec![entry],
            (None, None) => return self.form.wrong_type(title, key, wanted, entry),
        };
        if entries.is_empty() {
            return self.form.wrong_type(title, key, wanted, entry);
        }
        let mut seen = BTreeSet::new();
        let mut models = Vec::new();
        for entry in entries {
            let model = self.model(title, key, entry);
            if let Some(model) = &model
                && !seen.insert(model.clone())
            {
                self.form.problem(entry.span(), format!("{title}: model \"{model}\" stands there twice"));
            }
            models.push(model);
        }
        models.into_iter().collect()
    }

    pub(super) fn model(&mut self, title: &str, key: &str, entry: &Entry<'s>) -> Option<ModelId> {
        let name = self.form.text(title, key, entry)?;
        let model = self.vocabulary.names.resolve(name);
        if model.is_none() {
            let message = format!("{title}: {}", self.vocabulary.unknown_model(name));
            self.form.problem(entry.span(), message);
        }
        model
    }
}
