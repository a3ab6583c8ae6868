//! Recorded answers: read, joined with their tasks, and paired by row.
//!
//! The records are JSON lines, one per (model, row, form); only free answers count, the last of a row
//! wins, a line cut off by an interruption is left out. An error names the file and the way out.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?\d[\d,]*(?:\.\d+)?").ok());
static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b[A-Z]\b").ok());

#[derive(Deserialize)]
struct Task {
    id: String,
    task: String,
    grader: String,
}

#[derive(Deserialize)]
struct Record {
    model: String,
    id: String,
    form: String,
    right: bool,
    text: String,
    #[serde(default)]
    scores: HashMap<String, f64>,
    #[serde(default)]
    logprobs: Vec<f64>,
}

impl Record {
    /// The score of this name: as the gateway told it, else from the tokens' log-probabilities.
    fn score(&self, name: &str) -> Option<f64> {
        let sum: f64 = self.logprobs.iter().sum();
        let from_tokens = || match name {
            _ if self.logprobs.is_empty() => None,
            "sum_logprob" => Some(sum),
            "mean_logprob" => Some(sum / self.logprobs.len() as f64),
            "min_logprob" => self.logprobs.iter().copied().reduce(f64::min),
            _ => None,
        };
        self.scores.get(name).copied().or_else(from_tokens)
    }
}

/// A row that a model answered, and what the upstream made of it.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) task: String,
    pub(crate) score: f64,
    pub(crate) right: bool,
    pub(crate) upstream_right: bool,
    pub(crate) agrees: bool,
}

/// All recorded answers, by model and row, and the tasks they answer.
pub(crate) struct Answers {
    file: PathBuf,
    score: String,
    tasks: BTreeMap<String, Task>,
    records: HashMap<(String, String), Record>,
}

impl Answers {
    /// Reads the records of `file` and the tasks of `tasks`.
    pub(crate) fn read(file: &Path, tasks: &[PathBuf], score: &str) -> Result<Answers, String> {
        let mut known = BTreeMap::new();
        for path in tasks {
            known.extend(lines::<Task>(path)?.into_iter().map(|task| (task.id.clone(), task)));
        }
        let free = lines::<Record>(file)?.into_iter().filter(|record| record.form == "free");
        let records = free.map(|record| ((record.model.clone(), record.id.clone()), record)).collect();
        Ok(Answers { file: file.to_owned(), score: score.to_owned(), tasks: known, records })
    }

    /// The rows that both models answered, with the scores of `local`. The same name twice: that model alone.
    pub(crate) fn paired(&self, local: &str, upstream: &str) -> Result<Vec<Answered>, String> {
        let of = |model: &str, id: &str| self.records.get(&(model.to_owned(), id.to_owned()));
        let row = |task: &Task| {
            let (here, there) = (of(local, &task.id)?, of(upstream, &task.id)?);
            Some(Answered {
                task: task.task.clone(),
                score: here.score(&self.score)?,
                right: here.right,
                upstream_right: there.right,
                agrees: agree(&task.grader, here, there),
            })
        };
        let rows: Vec<Answered> = self.tasks.values().filter_map(row).collect();
        if rows.is_empty() {
            let (file, score) = (self.file.display(), &self.score);
            return Err(format!(
                "{file}: no row answered by {local:?} with a {score} and by {upstream:?}; run `make eval` first"
            ));
        }
        Ok(rows)
    }
}

/// Whether two answers are the same. Two right ones are, a right and a wrong one are not; two wrong ones
/// are compared in the form that the grader compares.
fn agree(grader: &str, here: &Record, there: &Record) -> bool {
    let same = || canonical(grader, &here.text) == canonical(grader, &there.text);
    if here.right || there.right { here.right == there.right } else { same() }
}

fn canonical(grader: &str, text: &str) -> String {
    let last_number = || NUMBER.as_ref()?.find_iter(text).last()?.as_str().replace(',', "").parse::<f64>().ok();
    let found = match grader {
        "number" | "last_number" => last_number().map(|number| number.to_string()),
        "letter" => LETTER.as_ref().and_then(|letter| letter.find(text)).map(|found| found.as_str().to_owned()),
        "json" => object(text),
        _ => None,
    };
    found.unwrap_or_else(|| fold(text.trim().lines().next().unwrap_or_default()))
}

/// The object in a text, its values folded and its keys in order.
fn object(text: &str) -> Option<String> {
    let found: BTreeMap<String, Value> = serde_json::from_str(text.get(text.find('{')?..=text.rfind('}')?)?).ok()?;
    let folded = |value: &Value| fold(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str());
    Some(found.iter().map(|(key, value)| format!("{key}={};", folded(value))).collect())
}

/// Lower case, single blanks, no punctuation but colons and hyphens.
fn fold(text: &str) -> String {
    let plain = |c: &char| c.is_alphanumeric() || c.is_whitespace() || "_:-".contains(*c);
    let kept: String = text.to_lowercase().chars().filter(plain).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The values of a JSONL file, gzipped or not; lines that are none of these are left out.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}; name another file", path.display());
    let file = File::open(path).map_err(wrong)?;
    let gzipped = path.extension().is_some_and(|extension| extension == "gz");
    let bytes: Box<dyn Read> = if gzipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let mut values = Vec::new();
    for line in BufReader::new(bytes).lines() {
        values.extend(serde_json::from_str(&line.map_err(wrong)?).ok());
    }
    Ok(values)
}

/// The tasks of this repository.
pub(crate) fn default_tasks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tasks/tasks.jsonl.gz")
}

/// Where `make eval` keeps its records.
pub(crate) fn default_records() -> Result<PathBuf, String> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let weir = env("WEIR_CACHE").or_else(|| cache().map(|cache| cache.join("weir")));
    weir.map(|weir| weir.join("eval/answers.jsonl"))
        .ok_or_else(|| "no cache folder is known: give --records FILE".to_owned())
}
