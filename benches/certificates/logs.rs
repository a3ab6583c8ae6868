//! Public logs as traffic: a score that has a name, and right or wrong answers of two models.
//!
//! ZeroEval: of how many other small models an answer is the same. RouteLLM: what a scorer of the text
//! predicts that was trained on a separate third of the prompts. Reads a folder, calls nobody. The
//! program calls `report`.

use std::collections::HashMap;
use std::path::Path;

use weir::confidence::Split;
use weir::confidence::certify::Risk;
use weir::confidence::gap::{About, Predictor};
use weir::lab::logs::{self, Form, Row, Source};

use crate::experiment::Outcome;
use crate::{Report, Traffic};

/// The local models of ZeroEval, by data set: the first is kept or not, the others agree or not.
const ZEROEVAL: [(&str, &[&str]); 3] = [("gsm", &GSM), ("math-l5", &SMALL), ("crux", &SMALL)];
const GSM: [&str; 8] = [
    "Qwen2-7B-Instruct",
    "Phi-3.5-mini-instruct",
    "Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct",
    "Mistral-Nemo-Instruct-2407",
    "Yi-1.5-9B-Chat",
    "gemma-2-2b-it",
    "gemma-2-9b-it",
];
const SMALL: [&str; 10] = [
    "Qwen2.5-7B-Instruct",
    "Qwen2.5-3B-Instruct",
    "Qwen2-7B-Instruct",
    "Phi-3-mini-4k-instruct",
    "Phi-3.5-mini-instruct",
    "Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct",
    "Yi-1.5-9B-Chat",
    "gemma-2-2b-it",
    "gemma-2-9b-it",
];
const UPSTREAM: &str = "gpt-4o-2024-08-06";
const ROUTELLM: [&str; 2] = ["mmlu", "gsm8k"];
/// The share of prompts that a scorer of the text is trained on.
const TRAINED: f64 = 1.0 / 3.0;

/// The tables of the logs in `folder`.
pub(crate) fn report(report: &mut Report, folder: &Path) -> Result<(), String> {
    report.say("## Public logs\n");
    report.say(&format!(
        "ZeroEval (github.com/WildEval/ZeroEval): {} on GSM8K and {} on MATH level 5 and CRUXEval, {UPSTREAM} upstream; \
         score: with how many other small models the answer agrees. RouteLLM (github.com/lm-sys/RouteLLM): \
         Mixtral-8x7B, GPT-4 upstream; score: the loss that a ridge on the prompt's words and shape predicts, trained \
         on a third of the prompts, which take no further part.\n",
        GSM[0], SMALL[0]
    ));
    for (title, risk) in [("Selective risk", Risk::Selective), ("Regret risk", Risk::Regret)] {
        let mut traffic = Traffic::new();
        for (name, models) in ZEROEVAL {
            traffic.push((format!("ZeroEval {name}, agreement"), agreement(folder, name, models, risk)?));
        }
        for name in ROUTELLM {
            traffic.push((format!("RouteLLM {name}, text"), text(folder, name, risk)?));
        }
        report.table(title, risk, &traffic);
    }
    Ok(())
}

fn loss(row: &Row, risk: Risk) -> f64 {
    let (wrong, right_above) = (1.0 - row.local, row.upstream);
    if risk == Risk::Regret { wrong * right_above } else { wrong }
}

fn agreement(folder: &Path, name: &str, models: &[&str], risk: Risk) -> Result<Vec<Outcome>, String> {
    let mut agreeing: HashMap<String, f64> = HashMap::new();
    let mut rows = Vec::new();
    for second in &models[1..] {
        let source = Source {
            log: folder.join(format!("zeroeval/{name}_results.csv.gz")),
            form: Form::ZeroEval,
            prompts: Some(folder.join(format!("zeroeval/{name}_questions.csv.gz"))),
            local: Some(models[0].to_owned()),
            second: Some((*second).to_owned()),
            upstream: Some(UPSTREAM.to_owned()),
        };
        rows = logs::read(&source).map_err(|problem| problem.to_string())?.rows;
        for row in &rows {
            *agreeing.entry(row.id.clone()).or_default() += f64::from(row.agrees == Some(true));
        }
    }
    let outcome = |row: &Row| {
        let loss = loss(row, risk);
        Outcome { score: agreeing[&row.id], label: loss, truth: loss }
    };
    Ok(rows.iter().map(outcome).collect())
}

fn text(folder: &Path, name: &str, risk: Risk) -> Result<Vec<Outcome>, String> {
    let log = folder.join(format!("routellm/{name}.csv.gz"));
    let source = Source { log, form: Form::RouteLlm, prompts: None, local: None, second: None, upstream: None };
    let rows = logs::read(&source).map_err(|problem| problem.to_string())?.rows;
    let (taught, traffic): (Vec<Row>, Vec<Row>) =
        rows.into_iter().partition(|row| Split::of(&row.prompt, TRAINED) == Split::Fit);
    let scorer =
        Predictor::of_prompts(About::default(), taught.iter().map(|row| (row.prompt.as_str(), loss(row, risk))));
    let outcome = |row: &Row| {
        let loss = loss(row, risk);
        Outcome { score: -scorer.before(&row.prompt), label: loss, truth: loss }
    };
    Ok(traffic.iter().map(outcome).collect())
}
