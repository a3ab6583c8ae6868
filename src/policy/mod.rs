//! Which plan a request gets: rules in order, the first whose condition holds decides.
//!
//! Pure and total: no clock, no network, no lock; live state comes in as [`Facts`]. Hides the
//! form of policy files (`docs/policy.md`), the signals read off a request and the CEL library.
//! Promises: a policy that compiles names only known models and signals; a condition that fails
//! all the same rejects the request. `control` compiles, `gateway` asks once per request.

mod accept;
mod audit;
mod cases;
mod check;
mod compile;
mod condition;
mod decoded;
mod evidence;
mod explain;
mod form;
mod language;
mod named;
mod pattern;
mod promised;
mod redact;
mod secrets;
mod signals;
mod stages;
#[cfg(test)]
mod tests;
mod value;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::StatusCode;

use crate::backend::Status;
use crate::confidence::gap::{Pacing, Predictor};
use crate::confidence::{Accept, Calibration, Grant};
use crate::error::Problem;
use crate::plan::{Decision, Plan};
use crate::request::{ModelId, Request};
use condition::Condition;
pub use explain::{Explanation, Gated, Read, Rule, StageOutline, Then, Tried, When};
pub use promised::{Lapse, Promised};
pub use redact::Redactor;
use signals::Reading;

/// What a policy file may name; handed to [`Policy::compile`] by `control`.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Every model that can be a target, by full name.
    pub models: BTreeSet<ModelId>,
    /// Short names → full names, where unambiguous (`qwen-0.5b` → `local/qwen-0.5b`).
    pub short: BTreeMap<String, ModelId>,
    /// Upstreams that pass any model name on (`models = ["*"]`): `NAME/anything` is a target.
    pub wildcards: BTreeSet<String>,
    /// Request headers that a condition may read, lowercase.
    pub headers: BTreeSet<String>,
    /// The calibrations that the file names, by the name that stands in it ([`Policy::calibrations`]):
    /// read, or why they cannot be.
    pub calibrations: BTreeMap<String, Result<Arc<Calibration>, String>>,
    /// The predictors that the file names ([`Policy::predictors`]), in the same way.
    pub predictors: BTreeMap<String, Result<Arc<Predictor>, String>>,
    /// Models without a price, among those that are asked for money by value.
    pub unpriced: BTreeSet<ModelId>,
    /// The SHA-256 of local models' files, in hexadecimal digits, where it is known: a calibration
    /// must be for the file that its stage's model runs.
    pub files: BTreeMap<ModelId, String>,
    /// Models whose file was replaced by one that calibrations need not be for: what they are not for is
    /// a lapse ([`Policy::lapses`]) and no problem.
    pub promoted: BTreeSet<ModelId>,
    /// How many parameters local models have, where it is known.
    pub parameters: BTreeMap<ModelId, u64>,
    /// Takes every other name too: a policy is checked by itself, away from its configuration.
    pub any: bool,
}

impl Names {
    /// The full name of the target that a policy file calls `name`: itself, a short name, or any
    /// model of an upstream that passes names on.
    pub fn resolve(&self, name: &str) -> Option<ModelId> {
        let model = ModelId::new(name);
        if self.models.contains(&model) {
            return Some(model);
        }
        if let Some(full) = self.short.get(name) {
            return Some(full.clone());
        }
        let passed_on =
            model.split().is_some_and(|(upstream, rest)| self.wildcards.contains(upstream) && !rest.is_empty());
        (passed_on || self.any).then_some(model)
    }
}

/// Live state handed to a decision, so that deciding fetches nothing.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// How each backend is now, by full model name (wildcard upstreams under `NAME/*`).
    pub models: Vec<(ModelId, Status)>,
    /// Dollars left of the tenant's budget; `None` = no budget.
    pub budget_left_usd: Option<f64>,
}

