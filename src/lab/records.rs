//! Graded answers of a model, token by token: one JSON object per line.
//!
//! Keys: `model`, `id`, `right`, `file` (the SHA-256 of the model's file), `logprobs` per token,
//! and `margins`, or `top_logprobs` per token from which they follow; where there are `entropies`
//! per token and `finish` (`stop`: ended by itself), features of them too; `text` and `task`, where
//! answers are compared or picked by them. A gate counts the token that ends a turn, which the API does not
//! show: where `completion_tokens` says that it is missing, it is read off `scores` (`sum_logprob`,
//! `margin`), which count it. Promises: one answer per
//! id, the last; constrained answers (`form`) and answers without tokens are left out and counted;
//! a line cut off at the end of the file is ignored, any other bad line is named.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::confidence::{Feature, Graded, Running, Source};
use crate::request::Trace;

/// How far off a number of a record is: four decimals, two of them subtracted.
const ROUNDED: f32 = 2e-4;

/// The graded answers of one model file.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The SHA-256 of the model's file.
    pub model_sha256: String,
    /// Answers by id.
    pub answers: BTreeMap<String, Answered>,
    /// What else is known of the same answers.
    pub about: BTreeMap<String, About>,
    /// The features that all answers have.
    pub known: Vec<Feature>,
    /// Answers left out: constrained, or without tokens.
    pub left_out: usize,
}

/// What the record of an answer says besides its tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct About {
    /// Whether somebody graded it; else [`Graded::right`] means nothing.
    pub is_graded: bool,
    /// The answer.
    pub text: Option<String>,
    /// The kind of question.
    pub task: Option<String>,
}

/// A graded answer, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Its features and its grade.
    pub graded: Graded,
    /// Its tokens.
    pub trace: Trace,
}

#[derive(Debug, Deserialize)]
struct Record {
    model: String,
    id: String,
    right: Option<bool>,
    text: Option<String>,
    task: Option<String>,
    #[serde(default)]
    file: String,
    form: Option<String>,
    finish: Option<String>,
    #[serde(default)]
    logprobs: Vec<f32>,
    margins: Option<Vec<f32>>,
    top_logprobs: Option<Vec<Vec<f32>>>,
    entropies: Option<Vec<f32>>,
    completion_tokens: Option<usize>,
    #[serde(default)]
    scores: BTreeMap<String, f64>,
}

impl Records {
    /// Reads the answers of `model` among the lines of a file.
    ///
    /// # Errors
    /// A line that is no record; no answer of the model; answers of two files of it.
    pub fn parse(text: &str, model: &str) -> Result<Records, String> {
        let mut found = BTreeMap::new();
        let mut left_out = 0;
        for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let record: Record = match serde_json::from_str(line) {
                Ok(record) => record,
                Err(error) if error.is_eof() && text.ends_with(line) => continue,
                Err(error) => return Err(format!("line {}: {error}", place + 1)),
            };
            let is_free = record.form.as_deref().is_none_or(|form| form == "free");
            if record.model != model {
                continue;
            }
            if !is_free || record.logprobs.is_empty() {
                left_out += 1;
                continue;
            }
            found.insert(record.id.clone(), (place + 1, record));
        }
        let Some((_, (_, first))) = found.first_key_value() else {
            return Err(format!("no answer of \"{model}\" with log-probabilities is there"));
        };
        let file = first.file.clone();
        if file.is_empty() {
            return Err(format!("answers of \"{model}\" do not name the file of the model (\"file\": its SHA-256)"));
        }
        if let Some((place, other)) = found.values().find(|(_, record)| record.file != file) {
            let other = &other.file;
            return Err(format!(
                "line {place}: an answer of model file {other} among those of {file}; give them apart"
            ));
        }
        let about = found.iter().map(|(id, (_, record))| (id.clone(), record.about())).collect();
        let known = known(found.values().map(|(_, record)| record));
        let grade = |(id, (place, record)): (String, (usize, Record))| match record.grade() {
            Ok(answered) => Ok((id, answered)),
            Err(why) => Err(format!("line {place}: {why}")),
        };
        let answers: Result<BTreeMap<String, Answered>, String> = found.into_iter().map(grade).collect();
        Ok(Records { model_sha256: file, answers: answers?, about, known, left_out })
    }
}

/// The features that every record tells.
fn known<'r>(records: impl Iterator<Item = &'r Record> + Clone) -> Vec<Feature> {
    let entropies = records.clone().all(|record| record.entropies.is_some());
    let finish = records.clone().all(|record| record.finish.is_some());
    let is_known = |feature: &Feature| match feature {
        Feature::MeanEntropy | Feature::MaxEntropy | Feature::FirstEntropy => entropies,
        Feature::Ended => finish,
        feature => feature.source() == Source::Tokens,
    };
    Feature::ALL.into_iter().filter(is_known).collect()
}

