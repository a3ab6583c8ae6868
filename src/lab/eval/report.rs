//! What an evaluation found, as markdown for people and as JSON and CSV for programs.
//!
//! Promises: shares as `.593`, intervals beside what is counted, `–` for what is not known. Pure;
//! called by `cli`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::answers::Answer;
use super::found::{Found, Lived, Model, Quality, Share, outcome};
use super::sweep::{Curve, Outcome, Point, SHARES, quantile};
use crate::confidence::measure::auroc;

/// Renders everything; `name` is that of the pictures' files.
pub fn render(found: &Found, name: Option<&str>) -> String {
    let mut parts = vec![format!("# {} rows of {} ({} half)\n", found.rows.len(), found.title, found.half.name())];
    parts.push(format!(
        "Each row was asked once of each model (temperature 0) through the gateway; where a cascade is told of, an escalated \
         request pays and waits for both answers. {}.\n",
        found.machine
    ));
    let pictured = |suffix: &str, what: &str| name.map(|name| format!("![{what}]({name}{suffix}.svg)\n"));
    let curves = found.curves();
    if !found.models.is_empty() {
        parts.extend(["## Each model alone\n".to_owned(), models(found)]);
    }
    if !curves.is_empty() {
        parts.extend(pictured("", "accuracy over share answered locally, cost and latency"));
        parts.push("## Share answered locally → accuracy\n".to_owned());
        parts.push(accuracies(&curves));
        parts.push("## Thresholds\n".to_owned());
        parts.extend(curves.iter().filter(|curve| has_thresholds(curve)).map(thresholds));
    }
    if !found.scores.is_empty() {
        parts.push("## Scores\n".to_owned());
        parts.push(
            "AUROC: the probability that a right answer of the first model scores above a wrong one; .5 is a coin. AURC: the \
             mean risk over all shares kept; less is better. ECE and Brier take the score for a probability \
             (log-probabilities through exp).\n"
                .to_owned(),
        );
        parts.push(qualities(&found.qualities(|_| true)));
        parts.extend(pictured("-risk", "wrong answers among those kept, over the share kept"));
        parts.extend(pictured("-reliability", "probability told against share of right answers"));
    }
    if !found.models.is_empty() {
        parts.extend(["## Per task\n".to_owned(), tasks(found), "## Per task and level\n".to_owned(), levels(found)]);
    }
    parts.extend(found.lived.iter().map(|one| lived(found, one)));
    if !found.constrained.is_empty() {
        parts.push("## Decoded under constraint\n".to_owned());
        parts.push(
            "The first model again, with `response_format` json_schema: an enum of the choices the prompt names, a number, an \
             object with the keys the prompt names. AUROC of `min_logprob`.\n"
                .to_owned(),
        );
        parts.push(constrained(found));
    }
    parts.join("\n")
}

fn has_thresholds(curve: &Curve) -> bool {
    curve.points.iter().any(|point| point.threshold.is_some())
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    rows.into_iter().fold(line(&head) + &rule, |text, row| text + &line(&row))
}

/// `.593`; `1.000`.
fn ratio(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.3}");
    text.strip_prefix("0.").map_or(text.clone(), |rest| format!(".{rest}"))
}

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), ratio)
}

fn usd(value: f64) -> String {
    if value.is_finite() { format!("{value:.4}") } else { "–".to_owned() }
}

fn seconds(ms: f64) -> String {
    if ms.is_finite() { format!("{:.2}", ms / 1e3) } else { "–".to_owned() }
}

/// `.538 (.44–.63)`.
fn interval(share: &Share) -> String {
    if share.rows == 0 {
        return "–".to_owned();
    }
    let short = |value: f64| format!("{value:.2}").replacen("0.", ".", usize::from(value < 0.995));
    format!("{} ({}–{})", ratio(share.share), short(share.low), short(share.high))
}

fn models(found: &Found) -> String {
    let mean = |values: Vec<u64>| values.iter().sum::<u64>() as f64 / values.len() as f64;
    let row = |model: &Model| {
        let tokens = |read: fn(&Answer) -> Option<u64>| mean(model.answers.iter().filter_map(read).collect());
        let ms: Vec<f64> = model.answers.iter().map(|answer| answer.ms).collect();
        let alone = Point::alone(&model.answers.iter().map(outcome).collect::<Vec<Outcome>>(), 0.0);
        vec![
            model.name.clone(),
            interval(&found.share(model, |_| true)),
            usd(alone.usd_per_1000),
            format!("{:.0}", tokens(|answer| answer.prompt_tokens)),
            format!("{:.0}", tokens(|answer| answer.completion_tokens)),
            seconds(quantile(&ms, 0.5)),
            seconds(quantile(&ms, 0.95)),
        ]
    };
    let head = [
        "model",
        "accuracy (95 %)",
        "$ per 1 000 requests",
        "tokens in",
        "tokens out",
        "median s",
        "95th percentile s",
    ];
    table(&head, found.models.iter().map(row))
}

