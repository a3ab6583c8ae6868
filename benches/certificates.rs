//! Whether certificates hold on real models' answers and on public logs, and whether they keep anything.
//!
//! Takes recorded rows of a slice as the whole traffic, so that the true risk of every threshold is
//! known, draws labelled samples from it again and again, and certifies each. One table per promise: how
//! often the promise is broken, how often anything is certified, and what is kept, with plain tuning of
//! the threshold beside it. Prints, and writes benches/certificates/results.md. Calls nobody.
//!
//!     cargo bench --no-default-features --bench certificates -- --records answers.jsonl --logs FOLDER

#![expect(clippy::print_stdout, reason = "a report for a person")]

#[path = "certificates/experiment.rs"]
mod experiment;
#[path = "certificates/logs.rs"]
mod logs;
#[path = "certificates/records.rs"]
mod records;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use experiment::{Draws, Outcome, Trial};
use records::{Answered, Answers};
use weir::confidence::certify::Risk;

const ALPHAS: [f64; 4] = [0.05, 0.1, 0.2, 0.3];
const DELTA: f64 = 0.1;

/// The slices, declared before any label was looked at: by the form of the answer, then the tasks.
/// Those of rows made for this project only are `OWN`.
const FORMS: [(&str, &[&str]); 4] = [
    ("facts", &["arith", "iso_date", "capital"]),
    ("classify", &["route", "intent", "banking"]),
    ("extract", &["span", "json"]),
    ("reason", &REASON),
];
const REASON: [&str; 8] = [
    "gsm8k",
    "bbh_boolean_expressions",
    "bbh_date_understanding",
    "bbh_disambiguation_qa",
    "bbh_hyperbaton",
    "bbh_navigate",
    "bbh_object_counting",
    "bbh_sports_understanding",
];
/// Tasks of which there are a thousand rows.
const OWN: [&str; 2] = ["arith", "iso_date"];
/// How the ids begin that `tasks/generate.py` gives.
const MADE: &str = "own-";

/// Do certificates hold? Draws labelled samples from recorded answers and certifies each.
#[derive(Parser)]
struct Arguments {
    /// The answers that `make eval` recorded [default: answers.jsonl and own.jsonl of eval/ in the
    /// cache folder]; may be given several times
    #[arg(long)]
    records: Vec<PathBuf>,
    /// The graded tasks, JSON lines, gzipped or not; may be given several times
    #[arg(long)]
    tasks: Vec<PathBuf>,
    /// The folder of public logs (routellm/, zeroeval/); without it they are left out
    #[arg(long)]
    logs: Option<PathBuf>,
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
    /// The file to write
    #[arg(long, default_value_os_t = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/certificates/results.md"))]
    out: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Traffic by the name of its slice.
pub(crate) type Traffic = Vec<(String, Vec<Outcome>)>;

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

/// Prints and writes every table; whether all promises held.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let draws = Draws { labels: arguments.labels, draws: arguments.draws, seed: arguments.seed, delta: DELTA };
    let mut report = Report { draws, text: String::new(), cells: 0, tested: 0, broken: 0 };
    report.say(&format!(
        "# Do certificates hold?\n\nMade by `make bench-certificates`. Each cell: {} samples of {} labels, delta {DELTA}, \
         score {} unless said otherwise. \"Broken\": the true risk of the threshold is above alpha; with luck alone it \
         may be {:.3} of all samples. Shares kept are means over all samples, 0 where nothing was certified. \"Best\": \
         the most that could be kept within alpha. \"No test\": certified in less than 5 % of the samples.\n",
        arguments.draws,
        arguments.labels,
        arguments.score,
        report.draws.tolerated()
    ));
    recorded(&mut report, arguments)?;
    synthetic(&mut report);
    match &arguments.logs {
        Some(folder) => logs::report(&mut report, folder)?,
        None => report.say("## Public logs\n\nNot given (`--logs FOLDER`), so left out.\n"),
    }
    report.say(&format!(
        "{} cells with a promise, {} with a test: {}",
        report.cells,
        report.tested,
        if report.broken == 0 { "all promises held.".to_owned() } else { format!("{} BROKEN.", report.broken) }
    ));
    print!("{}", report.text);
    let out = arguments.out.display();
    std::fs::write(&arguments.out, &report.text).map_err(|error| format!("{out}: {error}"))?;
    Ok(report.broken == 0)
}

