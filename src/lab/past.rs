//! Requests of the past and what is on record of them: the capture log, or recorded answers to a data
//! set.
//!
//! Promises: what clients said of an answer counts as its quality, and nothing else does; a line
//! without its texts cannot be decided anew, and is counted as left out; a bad line is refused with
//! its place. Read by `cli`, compared by [`super::comparison`].

use std::collections::{BTreeMap, VecDeque};
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::eval::answers::{Answer, Asked};
use super::eval::found::{Model, features};
use super::eval::rows::Row;
use super::logs::open;
use super::policies::Recorded;
use crate::confidence::{Feature, Features};
use crate::request::ModelId;

/// A request and what is on record of it.
#[derive(Debug, Clone)]
pub struct Past {
    /// Its id.
    pub id: String,
    /// `chat`, `text` or `embed`.
    pub kind: String,
    /// Who asked.
    pub tenant: String,
    /// The client's body: a JSON object.
    pub body: Value,
    /// What is on record, by model.
    pub records: BTreeMap<ModelId, Recorded>,
    /// The rule that decided, and who served; empty where it is not known.
    pub was: String,
}

/// The requests of a log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// In their order.
    pub requests: Vec<Past>,
    /// Lines that cannot be decided anew: their texts were not kept.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct Line {
    feedback: Option<Feedback>,
    id: Option<String>,
    tenant: Option<String>,
    kind: Option<String>,
    request: Option<Value>,
    served_by: Option<String>,
    decision: Option<Decision>,
    #[serde(default)]
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct Feedback {
    request_id: String,
    correct: Option<bool>,
    score: Option<f64>,
}

#[derive(Deserialize)]
struct Decision {
    rule: String,
}

#[derive(Deserialize)]
struct Attempt {
    model: String,
    stage: Option<usize>,
    outcome: String,
    reason: Option<String>,
    cost_usd: Option<f64>,
    features: Option<BTreeMap<String, Option<f64>>>,
}

/// Reads a capture log.
///
/// # Errors
/// `FILE:LINE: …` of a line that is none of a capture log.
pub fn read_capture(file: &Path) -> Result<Log, String> {
    let mut log = Log::default();
    let mut said: BTreeMap<String, f64> = BTreeMap::new();
    let mut served: Vec<Option<ModelId>> = Vec::new();
    for (number, line) in (1..).zip(open(file).map_err(|problem| problem.to_string())?.lines()) {
        let refused = |why: String| format!("{}:{number}: {why}", file.display());
        let line = line.map_err(|error| refused(format!("cannot read: {error}")))?;
        let line: Line =
            serde_json::from_str(&line).map_err(|error| refused(format!("not of a capture log: {error}")))?;
        if let Some(Feedback { request_id, correct, score }) = line.feedback {
            said.extend(score.or(correct.map(|right| f64::from(u8::from(right)))).map(|quality| (request_id, quality)));
            continue;
        }
        served.push(line.served_by.as_deref().map(ModelId::new));
        match line.past() {
            Some(past) => log.requests.push(past),
            None => {
                served.pop();
                log.left_out += 1;
            }
        }
    }
    for (past, model) in log.requests.iter_mut().zip(served) {
        if let (Some(record), Some(quality)) = (model.and_then(|it| past.records.get_mut(&it)), said.get(&past.id)) {
            record.quality = Some(*quality);
        }
    }
    Ok(log)
}

/// The most that is held of a log's newest lines.
const MOST_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Head {
    model: Option<String>,
    feedback: Option<IgnoredAny>,
}

/// The newest requests of a capture log, the oldest of them first: at most `last` of those whose model
/// is one that counts. `files` are the log and what it made room for, the newest first; a file or a
/// line that cannot be read is left out. What clients said is not looked up.
pub fn read_last(files: &[PathBuf], last: usize, counts: impl Fn(&str) -> bool) -> Log {
    let is_one = |line: &String| {
        let head = serde_json::from_str::<Head>(line).ok().filter(|head| head.feedback.is_none());
        head.and_then(|head| head.model).is_some_and(|model| counts(&model))
    };
    let mut newest: VecDeque<String> = VecDeque::new();
    for file in files {
        let Ok(reader) = open(file) else { continue };
        let room = last - newest.len();
        let mut own: VecDeque<String> = VecDeque::new();
        let mut bytes = 0;
        for line in reader.lines().map_while(Result::ok).filter(is_one) {
            bytes += line.len();
            own.push_back(line);
            while own.len() > room || bytes > MOST_BYTES {
                bytes -= own.pop_front().map_or(bytes, |line| line.len());
            }
        }
        own.append(&mut newest);
        newest = own;
        if newest.len() >= last || newest.iter().map(String::len).sum::<usize>() > MOST_BYTES / 2 {
            break;
        }
    }
    let mut log = Log::default();
    for line in newest {
        match serde_json::from_str::<Line>(&line).ok().and_then(Line::past) {
            Some(past) => log.requests.push(past),
            None => log.left_out += 1,
        }
    }
    log
}

