//! What an audit sees when the traffic of a slice turns into another kind under the same tag.
//!
//! A certificate is made of recorded arithmetic; then arithmetic comes, then banking, each a draw from
//! recorded answers, and a share of what is kept is audited. Told: how many audits and requests the
//! alarm takes, what goes wrong until then and after, and how often it is false where the risk is
//! exactly what is promised. Graded by known answers and by the upstream. Prints, and writes
//! benches/drift/results.md. Calls nobody.
//!
//!     cargo bench --no-default-features --bench drift -- --records answers.jsonl

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "certificates/records.rs"]
mod records;
#[path = "drift/simulation.rs"]
mod simulation;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use records::{Answered, Answers};
use simulation::{Slice, Turn};
use weir::confidence::Split;
use weir::confidence::certify::{Certified, Grid, Plan, Promise, Risk, Row};

const ALPHAS: [f64; 2] = [0.1, 0.2];
const DELTA: f64 = 0.1;
/// The shares of kept answers that are audited.
const SHARES: [f64; 3] = [0.05, 0.2, 1.0];
const BEFORE: &str = "arith";
const AFTER: &str = "banking";
/// Of the rows before the turn, those whose labels make the certificate; the others are traffic.
const LABELLED: f64 = 0.5;
const POINTS: usize = 30;
/// Standard deviations of Monte-Carlo error granted to a promise.
const GRANTED: f64 = 3.0;