/// The tables of the two models: the local one with the upstream beside it, and the upstream as if local.
fn recorded(report: &mut Report, arguments: &Arguments) -> Result<(), String> {
    let files = records::or_default(&arguments.records)?;
    let tasks = if arguments.tasks.is_empty() { records::default_tasks() } else { arguments.tasks.clone() };
    let answers = Answers::read(&files, &tasks, &arguments.score)?;
    let paired = answers.paired(&arguments.local, &arguments.upstream)?;
    let alone = answers.paired(&arguments.upstream, &arguments.upstream)?;
    let made = paired.iter().filter(|row| row.id.starts_with(MADE)).count();
    report.say(&format!(
        "{} of {} rows are answered by both models, {made} of them made for this project beyond `tasks.jsonl.gz`.\n",
        paired.len(),
        answers.asked()
    ));
    let wrong = |row: &Answered| f64::from(!row.right);
    let regret = |row: &Answered| f64::from(!row.right && row.upstream_right);
    let (selective, all) = ("Selective risk: P(wrong | kept)", "P(kept, wrong here, right upstream)");
    report.say(&format!("## {}\n", arguments.local));
    report.table(selective, Risk::Selective, &slices(&paired, |row| (wrong(row), wrong(row))));
    report.table(&format!("Regret risk: {all}"), Risk::Regret, &slices(&paired, |row| (regret(row), regret(row))));
    let differs = |row: &Answered| f64::from(!row.agrees);
    report.say(
        "### The upstream as grader: certified is disagreement, broken is the true P(wrong | kept)\n\n\
         No promise is made about the error; this is what believing it would cost.\n",
    );
    report.cells_of(Risk::Selective, &slices(&paired, |row| (differs(row), wrong(row))), false);
    report.table(
        "The upstream as grader: certified is disagreement, broken is disagreement",
        Risk::Selective,
        &slices(&paired, |row| (differs(row), differs(row))),
    );
    report.say(&format!("## {} as the local model\n", arguments.upstream));
    report.table(selective, Risk::Selective, &slices(&alone, |row| (wrong(row), wrong(row))));
    Ok(())
}

/// Traffic made so that the promise is as hard to keep as can be.
fn synthetic(report: &mut Report) {
    report.say("## Synthetic traffic at the boundary\n");
    for (title, risk) in [("Selective risk", Risk::Selective), ("Regret risk", Risk::Regret)] {
        report.say(&format!("### {title}\n\n{}", experiment::HEAD));
        for (name, traffic) in experiment::BOUNDARIES {
            for alpha in ALPHAS {
                report.cell(name, &Trial { traffic: &traffic(risk, alpha), risk, alpha }, true);
            }
        }
        report.say("");
    }
}

/// The declared slices of the rows, with the loss that the label tells of a row and the one that is true.
fn slices(rows: &[Answered], losses: impl Fn(&Answered) -> (f64, f64)) -> Traffic {
    let outcome = |row: &Answered| {
        let (label, truth) = losses(row);
        Outcome { score: row.score, label, truth }
    };
    let pick = |belongs: &dyn Fn(&Answered) -> bool| rows.iter().filter(|row| belongs(row)).map(outcome).collect();
    let given = |row: &Answered| !row.id.starts_with(MADE);
    let forms = FORMS
        .iter()
        .map(|(name, tasks)| ((*name).to_owned(), pick(&|row| given(row) && tasks.contains(&row.task.as_str()))));
    let tasks = FORMS.iter().flat_map(|(_, tasks)| tasks.iter());
    let tasks = tasks.map(|task| ((*task).to_owned(), pick(&|row| given(row) && row.task == *task)));
    let own = OWN.iter().map(|task| (format!("{task}, a thousand"), pick(&|row| row.task == *task)));
    forms.chain(own).chain(tasks).filter(|(_, rows): &(String, Vec<_>)| !rows.is_empty()).collect()
}

/// The tables so far, and how the promises did.
pub(crate) struct Report {
    draws: Draws,
    text: String,
    cells: usize,
    tested: usize,
    broken: usize,
}

impl Report {
    /// A line, or several.
    pub(crate) fn say(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    /// A table of a promise: one line per slice and alpha.
    pub(crate) fn table(&mut self, title: &str, risk: Risk, slices: &Traffic) {
        self.say(&format!("### {title}\n"));
        self.cells_of(risk, slices, true);
    }

    fn cells_of(&mut self, risk: Risk, slices: &Traffic, promised: bool) {
        self.say(experiment::HEAD);
        for (name, traffic) in slices {
            for alpha in ALPHAS {
                self.cell(name, &Trial { traffic, risk, alpha }, promised);
            }
        }
        self.say("");
    }

    fn cell(&mut self, name: &str, trial: &Trial<'_>, promised: bool) {
        let cell = self.draws.run(trial);
        if promised {
            self.cells += 1;
            self.tested += usize::from(cell.tests(&self.draws));
            self.broken += usize::from(!cell.holds(&self.draws));
        }
        let line = cell.render(name, trial, &self.draws, promised);
        self.say(&line);
    }
}
