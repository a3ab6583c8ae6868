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
#[path = "scores/kernel.rs"]
mod kernel;
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
use measures::{Gain, Tested, gain, unseen, within};
use models::{Kind, score};
use rows::{Row, Rows, cached};
use weir::confidence::measure::{aurc, ece};

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
    let asks_nothing: Vec<Candidate> = candidates().into_iter().filter(Candidate::asks_nothing).collect();
    let mut text = format!(
        "# Scores of {}\n\nGains are over the best raw score on the rows tested on, with 95 % intervals: of {} paired \
         resamples of the test rows; on unseen tasks of {} splits of the tasks in halves, resampled by task. Constants \
         of the kernel were chosen by cross-validation on the rows of the fit.\n\n## All rows, scores that ask nothing\n\n",
        arguments.model, arguments.resamples, arguments.splits
    );
    text += &table(&read.all, &asks_nothing, arguments)?;
    text += "\n## Rows with all evidence, all scores\n\n";
    text += &table(&read.complete, &candidates(), arguments)?;
    Ok(text)
}

fn table(rows: &[Row], candidates: &[Candidate], arguments: &Arguments) -> Result<String, String> {
    let (fit, test): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.fit);
    let tested = |candidate: &Candidate| Tested {
        scores: score(candidate.kind, &candidate.columns, &fit, &test),
        rows: test.clone(),
    };
    // The strictest base: the raw score that turns out best on the very rows that are tested on.
    let raw = RAW.map(Candidate::raw).into_iter();
    let base = raw.max_by(|a, b| tested(a).auroc().total_cmp(&tested(b).auroc())).ok_or("no raw score is there")?;
    let best_raw = tested(&base);
    let right = test.iter().filter(|row| row.right).count();
    let mut text = format!(
        "Fitted on {} rows, tested on {} ({right} right). Best raw score: {}.\n\n\
         | score | AUROC | gain | within tasks | gain within | on unseen tasks | ECE | area under risk-coverage |\n\
         |---|---|---|---|---|---|---|---|\n",
        fit.len(),
        test.len(),
        base.name,
    );
    for candidate in std::iter::once(&base).chain(candidates) {
        text += &line(
            candidate,
            &tested(candidate),
            &best_raw,
            &unseen(candidate, &base, rows, arguments.splits),
            arguments,
        )?;
    }
    Ok(text)
}

fn line(
    candidate: &Candidate,
    found: &Tested<'_>,
    base: &Tested<'_>,
    unseen: &Gain,
    arguments: &Arguments,
) -> Result<String, String> {
    let pairs = found.pairs();
    let (low, high) = gain(found, base, arguments.resamples);
    let (inside, base_inside) = (within(found), within(base));
    let ece = if candidate.kind == Kind::Raw { None } else { ece(&pairs, 10) };
    let shown = |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| format!("{share:.3}"));
    let mut text = String::new();
    writeln!(
        text,
        "| {} | {:.3} | {:+.3} [{low:+.3}, {high:+.3}] | {inside:.3} | {:+.3} | {:+.3} [{:+.3}, {:+.3}] | {} | {} |",
        candidate.name,
        found.auroc(),
        found.auroc() - base.auroc(),
        inside - base_inside,
        unseen.mean,
        unseen.low,
        unseen.high,
        shown(ece),
        shown(aurc(&pairs)),
    )
    .map_err(|error| error.to_string())?;
    Ok(text)
}
