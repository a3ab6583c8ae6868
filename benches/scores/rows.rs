//! The rows of the proof: answers, their grades, and what is known of them.
//!
//! Reads the tasks, the recorded answers of the small model and the evidence that `collect.py` asked
//! for, and joins them by row. A line cut off by an interruption is left out. Scores are compared on
//! the same rows: those that read what is asked for on the rows of which all of that is known.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::Value;
use weir::confidence::evidence::{agreement, yes_share};
use weir::confidence::{Evidence, Feature, Features, Form, Source};
use weir::lab::gap::read;
use weir::lab::records::Records;

/// How the samples were asked for, as `collect.py` does.
pub(crate) const SAMPLES: u32 = 5;
pub(crate) const TEMPERATURE: f32 = 0.8;
pub(crate) const SECOND: &str = "local/smollm2-135m-instruct";

#[derive(Deserialize)]
struct Task {
    id: String,
    task: String,
    messages: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    content: String,
}

/// One record of `collect.py`; of each kind other keys are there.
#[derive(Deserialize)]
struct Collected {
    id: String,
    kind: String,
    #[serde(default)]
    texts: Vec<String>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    answer: String,
    #[serde(default)]
    top: Vec<(String, f64)>,
    #[serde(default)]
    vector: Vec<f32>,
}

/// An answer of which everything is known.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) task: String,
    /// Whether it is of the half that scores are fitted on.
    pub(crate) fit: bool,
    pub(crate) right: bool,
    pub(crate) features: Features,
    pub(crate) vector: Vec<f32>,
}

impl Row {
    fn is_complete(&self) -> bool {
        let asked = Feature::ALL.into_iter().filter(|feature| feature.source() == Source::Asked);
        asked.into_iter().all(|feature| self.features.get(feature).is_finite())
    }
}

/// The rows of the answers recorded.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Those of which everything is known that a gate asks for.
    pub(crate) complete: Vec<Row>,
    /// All whose prompt has a vector; what a gate asks for is NaN where it is not known.
    pub(crate) all: Vec<Row>,
    /// The hash of the model's file.
    pub(crate) file: String,
}

impl Rows {
    /// Joins the three files by row.
    pub(crate) fn read(tasks: &Path, answers: &Path, evidence: &Path, model: &str) -> Result<Rows, String> {
        let mut collected: HashMap<(String, String), Collected> = HashMap::new();
        for record in lines::<Collected>(evidence)? {
            collected.insert((record.id.clone(), record.kind.clone()), record);
        }
        let text = fs::read_to_string(answers).map_err(|error| format!("{}: {error}", answers.display()))?;
        let answers = Records::parse(&text, model)?;
        let tasks = lines::<Task>(tasks)?;
        let join = |task: &Task| join(task, &answers, &collected);
        let all: Vec<Row> = tasks.iter().filter_map(join).collect();
        let complete: Vec<Row> = all.iter().filter(|row| row.is_complete()).cloned().collect();
        if complete.is_empty() {
            let (answers, evidence) = (answers.answers.len(), evidence.display());
            return Err(format!("none of {answers} answers of {model} has all evidence in {evidence}; run collect.py"));
        }
        Ok(Rows { complete, all, file: answers.model_sha256 })
    }
}

fn join(task: &Task, answers: &Records, collected: &HashMap<(String, String), Collected>) -> Option<Row> {
    let of = |kind: &str| collected.get(&(task.id.clone(), kind.to_owned()));
    let answered = answers.answers.get(&task.id)?;
    let text = answers.about.get(&task.id)?.text.as_deref()?;
    let vector = of("embedding")?.vector.clone();
    let judged = of("p_true").filter(|judged| judged.answer == text);
    let prompt = task.messages.last().map_or("", |said| &said.content);
    // Evidence that says nothing makes a gate escalate; here it counts as the doubt that it is.
    let p_true = judged.map(|judged| yes_share(judged.top.iter().map(|(word, l)| (word.as_str(), *l))).unwrap_or(0.0));
    let agreeing = |others: &[&str]| agreement(Form::Auto, text, others.iter().copied()).unwrap_or(0.0);
    let samples = of("samples").map(|it| agreeing(&it.texts.iter().map(String::as_str).collect::<Vec<_>>()));
    let second = of("second").map(|it| agreeing(&[&it.text]));
    let evidence = Evidence::of_texts(prompt, text, false)
        .with(Feature::PTrue, p_true)
        .with(Feature::Agreement, samples)
        .with(Feature::SecondOpinion, second);
    Some(Row {
        task: task.task.clone(),
        fit: digest(&SHA256, task.id.as_bytes()).as_ref()[0] % 2 == 0,
        right: answered.graded.right,
        features: evidence.beside(&answered.graded.features),
        vector,
    })
}

/// The values of a JSONL file, gzipped or not; lines that are none of these are left out.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>, String> {
    let text = read(path)?;
    let values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(values.filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// A file of the evaluation's cache folder.
pub(crate) fn cached(name: &str) -> PathBuf {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let weir = env("WEIR_CACHE").or_else(|| cache().map(|cache| cache.join("weir")));
    weir.unwrap_or_default().join("eval").join(name)
}
