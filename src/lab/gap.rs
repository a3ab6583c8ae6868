//! From graded answers of two models to a predictor of the gap between them.
//!
//! Promises: a request counts once both models have answered it and its prompt is known; how well the
//! gap is predicted is measured on prompts that the measured fit did not see. Called by `weir gap`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::metrics::{Ranked, apgr, sort};
use super::records::Records;
use crate::confidence::gap::{About, Example, Predictor};
use crate::confidence::{Feature, Split};

/// Fewer teach nothing.
const LEAST_ROWS: usize = 50;

/// A request that both models answered.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: String,
    example: Example,
    local: f64,
    upstream: f64,
    /// The sum of the local answer's log-probabilities, the usual order.
    sum: f64,
}

/// Requests that both models answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    rows: Vec<Row>,
    known: Vec<Feature>,
    /// The SHA-256 of the local model's file.
    pub local_sha256: String,
}

/// A request, and what was predicted of it without having learned from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// Its name.
    pub id: String,
    /// Quality of the local answer.
    pub local: f64,
    /// Quality of the upstream's.
    pub upstream: f64,
    /// By the prompt alone.
    pub before: f64,
    /// By prompt and answer.
    pub after: f64,
    /// The sum of the answer's log-probabilities.
    pub sum_logprob: f64,
}

/// How good the predictions are on requests not learned from: the mean share of the gap that is
/// closed over all shares of escalations (APGR; .5 by chance). `None` where there is no gap to close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// How many requests it is measured on.
    pub rows: usize,
    /// By the prompt alone.
    pub before: Option<f64>,
    /// By prompt and answer.
    pub after: Option<f64>,
    /// By the sum of the answer's log-probabilities, for comparison.
    pub sum: Option<f64>,
}

#[derive(Deserialize)]
struct Grade {
    model: String,
    id: String,
    right: bool,
    form: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    id: String,
    prompt: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: serde_json::Value,
}

impl Asked {
    /// The last thing the user said.
    fn prompt(self) -> Option<String> {
        let said = self.messages.into_iter().rev().find(|message| message.role == "user");
        self.prompt.or_else(|| said?.content.as_str().map(str::to_owned))
    }
}

impl Pairs {
    /// Joins the answers of two models in `records` (as `weir calibrate` reads them; of the upstream's
    /// no tokens are needed) with the prompts, one JSON object per line: `id`, and `prompt`
    /// or `messages`.
    ///
    /// # Errors
    /// A line that cannot be read; too few requests that both answered.
    pub fn join(records: &str, prompts: &str, local: &str, upstream: &str) -> Result<Pairs, String> {
        let ours = Records::parse(records, local)?;
        let is_theirs =
            |grade: &Grade| grade.model == upstream && grade.form.as_deref().is_none_or(|form| form == "free");
        let theirs: BTreeMap<String, bool> =
            lines::<Grade>(records)?.into_iter().filter(is_theirs).map(|grade| (grade.id, grade.right)).collect();
        let prompts: BTreeMap<String, String> = lines::<Asked>(prompts)?
            .into_iter()
            .filter_map(|asked| Some((asked.id.clone(), asked.prompt()?)))
            .collect();
        let mut rows = Vec::new();
        for (id, answered) in &ours.answers {
            let (Some(right), Some(prompt)) = (theirs.get(id), prompts.get(id)) else { continue };
            let quality = |right: bool| f64::from(u8::from(right));
            let (here, there) = (quality(answered.graded.right), quality(*right));
            let features = answered.graded.features;
            let example = Example { prompt: prompt.clone(), features, gap: there - here };
            rows.push(Row {
                id: id.clone(),
                example,
                local: here,
                upstream: there,
                sum: features.get(Feature::SumLogprob),
            });
        }
        if rows.len() < LEAST_ROWS {
            let found = rows.len();
            return Err(format!(
                "{found} requests with a prompt were answered by {local} and by {upstream}; a fit needs {LEAST_ROWS}: grade {} more",
                LEAST_ROWS - found
            ));
        }
        Ok(Pairs { rows, known: ours.known, local_sha256: ours.model_sha256 })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// The predictor that learns from all of them.
    pub fn fit(&self, about: About) -> Predictor {
        fit(&self.rows, &self.known, about)
    }

    /// What a target made of (local, upstream) qualities is predicted to be, by a fit on the half of
    /// the prompts that the request is not of.
    pub fn predict(&self, about: &About, target: impl Fn(f64, f64) -> f64) -> Vec<Predicted> {
        let aimed = |row: &Row| {
            let example = Example { gap: target(row.local, row.upstream), ..row.example.clone() };
            Row { example, ..row.clone() }
        };
        let (one, other): (Vec<Row>, Vec<Row>) =
            self.rows.iter().map(aimed).partition(|row| Split::of(&row.example.prompt, 0.5) == Split::Fit);
        let sides = [(&one, &other), (&other, &one)].map(|(seen, unseen)| {
            let fitted = fit(seen, &self.known, about.clone());
            unseen.iter().map(move |row| row.predicted(&fitted)).collect::<Vec<_>>()
        });
        sides.concat()
    }

    /// What fits on half of the prompts are worth on the others.
    pub fn measure(&self, about: &About) -> Quality {
        let rows = self.predict(about, |local, upstream| upstream - local);
        let by = |rank: &dyn Fn(&Predicted) -> f64| {
            let ranked =
                rows.iter().map(|row| Ranked { rank: rank(row), local: row.local, upstream: row.upstream, cost: 1.0 });
            let mut ranked: Vec<Ranked> = ranked.collect();
            sort(&mut ranked);
            apgr(&ranked)
        };
        Quality {
            rows: rows.len(),
            before: by(&|row| row.before),
            after: by(&|row| row.after),
            sum: by(&|row| -row.sum_logprob),
        }
    }
}

impl Row {
    fn predicted(&self, by: &Predictor) -> Predicted {
        Predicted {
            id: self.id.clone(),
            local: self.local,
            upstream: self.upstream,
            before: by.before(&self.example.prompt),
            after: by.gap_of(&self.example),
            sum_logprob: self.sum,
        }
    }
}

fn fit(rows: &[Row], known: &[Feature], about: About) -> Predictor {
    let examples: Vec<Example> = rows.iter().map(|row| row.example.clone()).collect();
    Predictor::of_answers(about, &examples, known)
}

/// The values of JSON lines; one cut off at the end is ignored.
fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => values.push(value),
            Err(error) if error.is_eof() && text.ends_with(line) => {}
            Err(error) => return Err(format!("line {}: {error}", place + 1)),
        }
    }
    Ok(values)
}