impl Facts {
    /// How the model's backend is; `None` when nothing is known of it.
    fn status(&self, model: &ModelId) -> Option<&Status> {
        let of = |name: &str| self.models.iter().find(|(known, _)| known.as_str() == name);
        let (_, status) =
            of(model.as_str()).or_else(|| model.split().and_then(|(upstream, _)| of(&format!("{upstream}/*"))))?;
        Some(status)
    }
}

/// A compiled policy file.
#[derive(Debug)]
pub struct Policy {
    name: Arc<str>,
    rules: Vec<(Condition, Outcome)>,
    last: Outcome,
    notes: Vec<Problem>,
    promises: Vec<Promised>,
    lapses: Vec<Lapse>,
    file: File,
}

/// Where a policy stands, and its text as it was read.
#[derive(Debug, Default)]
struct File {
    place: Box<str>,
    text: Box<str>,
}

/// What a rule decides.
#[derive(Debug)]
struct Outcome {
    rule: Arc<str>,
    plan: Plan,
}

impl Policy {
    /// Compiles a policy file; `place` names the file in problems (`policies/x.toml:14: …`).
    /// Every problem is reported; nothing of a file with a problem is used.
    pub fn compile(place: &str, source: &str, names: &Names) -> Result<Policy, Vec<Problem>> {
        compile::compile(place, source, names)
    }

    /// The calibrations that a policy file names, as they stand in it, each with the models of its
    /// cascades; what cannot be read as a policy names none. For [`Names`], before compiling.
    pub fn calibrations(source: &str) -> BTreeMap<String, Vec<String>> {
        named::calibrations(source)
    }

    /// The predictors of gaps that a policy file names, as [`Policy::calibrations`].
    pub fn predictors(source: &str) -> BTreeMap<String, Vec<String>> {
        named::predictors(source)
    }

    /// What a person should know of the policy and what is no problem: rules that ask for a promise
    /// which nothing keeps.
    pub fn notes(&self) -> &[Problem] {
        &self.notes
    }

    /// The promises that its rules ask for.
    pub fn promises(&self) -> &[Promised] {
        &self.promises
    }

    /// What its rules lost when another file was promoted ([`Names::promoted`]).
    pub fn lapses(&self) -> &[Lapse] {
        &self.lapses
    }

