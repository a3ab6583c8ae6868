//! The agreement cascade of every pair of small models: keep an answer that both give, else go up.
//!
//! All pairs are told, the median first, so that no lucky one stands for the others. The program
//! calls `report`.

use std::fmt::Write;
use std::path::Path;

use weir::lab::logs::{self, Form, Log, Source};

const UPSTREAM: &str = "gpt-4o-2024-08-06";
/// The small models of each data set.
const SMALL: [(&str, &[&str]); 3] = [("gsm", &GSM), ("math-l5", &OTHERS), ("crux", &OTHERS)];
const GSM: [&str; 8] = [
    "Phi-3.5-mini-instruct",
    "Qwen2-7B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct",
    "Mistral-Nemo-Instruct-2407",
    "Yi-1.5-9B-Chat",
    "gemma-2-2b-it",
    "gemma-2-9b-it",
];
const OTHERS: [&str; 10] = [
    "Phi-3-mini-4k-instruct",
    "Phi-3.5-mini-instruct",
    "Qwen2-7B-Instruct",
    "Qwen2.5-3B-Instruct",
    "Qwen2.5-7B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct",
    "Yi-1.5-9B-Chat",
    "gemma-2-2b-it",
    "gemma-2-9b-it",
];

/// What the cascade of one pair comes to.
struct Pair {
    models: String,
    calls: f64,
    right_when_agreeing: f64,
    quality: f64,
    /// Against the upstream alone.
    change: f64,
}

/// The table of the pairs' percentiles, and the pair that others quote.
pub(crate) fn report(folder: &Path) -> Result<String, String> {
    let mut text = format!(
        "## Agreement of two small models, {UPSTREAM} upstream\n\nEvery pair; the headline is the median one. Percentiles are \
         of each column by itself, changes in points of accuracy against the upstream alone.\n\n\
         | data | pairs | calls, median (10th–90th) | change, median (10th–90th) | within 1 point | best pair | worst pair |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let mut quoted = String::new();
    for (data, models) in SMALL {
        let mut pairs = pairs(folder, data, models)?;
        if data == "gsm" {
            let pair = &pairs[0];
            let _ = writeln!(
                quoted,
                "\nThe pair that is quoted elsewhere, {}, is near the best of its 28: {:.3} at {:.3} of the calls \
                 (expected .959 at .27), {:.3} right when agreeing, upstream alone {:.3}.\n",
                pair.models,
                pair.quality,
                pair.calls,
                pair.right_when_agreeing,
                pair.quality - pair.change
            );
        }
        pairs.sort_by(|a, b| a.change.total_cmp(&b.change));
        let changes: Vec<f64> = pairs.iter().map(|pair| 100.0 * pair.change).collect();
        let mut calls: Vec<f64> = pairs.iter().map(|pair| pair.calls).collect();
        calls.sort_by(f64::total_cmp);
        let within = pairs.iter().filter(|pair| pair.change >= -0.01).count();
        let told = |pair: &Pair| format!("{}: {:+.1} at {:.2}", pair.models, 100.0 * pair.change, pair.calls);
        let _ = writeln!(
            text,
            "| {data} | {} | {:.3} ({:.3}–{:.3}) | {:+.2} ({:+.2}–{:+.2}) | {within} | {} | {} |",
            pairs.len(),
            at(&calls, 0.5),
            at(&calls, 0.1),
            at(&calls, 0.9),
            at(&changes, 0.5),
            at(&changes, 0.1),
            at(&changes, 0.9),
            told(&pairs[pairs.len() - 1]),
            told(&pairs[0]),
        );
    }
    Ok(text + &quoted)
}

/// The value below which this share of the sorted ones lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (place - place.floor()) * (high - low)
}

fn pairs(folder: &Path, data: &str, models: &[&str]) -> Result<Vec<Pair>, String> {
    let mut pairs = Vec::new();
    for (place, local) in models.iter().enumerate() {
        for second in &models[place + 1..] {
            let source = Source {
                log: folder.join(format!("zeroeval/{data}_results.csv.gz")),
                form: Form::ZeroEval,
                prompts: Some(folder.join(format!("zeroeval/{data}_questions.csv.gz"))),
                local: Some((*local).to_owned()),
                second: Some((*second).to_owned()),
                upstream: Some(UPSTREAM.to_owned()),
            };
            let log = logs::read(&source).map_err(|problem| problem.to_string())?;
            pairs.push(cascade(&log, format!("{local} + {second}")));
        }
    }
    Ok(pairs)
}

fn cascade(log: &Log, models: String) -> Pair {
    let n = log.rows.len() as f64;
    let (agreeing, others): (Vec<_>, Vec<_>) = log.rows.iter().partition(|row| row.agrees == Some(true));
    let right = agreeing.iter().map(|row| row.local).sum::<f64>();
    let quality = (right + others.iter().map(|row| row.upstream).sum::<f64>()) / n;
    Pair {
        models,
        calls: others.len() as f64 / n,
        right_when_agreeing: right / agreeing.len() as f64,
        quality,
        change: quality - log.rows.iter().map(|row| row.upstream).sum::<f64>() / n,
    }
}
