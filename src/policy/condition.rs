//! A rule's `when`: a CEL expression, checked at load, evaluated per request.
//!
//! Hides the CEL library. Promises: what compiles names only known words, and its result is a
//! bool; a word is computed only when the evaluation reaches it. Called by `compile` and `Policy`.

use std::sync::Arc;

use cel::common::ast::SourceInfo;
use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::parser::Expression;
use cel::{Context, Env, ParseError, Value};

use super::Facts;
use super::check::Checker;
use super::signals::Reading;
use super::vocabulary::{ModelFact, Type, Vocabulary, Word};
use crate::backend::Status;
use crate::request::ModelId;

/// The longest text of a condition.
const LONGEST: usize = 2048;
const PARSER_STACK_BYTES: usize = 256 << 20;

/// What is wrong with a condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Lines below the first line of the condition's text.
    pub(super) line: usize,
    pub(super) message: String,
}

/// A checked condition.
pub(super) struct Condition {
    /// As it stands in the file.
    text: Box<str>,
    expression: Expression,
    /// What the identifiers `0`, `1`, … of the expression stand for.
    words: Vec<Word>,
    env: Arc<Env>,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condition").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Condition {
    /// Parses and checks the text; every flaw is reported.
    pub(super) fn compile(text: &str, vocabulary: &Vocabulary<'_>) -> Result<Condition, Vec<Flaw>> {
        let env = vocabulary.env().map_err(|message| vec![Flaw { line: 0, message }])?;
        let (mut expression, places) = parse(&env, text)?;
        let mut checker = Checker::new(vocabulary, text, &places);
        if let Some(found) = checker.check(&mut expression)
            && found != Type::Bool
        {
            checker.flaw(&expression, format!("must be true or false, but is {}", found.name()));
        }
        let words = checker.finish()?;
        let condition = Condition { text: text.into(), expression, words, env };
        match condition.try_out() {
            Ok(()) => Ok(condition),
            Err(message) => Err(vec![Flaw { line: 0, message }]),
        }
    }

    /// Whether the condition holds, or why that cannot be said.
    pub(super) fn holds(&self, reading: &Reading<'_>, facts: &Facts) -> Result<bool, String> {
        let words = &self.words;
        self.evaluate(&Scope { words, reading, facts })
    }

    /// The condition as it stands in the policy's file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Every word that the condition names, once, with its value; one that has no value now is left out.
    pub(super) fn read(&self, reading: &Reading<'_>, facts: &Facts) -> Vec<(String, serde_json::Value)> {
        let scope = Scope { words: &self.words, reading, facts };
        let mut read: Vec<(String, serde_json::Value)> = Vec::new();
        for (number, word) in self.words.iter().enumerate() {
            let Some(name) = word.name().filter(|name| read.iter().all(|(known, _)| known != name)) else { continue };
            let value = scope.resolve(&number.to_string()).and_then(|value| plain(&value));
            read.extend(value.map(|value| (name, value)));
        }
        read
    }

    /// The models whose facts the condition reads.
    pub(super) fn models(&self) -> impl Iterator<Item = &ModelId> {
        self.words.iter().filter_map(|word| match word {
            Word::Model(model, _) => Some(model),
            _ => None,
        })
    }

    fn evaluate(&self, scope: &dyn VariableResolver) -> Result<bool, String> {
        let mut values = Context::with_env(Arc::clone(&self.env));
        values.set_variable_resolver(scope);
        let value = Value::resolve_val(&self.expression, &values).map_err(|e| e.to_string())?;
        match value.downcast_ref::<CelBool>() {
            Some(value) => Ok(*value.inner()),
            None => Err(format!("the result is a {}, not a bool", value.get_type().name())),
        }
    }

    /// Evaluates on a sample in which nothing is zero, to find what no check of types finds.
    fn try_out(&self) -> Result<(), String> {
        match self.evaluate(&Sample { words: &self.words }) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("fails on a sample request: {error}")),
        }
    }
}

