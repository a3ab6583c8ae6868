//! `weir eval`: its flags, what it asks, and what it prints and writes.
//!
//! Asks models and policies the rows of a data set through a gateway (a running one, or one of its
//! own), records the answers so that an interrupted run goes on, and tells what they are worth.
//! Called by `main`.

mod house;
mod told;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::future::join_all;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::api;
use crate::confidence::Calibration;
use crate::control::{self, Checked, Environment, Hashes, Options};
use crate::error::Problem;
use crate::lab::eval::answers::{Answer, Answers};
use crate::lab::eval::ask::{Asker, Asking, Failed};
use crate::lab::eval::client::Client;
use crate::lab::eval::constraint::Constraints;
use crate::lab::eval::found::{Found, Lived, Model, features, scores};
use crate::lab::eval::pictures::pictures;
use crate::lab::eval::report;
use crate::lab::eval::rows::{self, Half, Row};
use crate::lab::policies::{Fate, Recorded, fate};
use crate::policy::Policy;
use crate::request::{ModelId, Request};
use house::House;
use told::Progress;

/// What a policy's answers are recorded as.
const POLICY: &str = "auto";

/// Flags of `weir eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// The graded rows: one JSON object per line, perhaps gzip.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// A model to ask every row, by its full name. Repeatable: the first is taken as the local one,
    /// the last as the upstream of what a cascade would have done.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// A policy to ask live. Repeatable.
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// A configuration for a gateway of its own; if not given, the built-in one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A running gateway to ask instead, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "policy"])]
    base_url: Option<String>,
    /// The key to the gateway, where it has tenants.
    #[arg(long, env = "WEIR_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Which rows: thresholds are chosen on one half, figures told of the other.
    #[arg(long, value_name = "HALF", default_value = "report")]
    half: WantedHalf,
    /// Only the first rows of the half.
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Only the first rows for each policy.
    #[arg(long, value_name = "N")]
    policy_rows: Option<usize>,
    /// Ask the first model again under constraint, where a row's form allows it.
    #[arg(long)]
    constrained: bool,
    /// How many questions each model gets at once; more than one lets a local model's answers vary.
    #[arg(long, value_name = "N", default_value_t = 1)]
    concurrency: usize,
    /// The model that grades the rows whose grader is a judge.
    #[arg(long, value_name = "NAME")]
    judge: Option<String>,
    /// A calibration file whose score is told too. Repeatable.
    #[arg(long, value_name = "FILE")]
    calibration: Vec<PathBuf>,
    /// Tasks that make up a slice; other tasks are their own. Repeatable.
    #[arg(long, value_name = "SLICE=TASK,…", value_parser = slice)]
    slice: Vec<(String, Vec<String>)>,
    /// Where answers are kept [default: eval/answers.jsonl in the cache folder].
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// The folder for tables (markdown, CSV, JSON) and pictures (SVG, PNG).
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// The halves of a data set.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WantedHalf {
    /// For figures.
    Report,
    /// For choosing thresholds.
    Calibrate,
    /// Both.
    All,
}

fn slice(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, tasks) = text.split_once('=').ok_or("want SLICE=TASK,TASK")?;
    Ok((name.to_owned(), tasks.split(',').map(str::to_owned).collect()))
}

/// A gateway that can be asked, and what is known of what answers there.
struct Gateway {
    house: Option<House>,
    client: Client,
    /// The SHA-256 of what answers, per model.
    files: Vec<String>,
    policies: Vec<Live>,
}

/// A policy under a name of its own.
struct Live {
    /// What it is called, and its file's name.
    title: String,
    /// What a request names.
    model: String,
    /// The SHA-256 of its file, and of the calibrations it names.
    file: String,
    policy: Arc<Policy>,
}

