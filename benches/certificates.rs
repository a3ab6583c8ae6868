//! Whether certificates hold on real models' answers, and whether they keep anything.
//!
//! Reads the answers that `make eval` recorded, takes the rows of a slice as the whole traffic, so that
//! the true risk of every threshold is known, draws labelled samples from it again and again, and
//! certifies each. Prints one table per promise: how often the promise is broken, how often anything is
//! certified, and what is kept, with plain tuning of the threshold beside it. Calls nobody.
//!
//!     cargo bench --no-default-features --bench certificates -- --records answers.jsonl

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "certificates/experiment.rs"]
mod experiment;
#[path = "certificates/records.rs"]
mod records;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use experiment::{Cell, Draws, Outcome, Trial};
use records::{Answered, Answers};
use weir::confidence::certify::Risk;

const ALPHAS: [f64; 4] = [0.05, 0.1, 0.2, 0.3];
const DELTA: f64 = 0.1;

/// The slices, declared before any label was looked at: by the form of the answer.
const SLICES: [(&str, &[&str]); 4] = [
    ("facts", &["arith", "iso_date", "capital"]),
    ("classify", &["route", "intent", "banking"]),
    ("extract", &["span", "json"]),
    (
        "reason",
        &[
            "gsm8k",
            "bbh_boolean_expressions",
            "bbh_date_understanding",
            "bbh_disambiguation_qa",
            "bbh_hyperbaton",
            "bbh_navigate",
            "bbh_object_counting",
            "bbh_sports_understanding",
        ],
    ),
];

/// Do certificates hold? Draws labelled samples from recorded answers and certifies each.
#[derive(Parser)]
struct Arguments {
    /// The answers that `make eval` recorded [default: eval/answers.jsonl in the cache folder]
    #[arg(long)]
    records: Option<PathBuf>,
    /// The graded tasks, JSON lines, gzipped or not; may be given several times
    #[arg(long, default_values_os_t = [records::default_tasks()])]
    tasks: Vec<PathBuf>,
    /// The model whose answers are kept or not
    #[arg(long, default_value = "local/qwen2.5-coder-0.5b-instruct")]
    local: String,
    /// The model that is asked otherwise
    #[arg(long, default_value = "large/qwen2.5-coder-1.5b-instruct")]
    upstream: String,
    /// The score, as the records name it
    #[arg(long, default_value = "sum_logprob")]
    score: String,
    /// Labelled rows in a sample
    #[arg(long, default_value_t = 400)]
    labels: usize,
    /// Samples per cell
    #[arg(long, default_value_t = 300)]
    draws: usize,
    /// Seed of the samples
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("certificates: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints every table; whether all promises held.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let file = arguments.records.clone().map_or_else(records::default_records, Ok)?;
    let answers = Answers::read(&file, &arguments.tasks, &arguments.score)?;
    let draws =
        Draws { labels: arguments.labels, draws: arguments.draws, seed: arguments.seed, delta: DELTA, promised: true };
    println!(
        "Each cell: {} samples of {} labels, delta {DELTA}, score {}. \"Broken\": the true risk of the threshold is \
         above alpha; with luck alone it may be {:.3} of all samples. Shares kept are means over all samples, 0 where \
         nothing was certified. \"Best\": the most that could be kept within alpha.\n",
        draws.draws,
        draws.labels,
        arguments.score,
        draws.tolerated()
    );
    let mut held = real(&answers, arguments, &draws)?;
    held &= synthetic(&draws);
    println!("{}", if held { "All promises held." } else { "A PROMISE WAS BROKEN." });
    Ok(held)
}

/// The tables of the two models: the local one with the upstream beside it, and the upstream as if local.
fn real(answers: &Answers, arguments: &Arguments, draws: &Draws) -> Result<bool, String> {
    let paired = slices(&answers.paired(&arguments.local, &arguments.upstream)?);
    let alone = slices(&answers.paired(&arguments.upstream, &arguments.upstream)?);
    let mut held = true;
    let wrong = |row: &Answered| f64::from(!row.right);
    let regret = |row: &Answered| f64::from(!row.right && row.upstream_right);
    println!("## {}\n", arguments.local);
    println!("### Selective risk: P(wrong | kept)\n");
    held &= table(&paired, Risk::Selective, draws, |row| (wrong(row), wrong(row)));
    println!("### Regret risk: P(kept, wrong here, right upstream)\n");
    held &= table(&paired, Risk::Regret, draws, |row| (regret(row), regret(row)));
    println!("### The upstream as grader: certified is disagreement, broken is the true P(wrong | kept)\n");
    println!("No promise is made about the error; this is what believing it would cost.\n");
    table(&paired, Risk::Selective, &Draws { promised: false, ..*draws }, |row| (f64::from(!row.agrees), wrong(row)));
    println!("### The upstream as grader: certified is disagreement, broken is disagreement\n");
    held &= table(&paired, Risk::Selective, draws, |row| (f64::from(!row.agrees), f64::from(!row.agrees)));
    println!("## {} as the local model\n", arguments.upstream);
    println!("### Selective risk: P(wrong | kept)\n");
    held &= table(&alone, Risk::Selective, draws, |row| (wrong(row), wrong(row)));
    Ok(held)
}

/// Traffic made so that the promise is as hard to keep as can be.
fn synthetic(draws: &Draws) -> bool {
    println!("## Synthetic traffic at the boundary\n");
    let mut held = true;
    for (title, risk) in [("Selective risk", Risk::Selective), ("Regret risk", Risk::Regret)] {
        println!("### {title}\n\n{}", experiment::HEAD);
        for (name, traffic) in experiment::BOUNDARIES {
            for alpha in ALPHAS {
                let outcomes = traffic(risk, alpha);
                held &= line(name, draws, &Trial { traffic: &outcomes, risk, alpha });
            }
        }
        println!();
    }
    held
}

/// One line per slice and alpha; whether all of them held. `losses` gives the loss that the label tells
/// and the one that is true.
fn table(
    slices: &[(String, Vec<Answered>)],
    risk: Risk,
    draws: &Draws,
    losses: impl Fn(&Answered) -> (f64, f64),
) -> bool {
    println!("{}", experiment::HEAD);
    let mut held = true;
    for (name, rows) in slices {
        let outcome = |row: &Answered| {
            let (label, truth) = losses(row);
            Outcome { score: row.score, label, truth }
        };
        let traffic: Vec<Outcome> = rows.iter().map(outcome).collect();
        for alpha in ALPHAS {
            held &= line(name, draws, &Trial { traffic: &traffic, risk, alpha });
        }
    }
    println!();
    held
}

fn line(name: &str, draws: &Draws, trial: &Trial<'_>) -> bool {
    let cell: Cell = draws.run(trial);
    println!("{}", cell.render(name, trial, draws));
    cell.holds(draws)
}

fn slices(rows: &[Answered]) -> Vec<(String, Vec<Answered>)> {
    let of = |tasks: &[&str]| rows.iter().filter(|row| tasks.contains(&row.task.as_str())).cloned().collect();
    SLICES
        .iter()
        .map(|(name, tasks)| ((*name).to_owned(), of(tasks)))
        .filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty())
        .collect()
}