/// Does the alarm fire when the traffic turns, and only then?
#[derive(Parser)]
struct Arguments {
    /// The answers that `make eval` recorded [default: answers.jsonl and own.jsonl of eval/ in the
    /// cache folder]; may be given several times
    #[arg(long)]
    records: Vec<PathBuf>,
    /// The model whose answers are kept or not
    #[arg(long, default_value = "local/qwen2.5-coder-0.5b-instruct")]
    local: String,
    /// The model that is asked otherwise
    #[arg(long, default_value = "large/qwen2.5-coder-1.5b-instruct")]
    upstream: String,
    /// The score, as the records name it
    #[arg(long, default_value = "sum_logprob")]
    score: String,
    /// Requests before the turn
    #[arg(long, default_value_t = 1000)]
    before: usize,
    /// Requests after it, and without one
    #[arg(long, default_value_t = 10_000)]
    horizon: usize,
    /// Runs of each
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Of the draws
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The file to write
    #[arg(long, default_value_os_t = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/drift/results.md"))]
    out: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("drift: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints and writes the tables; whether false alarms stayed within delta.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let files = records::or_default(&arguments.records)?;
    let answers = Answers::read(&files, &records::default_tasks(), &arguments.score)?;
    let rows = answers.paired(&arguments.local, &arguments.upstream)?;
    let of = |task: &str| rows.iter().filter(|row| row.task == task).cloned().collect::<Vec<Answered>>();
    let (labelled, before): (Vec<_>, Vec<_>) =
        of(BEFORE).into_iter().partition(|row| Split::of(&row.id, LABELLED) == Split::Fit);
    let after = of(AFTER);
    let most = DELTA + GRANTED * (DELTA * (1.0 - DELTA) / arguments.runs as f64).sqrt();
    let mut text = format!(
        "# Drift inside a slice\n\nMade by `make bench-drift` from recorded answers of {} ({} of {} rows are answered): {} \
         certified on {} rows of `{BEFORE}`; traffic: {} requests drawn from {} other rows of `{BEFORE}`, then {} from {} rows of \
         `{AFTER}`. Confidence {}, {} runs each. \"Gold\": audits know the right answer; \"upstream\": they compare with {}, \
         and what is promised is disagreement.\n\n",
        arguments.local,
        rows.len(),
        answers.asked(),
        arguments.score,
        labelled.len(),
        arguments.before,
        before.len(),
        arguments.horizon,
        after.len(),
        1.0 - DELTA,
        arguments.runs,
        arguments.upstream,
    );
    let (mut turns, mut still, mut held) = (TURN_HEAD.to_owned(), still_head(arguments.horizon, most), true);
    for alpha in ALPHAS {
        for (grader, loss) in [("gold", wrong as fn(&Answered) -> f64), ("upstream", differs)] {
            let promise = Promise::check(Risk::Selective, alpha, DELTA)?;
            let certified = match certify(promise, &labelled, loss) {
                Ok(certified) => certified,
                Err(why) => {
                    let _ = writeln!(turns, "| {alpha} | {grader} | not certified: {why} | | | | | | | |");
                    continue;
                }
            };
            let slice =
                Slice { promise, threshold: certified.threshold, loss, seed: arguments.seed, runs: arguments.runs };
            for share in SHARES {
                let turn = slice.turn(&before, &after, share, (arguments.before, arguments.horizon))?;
                turns += &turn_line(alpha, grader, share, &turn);
                let alarms = slice.false_alarms(&before, share, arguments.horizon)?;
                let rate = alarms as f64 / arguments.runs as f64;
                held &= rate <= most;
                let verdict = if rate <= most { "holds" } else { "BROKEN" };
                let _ = writeln!(still, "| {alpha} | {grader} | {share} | {rate:.3} | {verdict} |");
            }
        }
    }
    text += &turns;
    text += &still;
    print!("{text}");
    let out = arguments.out.display();
    std::fs::write(&arguments.out, text).map_err(|error| format!("{out}: {error}"))?;
    Ok(held)
}

const TURN_HEAD: &str = "## The traffic turns\n\nMedians over runs, 90th percentile in brackets, counted from the turn. Errors are true ones, whoever \
    grades: share of wrong answers among those kept. After the alarm the slice keeps nothing, so its error is the upstream's.\n\n\
    | alpha | grader | audited | kept before → after the turn | error kept before | after, until the alarm | alarmed | audits to alarm | \
    requests to alarm | wrong answers kept until it (after it) | the upstream's error after |\n|---|---|---|---|---|---|---|---|---|---|---|\n";

fn still_head(horizon: usize, most: f64) -> String {
    format!(
        "\n## Nothing turns\n\nThe risk of what is kept is exactly alpha, over {horizon} kept answers a run. The share of runs with an \
         alarm may be {DELTA}, with Monte-Carlo error {most:.3}.\n\n| alpha | grader | audited | false alarms | |\n|---|---|---|---|---|\n"
    )
}

fn turn_line(alpha: f64, grader: &str, share: f64, turn: &Turn) -> String {
    let spread = |values: &[usize]| format!("{} ({})", at(values, 0.5), at(values, 0.9));
    format!(
        "| {alpha} | {grader} | {share} | {:.2} → {:.2} | {:.3} | {:.3} | {:.3} | {} | {} | {} ({}) | {:.3} |\n",
        turn.kept_before,
        turn.kept_after,
        turn.error_before,
        turn.error_after,
        turn.alarmed,
        spread(&turn.audits),
        spread(&turn.requests),
        at(&turn.wrong, 0.5),
        turn.wrong_after_alarm,
        turn.upstream_error,
    )
}

/// The value below which this share of the sorted ones lies.
fn at(sorted: &[usize], share: f64) -> String {
    let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(place).map_or_else(|| "–".to_owned(), usize::to_string)
}

/// The threshold that the labels prove, of a grid made of the same rows' scores, which looks at no label.
fn certify(promise: Promise, rows: &[Answered], loss: fn(&Answered) -> f64) -> Result<Certified, String> {
    let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
    let labelled: Vec<Row> = rows.iter().map(|row| Row { score: row.score, loss: loss(row) }).collect();
    Plan::new(promise, Grid::of_scores(&scores, POINTS)).certify(&labelled).map_err(|why| why.to_string())
}

fn wrong(row: &Answered) -> f64 {
    f64::from(!row.right)
}

fn differs(row: &Answered) -> f64 {
    f64::from(!row.agrees)
}
