//! Recorded answers: read, joined with their tasks, and paired by row.
//!
//! The records are JSON lines, one per (model, row, form); only free answers count, the last of a row
//! wins, a line cut off by an interruption is left out. An error names the file. The
//! benches over recorded answers share it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weir::confidence::Form;
use weir::lab::gap::read;

#[derive(Deserialize)]
struct Task {
    id: String,
    task: String,
    grader: String,
}

impl Task {
    /// The form in which two answers are compared.
    fn form(&self) -> Form {
        match self.grader.as_str() {
            "number" | "last_number" => Form::Number,
            "letter" => Form::Letter,
            "json" => Form::Json,
            "exact" => Form::Exact,
            "contains" => Form::Text,
            _ => Form::Line,
        }
    }
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
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) score: f64,
    pub(crate) right: bool,
    pub(crate) upstream_right: bool,
    pub(crate) agrees: bool,
}

/// All recorded answers, by model and row, and the tasks they answer.
pub(crate) struct Answers {
    files: Vec<PathBuf>,
    score: String,
    tasks: BTreeMap<String, Task>,
    records: HashMap<(String, String), Record>,
}

impl Answers {
    /// Reads the records of `files` and the tasks of `tasks`.
    pub(crate) fn read(files: &[PathBuf], tasks: &[PathBuf], score: &str) -> Result<Answers, String> {
        let (mut known, mut records) = (BTreeMap::new(), HashMap::new());
        for path in tasks {
            known.extend(lines::<Task>(path)?.into_iter().map(|task| (task.id.clone(), task)));
        }
        for path in files {
            let free = lines::<Record>(path)?.into_iter().filter(|record| record.form == "free");
            records.extend(free.map(|record| ((record.model.clone(), record.id.clone()), record)));
        }
        Ok(Answers { files: files.to_vec(), score: score.to_owned(), tasks: known, records })
    }

    /// The rows that both models answered, with the scores of `local`. The same name twice: that model alone.
    pub(crate) fn paired(&self, local: &str, upstream: &str) -> Result<Vec<Answered>, String> {
        let of = |model: &str, id: &str| self.records.get(&(model.to_owned(), id.to_owned()));
        let row = |task: &Task| {
            let (here, there) = (of(local, &task.id)?, of(upstream, &task.id)?);
            Some(Answered {
                id: task.id.clone(),
                task: task.task.clone(),
                score: here.score(&self.score)?,
                right: here.right,
                upstream_right: there.right,
                agrees: task.form().agree(&here.text, &there.text).unwrap_or(false),
            })
        };
        let rows: Vec<Answered> = self.tasks.values().filter_map(row).collect();
        if rows.is_empty() {
            let score = &self.score;
            return Err(format!(
                "{:?}: no row answered by {local:?} with a {score} and by {upstream:?}; run `make eval` first",
                self.files
            ));
        }
        Ok(rows)
    }

    /// How many rows the tasks have.
    pub(crate) fn asked(&self) -> usize {
        self.tasks.len()
    }
}

/// The values of a JSONL file, gzipped or not; lines that are none of these are left out.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>, String> {
    let text = read(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The tasks of this repository.
pub(crate) fn default_tasks() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tasks");
    vec![folder.join("tasks.jsonl.gz"), folder.join("own.jsonl.gz")]
}

/// The records given, else those that `make eval` keeps, as far as they are there.
pub(crate) fn or_default(given: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let weir = env("WEIR_CACHE").or_else(|| cache().map(|cache| cache.join("weir")));
    let folder = weir.ok_or("no cache folder is known: give --records FILE")?.join("eval");
    let (there, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        ["answers.jsonl", "own.jsonl"].iter().map(|name| folder.join(name)).partition(|path| path.is_file());
    missing.iter().for_each(|path| eprintln!("{} is not there: its rows are missing", path.display()));
    Ok(there)
}
