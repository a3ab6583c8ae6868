//! Logs with one row per question and model, answers included: ZeroEval's and MMLU-Pro's.
//!
//! The answers of two local models may be compared. They agree when both are there and equal, as
//! numbers where both are numbers, else as text without regard to case and white space.

use std::collections::HashMap;

use super::table::Table;
use super::{Log, Row, Source, model};
use crate::error::Problem;

/// The names of the columns that differ between the two.
pub(super) struct Columns {
    id: &'static str,
    answer: &'static str,
    domain: Option<&'static str>,
    /// Joined by a line break.
    prompt: &'static [&'static str],
}

pub(super) const ZERO_EVAL: Columns = Columns { id: "id", answer: "answer", domain: None, prompt: &["question"] };

pub(super) const MMLU_PRO: Columns =
    Columns { id: "question_id", answer: "pred", domain: Some("category"), prompt: &["question", "options_json"] };

/// What one model made of the questions: id → (correct, answer).
type Answers<'a> = HashMap<&'a str, (f64, &'a str)>;

pub(super) fn read(source: &Source, columns: &Columns) -> Result<Log, Problem> {
    let table = Table::read(&source.log)?;
    let (ids, by_model) = by_model(&table, columns)?;
    let mut known: Vec<String> = by_model.keys().map(|name| (*name).to_owned()).collect();
    known.sort();
    let local = model(source, "local", source.local.as_ref(), &known)?;
    let upstream = model(source, "upstream", source.upstream.as_ref(), &known)?;
    let second = source.second.as_ref().map(|name| model(source, "second", Some(name), &known)).transpose()?;
    let (ours, theirs) = (&by_model[local.as_str()], &by_model[upstream.as_str()]);
    let others = second.as_ref().map(|name| &by_model[name.as_str()]);
    let prompts = prompts(source, columns)?;
    let mut log = Log { local, upstream, ..Log::default() };
    for id in ids {
        let (Some(&(quality, answer)), Some(&(above, _))) = (ours.get(id), theirs.get(id)) else {
            log.left_out += 1;
            continue;
        };
        let other = others.map(|others| others.get(id).map_or("", |&(_, other)| other));
        let (prompt, domain) = prompts.get(id).cloned().unwrap_or_default();
        log.rows.push(Row {
            id: id.to_owned(),
            prompt,
            domain,
            local: quality,
            upstream: above,
            cost: 1.0,
            score: None,
            agrees: other.map(|other| agree(answer, other)),
        });
    }
    let mean = |answers: &Answers| answers.values().map(|(correct, _)| correct).sum::<f64>() / answers.len() as f64;
    log.models = known.into_iter().map(|name| (name.clone(), mean(&by_model[name.as_str()]))).collect();
    Ok(log)
}

/// The questions in the order of the log, and each model's answers.
fn by_model<'a>(table: &'a Table, columns: &Columns) -> Result<(Vec<&'a str>, HashMap<&'a str, Answers<'a>>), Problem> {
    let [id, name, correct, answer] = [columns.id, "model", "correct", columns.answer].map(|name| table.column(name));
    let (id, name, correct, answer) = (id?, name?, correct?, answer?);
    let mut ids = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut models: HashMap<&str, Answers> = HashMap::new();
    for cells in table.rows() {
        let (question, asked) = (cells.text(id), cells.text(name));
        if seen.insert(question) {
            ids.push(question);
        }
        let told = (cells.number(correct)?, cells.text(answer));
        if models.entry(asked).or_default().insert(question, told).is_some() {
            return Err(cells.wrong(format!("\"{asked}\" answers \"{question}\" twice")));
        }
    }
    Ok((ids, models))
}

/// id → (prompt, domain); empty without a file of prompts.
fn prompts(source: &Source, columns: &Columns) -> Result<HashMap<String, (String, String)>, Problem> {
    let Some(path) = &source.prompts else { return Ok(HashMap::new()) };
    let table = Table::read(path)?;
    let id = table.column(columns.id)?;
    let parts = columns.prompt.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let domain = columns.domain.map(|name| table.column(name)).transpose()?;
    let mut found = HashMap::new();
    for cells in table.rows() {
        let prompt = parts.iter().map(|part| cells.text(*part)).collect::<Vec<_>>().join("\n");
        let domain = domain.map(|column| cells.text(column).to_owned()).unwrap_or_default();
        found.insert(cells.text(id).to_owned(), (prompt, domain));
    }
    Ok(found)
}

/// Whether two answers say the same. An answer that is not there agrees with nothing.
pub(super) fn agree(one: &str, other: &str) -> bool {
    let (one, other) = (canonical(one), canonical(other));
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => !one.is_empty() && one == other,
    }
}

/// Lower case, without white space, thousands separators, units of money, and a final full stop.
fn canonical(answer: &str) -> String {
    let kept = answer.chars().filter(|c| !c.is_whitespace() && !matches!(c, ',' | '$' | '%'));
    kept.collect::<String>().trim_end_matches('.').to_lowercase()
}