impl Eval {
    /// Runs it; returns when everything is asked, or has failed.
    ///
    /// # Errors
    /// Files that cannot be read or written, a configuration that is refused, rows that failed.
    pub fn run(&self) -> Result<(), String> {
        if self.model.is_empty() && self.policy.is_empty() {
            return Err("name what to ask: --model NAME or --policy FILE".to_owned());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map_err(|error| format!("no threads: {error}"))?.block_on(self.evaluate())
    }

    async fn evaluate(&self) -> Result<(), String> {
        let everything = rows::read(&self.data)?;
        let half = self.half();
        let limit = self.rows.unwrap_or(usize::MAX);
        let rows: Vec<Row> = everything.iter().filter(|row| half.has(&row.id)).take(limit).cloned().collect();
        if rows.is_empty() {
            return Err(format!("{}: no row in the {} half", self.data.display(), half.name()));
        }
        let answers = Answers::open(&self.records_file())?;
        let gateway = self.gateway().await?;
        let failed = self.ask(&gateway, (&everything, &rows), &answers).await?;
        let found = self.found(&gateway, (&everything, rows), &answers).await?;
        self.tell(&found)?;
        told::failures(&failed)
    }

    fn half(&self) -> Half {
        match self.half {
            WantedHalf::Report => Half::Report,
            WantedHalf::Calibrate => Half::Calibrate,
            WantedHalf::All => Half::All,
        }
    }

    fn records_file(&self) -> PathBuf {
        let usual = || control::cache(&Environment::default()).join("eval").join("answers.jsonl");
        self.records.clone().unwrap_or_else(usual)
    }

    async fn gateway(&self) -> Result<Gateway, String> {
        let hashes = Hashes::default();
        if let Some(url) = &self.base_url {
            let files = self.model.iter().map(|model| control::file_hash(model, None, &hashes)).collect();
            let client = Client::new(url, self.api_key.as_deref());
            return Ok(Gateway { house: None, client, files, policies: Vec::new() });
        }
        let named = |(place, file): (usize, &PathBuf)| (format!("eval-{place}"), file.clone());
        let options = Options {
            config: self.config.clone(),
            virtuals: self.policy.iter().enumerate().map(named).collect(),
            hashes: hashes.clone(),
            ..Options::default()
        };
        let checked = control::read(&options).map_err(|problems| lines(&problems))?;
        let files = self.model.iter().map(|model| control::file_hash(model, Some(&checked), &hashes)).collect();
        self.open(options, checked, files).await
    }

    async fn open(&self, options: Options, checked: Checked, files: Vec<String>) -> Result<Gateway, String> {
        let virtuals = options.virtuals.clone();
        let house = House::open(options, checked).await?;
        let snapshot = house.control.current();
        let live = |(model, file): (String, PathBuf)| {
            let policy = snapshot.route(&model).map_err(|error| error.to_string())?;
            let title = format!("{} ({})", policy.name(), file.display());
            Ok(Live { title, model, file: policy_hash(&file)?, policy })
        };
        let policies = virtuals.into_iter().map(live).collect::<Result<_, String>>()?;
        let client = Client::new(&house.url, self.api_key.as_deref());
        Ok(Gateway { house: Some(house), client, files, policies })
    }

    /// The models side by side, then each policy, then what is constrained.
    async fn ask(
        &self,
        gateway: &Gateway,
        (everything, rows): (&[Row], &[Row]),
        answers: &Answers,
    ) -> Result<Vec<Failed>, String> {
        let client = &gateway.client;
        let asker = Asker { client, answers, judge: self.judge.as_deref(), at_once: self.concurrency };
        let mut failed = asked(&asker, "answers", self.askings(gateway, rows)).await;
        for live in &gateway.policies {
            failed.extend(asked(&asker, "live", vec![self.live(live, rows)]).await);
        }
        if self.constrained {
            let constraints = Constraints::of(everything).map_err(|error| error.to_string())?;
            failed.extend(asked(&asker, "constrained", self.bound(gateway, rows, &constraints)).await);
        }
        Ok(failed)
    }

    fn askings<'a>(&self, gateway: &Gateway, rows: &'a [Row]) -> Vec<Asking<'a>> {
        let asking = |(model, file): (&String, &String)| Asking {
            model: model.clone(),
            recorded_as: model.clone(),
            file: file.clone(),
            traced: true,
            rows: rows.iter().map(|row| (row, None)).collect(),
        };
        self.model.iter().zip(&gateway.files).map(asking).collect()
    }

    fn live<'a>(&self, live: &Live, rows: &'a [Row]) -> Asking<'a> {
        let limit = self.policy_rows.unwrap_or(usize::MAX);
        Asking {
            model: live.model.clone(),
            recorded_as: POLICY.to_owned(),
            file: live.file.clone(),
            traced: false,
            rows: rows.iter().take(limit).map(|row| (row, None)).collect(),
        }
    }

    fn bound<'a>(&self, gateway: &Gateway, rows: &'a [Row], constraints: &Constraints) -> Vec<Asking<'a>> {
        let with_schema = |row: &'a Row| constraints.schema(row).map(|schema| (row, Some(schema)));
        let mut askings = self.askings(gateway, rows);
        askings.truncate(1);
        for first in &mut askings {
            first.rows = rows.iter().filter_map(with_schema).collect();
            first.traced = false;
        }
        askings
    }

    /// What the answers say; rows that a model did not answer are left out.
    async fn found(
        &self,
        gateway: &Gateway,
        (everything, rows): (&[Row], Vec<Row>),
        answers: &Answers,
    ) -> Result<Found, String> {
        let askings = self.askings(gateway, &rows);
        let all = |row: &&Row| askings.iter().all(|asking| answers.get(&asking.key(row, None)).is_some());
        let common: Vec<Row> = rows.iter().filter(all).cloned().collect();
        let of = |asking: &Asking<'_>| Model {
            name: asking.model.clone(),
            answers: common.iter().filter_map(|row| answers.get(&asking.key(row, None))).collect(),
        };
        let models: Vec<Model> = askings.iter().map(of).collect();
        let mut lived = Vec::new();
        for live in &gateway.policies {
            lived.push(self.lived(live, gateway, (&common, &models), answers).await?);
        }
        let constraints = Constraints::of(everything).map_err(|error| error.to_string())?;
        let bound = |asking: &Asking<'_>| -> Vec<(usize, Answer)> {
            let answered = |(row, schema): &(&Row, Option<Value>)| {
                let place = common.iter().position(|one| one.id == row.id)?;
                Some((place, answers.get(&asking.key(row, schema.as_ref()))?))
            };
            asking.rows.iter().filter_map(answered).collect()
        };
        let constrained = if self.constrained { self.bound(gateway, &common, &constraints) } else { Vec::new() };
        let calibrations = self.calibration.iter().map(|file| read_calibration(file)).collect::<Result<Vec<_>, _>>()?;
        let in_slice = |(slice, tasks): &(String, Vec<String>)| {
            tasks.iter().map(|task| (task.clone(), slice.clone())).collect::<Vec<_>>()
        };
        Ok(Found {
            half: self.half(),
            title: self.data.display().to_string(),
            slices: self.slice.iter().flat_map(in_slice).collect(),
            scores: models.first().map_or(Ok(Vec::new()), |first| scores(first, &calibrations))?,
            constrained: constrained.iter().flat_map(bound).collect(),
            machine: told::machine(),
            rows: common,
            models,
            lived,
        })
    }

    /// What a policy did, and what the records say it would do.
    async fn lived(
        &self,
        live: &Live,
        gateway: &Gateway,
        (rows, models): (&[Row], &[Model]),
        answers: &Answers,
    ) -> Result<Lived, String> {
        let asking = self.live(live, rows);
        let mut lived =
            Lived { name: live.title.clone(), rows: Vec::new(), answers: Vec::new(), predicted: Vec::new() };
        let recorded: Vec<_> = models.iter().map(|model| (model, features(model).ok())).collect();
        for (place, (row, _)) in asking.rows.iter().enumerate() {
            let Some(answer) = answers.get(&asking.key(row, None)) else { continue };
            let request = request(row, &live.model).await?;
            let known = |(model, records): &(&Model, Option<crate::lab::records::Records>)| {
                let answered = records.as_ref()?.answers.get(&row.id)?;
                let (features, trace) = (Some(answered.graded.features), Some(answered.trace.clone()));
                let told = Recorded { features, trace, ..Recorded::default() };
                Some((ModelId::new(model.name.as_str()), told))
            };
            let records = recorded.iter().filter_map(known).collect();
            let facts = gateway.house.as_ref().map(|house| house.control.current().facts(&live.policy, &request));
            let decision = live.policy.decide(&request, &facts.unwrap_or_default());
            lived.predicted.push(match fate(&decision, &request, &records) {
                Fate::Served { model, .. } => Some(model.is_local()),
                Fate::Rejected | Fate::Unknown(_) => None,
            });
            lived.rows.push(place);
            lived.answers.push(answer);
        }
        Ok(lived)
    }

    #[expect(clippy::print_stdout, reason = "the command's output")]
    fn tell(&self, found: &Found) -> Result<(), String> {
        let name = match self.rows {
            Some(_) => format!("{}-{}", found.half.name(), found.rows.len()),
            None => found.half.name().to_owned(),
        };
        let Some(folder) = &self.out else {
            print!("{}", report::render(found, None));
            return Ok(());
        };
        let text = report::render(found, Some(&name));
        let json = serde_json::to_string_pretty(&report::numbers(found)).map_err(|error| error.to_string())?;
        let mut files = vec![
            (format!("{name}.md"), text.clone().into_bytes()),
            (format!("{name}.json"), (json + "\n").into_bytes()),
            (format!("{name}-curves.csv"), report::curves_csv(found)?.into_bytes()),
            (format!("{name}-tasks.csv"), report::tasks_csv(found)?.into_bytes()),
        ];
        for picture in pictures(found) {
            files.push((format!("{name}{}.png", picture.suffix), picture.png()?));
            files.push((format!("{name}{}.svg", picture.suffix), picture.svg.into_bytes()));
        }
        let cannot = |file: &Path, error: std::io::Error| format!("{}: cannot write: {error}", file.display());
        fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
        for (name, bytes) in files {
            let file = folder.join(name);
            fs::write(&file, bytes).map_err(|error| cannot(&file, error))?;
        }
        print!("{text}");
        Ok(())
    }
}

