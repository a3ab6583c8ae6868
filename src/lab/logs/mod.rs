//! Past requests whose outcome on both sides is known, read from the forms they come in.
//!
//! One small importer per form: `routellm` (wide, two models), `llmrouter` (wide, many models),
//! `zeroeval` and `mmlu-pro` (one row per question and model), `records` (our own). A file may be
//! gzip. Rows that another source marks as contaminated are left out; a bad row is refused with
//! FILE:LINE. Called by `cli`; what comes out feeds `replay`.

mod answers;
mod records;
mod table;
#[cfg(test)]
mod tests;
mod wide;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Problem;
pub(super) use table::open;

/// A past request and what both sides made of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// The log's own name of it, or its number.
    pub id: String,
    /// The text that a router may see; empty where the log has none.
    pub prompt: String,
    /// The kind of traffic; empty where the log has none.
    pub domain: String,
    /// Quality of the local answer, in the log's unit (0 or 1 where answers are right or wrong).
    pub local: f64,
    /// Quality of the upstream's answer, in the same unit.
    pub upstream: f64,
    /// What the upstream's answer cost; 1 where the log does not say.
    pub cost: f64,
    /// A score of the local answer that came with the log: higher is more to be believed.
    pub score: Option<f64>,
    /// Whether a second local model gave the same answer.
    pub agrees: Option<bool>,
}

/// The rows of a log and the pair of models they are about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// At least one.
    pub rows: Vec<Row>,
    /// The local model.
    pub local: String,
    /// The upstream model.
    pub upstream: String,
    /// Every model of the log and its mean quality over its own rows, the pair's included.
    pub models: Vec<(String, f64)>,
    /// How many rows were left out: contaminated, or not answered by all the models asked for.
    pub left_out: usize,
}

/// The forms of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// CSV: `prompt`, `weak_correct…`, `strong_correct…`, `contaminated`, perhaps `domain`.
    RouteLlm,
    /// CSV: `id`, `model`, `correct`, `answer`; prompts in another file: `id`, `question`.
    ZeroEval,
    /// CSV: `question_id`, `model`, `correct`, `pred`; prompts: `question_id`, `category`, `question`, `options_json`.
    MmluPro,
    /// CSV: `task`, `metric`, `question`, and the quality of every other column's model.
    LlmRouter,
    /// JSON lines or CSV: `prompt`, `local`, `upstream`, perhaps `id`, `domain`, `cost`, `score`, `agrees`.
    Records,
}

const FORMS: [(&str, Form); 5] = [
    ("routellm", Form::RouteLlm),
    ("zeroeval", Form::ZeroEval),
    ("mmlu-pro", Form::MmluPro),
    ("llmrouter", Form::LlmRouter),
    ("records", Form::Records),
];

impl FromStr for Form {
    type Err = String;

    fn from_str(name: &str) -> Result<Form, String> {
        let found = FORMS.iter().find(|(known, _)| *known == name).map(|(_, form)| *form);
        found.ok_or_else(|| format!("unknown form \"{name}\"; known: {}", FORMS.map(|(known, _)| known).join(", ")))
    }
}

/// Where a log stands and which of its models are meant.
#[derive(Debug, Clone)]
pub struct Source {
    /// The log.
    pub log: PathBuf,
    /// Its form.
    pub form: Form,
    /// The prompts, where they stand in a file of their own.
    pub prompts: Option<PathBuf>,
    /// The model taken as local; needed where the log has more than two.
    pub local: Option<String>,
    /// A second local model, whose agreement counts; only where the log has answers.
    pub second: Option<String>,
    /// The model taken as upstream; needed where the log has more than two.
    pub upstream: Option<String>,
}

/// Reads a log. Fails at the first thing that is wrong, and where nothing is left to replay.
pub fn read(source: &Source) -> Result<Log, Problem> {
    let log = match source.form {
        Form::RouteLlm => wide::routellm(source)?,
        Form::LlmRouter => wide::llmrouter(source)?,
        Form::ZeroEval => answers::read(source, &answers::ZERO_EVAL)?,
        Form::MmluPro => answers::read(source, &answers::MMLU_PRO)?,
        Form::Records => records::read(source)?,
    };
    if log.rows.is_empty() {
        let message = format!("no row to replay; {} were left out", log.left_out);
        return Err(problem(&source.log, None, message));
    }
    Ok(log)
}

fn problem(file: &Path, line: Option<u64>, message: impl Into<String>) -> Problem {
    let file = file.display();
    let place = line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
    Problem { place, message: message.into() }
}

/// A named model that must be given, and be one of `known`.
fn model(source: &Source, flag: &str, given: Option<&String>, known: &[String]) -> Result<String, Problem> {
    let choices = || known.join(", ");
    match given {
        Some(name) if known.contains(name) => Ok(name.clone()),
        Some(name) => Err(problem(&source.log, None, format!("no model \"{name}\" in the log; it has: {}", choices()))),
        None => Err(problem(&source.log, None, format!("name a model with --{flag}; the log has: {}", choices()))),
    }
}
