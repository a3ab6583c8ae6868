//! A decision with its reasons, and a policy as a person reads it; nobody is asked anything.
//!
//! Promises: [`Policy::explain`] walks the rules as [`Policy::decide`] does, so both decide the same;
//! pure, nothing is logged. What is told is plain data for the admin port: its fields' names are
//! those of its JSON (`docs/console.md`). Called by `control` and by `observe`.

use std::sync::Arc;

use serde::Serialize;

use super::condition::Condition;
use super::signals::Reading;
use super::vocabulary::Signal;
use super::{Facts, Outcome, Policy};
use crate::confidence::Accept;
use crate::confidence::gap::Per;
use crate::plan::{Decision, Gate, HoldBack, OnFailure, Pin, PinTo, Plan, Stage};
use crate::request::{ModelId, Request};

/// How much of a text is shown, in characters.
const SHOWN: usize = 60;

/// What a policy decides for a request, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The rule that decides.
    pub rule: Arc<str>,
    /// What is done, as it is for this request.
    pub then: Then,
    /// Every rule in order, those never reached too.
    pub rules: Vec<Tried>,
    /// What can be read off the request, the text itself left out.
    pub signals: Vec<Read>,
    /// The same as a value.
    #[serde(skip)]
    pub decision: Decision,
}

/// A rule that was tried, or would have been.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// The rule's name.
    pub rule: Arc<str>,
    /// Its condition; none of the last rule.
    pub when: Option<String>,
    /// Whether the condition held.
    pub held: When,
    /// Why it could not be said, where it failed.
    pub failed: Option<String>,
    /// What the condition reads; empty where it was not reached.
    pub read: Vec<Read>,
}

/// What became of a rule's condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// It held, or there is none: this rule decides.
    Held,
    /// It did not hold.
    NotHeld,
    /// It could not be evaluated: the request is rejected.
    Failed,
    /// A rule before it has decided.
    NotReached,
}

/// A word of a condition and its value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Read {
    /// As a condition writes it.
    pub name: String,
    /// A number, a truth value, or a text of at most 60 characters.
    pub value: serde_json::Value,
}

/// A rule as it stands in the policy.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// The rule's name.
    pub rule: Arc<str>,
    /// Its condition; none of the last rule.
    pub when: Option<String>,
    /// What it decides.
    pub then: Then,
}

/// A plan in words.
#[derive(Debug, Clone, Serialize)]
pub struct Then {
    /// `serve`, `cascade` or `reject`.
    pub plan: &'static str,
    /// Who is asked, in order.
    pub stages: Vec<StageOutline>,
    /// What a cascade does when its later stages fail: `error` or `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<&'static str>,
    /// How a conversation stays with a stage: `upstream` or `tier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<&'static str>,
    /// The status of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the client reads of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
}

/// A model of a plan, and its gate in words.
#[derive(Debug, Clone, Serialize)]
pub struct StageOutline {
    /// Who is asked.
    pub model: String,
    /// When its answer is kept (`min_logprob >= -0.85`); none without a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    /// What stands behind an answer kept, as the header `x-weir-certificate` tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// How much is kept back before the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_back: Option<String>,
    /// When it is passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
}

/// A gate and where it stands.
#[derive(Debug, Clone)]
pub struct Gated {
    /// The policy.
    pub policy: Arc<str>,
    /// The rule.
    pub rule: Arc<str>,
    /// Its stage, from 0.
    pub stage: usize,
    /// Whose answers it judges.
    pub model: ModelId,
    /// By what.
    pub accept: Arc<Accept>,
}

pub(super) fn explain(policy: &Policy, request: &Request, facts: &Facts) -> Explanation {
    let reading = Reading::of(request);
    let mut said = Vec::new();
    let decision = policy.walk(&reading, facts, |_, held| said.push(held.clone()));
    let decided = said.last().is_some_and(|held| held != &Ok(false));
    let guarded = policy.rules.iter().enumerate().map(|(place, (condition, outcome))| {
        let held = said.get(place);
        let read = held.map(|_| condition.read(&reading, facts)).unwrap_or_default();
        Tried {
            rule: Arc::clone(&outcome.rule),
            when: Some(condition.text().trim().to_owned()),
            held: held.map_or(When::NotReached, became),
            failed: held.and_then(|held| held.clone().err()),
            read: read.into_iter().map(|(name, value)| Read { name, value: shortened(value) }).collect(),
        }
    });
    let mut rules: Vec<Tried> = guarded.collect();
    rules.push(Tried {
        rule: Arc::clone(&policy.last.rule),
        when: None,
        held: if decided { When::NotReached } else { When::Held },
        failed: None,
        read: Vec::new(),
    });
    Explanation {
        policy: Arc::clone(&decision.policy),
        rule: Arc::clone(&decision.rule),
        then: then(&decision.plan, Some(request)),
        rules,
        signals: signals(&reading),
        decision,
    }
}

fn became(held: &Result<bool, String>) -> When {
    match held {
        Ok(true) => When::Held,
        Ok(false) => When::NotHeld,
        Err(_) => When::Failed,
    }
}

fn signals(reading: &Reading<'_>) -> Vec<Read> {
    let told = Signal::ALL.into_iter().filter(|signal| *signal != Signal::Text);
    let read = |signal: Signal| {
        let value = super::condition::plain(&reading.value(signal))?;
        Some(Read { name: format!("request.{}", signal.name()), value: shortened(value) })
    };
    told.filter_map(read).collect()
}