/// Parses on a stack of its own: the parser takes some 100 KiB of it per bracket, and a stack that
/// overflows ends the process.
fn parse(env: &Env, text: &str) -> Result<(Expression, SourceInfo), Vec<Flaw>> {
    let flaw = |message: String| vec![Flaw { line: 0, message }];
    if text.len() > LONGEST {
        return Err(flaw(format!("longer than {LONGEST} bytes; split it into several rules")));
    }
    let parser = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
    let outcome = std::thread::scope(|scope| {
        let running = parser.spawn_scoped(scope, || env.parser().parse_with_source_info(text));
        running.map(|thread| thread.join())
    });
    match outcome {
        Ok(Ok(Ok(parsed))) => Ok(parsed),
        Ok(Ok(Err(errors))) => Err(errors.errors.iter().map(syntax_flaw).collect()),
        Ok(Err(_)) => Err(flaw("not a CEL expression: the parser gave up".to_owned())),
        Err(error) => Err(flaw(format!("cannot be parsed: no thread: {error}"))),
    }
}

fn syntax_flaw(error: &ParseError) -> Flaw {
    let message = match error.msg.find("ecursion limit") {
        Some(_) => "not a CEL expression: nested too deep".to_owned(),
        None => format!("not a CEL expression: {}", error.msg.to_lowercase()),
    };
    Flaw { line: usize::try_from(error.pos.0).unwrap_or(1).saturating_sub(1), message }
}

/// A value of a word as JSON; a number that JSON has not, as a text.
pub(super) fn plain(value: &CowVal<'_, '_>) -> Option<serde_json::Value> {
    if let Some(value) = value.downcast_ref::<CelBool>() {
        return Some((*value.inner()).into());
    }
    if let Some(value) = value.downcast_ref::<CelInt>() {
        return Some((*value.inner()).into());
    }
    if let Some(value) = value.downcast_ref::<CelDouble>() {
        let number = *value.inner();
        return Some(if number.is_finite() { number.into() } else { number.to_string().into() });
    }
    Some(value.downcast_ref::<CelString>()?.inner().into())
}

fn int<'b>(number: impl Into<i64>) -> CowVal<'b, 'b> {
    CowVal::owned(CelInt::from(number.into()))
}

fn word<'w>(words: &'w [Word], name: &str) -> Option<&'w Word> {
    words.get(name.parse::<usize>().ok()?)
}

/// The values of a condition's words for one request.
struct Scope<'a, 'r> {
    words: &'a [Word],
    reading: &'a Reading<'r>,
    facts: &'a Facts,
}

impl VariableResolver for Scope<'_, '_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        Some(match word(self.words, variable)? {
            Word::Signal(signal) => self.reading.value(*signal),
            Word::Secrets(detectors) => int(self.reading.secrets(detectors)),
            Word::Header(name) => CowVal::owned(CelString::from(self.reading.header(name))),
            Word::Model(model, fact) => fact_value(self.facts.status(model)?, *fact),
            Word::BudgetLeft => {
                let left = self.facts.budget_left_usd.unwrap_or(f64::INFINITY);
                CowVal::owned(CelDouble::from(left))
            }
            Word::Pattern(pattern) => CowVal::Borrowed(pattern),
        })
    }
}

fn fact_value<'b>(status: &Status, fact: ModelFact) -> CowVal<'b, 'b> {
    match fact {
        ModelFact::Ready => CowVal::owned(CelBool::from(status.ready)),
        ModelFact::QueueDepth => int(status.queue_depth),
        ModelFact::QueueFree => int(status.queue_limit.saturating_sub(status.queue_depth)),
        ModelFact::SlotsBusy => int(status.slots_busy),
        ModelFact::Breaker => CowVal::owned(CelString::from(status.breaker.name())),
        ModelFact::KvUsedRatio => CowVal::owned(CelDouble::from(f64::from(status.kv_used_ratio))),
    }
}

/// A value of the right type for every word.
struct Sample<'a> {
    words: &'a [Word],
}

impl VariableResolver for Sample<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let kind = match word(self.words, variable)? {
            Word::Pattern(pattern) => return Some(CowVal::Borrowed(pattern)),
            Word::Signal(signal) => signal.of(),
            Word::Model(_, fact) => fact.of(),
            Word::Secrets(_) => Type::Int,
            Word::Header(_) => Type::Text,
            Word::BudgetLeft => Type::Double,
        };
        Some(match kind {
            Type::Bool => CowVal::owned(CelBool::from(true)),
            Type::Double => CowVal::owned(CelDouble::from(0.5)),
            Type::Text => CowVal::owned(CelString::from("sample")),
            Type::Int | Type::Uint | Type::List(_) => int(1),
        })
    }
}
