//! `weir gap`: its flags, and what it prints and writes.
//!
//! Reads graded answers of two models and the prompts they answer, fits the predictor that
//! `accept = { value = … }` and `skip_local` name, and prints what it is worth. Called by `main`.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::calibrate::today;
use crate::confidence::gap::About;
use crate::lab::gap::{Pairs, Quality, read};

/// Flags of `weir gap`.
#[derive(Debug, Args)]
pub struct Gap {
    /// The graded answers of both models, as `weir calibrate` reads them; may be gzip.
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// The prompts: one JSON object per line with id, and prompt or messages; may be gzip.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The model whose answers are to be kept.
    #[arg(long, value_name = "NAME")]
    local: String,
    /// The model that is asked otherwise.
    #[arg(long, value_name = "NAME")]
    upstream: String,
    /// The date in the file [default: today's, UTC].
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<String>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Gap {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, or too few answers.
    #[expect(clippy::print_stdout, reason = "the command's output")]
    pub fn run(&self) -> Result<(), String> {
        let (records, prompts) = (read(&self.records)?, read(&self.prompts)?);
        let pairs = Pairs::join(&records, &prompts, &self.local, &self.upstream)
            .map_err(|why| format!("{}: {why}", self.records.display()))?;
        let about = About {
            local: self.local.clone(),
            local_sha256: Some(pairs.local_sha256.clone()),
            upstream: self.upstream.clone(),
            rows: pairs.count() as u64,
            date: self.date.clone().unwrap_or_else(today),
        };
        let quality = pairs.measure(&about);
        let out = self.out.display();
        fs::write(&self.out, pairs.fit(about).render()?).map_err(|error| format!("{out}: cannot write: {error}"))?;
        print!("{}", told(pairs.count(), &quality));
        Ok(())
    }
}

fn told(pairs: usize, quality: &Quality) -> String {
    let shown = |apgr: Option<f64>| apgr.map_or_else(|| "none".to_owned(), |apgr| format!("{apgr:.3}"));
    format!(
        "{pairs} requests answered by both; share of the gap closed, on {} of them not learned from: by the prompt {}, \
         by prompt and answer {}, by sum_logprob {} (chance .5)\n",
        quality.rows,
        shown(quality.before),
        shown(quality.after),
        shown(quality.sum)
    )
}
