//! `weir calibrate`: its flags, and what it prints and writes.
//!
//! Reads graded answers, makes a calibration per slice, writes the files and prints what they are
//! worth. Attempts at a certificate are counted in the files that stand there already, so that each
//! spends its share. Called by `main`.

#[cfg(test)]
mod tests;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use crate::confidence::certify::{Promise, Risk};
use crate::confidence::{Basis, Calibration, Form};
use crate::lab::calibrate::{Labels, Made, Settings, Slice, Sources, Tasks, Union, Upstream, Wanted, calibrate};
use crate::lab::early::Saving;
use crate::lab::gap::read;
use crate::lab::records::Records;

/// The name of the figure of all slices together, and of its file.
const WHOLE: &str = "union";

/// Flags of `weir calibrate`.
#[derive(Debug, Args)]
pub struct Calibrate {
    /// The graded answers, may be gzip: one JSON object per line with model, id, right, file,
    /// logprobs and top_logprobs or margins. Repeatable.
    #[arg(long, value_name = "FILE", required = true)]
    records: Vec<PathBuf>,
    /// The questions, may be gzip: id, task, prompt or messages, perhaps group and grader.
    /// Repeatable.
    #[arg(long, value_name = "FILE")]
    tasks: Vec<PathBuf>,
    /// The model whose answers count.
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The upstream, whose answers are in the records too: for regret, and for agreement with it.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// What the kind of traffic is called, perhaps with the tasks that belong to it. Repeatable.
    #[arg(long, value_name = "NAME[=TASK,TASK]", required = true)]
    slice: Vec<String>,
    /// The tasks that belong to a slice named without any.
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    task: Vec<String>,
    /// What a policy will call the calibration [default: the slice's name]; for one slice only.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The score: logistic, platt:FEATURE, isotonic:FEATURE, or a FEATURE as it is.
    #[arg(long, value_name = "SCORE", default_value = "logistic")]
    score: Wanted,
    /// What labels are: known answers, whether the upstream says the same, or a judge's verdicts.
    #[arg(long, value_name = "BASIS", default_value = "gold")]
    basis: WantedBasis,
    /// Who judged.
    #[arg(long, value_name = "NAME")]
    grader: Option<String>,
    /// How answers are compared with the upstream's: exact, line, number, letter, json, text or auto
    /// [default: as the task's grader does, else auto].
    #[arg(long, value_name = "FORM", value_parser = form)]
    form: Option<Form>,
    /// Of the labels not used for the fit, the share whose known answer bounds how often both are
    /// wrong together (upstream-agreement only).
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    gold_share: f64,
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
    /// Delta is the chance that any slice's certificate does not hold, not that of each (Holm).
    #[arg(long)]
    simultaneous: bool,
    /// The share of each slice in the traffic: bounds the risk of the whole by a test of its own.
    #[arg(long, value_name = "NAME=SHARE,…", value_delimiter = ',')]
    mix: Vec<String>,
    /// Give answers up before their end once their chance to end at the threshold is below this; part
    /// of what is certified.
    #[arg(long, value_name = "SHARE")]
    early: Option<f64>,
    /// The file to write, or with several slices the folder; files that stand there say how many
    /// attempts were made before.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The risks.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WantedRisk {
    /// P(wrong | kept).
    Selective,
    /// P(kept, wrong here, and right upstream).
    Regret,
    /// P(kept and wrong).
    Joint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedBasis {
    Gold,
    UpstreamAgreement,
    Judge,
}

impl Calibrate {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, flags that do not fit together, or a slice of which no
    /// calibration or no certificate can be made; what the others came to is written all the same.
    #[expect(clippy::print_stdout, reason = "the command's output")]
    pub fn run(&self) -> Result<(), String> {
        let (settings, slices) = (self.settings()?, self.slices()?);
        let mut problems = Vec::new();
        let (made, union) = calibrate(&self.sources()?, &slices, &settings);
        for (slice, made) in slices.iter().zip(made) {
            let title = if slices.len() > 1 { format!("{}: ", slice.name) } else { String::new() };
            match made {
                Ok(made) => {
                    let text = made.calibration.render();
                    problems.extend(text.and_then(|text| write(&self.file(&slice.name), &text)).err());
                    print!("{}", told(&title, &made));
                    problems.extend(made.refusal.map(|why| format!("slice \"{}\": no certificate: {why}", slice.name)));
                }
                Err(why) => problems.push(format!("slice \"{}\": {why}", slice.name)),
            }
        }
        if let Some(union) = union {
            let json = serde_json::to_string_pretty(&union).map_err(|error| error.to_string())?;
            problems.extend(write(&self.out.join(format!("{WHOLE}.json")), &(json + "\n")).err());
            print!("{}", told_of_the_whole(&union));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    fn sources(&self) -> Result<Sources, String> {
        let text = self.records.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?.join("\n");
        let named = |why| format!("{}: {why}", self.records[0].display());
        let mut tasks = Tasks::default();
        for file in &self.tasks {
            tasks.read(&read(file)?).map_err(|why| format!("{}: {why}", file.display()))?;
        }
        let upstream = self.upstream.as_ref().map(|name| Upstream::parse(&text, name)).transpose().map_err(named)?;
        Ok(Sources {
            records: Records::parse(&text, &self.model).map_err(named)?,
            tasks,
            upstream: upstream.unwrap_or_default(),
        })
    }

    fn settings(&self) -> Result<Settings, String> {
        let risk = match self.risk {
            WantedRisk::Selective => Risk::Selective,
            WantedRisk::Regret => Risk::Regret,
            WantedRisk::Joint => Risk::Joint,
        };
        if matches!(self.risk, WantedRisk::Regret) && self.upstream.is_none() {
            return Err("--risk regret compares with an upstream: name it with --upstream".to_owned());
        }
        if let Some(early) = self.early.filter(|early| !(*early > 0.0 && *early < 1.0)) {
            return Err(format!("--early {early} is not between 0 and 1"));
        }
        Ok(Settings {
            model: self.model.clone(),
            score: self.score,
            labels: self.labels()?,
            max_tokens: self.max_tokens,
            date: self.date()?,
            promise: self.alpha.map(|alpha| Promise::check(risk, alpha, self.delta)).transpose()?,
            together: self.simultaneous,
            mix: self.mix()?,
            early: self.early,
        })
    }

    fn date(&self) -> Result<String, String> {
        match &self.date {
            Some(date) if date.trim().is_empty() => Err("--date is empty; leave it out for today's".to_owned()),
            date => Ok(date.clone().unwrap_or_else(today)),
        }
    }

    fn labels(&self) -> Result<Labels, String> {
        for (flag, name) in [("--grader", &self.grader), ("--upstream", &self.upstream), ("--name", &self.name)] {
            if name.as_ref().is_some_and(|name| name.trim().is_empty()) {
                return Err(format!("{flag} is empty; say who or what, or leave it out"));
            }
        }
        if self.grader.is_some() && self.basis != WantedBasis::Judge {
            return Err("--grader belongs to --basis judge".to_owned());
        }
        if self.basis != WantedBasis::UpstreamAgreement && self.gold_share != 0.0 {
            return Err("--gold-share belongs to --basis upstream-agreement".to_owned());
        }
        if !(0.0..1.0).contains(&self.gold_share) {
            return Err(format!("--gold-share {} is not between 0 and 1", self.gold_share));
        }
        match self.basis {
            WantedBasis::Gold => Ok(Labels::Gold),
            WantedBasis::Judge => {
                self.grader.clone().map(Labels::Judge).ok_or_else(|| "--basis judge: say who, with --grader".to_owned())
            }
            WantedBasis::UpstreamAgreement => {
                let upstream = self.upstream.clone();
                let upstream =
                    upstream.ok_or("--basis upstream-agreement: say with whom, with --upstream".to_owned())?;
                Ok(Labels::Agreement { upstream, form: self.form, gold_share: self.gold_share })
            }
        }
    }

    /// `NAME=SHARE` each, of declared slices, in all 1.
    fn mix(&self) -> Result<Vec<(String, f64)>, String> {
        let part = |text: &String| {
            let (name, share) = text.split_once('=')?;
            let share: f64 = share.parse().ok()?;
            (share > 0.0 && self.names().any(|slice| slice == name)).then(|| (name.to_owned(), share))
        };
        let parts = self.mix.iter().map(|text| {
            part(text).ok_or_else(|| format!("--mix: \"{text}\" is not the name of a slice, \"=\" and a share above 0"))
        });
        let mix = parts.collect::<Result<Vec<_>, _>>()?;
        let sum: f64 = mix.iter().map(|(_, share)| share).sum();
        let (wanted, has_promise) = (!mix.is_empty(), self.alpha.is_some());
        match () {
            () if wanted && (sum - 1.0).abs() > 1e-6 => Err(format!("--mix: the shares sum to {sum}, not to 1")),
            () if wanted && !(has_promise && self.slice.len() > 1) => {
                Err("--mix needs --alpha and several slices".to_owned())
            }
            () => Ok(mix),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.slice.iter().map(|text| text.split_once('=').map_or(text.as_str(), |(name, _)| name))
    }

    fn slices(&self) -> Result<Vec<Slice>, String> {
        if self.slice.len() > 1 && self.name.is_some() {
            return Err("--name is for one slice; several are called as their slices".to_owned());
        }
        let slice = |(place, name): (usize, &str)| {
            if name.trim().is_empty() {
                return Err(format!("--slice: \"{}\" has no name", self.slice[place]));
            }
            let same = |earlier: &&str| plain(earlier) == plain(name);
            if let Some(earlier) = self.names().take(place).find(same) {
                return Err(format!("--slice: \"{name}\" goes to the same file as \"{earlier}\"; name it otherwise"));
            }
            if self.slice.len() > 1 && plain(name) == WHOLE {
                return Err(format!("--slice: \"{name}\" goes to the file of all slices together; name it otherwise"));
            }
            let named =
                self.slice[place].split_once('=').map(|(_, tasks)| tasks.split(',').map(str::to_owned).collect());
            Ok(Slice {
                name: name.to_owned(),
                calibration: self.name.clone().unwrap_or_else(|| name.to_owned()),
                tasks: named.unwrap_or_else(|| self.task.clone()),
                attempts: self.attempts(name)?,
            })
        };
        self.names().enumerate().map(slice).collect()
    }

    /// Where the calibration of a slice goes.
    fn file(&self, slice: &str) -> PathBuf {
        if self.slice.len() > 1 { self.out.join(plain(slice) + ".json") } else { self.out.clone() }
    }

    /// The attempts that the slice's file counts; none where there is no file.
    fn attempts(&self, slice: &str) -> Result<u32, String> {
        let file = self.file(slice);
        let out = file.display();
        let earlier = match fs::read(&file) {
            Ok(bytes) => Calibration::parse(&bytes).map_err(|why| format!("{out}: not a calibration: {why}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(format!("{out}: cannot read: {error}")),
        };
        if earlier.slice != slice || earlier.model != self.model {
            let (slice, model) = (earlier.slice, earlier.model);
            return Err(format!("{out}: stands there for slice \"{slice}\" of {model}; name another file"));
        }
        Ok(earlier.attempts)
    }
}

/// A slice's name in a file's: the same for names that some file system takes for one.
fn plain(slice: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    slice.chars().map(plain).collect::<String>().to_lowercase()
}

fn form(name: &str) -> Result<Form, String> {
    let known = Form::ALL.map(Form::name).join(", ");
    Form::parse(name).ok_or_else(|| format!("unknown form \"{name}\"; known: {known}"))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(file, text));
    written.map_err(|error| format!("{}: cannot write: {error}", file.display()))
}

/// The date, UTC.
pub(super) fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string().chars().take(10).collect()
}

fn told(title: &str, made: &Made) -> String {
    let calibration = &made.calibration;
    let quality = &calibration.quality;
    let measure = |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!(", {name} {value:.3}"));
    let fitted = format!(
        "{title}fitted on {} answers, measured on {} ({} without a label): auroc {}{}{}\n",
        calibration.fitted_rows,
        quality.rows,
        made.left_out,
        quality.auroc.map_or("–".to_owned(), |auroc| format!("{auroc:.3}")),
        measure("ece", quality.ece),
        measure("brier", quality.brier)
    );
    let (rate, lost) = match (calibration.basis, &calibration.grader) {
        (Basis::Gold, _) | (_, None) => ("risk".to_owned(), "wrong"),
        (_, Some(grader)) => (format!("disagreement with {grader}"), "disagreeing"),
    };
    let certified = calibration.certificates.iter().map(|certificate| {
        format!(
            "{title}certified, attempt {}: {} {rate} at most {} with probability {}: keep at {} and above, {} of {} \
             answers, {} {lost}\n",
            certificate.attempt,
            certificate.kind.name(),
            certificate.alpha,
            1.0 - certificate.delta,
            certificate.threshold,
            certificate.kept,
            certificate.rows,
            certificate.wrong
        )
    });
    let error = calibration.certificates.iter().filter_map(|certificate| certificate.error).map(|error| {
        format!(
            "{title}error at most {:.3} with probability {:.3}: {} of {} answers that agree are wrong all the same, so at \
             most {:.3}\n",
            error.at_most,
            1.0 - error.delta,
            error.wrong,
            error.agreed,
            error.beta
        )
    });
    let saving = made.saving.map(|Saving { threshold, saved, lost }| {
        format!(
            "{title}given up early at {threshold}: {saved:.3} of the tokens saved, {lost:.3} of the answers otherwise \
             kept lost\n"
        )
    });
    fitted + &certified.collect::<String>() + &error.collect::<String>() + &saving.unwrap_or_default()
}

fn told_of_the_whole(union: &Union) -> String {
    let mix: Vec<String> = union.mix.iter().map(|(name, share)| format!("{share} {name}")).collect();
    format!(
        "all slices, traffic of {}: {} risk at most {:.3} with probability {}: {} of {} answers kept, {} losses\n",
        mix.join(", "),
        union.risk.name(),
        union.at_most,
        1.0 - union.delta,
        union.kept,
        union.rows,
        union.wrong
    )
}