/// Share kept → accuracy, for each score beside the baselines.
fn accuracies(curves: &[Curve]) -> String {
    let head: Vec<&str> = ["share kept"].into_iter().chain(curves.iter().map(|curve| curve.name.as_str())).collect();
    let row = |step: usize| {
        let share = format!("{:.1}", step as f64 / SHARES as f64);
        [share].into_iter().chain(curves.iter().map(|curve| ratio(curve.points[step].accuracy))).collect()
    };
    table(&head, (0..=SHARES).step_by(2).map(row))
}

/// Threshold → share kept, accuracy, cost and latency of one score.
fn thresholds(curve: &Curve) -> String {
    let row = |point: &Point| {
        let threshold = point.threshold.map_or_else(|| "none kept".to_owned(), |at| format!("{at:.3}"));
        vec![threshold, ratio(point.kept), ratio(point.accuracy), usd(point.usd_per_1000), seconds(point.median_ms)]
    };
    let name = format!("`{}` at least", curve.name);
    let head = [name.as_str(), "share kept", "accuracy", "$ per 1 000 requests", "median s"];
    table(&head, curve.points.iter().step_by(2).map(row))
}

fn qualities(qualities: &[Quality]) -> String {
    let row = |one: &Quality| {
        vec![format!("`{}`", one.score), known(one.auroc), known(one.aurc), known(one.ece), known(one.brier)]
    };
    table(&["score", "AUROC", "AURC", "ECE", "Brier"], qualities.iter().map(row))
}

/// Per task: how right each model is, and whether the first one knows it.
fn tasks(found: &Found) -> String {
    let tasks: BTreeSet<&str> = found.rows.iter().map(|row| row.task.as_str()).collect();
    let mut head = vec!["task".to_owned(), "n".to_owned()];
    head.extend(found.models.iter().map(|model| model.name.clone()));
    head.extend(found.scores.iter().map(|score| format!("AUROC {}", score.name)));
    let row = |name: String, task: Option<&str>| {
        let among = |row: &super::rows::Row| task.is_none_or(|task| row.task == task);
        let rows = found.rows.iter().filter(|row| among(row)).count();
        let right = found.models.iter().map(|model| interval(&found.share(model, among)));
        let mut cells = vec![name, rows.to_string()];
        cells.extend(right);
        cells.extend(found.qualities(among).iter().map(|quality| known(quality.auroc)));
        cells
    };
    let each = tasks.iter().map(|task| row((*task).to_owned(), Some(task)));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    table(&head, each.chain([row("**all**".to_owned(), None)]))
}

fn levels(found: &Found) -> String {
    let head: Vec<&str> =
        ["task", "level", "n"].into_iter().chain(found.models.iter().map(|model| model.name.as_str())).collect();
    let row = |(task, level): (String, Option<u32>)| {
        let among = |row: &super::rows::Row| row.task == task && row.level == level;
        let rows = found.rows.iter().filter(|row| among(row)).count();
        let told = level.map_or_else(|| "–".to_owned(), |level| level.to_string());
        let right = found.models.iter().map(|model| interval(&found.share(model, among)));
        [task.clone(), told, rows.to_string()].into_iter().chain(right).collect()
    };
    table(&head, found.groups().into_iter().map(row))
}

/// A policy's realised figures, per slice, beside the upstream's own.
fn lived(found: &Found, one: &Lived) -> String {
    let head = [
        "slice",
        "n",
        "share kept",
        "error, kept under a certificate",
        "error, kept by best effort",
        "accuracy",
        "$ per 1 000 requests",
        "median s",
        "added s",
        "upstream's own error",
    ];
    let slices: BTreeSet<String> = one.rows.iter().map(|at| found.slice(&found.rows[*at])).collect();
    let each = slices.into_iter().map(|slice| lived_row(found, one, Some(&slice)));
    let text = table(&head, each.chain([lived_row(found, one, None)]));
    let mut parts = vec![format!("## Live: {} ({} rows)\n", one.name, one.rows.len()), text];
    parts.extend(predicted(found, one));
    parts.join("\n")
}