/// The text of a file, gzipped or not.
///
/// # Errors
/// It cannot be read, or is no text.
pub fn read(file: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("{}: cannot read: {error}", file.display());
    let bytes = fs::read(file).map_err(cannot)?;
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        MultiGzDecoder::new(&*bytes).read_to_string(&mut text).map_err(cannot)?;
    } else {
        (&*bytes).read_to_string(&mut text).map_err(cannot)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Sums go wrong here unless the model is sure; riddles go wrong on both sides.
    fn logs(rows: usize) -> (String, String) {
        let (mut records, mut prompts) = (String::new(), String::new());
        for row in 0..rows {
            let (sum, sure) = (row % 2 == 0, row % 3 == 0);
            let logprob = if sure { -0.01 } else { -1.0 };
            let (here, there) = (sum && sure, sum);
            let id = format!("r{row}");
            let ours = json!({"model": "local/s", "id": id, "right": here, "file": "ab".repeat(32), "finish": "stop",
                "logprobs": [logprob, logprob * 0.5], "margins": [1.0 - logprob, 2.0]});
            let theirs = json!({"model": "up/l", "id": id, "right": there, "file": "cd"});
            records += &format!("{ours}\n{theirs}\n");
            let text = if sum { format!("add {row} and {}", row + 1) } else { format!("riddle {row} of the sphinx") };
            prompts += &format!("{}\n", json!({"id": id, "messages": [{"role": "user", "content": text}]}));
        }
        (records, prompts)
    }

    fn about() -> About {
        About {
            local: "local/s".into(),
            local_sha256: None,
            upstream: "up/l".into(),
            rows: 0,
            date: "2026-11-24".into(),
        }
    }

    #[test]
    fn a_gap_is_predicted_from_the_prompt_and_better_from_the_answer_too() {
        let (records, prompts) = logs(400);
        let pairs = Pairs::join(&records, &prompts, "local/s", "up/l").unwrap();
        let Quality { rows, before, after, sum } = pairs.measure(&about());
        assert!(rows > 150, "{rows}");
        let [before, after, sum] = [before, after, sum].map(Option::unwrap);
        assert!(before > sum && after > before + 0.05, "{before} {after} {sum}");
    }

    #[test]
    fn a_fit_survives_its_file() {
        let (records, prompts) = logs(60);
        let fitted = Pairs::join(&records, &prompts, "local/s", "up/l").unwrap().fit(about());
        let again = Predictor::parse(fitted.render().unwrap().as_bytes()).unwrap();
        assert!(again == fitted && again.reads_answers());
    }

    #[test]
    fn too_few_pairs_are_refused_with_how_many_more_are_needed() {
        let (records, prompts) = logs(30);
        let refused = |upstream| Pairs::join(&records, &prompts, "local/s", upstream).unwrap_err();
        assert!(refused("up/l").contains("30 requests with a prompt") && refused("up/l").contains("grade 20 more"));
        assert!(refused("up/other").starts_with("0 requests"));
    }
}