fn shortened(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) if text.chars().count() > SHOWN => {
            serde_json::Value::String(text.chars().take(SHOWN).chain(['…']).collect())
        }
        other => other,
    }
}

pub(super) fn outline(policy: &Policy) -> Vec<Rule> {
    let told = |when: Option<&Condition>, outcome: &Outcome| Rule {
        rule: Arc::clone(&outcome.rule),
        when: when.map(|condition| condition.text().trim().to_owned()),
        then: then(&outcome.plan, None),
    };
    let guarded = policy.rules.iter().map(|(condition, outcome)| told(Some(condition), outcome));
    guarded.chain([told(None, &policy.last)]).collect()
}

pub(super) fn gates(policy: &Policy) -> Vec<Gated> {
    let outcomes = policy.rules.iter().map(|(_, outcome)| outcome).chain([&policy.last]);
    let stages = outcomes.flat_map(|outcome| match &outcome.plan {
        Plan::Cascade { stages, .. } => {
            stages.iter().enumerate().map(|(place, stage)| (outcome, place, stage)).collect()
        }
        Plan::Direct { .. } | Plan::Reject { .. } => Vec::new(),
    });
    let gated = stages.filter_map(|(outcome, stage, Stage { model, gate, .. })| {
        Some(Gated {
            policy: Arc::clone(&policy.name),
            rule: Arc::clone(&outcome.rule),
            stage,
            model: model.clone(),
            accept: Arc::clone(&gate.as_ref()?.accept),
        })
    });
    gated.collect()
}

/// The plan in words; with a request, as it is for this one.
fn then(plan: &Plan, request: Option<&Request>) -> Then {
    let empty = Then { plan: "reject", stages: Vec::new(), on_failure: None, pin: None, status: None, message: None };
    match plan {
        Plan::Direct { targets } => {
            let asked = |model: &ModelId| StageOutline {
                model: model.as_str().to_owned(),
                keep: None,
                certificate: None,
                hold_back: None,
                skip: None,
            };
            Then { plan: "serve", stages: targets.iter().map(asked).collect(), ..empty }
        }
        Plan::Cascade { stages, on_failure, pin } => Then {
            plan: "cascade",
            stages: outlines(stages, pin.as_ref(), request),
            on_failure: Some(match on_failure {
                OnFailure::Error => "error",
                OnFailure::Local => "local",
            }),
            pin: pin.as_ref().map(|pin| match pin.to {
                PinTo::Upstream => "upstream",
                PinTo::Tier => "tier",
            }),
            ..empty
        },
        Plan::Reject { status, message, .. } => {
            Then { status: Some(status.as_u16()), message: Some(Arc::clone(message)), ..empty }
        }
    }
}

fn outlines(stages: &[Stage], pin: Option<&Pin>, request: Option<&Request>) -> Vec<StageOutline> {
    let pins = pin.is_some() && request.is_some_and(Pin::binds);
    stages.iter().enumerate().map(|(place, stage)| stage_outline(stage, request, (place, pins))).collect()
}

fn stage_outline(stage: &Stage, request: Option<&Request>, (place, pins): (usize, bool)) -> StageOutline {
    let gate = stage.gate.as_ref();
    let ruling = request.and_then(|request| stage.ruling(request, place, pins));
    let standing = ruling.as_ref().and_then(|ruling| ruling.standing.as_ref()).map(ToString::to_string);
    let by_value = gate.is_some_and(|gate| matches!(*gate.accept, Accept::Value(_)));
    let kept = ruling.filter(|_| !by_value).map(|ruling| match ruling.judge {
        Ok(judge) => judge.to_string(),
        Err(why) => format!("nothing: {}", why.name()),
    });
    StageOutline {
        model: stage.model.as_str().to_owned(),
        keep: kept.or_else(|| gate.map(|gate| words(&gate.accept))),
        certificate: standing.or_else(|| gate?.accept.grant().map(ToString::to_string)),
        hold_back: gate.map(|gate| hold_back(gate, request)),
        skip: stage.skip.as_ref().map(|skip| format!("predicted gap above {}", skip.above)),
    }
}

/// What a gate goes by, whatever the request.
fn words(accept: &Accept) -> String {
    match accept {
        Accept::Threshold(judge) => judge.to_string(),
        Accept::Value(value) => {
            let whose = match value.pacing.per {
                Per::Tenant => "for each tenant",
                Per::All => "for all together",
            };
            format!("what is not worth its price, at {} USD per hour {whose}", value.pacing.usd_per_hour)
        }
        Accept::Promise { granted: Ok(grant), otherwise } => match otherwise {
            Some(judge) => format!("{}; uncertified: {judge}", grant.judge),
            None => format!("{}; uncertified: nothing", grant.judge),
        },
        Accept::Promise { granted: Err(why), otherwise } => match otherwise {
            Some(judge) => format!("{judge} ({})", why.name()),
            None => format!("nothing: {}", why.name()),
        },
    }
}

/// With a request, what is kept back of its answer: a client that does not stream gets all at once.
fn hold_back(gate: &Gate, request: Option<&Request>) -> String {
    let tokens = match (request, gate.hold_back) {
        (Some(request), _) => gate.tokens_held(request),
        (None, HoldBack::Tokens(tokens)) => Some(tokens),
        (None, HoldBack::All) => None,
    };
    tokens.map_or_else(|| "the whole answer".to_owned(), |tokens| format!("{tokens} tokens"))
}