fn lived_row(found: &Found, one: &Lived, slice: Option<&str>) -> Vec<String> {
    let lived = LivedSlice::of(found, one, slice);
    let error = |share: &Share| {
        if share.rows == 0 { "none kept".to_owned() } else { format!("{}: {}", share.rows, interval(share)) }
    };
    vec![
        slice.map_or_else(|| "**all**".to_owned(), str::to_owned),
        lived.point.0.to_string(),
        ratio(lived.point.1.kept),
        error(&lived.certified),
        error(&lived.best_effort),
        ratio(lived.point.1.accuracy),
        usd(lived.point.1.usd_per_1000),
        seconds(lived.point.1.median_ms),
        seconds(lived.added_ms),
        lived.upstream.as_ref().map_or_else(|| "–".to_owned(), interval),
    ]
}

/// What a policy did on a slice.
struct LivedSlice {
    /// Rows, and what came of them.
    point: (usize, Point),
    /// Wrong ones among those kept under a certificate.
    certified: Share,
    /// Wrong ones among the others kept.
    best_effort: Share,
    /// Wrong ones of the upstream alone on the same rows, where it was asked them all.
    upstream: Option<Share>,
    /// The median beyond that of the upstream alone.
    added_ms: f64,
}

impl LivedSlice {
    fn of(found: &Found, one: &Lived, slice: Option<&str>) -> LivedSlice {
        let among = |at: &usize| slice.is_none_or(|slice| found.slice(&found.rows[*at]) == slice);
        let both: Vec<(usize, &Answer)> =
            one.rows.iter().copied().zip(&one.answers).filter(|(at, _)| among(at)).collect();
        let wrong = |is_in: &dyn Fn(&Answer) -> bool| {
            let kept: Vec<&Answer> = both.iter().map(|(_, answer)| *answer).filter(|answer| is_in(answer)).collect();
            Share::of(kept.iter().filter(|answer| !answer.right).count(), kept.len())
        };
        let outcomes: Vec<Outcome> = both.iter().map(|(_, answer)| outcome(answer)).collect();
        let kept = both.iter().filter(|(_, answer)| answer.is_local()).count() as f64 / both.len() as f64;
        let point = Point::alone(&outcomes, kept);
        let upstream = found.models.last().filter(|model| !model.name.starts_with("local/"));
        let alone: Option<Vec<&Answer>> =
            upstream.map(|model| both.iter().map(|(at, _)| &model.answers[*at]).collect());
        let median = |answers: &Vec<&Answer>| quantile(&answers.iter().map(|one| one.ms).collect::<Vec<f64>>(), 0.5);
        LivedSlice {
            certified: wrong(&|answer| answer.is_local() && answer.is_certified()),
            best_effort: wrong(&|answer| answer.is_local() && !answer.is_certified()),
            added_ms: point.median_ms - alone.as_ref().map_or(f64::NAN, median),
            upstream: alone.map(|all| Share::of(all.iter().filter(|one| !one.right).count(), all.len())),
            point: (both.len(), point),
        }
    }

    fn json(&self) -> Value {
        let (rows, point) = &self.point;
        json!({
            "rows": rows, "point": point, "error_certified": self.certified, "error_best_effort": self.best_effort,
            "error_upstream": self.upstream, "added_ms": self.added_ms,
        })
    }
}

/// The same rows predicted from the records, where those say everything.
fn predicted(found: &Found, one: &Lived) -> Option<String> {
    let kept: Vec<bool> = one.predicted.iter().copied().collect::<Option<_>>()?;
    let all = found.pairs()?;
    let pairs: Vec<_> = one.rows.iter().map(|at| all[*at]).collect();
    let expected = Point::of(&pairs, &kept, None);
    let lived = LivedSlice::of(found, one, None).point.1;
    let row = |name: &str, point: &Point| {
        vec![
            name.to_owned(),
            ratio(point.kept),
            ratio(point.accuracy),
            usd(point.usd_per_1000),
            seconds(point.median_ms),
        ]
    };
    let rows = [row("predicted from the records", &expected), row("lived through the cascade", &lived)];
    let same = kept.iter().zip(&one.answers).filter(|(keep, answer)| **keep == answer.is_local()).count();
    let told = table(&["", "share kept", "accuracy", "$ per 1 000 requests", "median s"], rows);
    Some(format!("{told}\n{same} of {} rows went where the records said.\n", kept.len()))
}