/// Asks several at the same time, each its own rows.
async fn asked(asker: &Asker<'_>, title: &str, askings: Vec<Asking<'_>>) -> Vec<Failed> {
    let progress = Progress::new(title, askings.iter().map(|asking| asking.rows.len()).sum());
    let step = || progress.step();
    join_all(askings.iter().map(|asking| asker.ask(asking, &step))).await.into_iter().flatten().collect()
}

/// The request that a row makes, as the gateway reads it.
async fn request(row: &Row, model: &str) -> Result<Request, String> {
    let mut body = json!({"model": model, "messages": row.messages, "temperature": 0});
    if let Some(limit) = row.max_tokens {
        body["max_tokens"] = limit.into();
    }
    super::request::parse(api::Route::Chat, Bytes::from(body.to_string())).await
}

/// What a policy is: its file, and the calibrations it names.
fn policy_hash(file: &Path) -> Result<String, String> {
    let cannot = |file: &Path, error: std::io::Error| format!("{}: cannot read: {error}", file.display());
    let mut bytes = fs::read(file).map_err(|error| cannot(file, error))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    for name in Policy::calibrations(&String::from_utf8_lossy(&bytes)).into_keys() {
        let file = folder.join(name);
        bytes.extend(fs::read(&file).map_err(|error| cannot(&file, error))?);
    }
    Ok(digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_calibration(file: &Path) -> Result<Calibration, String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: cannot read: {error}", file.display()))?;
    Calibration::parse(&bytes).map_err(|why| format!("{}: not a calibration: {why}", file.display()))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nweir: ")
}
