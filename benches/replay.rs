//! The public figures of routers and cascades, computed anew, and what goes beyond them.
//!
//! Replays public logs without calling anybody: the baselines as `weir replay` computes them, the
//! agreement of every pair of small models, and the learned scorer with its penalty chosen on a part of
//! its own. Prints, and writes benches/replay/results.md.
//!
//!     cargo bench --no-default-features --bench replay -- --logs FOLDER

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "replay/beyond.rs"]
mod beyond;
#[path = "replay/pairs.rs"]
mod pairs;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use weir::lab::logs::{self, Form, Log, Source};
use weir::lab::replay::{Settings, replay};

/// What others published, or what was computed from their files: log, router, what it knows, APGR, give or take.
const PUBLISHED: [(&str, &str, &str, f64, f64); 4] = [
    ("mmlu", "prompt length", "prompt", 0.586, 0.01),
    ("gsm8k", "prompt length", "prompt", 0.598, 0.03),
    ("mmlu", "TF-IDF ridge", "in-domain", 0.68, 0.02),
    ("gsm8k", "TF-IDF ridge", "in-domain", 0.615, 0.03),
];

/// The public figures of routers and cascades, from logs.
#[derive(Parser)]
struct Arguments {
    /// The folder of public logs: routellm/, zeroeval/, mmlu_pro/
    #[arg(long)]
    logs: PathBuf,
    /// Resamples of the intervals
    #[arg(long, default_value_t = 300)]
    resamples: usize,
    /// Of folds and resamples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file to write
    #[arg(long, default_value_os_t = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/replay/results.md"))]
    out: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut text =
        "# Routers and cascades on public logs\n\nMade by `make bench-replay LOGS=FOLDER`, calling nobody. Logs: \
                    RouteLLM (github.com/lm-sys/RouteLLM, Apache-2.0), ZeroEval (github.com/WildEval/ZeroEval, \
                    Apache-2.0), MMLU-Pro (github.com/TIGER-AI-Lab/MMLU-Pro, Apache-2.0).\n\n"
            .to_owned();
    text += &published(arguments)?;
    text += &pairs::report(&arguments.logs)?;
    text += &beyond::report(&arguments.logs, arguments.resamples, arguments.seed)?;
    print!("{text}");
    let out = arguments.out.display();
    std::fs::write(&arguments.out, text).map_err(|error| format!("{out}: {error}"))
}

/// The tables of `weir replay` on RouteLLM's logs, and what they should reproduce.
fn published(arguments: &Arguments) -> Result<String, String> {
    let settings =
        Settings { folds: 5, seed: arguments.seed, resamples: arguments.resamples, shares: vec![0.1, 0.2, 0.4, 0.6] };
    let mut text =
        "## Public figures\n\n| log | router | knows | APGR here | expected | |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let mut tables = String::new();
    for name in ["mmlu", "gsm8k"] {
        let report = replay(&routellm(&arguments.logs, name)?, &settings, None);
        let json = serde_json::to_value(&report).map_err(|error| error.to_string())?;
        for (_, router, knows, expected, off) in PUBLISHED.iter().filter(|published| published.0 == name) {
            let found = apgr_of(&json, router, knows).unwrap_or(f64::NAN);
            let verdict = if (found - expected).abs() <= *off { "met" } else { "MISSED" };
            let _ = writeln!(text, "| {name} | {router} | {knows} | {found:.3} | {expected} ± {off} | {verdict} |");
        }
        let _ = writeln!(tables, "### RouteLLM {name}: every router\n\n```\n{}```\n", report.render_table());
    }
    Ok(text + "\n" + &tables)
}

fn apgr_of(report: &Value, router: &str, knows: &str) -> Option<f64> {
    let routers = report["routers"].as_array()?;
    routers.iter().find(|one| one["router"] == router && one["knows"] == knows)?["apgr"].as_f64()
}

/// RouteLLM's log of this data set.
fn routellm(folder: &Path, name: &str) -> Result<Log, String> {
    let log = folder.join(format!("routellm/{name}.csv.gz"));
    let source = Source { log, form: Form::RouteLlm, prompts: None, local: None, second: None, upstream: None };
    logs::read(&source).map_err(|problem| problem.to_string())
}