impl Record {
    fn about(&self) -> About {
        About { is_graded: self.right.is_some(), text: self.text.clone(), task: self.task.clone() }
    }

    fn grade(self) -> Result<Answered, String> {
        let tokens = self.logprobs.len();
        let margins = match (self.margins, &self.top_logprobs) {
            (Some(margins), _) => margins,
            (None, Some(top)) => top.iter().map(|top| margin(top)).collect::<Option<Vec<f32>>>().unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        if margins.len() != tokens {
            return Err(format!("{tokens} logprobs need as many margins, or top_logprobs of two and more"));
        }
        let entropies = self.entropies.unwrap_or_else(|| vec![0.0; tokens]);
        if entropies.len() != tokens {
            return Err(format!("{tokens} logprobs, but {} entropies", entropies.len()));
        }
        let ended = self.finish.as_deref() == Some("stop");
        let mut trace = Trace { logprobs: self.logprobs, margins, entropies, ended };
        if ended && self.completion_tokens == Some(tokens + 1) {
            add_end(&mut trace, &self.scores)?;
        }
        let features = Running::of(&trace).features().ok_or("no token")?;
        Ok(Answered { graded: Graded { features, right: self.right.unwrap_or(false) }, trace })
    }
}

/// Adds the token that ended the turn. Its log-probability is what is missing of the sum; its margin is
/// the smallest, where no other token has it, else it is not known and taken to be usual.
fn add_end(trace: &mut Trace, scores: &BTreeMap<String, f64>) -> Result<(), String> {
    let score = |feature: Feature| scores.get(feature.name()).copied();
    let (Some(sum), Some(least)) = (score(Feature::SumLogprob), score(Feature::Margin)) else {
        return Err("the token that ended the turn is not among the logprobs, and no scores tell of it".to_owned());
    };
    let mean = |all: &[f32]| all.iter().sum::<f32>() / all.len() as f32;
    let shown: f64 = trace.logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
    let least = least as f32;
    let is_least = trace.margins.iter().all(|margin| *margin > least + ROUNDED);
    let margin = if is_least { least } else { mean(&trace.margins) };
    trace.logprobs.push((sum - shown).min(0.0) as f32);
    trace.margins.push(margin);
    trace.entropies.push(mean(&trace.entropies));
    Ok(())
}

/// The gap of logits between the two likeliest tokens is that of their log-probabilities.
fn margin(top: &[f32]) -> Option<f32> {
    let mut falling = top.to_vec();
    falling.sort_by(|a, b| b.total_cmp(a));
    Some(falling.first()? - falling.get(1)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(more: Value) -> Value {
        let mut record = json!({"model": "local/s", "id": "a", "right": true, "file": "ab", "finish": "stop",
            "logprobs": [-0.5, -0.25], "margins": [3.0, 1.0]});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    }

    fn read(more: Value) -> Result<Answered, String> {
        let records = Records::parse(&answer(more).to_string(), "local/s")?;
        Ok(records.answers["a"].clone())
    }

    #[test]
    fn the_token_that_ended_the_turn_is_read_off_the_scores_that_count_it() {
        let scores = json!({"sum_logprob": -2.75, "margin": 0.125});
        let answered = read(json!({"completion_tokens": 3, "scores": scores})).unwrap();
        let get = |feature| answered.graded.features.get(feature);
        assert_eq!((get(Feature::SumLogprob), get(Feature::MinLogprob), get(Feature::Margin)), (-2.75, -2.0, 0.125));
        assert!((get(Feature::LogTokens).exp() - 3.0).abs() < 1e-9 && answered.trace.ended);
        let usual = read(json!({"completion_tokens": 3, "scores": {"sum_logprob": -0.75, "margin": 1.0}})).unwrap();
        assert_eq!(usual.graded.features.get(Feature::Margin), 1.0);
        assert_eq!(usual.trace.logprobs[2], 0.0);
    }

    #[test]
    fn an_answer_whose_end_nothing_tells_of_is_refused() {
        let why = read(json!({"completion_tokens": 3})).unwrap_err();
        assert!(why.starts_with("line 1: the token that ended the turn"), "{why}");
        assert_eq!(read(json!({"completion_tokens": 2})).unwrap().trace.logprobs.len(), 2);
        let cut = read(json!({"completion_tokens": 3, "finish": "length"})).unwrap();
        assert_eq!(cut.trace.logprobs.len(), 2, "it was cut off: there is no end");
    }
}
