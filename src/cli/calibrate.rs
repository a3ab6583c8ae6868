//! `weir calibrate`: its flags, and what it prints and writes.
//!
//! Reads graded answers, makes a calibration of them, writes the file and prints what it is worth.
//! Attempts at a certificate are counted in the file that stands at `--out`, so that each spends its
//! share. Called by `main`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use crate::confidence::Calibration;
use crate::confidence::certify::{Promise, Risk};
use crate::lab::calibrate::{Settings, Wanted, calibrate};
use crate::lab::early::Saving;
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
    /// What to certify: that this risk is at most alpha; nothing if not given.
    #[arg(long, value_name = "SHARE")]
    alpha: Option<f64>,
    /// The chance that the certificate does not hold, for all attempts on the slice together.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    delta: f64,
    /// The risk.
    #[arg(long, value_name = "RISK", default_value = "selective")]
    risk: WantedRisk,
    /// Give answers up before their end once their chance to end at the threshold is below this; part
    /// of what is certified.
    #[arg(long, value_name = "SHARE")]
    early: Option<f64>,
    /// The file to write; one that stands there says how many attempts were made before.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The risks that one model's answers can prove.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WantedRisk {
    /// P(wrong | kept).
    Selective,
    /// P(kept and wrong).
    Joint,
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
        let made = calibrate(&records, &self.settings()?).map_err(|why| format!("{file}: {why}"))?;
        let out = self.out.display();
        fs::write(&self.out, made.calibration.render()?).map_err(|error| format!("{out}: cannot write: {error}"))?;
        print!("{}", told(&made.calibration, &records));
        if let Some(Saving { threshold, saved, lost }) = made.saving {
            println!(
                "given up early at {threshold}: {saved:.3} of the tokens saved, {lost:.3} of the answers otherwise kept lost"
            );
        }
        made.refusal.map_or(Ok(()), |why| Err(format!("{file}: no certificate: {why}")))
    }

    fn settings(&self) -> Result<Settings, String> {
        let risk = match self.risk {
            WantedRisk::Selective => Risk::Selective,
            WantedRisk::Joint => Risk::Joint,
        };
        let promise = self.alpha.map(|alpha| Promise::check(risk, alpha, self.delta)).transpose()?;
        Ok(Settings {
            name: self.name.clone().unwrap_or_else(|| self.slice.clone()),
            model: self.model.clone(),
            slice: self.slice.clone(),
            score: self.score,
            max_tokens: self.max_tokens,
            date: self.date.clone().unwrap_or_else(today),
            promise,
            early: self.early,
            attempts: self.attempts()?,
        })
    }

    /// The attempts that the file at `--out` counts; none where there is no file.
    fn attempts(&self) -> Result<u32, String> {
        let out = self.out.display();
        let earlier = match fs::read(&self.out) {
            Ok(bytes) => Calibration::parse(&bytes).map_err(|why| format!("{out}: not a calibration: {why}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(format!("{out}: cannot read: {error}")),
        };
        if earlier.slice != self.slice || earlier.model != self.model {
            let (slice, model) = (earlier.slice, earlier.model);
            return Err(format!("{out}: stands there for slice \"{slice}\" of {model}; name another file"));
        }
        Ok(earlier.attempts)
    }
}

/// The date, UTC.
pub(super) fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string().chars().take(10).collect()
}

fn told(calibration: &Calibration, records: &Records) -> String {
    let quality = &calibration.quality;
    let measure = |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!(", {name} {value:.3}"));
    let fitted = format!(
        "{} answers ({} left out): fitted on {}, measured on {}: auroc {:.3}{}{}\n",
        records.answers.len(),
        records.left_out,
        calibration.fitted_rows,
        quality.rows,
        quality.auroc,
        measure("ece", quality.ece),
        measure("brier", quality.brier)
    );
    let certified = calibration.certificates.iter().map(|certificate| {
        format!(
            "certified, attempt {}: risk at most {} with probability {}: keep at {} and above, {} of {} answers, {} wrong\n",
            certificate.attempt,
            certificate.alpha,
            1.0 - certificate.delta,
            certificate.threshold,
            certificate.kept,
            certificate.rows,
            certificate.wrong
        )
    });
    fitted + &certified.collect::<String>()
}