impl Line {
    fn past(self) -> Option<Past> {
        let (served, decision) = (self.served_by.unwrap_or_default(), self.decision);
        Some(Past {
            id: self.id?,
            kind: self.kind?,
            tenant: self.tenant.unwrap_or_default(),
            body: self.request.filter(has_texts)?,
            was: decision.map_or_else(String::new, |decision| format!("{} → {served}", decision.rule)),
            records: records(self.attempts),
        })
    }
}

/// By model; what was asked for evidence on a stage's answer belongs to the cost of that answer.
fn records(attempts: Vec<Attempt>) -> BTreeMap<ModelId, Recorded> {
    let mut records: BTreeMap<ModelId, Recorded> = BTreeMap::new();
    let mut of_stage: BTreeMap<Option<usize>, ModelId> = BTreeMap::new();
    for attempt in attempts.into_iter().filter(|attempt| attempt.outcome != "skipped") {
        if attempt.reason.as_deref() == Some("evidence") {
            if let Some(record) = of_stage.get(&attempt.stage).and_then(|model| records.get_mut(model)) {
                record.usd = record.usd.zip(attempt.cost_usd).map(|(own, more)| own + more);
            }
            continue;
        }
        let model = ModelId::new(attempt.model.as_str());
        of_stage.insert(attempt.stage, model.clone());
        records.insert(model, attempt.recorded());
    }
    records
}

impl Attempt {
    fn recorded(self) -> Recorded {
        let known = self
            .features
            .map(|all| Features::of(|feature: Feature| all.get(feature.name()).copied().flatten().unwrap_or(f64::NAN)));
        let early = matches!(self.reason.as_deref(), Some("early_low_confidence" | "early_unlikely"));
        let broken_off = early || self.outcome == "canceled";
        Recorded { features: known, trace: None, broken_off, quality: None, usd: self.cost_usd }
    }
}

/// Whether texts are texts, and not their lengths and hashes.
fn has_texts(body: &Value) -> bool {
    match body {
        Value::Object(members) if hides(members) => false,
        Value::Object(members) => members.values().all(has_texts),
        Value::Array(items) => items.iter().all(has_texts),
        _ => true,
    }
}

fn hides(members: &Map<String, Value>) -> bool {
    members.contains_key("sha256") && ["chars", "tokens"].iter().any(|size| members.contains_key(*size))
}

/// The rows of a data set with the recorded answers of every model: quality is known on all sides.
///
/// # Errors
/// A file that cannot be read, or log-probabilities of which no features can be read.
pub fn read_answers(file: &Path, rows: &[Row]) -> Result<Log, String> {
    let mut of_model: BTreeMap<String, BTreeMap<String, Answer>> = BTreeMap::new();
    let lines = open(file).map_err(|problem| problem.to_string())?.lines();
    for line in lines {
        let line = line.map_err(|error| format!("{}: cannot read: {error}", file.display()))?;
        let Ok(answer) = serde_json::from_str::<Answer>(&line) else { continue };
        let traced = answer.logprobs.as_ref().is_some_and(|all| !all.is_empty());
        if answer.form == Asked::Free && (traced || !answer.model.starts_with("local/")) && answer.model != "auto" {
            of_model.entry(answer.model.clone()).or_default().insert(answer.id.clone(), answer);
        }
    }
    let mut log = Log::default();
    let mut known: Vec<(ModelId, BTreeMap<String, Recorded>)> = Vec::new();
    for (name, answers) in of_model {
        known.push((ModelId::new(name.as_str()), recorded(name, answers)?));
    }
    for row in rows {
        let records: BTreeMap<ModelId, Recorded> =
            known.iter().filter_map(|(model, all)| Some((model.clone(), all.get(&row.id)?.clone()))).collect();
        if records.is_empty() {
            log.left_out += 1;
            continue;
        }
        let mut body = json!({"model": "auto", "messages": row.messages, "temperature": 0});
        if let Some(limit) = row.max_tokens {
            body["max_tokens"] = limit.into();
        }
        let (id, kind) = (row.id.clone(), "chat".to_owned());
        log.requests.push(Past { id, kind, tenant: "anonymous".to_owned(), body, records, was: String::new() });
    }
    Ok(log)
}

fn recorded(name: String, answers: BTreeMap<String, Answer>) -> Result<BTreeMap<String, Recorded>, String> {
    let traced: Vec<Answer> =
        answers.values().filter(|one| one.logprobs.as_ref().is_some_and(|all| !all.is_empty())).cloned().collect();
    let graded = if traced.is_empty() { None } else { Some(features(&Model { name, answers: traced })?) };
    let one = |(id, answer): (String, Answer)| {
        let answered = graded.as_ref().and_then(|all| all.answers.get(&id));
        let (features, trace) = (answered.map(|it| it.graded.features), answered.map(|it| it.trace.clone()));
        let quality = Some(f64::from(u8::from(answer.right)));
        (id, Recorded { features, trace, broken_off: false, quality, usd: answer.usd })
    };
    Ok(answers.into_iter().map(one).collect())
}
