//! `weir calibrate`: its flags, and what it prints and writes.
//!
//! Reads graded answers, makes a calibration of them, writes the file and prints what it is worth.
//! Called by `main`.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;

use crate::confidence::Calibration;
use crate::lab::calibrate::{Settings, Wanted, calibrate};
use crate::lab::records::Records;

/// Flags of `weir calibrate`.
#[derive(Debug, Args)]
pub struct Calibrate {
    /// The graded answers of the slice: one JSON object per line with model, id, right, file,
    /// logprobs and top_logprobs or margins.
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// The model whose answers count.
    #[arg(long, value_name = "NAME")]
    model: String,
    /// What the kind of traffic is called.
    #[arg(long, value_name = "NAME")]
    slice: String,
    /// What a policy will call the calibration [default: the slice's name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The score: logistic, platt:FEATURE, isotonic:FEATURE, or a FEATURE as it is.
    #[arg(long, value_name = "SCORE", default_value = "logistic")]
    score: Wanted,
    /// The max_tokens the answers were made with; none if not given.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
    /// The date in the file [default: today's, UTC].
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<String>,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Calibrate {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, or answers of which no calibration can be made.
    #[expect(clippy::print_stdout, reason = "the command's output")]
    pub fn run(&self) -> Result<(), String> {
        let file = self.records.display();
        let text = fs::read_to_string(&self.records).map_err(|error| format!("{file}: cannot read: {error}"))?;
        let records = Records::parse(&text, &self.model).map_err(|why| format!("{file}: {why}"))?;
        let calibration = calibrate(&records, &self.settings()).map_err(|why| format!("{file}: {why}"))?;
        let out = self.out.display();
        fs::write(&self.out, calibration.render()?).map_err(|error| format!("{out}: cannot write: {error}"))?;
        print!("{}", told(&calibration, &records));
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            name: self.name.clone().unwrap_or_else(|| self.slice.clone()),
            model: self.model.clone(),
            slice: self.slice.clone(),
            score: self.score,
            max_tokens: self.max_tokens,
            date: self.date.clone().unwrap_or_else(today),
        }
    }
}

fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string().chars().take(10).collect()
}

fn told(calibration: &Calibration, records: &Records) -> String {
    let quality = &calibration.quality;
    let measure = |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!(", {name} {value:.3}"));
    format!(
        "{} answers ({} left out): fitted on {}, measured on {}: auroc {:.3}{}{}\n",
        records.answers.len(),
        records.left_out,
        calibration.fitted_rows,
        quality.rows,
        quality.auroc,
        measure("ece", quality.ece),
        measure("brier", quality.brier)
    )
}
