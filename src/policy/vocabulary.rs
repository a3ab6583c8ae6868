//! The words a condition may use: signals of a request, facts about models, the budget.
//!
//! Promises: one table says each word's name and type, and both the check at load and the
//! evaluation go by it. Called by `condition` and `compile`.

use std::cell::OnceCell;
use std::sync::Arc;

use cel::Env;

use super::Names;
use super::form::suggest;
use super::pattern::Pattern;
use super::secrets::Detectors;
use crate::request::ModelId;

/// The type of an expression inside a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    List(Box<Type>),
}

impl Type {
    /// The type's name in problems, as CEL calls it.
    pub(super) fn name(&self) -> String {
        match self {
            Type::Bool => "bool".into(),
            Type::Int => "int".into(),
            Type::Uint => "uint".into(),
            Type::Double => "double".into(),
            Type::Text => "string".into(),
            Type::List(of) => format!("list of {}", of.name()),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Uint | Type::Double)
    }

    /// Whether `==` and the like make sense: CEL compares numbers of any type.
    pub(super) fn compares_with(&self, other: &Type) -> bool {
        self == other || (self.is_number() && other.is_number())
    }
}

/// A field of `request`, `headers` and `secrets` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    PromptTokens,
    Messages,
    Turns,
    Tools,
    Images,
    OtherParts,
    Json,
    Language,
    CodeShare,
    Model,
    Tenant,
    Stream,
    N,
    MaxTokens,
    Text,
    Kind,
}

impl Signal {
    pub(super) const ALL: [Signal; 16] = [
        Signal::PromptTokens,
        Signal::Messages,
        Signal::Turns,
        Signal::Tools,
        Signal::Images,
        Signal::OtherParts,
        Signal::Json,
        Signal::Language,
        Signal::CodeShare,
        Signal::Model,
        Signal::Tenant,
        Signal::Stream,
        Signal::N,
        Signal::MaxTokens,
        Signal::Text,
        Signal::Kind,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Signal::PromptTokens => "prompt_tokens",
            Signal::Messages => "messages",
            Signal::Turns => "turns",
            Signal::Tools => "tools",
            Signal::Images => "images",
            Signal::OtherParts => "other_parts",
            Signal::Json => "json",
            Signal::Language => "language",
            Signal::CodeShare => "code_share",
            Signal::Model => "model",
            Signal::Tenant => "tenant",
            Signal::Stream => "stream",
            Signal::N => "n",
            Signal::MaxTokens => "max_tokens",
            Signal::Text => "text",
            Signal::Kind => "kind",
        }
    }

    pub(super) fn of(self) -> Type {
        match self {
            Signal::Json | Signal::Stream => Type::Bool,
            Signal::CodeShare => Type::Double,
            Signal::Language | Signal::Model | Signal::Tenant | Signal::Text | Signal::Kind => Type::Text,
            _ => Type::Int,
        }
    }
}

/// A field of `models["…"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelFact {
    Ready,
    QueueDepth,
    QueueFree,
    SlotsBusy,
    Breaker,
    KvUsedRatio,
}

impl ModelFact {
    pub(super) const ALL: [ModelFact; 6] = [
        ModelFact::Ready,
        ModelFact::QueueDepth,
        ModelFact::QueueFree,
        ModelFact::SlotsBusy,
        ModelFact::Breaker,
        ModelFact::KvUsedRatio,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            ModelFact::Ready => "ready",
            ModelFact::QueueDepth => "queue_depth",
            ModelFact::QueueFree => "queue_free",
            ModelFact::SlotsBusy => "slots_busy",
            ModelFact::Breaker => "breaker",
            ModelFact::KvUsedRatio => "kv_used_ratio",
        }
    }

    pub(super) fn of(self) -> Type {
        match self {
            ModelFact::Ready => Type::Bool,
            ModelFact::Breaker => Type::Text,
            ModelFact::KvUsedRatio => Type::Double,
            ModelFact::QueueDepth | ModelFact::QueueFree | ModelFact::SlotsBusy => Type::Int,
        }
    }
}

/// Where a word of a condition gets its value when the condition is asked.
#[derive(Debug)]
pub(super) enum Word {
    /// `request.…`
    Signal(Signal),
    /// `request.secrets`, with what finds them.
    Secrets(Arc<Detectors>),
    /// `request.headers["…"]`
    Header(String),
    /// `models["…"].…`
    Model(ModelId, ModelFact),
    /// `budget.left_usd`
    BudgetLeft,
    /// The regular expression of a `matches("…")`.
    Pattern(Pattern),
}

impl Word {
    /// The word as a condition writes it; `None` of a pattern, which is part of the condition.
    pub(super) fn name(&self) -> Option<String> {
        Some(match self {
            Word::Signal(signal) => format!("request.{}", signal.name()),
            Word::Secrets(_) => "request.secrets".to_owned(),
            Word::Header(name) => format!("request.headers[\"{name}\"]"),
            Word::Model(model, fact) => format!("models[\"{model}\"].{}", fact.name()),
            Word::BudgetLeft => "budget.left_usd".to_owned(),
            Word::Pattern(_) => return None,
        })
    }
}

/// What conditions of one policy are checked against. What is costly is made when first needed.
pub(super) struct Vocabulary<'n> {
    pub(super) names: &'n Names,
    env: OnceCell<Arc<Env>>,
    detectors: OnceCell<Arc<Detectors>>,
}

impl<'n> Vocabulary<'n> {
    pub(super) fn new(names: &'n Names) -> Self {
        Vocabulary { names, env: OnceCell::new(), detectors: OnceCell::new() }
    }

    /// The functions and operators of CEL, shared by all conditions of the policy.
    pub(super) fn env(&self) -> Result<Arc<Env>, String> {
        if let Some(env) = self.env.get() {
            return Ok(Arc::clone(env));
        }
        let mut env = Env::stdlib();
        Pattern::declare(&mut env).map_err(|error| error.to_string())?;
        Ok(Arc::clone(self.env.get_or_init(|| Arc::new(env))))
    }

    pub(super) fn detectors(&self) -> Result<Arc<Detectors>, String> {
        if let Some(detectors) = self.detectors.get() {
            return Ok(Arc::clone(detectors));
        }
        let built = Detectors::build().map_err(|error| error.to_string())?;
        Ok(Arc::clone(self.detectors.get_or_init(|| Arc::new(built))))
    }

    /// `unknown model "x"; did you mean …; known: …`
    pub(super) fn unknown_model(&self, name: &str) -> String {
        let names = self.names;
        let wildcards: Vec<String> = names.wildcards.iter().map(|up| format!("{up}/*")).collect();
        let known = names.models.iter().map(ModelId::as_str);
        let known = known.chain(wildcards.iter().map(String::as_str));
        format!("unknown model \"{name}\"{}", suggest(name, known))
    }
}
