//! What a policy decided: the nouns between `policy`, which makes them, and `execute`, which runs them.
//!
//! A plan is complete: the gate of a cascade stands in it with its judges resolved, so nobody asks
//! the policy twice.

use std::sync::Arc;

use http::StatusCode;

use crate::confidence::{Accept, Ruling};
use crate::request::{Ask, ModelId, Request};

/// The outcome of asking a policy once.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The name of the rule that matched.
    pub rule: Arc<str>,
    /// What to do.
    pub plan: Plan,
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Ask these in order: the first that answers serves; at least one.
    Direct {
        /// The targets in order of preference.
        targets: Vec<ModelId>,
    },
    /// Ask the stages in order; each but the last has a gate that accepts or escalates.
    Cascade {
        /// At least two.
        stages: Vec<Stage>,
        /// What to do when every stage after an answered one fails.
        on_failure: OnFailure,
    },
    /// Refuse.
    Reject {
        /// The status, 400 … 599.
        status: StatusCode,
        /// The message the client sees.
        message: Arc<str>,
        /// The machine-readable reason: `rejected_by_policy`, or `policy_failed` where a condition failed.
        code: &'static str,
    },
}

impl Plan {
    /// Every model the plan may ask, in order.
    pub fn models(&self) -> Vec<&ModelId> {
        match self {
            Plan::Direct { targets } => targets.iter().collect(),
            Plan::Cascade { stages, .. } => stages.iter().map(|stage| &stage.model).collect(),
            Plan::Reject { .. } => Vec::new(),
        }
    }
}

/// One stage of a cascade.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Who answers.
    pub model: ModelId,
    /// Who decides whether the answer is served; `None` only in the last stage.
    pub gate: Option<Gate>,
}

/// The condition under which a stage's answer is served.
#[derive(Debug, Clone)]
pub struct Gate {
    /// What it accepts by.
    pub accept: Arc<Accept>,
    /// How much of the answer is kept back before the first byte.
    pub hold_back: HoldBack,
}

impl Gate {
    /// How many tokens are kept back for this request; `None`: the whole answer.
    pub fn tokens_held(&self, request: &Request) -> Option<usize> {
        let choices = match &request.ask {
            Ask::Chat(chat) => chat.sampling.n as usize,
            Ask::Text(text) => text.prompts.len() * text.sampling.n as usize,
            Ask::Embed(embed) => embed.inputs.len(),
        };
        match self.hold_back {
            HoldBack::Tokens(tokens) if request.stream && choices <= 1 => Some(tokens),
            HoldBack::Tokens(_) | HoldBack::All => None,
        }
    }

    /// What it goes by for this request.
    pub fn ruling(&self, request: &Request) -> Ruling<'_> {
        self.accept.ruling(request, self.tokens_held(request))
    }
}

/// How much of an answer is kept back while the gate watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldBack {
    /// This many tokens; a client that does not stream always gets `All`.
    Tokens(usize),
    /// The whole answer.
    All,
}

/// What a cascade does when a later stage fails and an earlier one has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The client gets the later stage's error.
    #[default]
    Error,
    /// The client gets the earlier answer, marked `x-weir-degraded`.
    Local,
}
