//! The rows of a data set: questions with a known answer, one JSON object per line, perhaps gzip.
//!
//! Keys: `id`, `messages` (as in a chat request), `answer`, `grader`; perhaps `task`, `level`,
//! `max_tokens`. Promises: a row that could not be graded is refused with its line before anything
//! is asked; ids stand once. Read by `cli`, asked by [`super::ask`].

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::Value;

use super::super::graders::Grader;
use super::super::logs::open;

/// A question with a known answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Unique in the data set.
    pub id: String,
    /// What kind of question; `rows` where the data set does not say.
    pub task: String,
    /// How hard, where it is said.
    pub level: Option<u32>,
    /// The conversation, as a chat request has it.
    pub messages: Value,
    /// The right answer.
    pub answer: Value,
    /// How answers are compared with it.
    pub grader: Grader,
    /// The grader's name.
    pub graded_by: String,
    /// The limit to ask with.
    pub max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Raw {
    id: String,
    task: Option<String>,
    level: Option<u32>,
    messages: Value,
    answer: Value,
    grader: String,
    max_tokens: Option<u32>,
}

/// Which rows count: thresholds are chosen on one half, figures are told of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The first byte of SHA-256 of the id is odd.
    Report,
    /// It is even.
    Calibrate,
    /// Every row.
    All,
}

impl Half {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Half::Report => "report",
            Half::Calibrate => "calibrate",
            Half::All => "all",
        }
    }

    /// Whether the row of this id is in it.
    pub fn has(self, id: &str) -> bool {
        let odd = || digest(&SHA256, id.as_bytes()).as_ref().first().is_some_and(|byte| byte % 2 == 1);
        match self {
            Half::Report => odd(),
            Half::Calibrate => !odd(),
            Half::All => true,
        }
    }
}

impl Row {
    /// What the last message asks; empty where it is no text.
    pub fn question(&self) -> &str {
        self.message(self.messages.as_array().map_or(0, |all| all.len().saturating_sub(1)))
    }

    /// The text of a message; empty where there is none.
    pub fn message(&self, place: usize) -> &str {
        self.messages.get(place).and_then(|message| message["content"].as_str()).unwrap_or_default()
    }
}

/// Reads a data set.
///
/// # Errors
/// `FILE:LINE: …` of the first line that is no row, or of a file that cannot be read.
pub fn read(file: &Path) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut ids = BTreeSet::new();
    for (number, line) in (1..).zip(open(file).map_err(|problem| problem.to_string())?.lines()) {
        let refused = |why: String| format!("{}:{number}: {why}", file.display());
        let line = line.map_err(|error| refused(format!("cannot read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = parse(&line).map_err(refused)?;
        if !ids.insert(row.id.clone()) {
            return Err(refused(format!("id \"{}\" stands twice", row.id)));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn parse(line: &str) -> Result<Row, String> {
    let raw: Raw = serde_json::from_str(line).map_err(|error| format!("not a row: {error}"))?;
    let grader = Grader::parse(&raw.grader)?;
    grader.check(&raw.answer)?;
    if raw.messages.as_array().is_none_or(Vec::is_empty) {
        return Err(format!("messages {}: want at least one", raw.messages));
    }
    Ok(Row {
        id: raw.id,
        task: raw.task.unwrap_or_else(|| "rows".to_owned()),
        level: raw.level,
        messages: raw.messages,
        answer: raw.answer,
        grader,
        graded_by: raw.grader,
        max_tokens: raw.max_tokens,
    })
}
