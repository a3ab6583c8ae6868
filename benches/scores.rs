//! How well scores tell right from wrong answers: fitted on one half of the rows, tested on the other.
//!
//! Reads the small model's recorded answers and the evidence beside them, fits each score of a list on
//! the calibrate half, and reports on the report half: AUROC over all rows with the bootstrap interval
//! of the gain over the best raw score, AUROC within tasks, calibration error; and the gain on tasks
//! that the fit never saw. Calls nobody.
//!
//!     cargo bench --no-default-features --bench scores -- --answers answers.jsonl --evidence evidence.jsonl

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "scores/candidates.rs"]
mod candidates;
#[path = "scores/measures.rs"]
mod measures;
#[path = "scores/models.rs"]
mod models;
#[path = "scores/rows.rs"]
mod rows;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candidates::{Candidate, RAW, candidates};
use clap::Parser;
use measures::{Tested, gain, unseen, within};
use models::{Kind, score};
use rows::{Row, Rows, cached};
use weir::confidence::measure::{aurc, auroc, ece};

/// How well do scores tell right from wrong answers?
#[derive(Parser)]
struct Arguments {
    /// The answers that were recorded [default: eval/answers.jsonl in the cache folder]
    #[arg(long)]
    answers: Option<PathBuf>,
    /// The evidence that collect.py recorded [default: eval/evidence.jsonl in the cache folder]
    #[arg(long)]
    evidence: Option<PathBuf>,
    /// The graded tasks, JSON lines, gzipped or not
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tasks/tasks.jsonl.gz"))]
    tasks: PathBuf,
    /// The model whose answers are believed or not
    #[arg(long, default_value = "local/qwen2.5-coder-0.5b-instruct")]
    model: String,
    /// Resamples of an interval
    #[arg(long, default_value_t = 2000)]
    resamples: usize,
    /// Splits of the tasks into seen and unseen
    #[arg(long, default_value_t = 20)]
    splits: usize,
    /// The table to write
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/scores/results.md"))]
    out: PathBuf,
    /// A calibration file to write too, of the score that is best of those a gate can read
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scores: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let or_cached = |path: &Option<PathBuf>, name: &str| path.clone().unwrap_or_else(|| cached(name));
    let answers = or_cached(&arguments.answers, "answers.jsonl");
    let evidence = or_cached(&arguments.evidence, "evidence.jsonl");
    let read = Rows::read(&arguments.tasks, &answers, &evidence, &arguments.model)?;
    let text = report(&read, arguments)?;
    println!("{text}");
    write(&arguments.out, &text)?;
    match &arguments.calibration {
        Some(path) => write(path, &candidates::calibration(&read, &arguments.model)?),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: cannot write: {error}", path.display()))
}

fn report(read: &Rows, arguments: &Arguments) -> Result<String, String> {
    let (fit, test): (Vec<&Row>, Vec<&Row>) = read.rows.iter().partition(|row| row.fit);
    let tested = |candidate: &Candidate| Tested {
        scores: score(candidate.kind, &candidate.columns, &fit, &test),
        rows: test.clone(),
    };
    // The strictest base: the raw score that turns out best on the very rows that are tested on.
    let raw = RAW.map(|feature| Candidate::raw(feature));
    let base = raw.into_iter().max_by(|a, b| tested(a).auroc().total_cmp(&tested(b).auroc()));
    let base = base.ok_or("no raw score is there")?;
    let best_raw = tested(&base);
    let right = test.iter().filter(|row| row.right).count();
    let mut text = format!(
        "# Scores of {}\n\nFitted on {} rows, tested on {} ({} right); {} answers left out for want of evidence. \
         Best raw score on the test rows: `{}`. Gains are over it, with 95 % intervals: of {} paired resamples of \
         the test rows; on unseen tasks of {} splits of the tasks in halves, resampled by task.\n\n\
         | score | AUROC | gain | within tasks | gain within | on unseen tasks | ECE | area under risk-coverage |\n\
         |---|---|---|---|---|---|---|---|\n",
        arguments.model,
        fit.len(),
        test.len(),
        right,
        read.incomplete,
        base.name,
        arguments.resamples,
        arguments.splits
    );
    for candidate in std::iter::once(base.clone()).chain(candidates()) {
        let found = tested(&candidate);
        let pairs = found.pairs();
        let (low, high) = gain(&found, &best_raw, arguments.resamples, |scored| auroc(scored));
        let (low_within, high_within) = (within(&found), within(&best_raw));
        let unseen = unseen(&candidate, &base, &read.rows, arguments.splits);
        let ece = if candidate.kind == Kind::Raw { None } else { ece(&pairs, 10) };
        let shown = |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| format!("{share:.3}"));
        let line = writeln!(
            text,
            "| {} | {:.3} | {:+.3} [{low:+.3}, {high:+.3}] | {:.3} | {:+.3} | {:+.3} [{:+.3}, {:+.3}] | {} | {} |",
            candidate.name,
            found.auroc(),
            found.auroc() - best_raw.auroc(),
            low_within,
            low_within - high_within,
            unseen.mean,
            unseen.low,
            unseen.high,
            shown(ece),
            shown(aurc(&pairs)),
        );
        line.map_err(|error| error.to_string())?;
        eprintln!("{}", text.lines().last().unwrap_or_default());
    }
    Ok(text)
}
