//! `weir replay`: its flags, and what it prints and writes.
//!
//! Reads a log, replays it without calling anybody, prints a table; with `--out` it also writes
//! `replay.json`, `curves.csv` and the scorer trained on the whole log. Called by `main`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::calibrate::today;
use crate::confidence::gap::Predictor;
use crate::lab::Report;
use crate::lab::logs::{self, Form, Source};
use crate::lab::replay::{Settings, replay, train};

/// Flags of `weir replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The log; may be gzip.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The log's form: routellm, zeroeval, mmlu-pro, llmrouter or records.
    #[arg(long, value_name = "FORM", default_value = "records")]
    form: Form,
    /// The prompts, where they stand in a file of their own (zeroeval, mmlu-pro).
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The model taken as local, where the log has several.
    #[arg(long, value_name = "NAME")]
    local: Option<String>,
    /// A second local model: when both answers agree, the first is kept.
    #[arg(long, value_name = "NAME")]
    second: Option<String>,
    /// The model taken as upstream, where the log has several.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// A trained scorer (JSON) to replay as well.
    #[arg(long, value_name = "FILE")]
    scorer: Option<PathBuf>,
    /// The folder for replay.json, curves.csv and scorer.json.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// In how many parts learned routers cross-validate.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    folds: u16,
    /// Of the folds and of the bootstrap.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many resamples make the intervals; 0 = none.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    resamples: usize,
    /// At which shares of upstream calls quality is told.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_values_t = [0.1, 0.2, 0.4, 0.6])]
    shares: Vec<f64>,
}

impl Replay {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, or a log that is not of its form.
    #[expect(clippy::print_stdout, reason = "the command's output")]
    pub fn run(&self) -> Result<(), String> {
        if let Some(share) = self.shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            return Err(format!("--shares: {share} is not between 0 and 1"));
        }
        let log = logs::read(&self.source()).map_err(|problem| problem.to_string())?;
        let given = self.scorer.as_deref().map(read_scorer).transpose()?;
        let settings = Settings {
            folds: self.folds.into(),
            seed: self.seed,
            resamples: self.resamples,
            shares: self.shares.clone(),
        };
        let report = replay(&log, &settings, given.as_ref());
        print!("{}", report.render_table());
        self.out.as_deref().map_or(Ok(()), |folder| write(folder, &report, &train(&log, &today())))
    }

    fn source(&self) -> Source {
        Source {
            log: self.log.clone(),
            form: self.form,
            prompts: self.prompts.clone(),
            local: self.local.clone(),
            second: self.second.clone(),
            upstream: self.upstream.clone(),
        }
    }
}

fn read_scorer(file: &Path) -> Result<Predictor, String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: cannot read: {error}", file.display()))?;
    Predictor::parse(&bytes).map_err(|error| format!("{}: not a scorer: {error}", file.display()))
}

fn write(folder: &Path, report: &Report, scorer: &Predictor) -> Result<(), String> {
    let cannot = |error: &dyn std::fmt::Display| format!("{}: cannot write: {error}", folder.display());
    fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
    let json = serde_json::to_string_pretty(report).map_err(|error| cannot(&error))?;
    let scorer = scorer.render().map_err(|error| cannot(&error))?;
    for (name, text) in [("replay.json", json), ("curves.csv", report.render_curves()), ("scorer.json", scorer)] {
        fs::write(folder.join(name), text).map_err(|error| cannot(&error))?;
    }
    Ok(())
}
