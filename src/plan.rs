//! What a policy decided: the nouns between `policy`, which makes them, and `execute`, which runs them.
//!
//! A plan is complete: the gate of a cascade stands in it with its judges resolved, so nobody asks
//! the policy twice.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::confidence::gap::Skip;
use crate::confidence::{Accept, Risk, Ruling, Standing, Uncertified};
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
        /// Whether a conversation stays with the stage that answered it; `None`: each turn is new.
        pin: Option<Pin>,
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
    /// Who decides whether the answer is served; `None` only in the last stage, and in a candidate's before it.
    pub gate: Option<Gate>,
    /// When it is passed over; `None`: never, as in the last stage.
    pub skip: Option<Skip>,
}

impl Stage {
    /// What its gate goes by for this request; `None` without a gate. `place` counts the stages before it,
    /// `pins` says whether conversations are bound to stages ([`Pin::binds`]).
    ///
    /// A certificate is no promise where other answers come to the gate than it was made on: only some of
    /// the traffic comes to a later stage, or to one that is skipped or that conversations pass by once
    /// they escalated. Keeping fewer breaks no joint risk and no regret.
    pub fn ruling(&self, request: &Request, place: usize, pins: bool) -> Option<Ruling<'_>> {
        let gate = self.gate.as_ref()?;
        let ruling = gate.ruling(request);
        let keeps_others = |risk| place > 0 || (self.skip.is_some() || pins) && risk == Risk::Selective;
        match &ruling.standing {
            Some(Standing::Certified(grant)) if keeps_others(grant.certificate.kind) => {
                gate.accept.without_promise(Uncertified::KeepRule)
            }
            _ => Some(ruling),
        }
    }
}

/// How a conversation stays with the stage that answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Which answers bind.
    pub to: PinTo,
    /// The header that names the conversation, lowercase; without it the conversation's beginning does.
    pub header: Arc<str>,
    /// How long after its last answer.
    pub time_to_live: Duration,
}

impl Pin {
    /// Whether it binds such requests at all: only a chat is part of a conversation.
    pub fn binds(request: &Request) -> bool {
        matches!(request.ask, Ask::Chat(_))
    }
}

/// Which answers bind a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinTo {
    /// Those of a later stage than the first: what was escalated stays escalated, and gates that
    /// are asked still judge.
    Upstream,
    /// All: later turns are answered by the same stage without asking its gate.
    Tier,
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
        match self.hold_back {
            HoldBack::Tokens(tokens) if request.stream && choices(request) <= 1 => Some(tokens),
            HoldBack::Tokens(_) | HoldBack::All => None,
        }
    }

    /// What it goes by for this request, whichever other answers come to it.
    fn ruling(&self, request: &Request) -> Ruling<'_> {
        self.accept.ruling(request, self.tokens_held(request))
    }
}

/// How many answers a request is for.
pub(crate) fn choices(request: &Request) -> usize {
    match &request.ask {
        Ask::Chat(chat) => chat.sampling.n as usize,
        Ask::Text(text) => text.prompts.len() * text.sampling.n as usize,
        Ask::Embed(embed) => embed.inputs.len(),
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