/// Free against constrained answers of the first model, per grader.
fn constrained(found: &Found) -> String {
    let mut groups: BTreeMap<&str, Vec<&(usize, Answer)>> = BTreeMap::new();
    for one in &found.constrained {
        groups.entry(&found.rows[one.0].graded_by).or_default().push(one);
    }
    let row = |name: &str, group: &[&(usize, Answer)]| {
        let free: Vec<&Answer> = group.iter().map(|(at, _)| &found.models[0].answers[*at]).collect();
        let bound: Vec<&Answer> = group.iter().map(|(_, answer)| answer).collect();
        let right = |all: &[&Answer]| ratio(all.iter().filter(|one| one.right).count() as f64 / all.len() as f64);
        let ranks = |all: &[&Answer]| {
            let score = |one: &&Answer| (one.scores.get("min_logprob").copied().unwrap_or(f64::NAN), one.right);
            known(auroc(&all.iter().map(score).collect::<Vec<_>>()))
        };
        vec![name.to_owned(), group.len().to_string(), right(&free), right(&bound), ranks(&free), ranks(&bound)]
    };
    let all: Vec<&(usize, Answer)> = found.constrained.iter().collect();
    let each = groups.iter().map(|(name, group)| row(name, group));
    let head = ["grader", "n", "free", "constrained", "AUROC free", "AUROC constrained"];
    table(&head, each.chain([row("**all**", &all)]))
}

/// Every figure, for programs.
pub fn numbers(found: &Found) -> Value {
    let lived = |one: &Lived| {
        let slices: BTreeSet<String> = one.rows.iter().map(|at| found.slice(&found.rows[*at])).collect();
        let each: serde_json::Map<String, Value> =
            slices.into_iter().map(|slice| (slice.clone(), LivedSlice::of(found, one, Some(&slice)).json())).collect();
        json!({"policy": one.name, "all": LivedSlice::of(found, one, None).json(), "slices": each})
    };
    let ends: serde_json::Map<String, Value> =
        found.ends().into_iter().map(|(name, point)| (name, json!(point))).collect();
    let curves: serde_json::Map<String, Value> =
        found.curves().into_iter().map(|curve| (curve.name, json!(curve.points))).collect();
    json!({
        "data": found.title,
        "half": found.half.name(),
        "rows": found.rows.len(),
        "machine": found.machine,
        "models": found.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        "ends": ends,
        "curves": curves,
        "scores": found.qualities(|_| true),
        "live": found.lived.iter().map(lived).collect::<Vec<_>>(),
    })
}

/// Every point of every curve.
///
/// # Errors
/// As of the CSV library.
pub fn curves_csv(found: &Found) -> Result<String, String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let wrong = |error: csv::Error| error.to_string();
    out.write_record(["rule", "threshold", "kept", "accuracy", "usd_per_1000", "median_ms"]).map_err(wrong)?;
    for curve in found.curves() {
        for point in &curve.points {
            let threshold = point.threshold.map_or_else(String::new, |at| at.to_string());
            let told = [point.kept, point.accuracy, point.usd_per_1000, point.median_ms].map(|value| value.to_string());
            let cells = [curve.name.clone(), threshold].into_iter().chain(told);
            out.write_record(cells).map_err(wrong)?;
        }
    }
    written(out)
}

/// Each model's accuracy per task and level.
///
/// # Errors
/// As of the CSV library.
pub fn tasks_csv(found: &Found) -> Result<String, String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let wrong = |error: csv::Error| error.to_string();
    out.write_record(["model", "task", "level", "rows", "right", "accuracy", "low", "high"]).map_err(wrong)?;
    for model in &found.models {
        for (task, level) in found.groups() {
            let share = found.share(model, |row| row.task == task && row.level == level);
            let level = level.map_or_else(String::new, |level| level.to_string());
            let counts = [share.rows.to_string(), share.right.to_string()];
            let shares = [share.share, share.low, share.high].map(|value| format!("{value:.4}"));
            let cells = [model.name.clone(), task, level].into_iter().chain(counts).chain(shares);
            out.write_record(cells).map_err(wrong)?;
        }
    }
    written(out)
}

fn written(out: csv::Writer<Vec<u8>>) -> Result<String, String> {
    let bytes = out.into_inner().map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}
