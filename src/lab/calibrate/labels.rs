//! What the answers of a slice are worth: which of them belong to it, and the label of each.
//!
//! A label comes from a known answer, from a judge's verdict, or from whether an upstream said the
//! same. Promises: an answer that cannot be compared with the upstream's disagrees with it; an answer
//! without the label asked for is left out and counted. Pure but for the parsing of what was read.
//! Called by `calibrate`.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::{Labels, Settings, Slice};
use crate::confidence::{Form, Graded, Risk};
use crate::lab::records::{About, Records};

/// An upstream's answers by id: whether they are right, where that is known, and what they say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Upstream(BTreeMap<String, (Option<bool>, String)>);

#[derive(Deserialize)]
struct UpstreamLine {
    model: String,
    id: String,
    right: Option<bool>,
    #[serde(default)]
    text: String,
    form: Option<String>,
}

impl Upstream {
    /// Reads the answers of `model` among the lines of a file; the last of an id counts.
    ///
    /// # Errors
    /// No answer of the model is there.
    pub fn parse(text: &str, model: &str) -> Result<Upstream, String> {
        let lines = text.lines().filter_map(|line| serde_json::from_str::<UpstreamLine>(line).ok());
        let free = lines.filter(|line| line.model == model && line.form.as_deref().is_none_or(|form| form == "free"));
        let found: BTreeMap<_, _> = free.map(|line| (line.id, (line.right, line.text))).collect();
        if found.is_empty() {
            return Err(format!("no answer of \"{model}\" is there; name the model that the records name"));
        }
        Ok(Upstream(found))
    }
}

/// The questions by id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tasks(BTreeMap<String, Task>);

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Task {
    id: String,
    task: Option<String>,
    prompt: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    group: Option<String>,
    grader: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Message {
    #[serde(default)]
    content: serde_json::Value,
}

impl Tasks {
    /// Adds the questions of a file, one JSON object per line: `id`, `task`, `prompt` or `messages`,
    /// perhaps `group` (the same for a question and its paraphrases) and `grader`.
    ///
    /// # Errors
    /// A line that is none of these.
    pub fn read(&mut self, text: &str) -> Result<(), String> {
        for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let task: Task = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", place + 1))?;
            self.0.insert(task.id.clone(), task);
        }
        Ok(())
    }

    fn task_of<'t>(&'t self, id: &str, about: &'t About) -> Option<&'t str> {
        self.0.get(id).and_then(|task| task.task.as_deref()).or(about.task.as_deref())
    }

    /// What the side of a row depends on: its group, else its prompt without regard to case and white
    /// space, else its id.
    fn group_of(&self, id: &str) -> String {
        let Some(task) = self.0.get(id) else { return id.to_owned() };
        let prompt = || {
            let said: Vec<String> = task.messages.iter().map(|message| message.content.to_string()).collect();
            let prompt = task.prompt.clone().or_else(|| (!said.is_empty()).then(|| said.join(" ")))?;
            Some(prompt.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "))
        };
        task.group.clone().or_else(prompt).unwrap_or_else(|| id.to_owned())
    }

    /// The form in which answers to this question are compared.
    fn form_of(&self, id: &str) -> Form {
        match self.0.get(id).and_then(|task| task.grader.as_deref()) {
            Some("number" | "last_number") => Form::Number,
            Some("letter") => Form::Letter,
            Some("json") => Form::Json,
            Some("exact") => Form::Exact,
            Some("word" | "choice" | "span") => Form::Line,
            Some("contains") => Form::Text,
            _ => Form::Auto,
        }
    }
}

/// Everything that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    /// The local model's answers.
    pub records: Records,
    /// The questions; may be empty.
    pub tasks: Tasks,
    /// The upstream's answers, where labels or the risk need them.
    pub upstream: Upstream,
}

/// An answer of the slice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labelled {
    /// Whose answer it is.
    pub(super) id: String,
    /// Equal for what must stay on one side of a split.
    pub(super) group: String,
    /// Its features, and whether its label calls it right.
    pub(super) graded: Graded,
    /// What keeping it loses under the risk that is to be certified.
    pub(super) loss: f64,
    /// Whether it is really right, where that is known.
    pub(super) gold: Option<bool>,
}

/// A hash of these answers' names and labels: whose is the same, those are the same labels.
pub(super) fn fingerprint(rows: &[Labelled]) -> String {
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{} {:?}\n", row.graded.right, row.id)).collect();
    rows.sort_unstable();
    digest(&SHA256, rows.concat().as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The labelled answers of a slice, by id, and how many of its answers have no label.
pub(super) fn label(sources: &Sources, slice: &Slice, settings: &Settings) -> Result<(Vec<Labelled>, usize), String> {
    let mut rows = Vec::new();
    let mut left_out = 0;
    let risk = settings.promise.map(|promise| promise.risk());
    if risk == Some(Risk::Regret) && !matches!(settings.labels, Labels::Gold) {
        return Err("regret is about known answers; use gold labels, or another risk".to_owned());
    }
    for (id, answered) in &sources.records.answers {
        let graded = answered.graded;
        let about = &sources.records.about[id];
        let task = sources.tasks.task_of(id, about);
        if !slice.tasks.is_empty() && !task.is_some_and(|task| slice.tasks.iter().any(|one| one == task)) {
            continue;
        }
        let gold = about.is_graded.then_some(graded.right);
        let above = sources.upstream.0.get(id);
        let right = match &settings.labels {
            Labels::Gold | Labels::Judge(_) => gold,
            Labels::Agreement { form, .. } => above.zip(about.text.as_ref()).map(|((_, theirs), ours)| {
                form.unwrap_or_else(|| sources.tasks.form_of(id)).agree(ours, theirs).unwrap_or(false)
            }),
        };
        let loss = match (right, risk) {
            (Some(right), Some(Risk::Regret)) => above.and_then(|(theirs, _)| *theirs).map(|theirs| !right && theirs),
            (right, _) => right.map(|right| !right),
        };
        let (Some(right), Some(loss)) = (right, loss) else {
            left_out += 1;
            continue;
        };
        let graded = Graded { features: graded.features, right };
        let (id, group) = (id.clone(), sources.tasks.group_of(id));
        rows.push(Labelled { id, group, graded, loss: f64::from(u8::from(loss)), gold });
    }
    if rows.is_empty() {
        return Err(format!("no answer with a label belongs to it ({left_out} without); check the tasks named"));
    }
    Ok((rows, left_out))
}
