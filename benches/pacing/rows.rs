//! The requests: what both models made of them, what they cost, and what was predicted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weir::confidence::Split;
use weir::confidence::gap::{About, Predictor};
use weir::lab::gap::{Pairs, read};
use weir::lab::logs::{self, Form, Source};

/// Dollars per million tokens of prompts and of answers: a small hosted model's.
const INPUT: f64 = 0.4;
const OUTPUT: f64 = 1.6;

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) local: f64,
    pub(crate) upstream: f64,
    /// The predicted gap.
    pub(crate) gap: f64,
    /// The predicted chance that the local answer is wrong.
    pub(crate) wrong: f64,
    /// Minus the answer's log-probability; `None`: the log has no answers.
    pub(crate) doubt: Option<f64>,
    pub(crate) prompt_usd: f64,
    pub(crate) output_usd: f64,
    /// What it is expected to cost: its prompt, and the mean answer.
    pub(crate) expected_usd: f64,
}

impl Row {
    pub(crate) fn usd(&self) -> f64 {
        self.prompt_usd + self.output_usd
    }
}

pub(crate) struct Requests {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

impl Requests {
    fn new(title: String, mut rows: Vec<Row>) -> Requests {
        let mean = rows.iter().map(|row| row.output_usd).sum::<f64>() / rows.len() as f64;
        rows.iter_mut().for_each(|row| row.expected_usd = row.prompt_usd + mean);
        Requests { title, rows }
    }
}

#[derive(Deserialize)]
struct Spent {
    model: String,
    id: String,
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

fn about(local: &str, upstream: &str) -> About {
    About {
        local: local.to_owned(),
        local_sha256: None,
        upstream: upstream.to_owned(),
        rows: 0,
        date: "bench".to_owned(),
    }
}

/// Our own answers, with the tokens that the upstream really took.
pub(crate) fn recorded(records: &Path, tasks: &Path, local: &str, upstream: &str) -> Result<Requests, String> {
    let (records, tasks) = (read(records)?, read(tasks)?);
    let pairs = Pairs::join(&records, &tasks, local, upstream)?;
    let about = about(local, upstream);
    let wrong: HashMap<String, f64> =
        pairs.predict(&about, |local, _| 1.0 - local).into_iter().map(|row| (row.id, row.after)).collect();
    let spent: HashMap<String, Spent> = records
        .lines()
        .filter_map(|line| serde_json::from_str::<Spent>(line).ok())
        .filter(|spent| spent.model == upstream)
        .map(|spent| (spent.id.clone(), spent))
        .collect();
    let row = |row: weir::lab::gap::Predicted| {
        let spent = spent.get(&row.id)?;
        Some(Row {
            local: row.local,
            upstream: row.upstream,
            gap: row.after,
            wrong: *wrong.get(&row.id)?,
            doubt: Some(-row.sum_logprob),
            prompt_usd: spent.prompt_tokens as f64 * INPUT / 1e6,
            output_usd: spent.completion_tokens as f64 * OUTPUT / 1e6,
            expected_usd: 0.0,
        })
    };
    let rows: Vec<Row> =
        pairs.predict(&about, |local, upstream| upstream - local).into_iter().filter_map(row).collect();
    Ok(Requests::new(format!("{local} → {upstream}, {} recorded answers", rows.len()), rows))
}

/// A public log: prompts only; answers are taken to have 150 tokens, prompts a quarter of their characters.
pub(crate) fn routellm(file: &Path) -> Result<Requests, String> {
    const TOKENS: f64 = 150.0;
    let source =
        Source { log: file.to_owned(), form: Form::RouteLlm, prompts: None, local: None, second: None, upstream: None };
    let log = logs::read(&source).map_err(|problem| problem.to_string())?;
    let (one, other): (Vec<_>, Vec<_>) = log.rows.iter().partition(|row| Split::of(&row.prompt, 0.5) == Split::Fit);
    let mut rows = Vec::new();
    for (seen, unseen) in [(&one, &other), (&other, &one)] {
        let fit = |target: &dyn Fn(&logs::Row) -> f64| {
            let examples = seen.iter().map(|row| (row.prompt.as_str(), target(row)));
            Predictor::of_prompts(about(&log.local, &log.upstream), examples)
        };
        let (gap, wrong) = (fit(&|row| row.upstream - row.local), fit(&|row| 1.0 - row.local));
        rows.extend(unseen.iter().map(|row| Row {
            local: row.local,
            upstream: row.upstream,
            gap: gap.before(&row.prompt),
            wrong: wrong.before(&row.prompt),
            doubt: None,
            prompt_usd: row.prompt.chars().count() as f64 / 4.0 * INPUT / 1e6,
            output_usd: TOKENS * OUTPUT / 1e6,
            expected_usd: 0.0,
        }));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let (local, upstream) = (&log.local, &log.upstream);
    Ok(Requests::new(format!("{name}: {local} → {upstream}, {} prompts, costs modelled", rows.len()), rows))
}

/// Where `make eval` keeps its records.
pub(crate) fn default_records() -> Result<PathBuf, String> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let weir = env("WEIR_CACHE").or_else(|| cache().map(|cache| cache.join("weir")));
    weir.map(|weir| weir.join("eval/answers.jsonl"))
        .ok_or_else(|| "no cache folder is known: give --records FILE".to_owned())
}