    /// The certificates that its gates go by.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        let outcomes = self.rules.iter().map(|(_, outcome)| outcome).chain([&self.last]);
        let stages = outcomes.flat_map(|outcome| match &outcome.plan {
            Plan::Cascade { stages, .. } => stages.as_slice(),
            Plan::Direct { .. } | Plan::Reject { .. } => &[],
        });
        stages.filter_map(|stage| stage.gate.as_ref()?.accept.grant())
    }

    /// The rates of spending that its gates hold.
    pub fn budgets(&self) -> impl Iterator<Item = &Pacing> {
        let outcomes = self.rules.iter().map(|(_, outcome)| outcome).chain([&self.last]);
        let stages = outcomes.flat_map(|outcome| match &outcome.plan {
            Plan::Cascade { stages, .. } => stages.as_slice(),
            Plan::Direct { .. } | Plan::Reject { .. } => &[],
        });
        stages.filter_map(|stage| match &*stage.gate.as_ref()?.accept {
            Accept::Value(value) => Some(&value.pacing),
            _ => None,
        })
    }

    /// The built-in one-rule policy of a plain model name.
    pub fn direct(model: &ModelId) -> Policy {
        let plan = Plan::Direct { targets: vec![model.clone()] };
        let last = Outcome { rule: "named".into(), plan };
        let (notes, promises, lapses, file) = (Vec::new(), Vec::new(), Vec::new(), File::default());
        Policy { name: "direct".into(), rules: Vec::new(), last, notes, promises, lapses, file }
    }

    /// The built-in policy of `auto` where there is one local model and one upstream's: the
    /// shipped `policies/auto.toml` with these two in the place of its models.
    pub fn auto(local: &ModelId, upstream: &ModelId, names: &Names) -> Result<Policy, Vec<Problem>> {
        let place = "policies/auto.toml (built in)";
        for model in [local, upstream] {
            if model.as_str().contains(['"', '\'', '\\']) || model.as_str().contains(char::is_control) {
                let message = format!(
                    "model name \"{model}\" must have no quotes, backslashes or control characters to stand in a policy"
                );
                return Err(vec![Problem { place: place.into(), message }]);
            }
        }
        let source = include_str!("../../policies/auto.toml")
            .replace("local/qwen-0.5b", "\0")
            .replace("openai/gpt-4.1-mini", upstream.as_str())
            .replace('\0', local.as_str());
        Policy::compile(place, &source, names)
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was read; empty of the built-in policy of a plain name.
    pub fn place(&self) -> &str {
        &self.file.place
    }

    /// Its text as it was read; empty in the same case.
    pub fn source(&self) -> &str {
        &self.file.text
    }

    /// Decides. Total: a condition that fails at run time becomes a `Plan::Reject` (fail closed).
    pub fn decide(&self, request: &Request, facts: &Facts) -> Decision {
        self.walk(&Reading::of(request), facts, |outcome, held| {
            if let Err(reason) = held {
                let (policy, rule) = (&self.name, &outcome.rule);
                tracing::error!(%policy, %rule, reason, "a policy's condition failed; the request is rejected");
            }
        })
    }

    /// Decides as [`Policy::decide`] does and says why: every rule, whether its condition held, and what
    /// it read. Pure; nothing is logged.
    pub fn explain(&self, request: &Request, facts: &Facts) -> Explanation {
        explain::explain(self, request, facts)
    }

    /// Its rules in order, as a person reads them.
    pub fn outline(&self) -> Vec<Rule> {
        explain::outline(self)
    }

    /// Every gate of its cascades, and the rule and stage it stands at.
    pub fn gates(&self) -> Vec<Gated> {
        explain::gates(self)
    }

    /// The request that an example describes, in the form that a case file gives its requests.
    ///
    /// # Errors
    /// One sentence: what of the example cannot be read.
    pub fn example(source: &str) -> Result<Request, String> {
        cases::request(source)
    }

    /// Runs the examples of a `NAME.cases.jsonl`; a case that decides otherwise than it expects
    /// is a problem, as is a line that cannot be read. `place` names the file.
    pub fn check_cases(&self, place: &str, source: &str) -> Vec<Problem> {
        cases::check(self, place, source)
    }

    /// Facts in which every model that a condition reads is ready and idle: for requests of the past.
    pub fn idle(&self) -> Facts {
        cases::idle(self)
    }

    /// Whether a decision may depend on the facts.
    pub fn reads_facts(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The models whose facts a condition reads.
    fn watched(&self) -> impl Iterator<Item = &ModelId> {
        self.rules.iter().flat_map(|(condition, _)| condition.models())
    }

    fn decision(&self, outcome: &Outcome) -> Decision {
        Decision { policy: Arc::clone(&self.name), rule: Arc::clone(&outcome.rule), plan: outcome.plan.clone() }
    }

    /// Tries rule after rule until one decides; each one tried is noted with what its condition said.
    fn walk<'p>(
        &'p self,
        reading: &Reading<'_>,
        facts: &Facts,
        mut note: impl FnMut(&'p Outcome, &Result<bool, String>),
    ) -> Decision {
        for (condition, outcome) in &self.rules {
            let held = condition.holds(reading, facts);
            note(outcome, &held);
            match held {
                Ok(true) => return self.decision(outcome),
                Ok(false) => {}
                Err(_) => return self.failed(outcome),
            }
        }
        self.decision(&self.last)
    }

    fn failed(&self, outcome: &Outcome) -> Decision {
        let (policy, rule) = (&self.name, &outcome.rule);
        let message = format!("the condition of rule \"{rule}\" of policy \"{policy}\" failed; see the log");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let plan = Plan::Reject { status, message: message.into(), code: "policy_failed" };
        Decision { policy: Arc::clone(policy), rule: Arc::clone(rule), plan }
    }
}
