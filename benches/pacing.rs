//! Whether a budget holds over a varying load, and what value per dollar is worth beside confidence.
//!
//! Reads the answers that `make eval` recorded of two models, and public logs where they are given;
//! predicts every request's gap by a fit that did not see it. First replays the requests over three
//! days with quiet nights, bursts and rising prices, at several budgets, by the pacer of the gateway.
//! Then buys the same number of dollars' worth of escalations in several orders. Calls nobody.
//!
//!     cargo bench --no-default-features --bench pacing -- --records answers.jsonl

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "pacing/load.rs"]
mod load;
#[path = "pacing/orders.rs"]
mod orders;
#[path = "pacing/rows.rs"]
mod rows;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Does a budget hold, and is value per dollar a better order than confidence?
#[derive(Parser)]
struct Arguments {
    /// The answers that `make eval` recorded [default: eval/answers.jsonl in the cache folder]
    #[arg(long)]
    records: Option<PathBuf>,
    /// The tasks they answer, JSON lines, may be gzip
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tasks/tasks.jsonl.gz"))]
    tasks: PathBuf,
    /// The model whose answers are kept or not
    #[arg(long, default_value = "local/qwen2.5-coder-0.5b-instruct")]
    local: String,
    /// The model that is asked otherwise
    #[arg(long, default_value = "large/qwen2.5-coder-1.5b-instruct")]
    upstream: String,
    /// A public log in RouteLLM's form to be replayed as well; may be given several times
    #[arg(long)]
    routellm: Vec<PathBuf>,
    /// Seed of loads and resamples
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Where the report is written too
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pacing: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let records = arguments.records.clone().map_or_else(rows::default_records, Ok)?;
    let mut report = String::from("# A budget over time, and what it buys\n\nMade by `make bench-pacing`.\n");
    let mut logs = vec![rows::recorded(&records, &arguments.tasks, &arguments.local, &arguments.upstream)?];
    for file in &arguments.routellm {
        logs.push(rows::routellm(file)?);
    }
    for log in &logs {
        report += &format!("\n## {}\n\n", log.title);
        report += &load::report(log, arguments.seed);
        report += &orders::report(log, arguments.seed);
    }
    print!("{report}");
    let cannot = |error: std::io::Error| format!("cannot write: {error}");
    arguments.out.as_ref().map_or(Ok(()), |out| fs::write(out, &report).map_err(cannot))
}
