//! The command line: `weir serve | check | eval | calibrate | gap | models | replay`.
//!
//! Flags win over `WEIR_…` environment variables, which win over the configuration file. Called
//! by `main` only; the one room that prints.

mod against;
mod calibrate;
mod eval;
mod gap;
mod models;
mod operator;
mod replay;
mod request;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::control::{self, Environment, Findings, Options};
use crate::error::Problem;
use crate::policy::Names;

pub use against::check_against;
pub use calibrate::Calibrate;
pub use eval::Eval;
pub use gap::Gap;
pub use models::Models;
pub use replay::Replay;

/// An OpenAI-compatible gateway with small llama.cpp models inside.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the OpenAI API; without a configuration, the obvious.
    Serve(Serve),
    /// Check configurations and policies: every problem at once, and the policies' own cases.
    Check {
        /// Configuration files, policy files, or folders of them.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Try policies against the Weir with this admin port: what would be decided otherwise.
        #[arg(long, value_name = "URL")]
        against: Option<String>,
        /// Over how many of its newest captured requests [default: 1000].
        #[arg(long, value_name = "N", requires = "against")]
        last: Option<usize>,
    },
    /// Ask models and policies graded rows, and tell what their answers are worth.
    Eval(Box<Eval>),
    /// Make a calibration file of graded answers.
    Calibrate(Calibrate),
    /// Make a predictor of the gap between two models of their graded answers.
    Gap(Gap),
    /// The models on this machine: download, list, inspect, remove.
    Models(Models),
    /// Replay a log of past requests: what routers would have made of it, without calling anybody.
    Replay(Replay),
}

/// Flags of `weir serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration file.
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, env = "WEIR_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where probes and metrics are served [default: 127.0.0.1:8081].
    #[arg(long, env = "WEIR_ADMIN", value_name = "ADDR")]
    pub admin: Option<String>,
    /// A GGUF file, or a name of the catalogue, to serve as local/NAME (if not given: that name,
    /// or the file's); replaces the file's models. Repeatable.
    #[arg(long, env = "WEIR_MODEL", value_name = "[NAME=]FILE", value_delimiter = ',')]
    pub model: Vec<String>,
    /// How many seconds the data port still accepts after SIGTERM, while readiness fails already.
    #[arg(long, env = "WEIR_GRACE", value_name = "SECONDS", default_value_t = 0)]
    pub grace: u64,
    /// How many seconds answers in flight may take after that.
    #[arg(long, env = "WEIR_DRAIN", value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
    /// A Unix socket: the process that serves there hands its ports over to this one, and this one to
    /// the next.
    #[arg(long, env = "WEIR_HANDOVER", value_name = "SOCKET")]
    pub handover: Option<PathBuf>,
}

impl Serve {
    /// As options for `control`.
    pub fn options(&self) -> Options {
        Options {
            config: self.config.clone(),
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            models: self.model.iter().map(|model| named(model)).collect(),
            virtuals: Vec::new(),
            env: Environment::default(),
            ..Options::default()
        }
    }

    /// How long the data port accepts after a request to stop.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
    }

    /// The drain limit.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain)
    }
}

fn named(model: &str) -> (Option<String>, String) {
    match model.split_once('=') {
        Some((name, file)) => (Some(name.to_owned()), file.to_owned()),
        None => (None, model.to_owned()),
    }
}

/// Runs `weir check`; returns whether everything is right. A policy by itself may name
/// any model; with the configuration that uses it, only those that this has.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub fn check(paths: &[PathBuf]) -> bool {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        collect(path, &mut files, &mut problems);
    }
    for file in &files {
        let Findings { problems: found, notes } = check_file(file);
        println!("{} {}", if found.is_empty() { "ok     " } else { "refused" }, file.display());
        for note in notes {
            println!("note    {note}");
        }
        problems.extend(found);
    }
    for problem in &problems {
        println!("{problem}");
    }
    println!("{} files, {} problems", files.len(), problems.len());
    problems.is_empty()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    if path.is_file() {
        return files.push(path.to_owned());
    }
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "toml");
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_toml).collect();
            found.sort();
            files.append(&mut found);
        }
        Err(error) => {
            problems.push(Problem { place: path.display().to_string(), message: format!("cannot read: {error}") })
        }
    }
}

/// A file with `[[rule]]` is a policy, one with nothing but `[[price]]` a price list, else it is a
/// configuration.
#[expect(clippy::print_stdout, reason = "the command's output")]
fn check_file(file: &Path) -> Findings {
    let place = file.display().to_string();
    let refused = |problems: Vec<Problem>| Findings { problems, notes: Vec::new() };
    let source = match fs::read_to_string(file) {
        Ok(source) => source,
        Err(error) => return refused(vec![Problem { place, message: format!("cannot read: {error}") }]),
    };
    let has = |table: &str| source.lines().any(|line| line.trim_start().starts_with(table));
    if has("[[rule]]") {
        return control::check_policy(file, &source, &Names { any: true, ..Names::default() });
    }
    if has("[[price]]") && !has("[[model]]") && !has("[[upstream]]") {
        return refused(control::check_prices(&place, &source));
    }
    match control::read(&Options { config: Some(file.to_owned()), ..Options::default() }) {
        Ok(checked) => {
            for warning in &checked.warnings {
                println!("warning {place}: {warning}");
            }
            Findings { problems: checked.check_cases(), notes: checked.notes().cloned().collect() }
        }
        Err(problems) => refused(problems),
    }
}
