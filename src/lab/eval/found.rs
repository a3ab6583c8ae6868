//! What an evaluation found: answers side by side, and the figures read off them.
//!
//! Promises: only rows that every model asked has answered are compared; a figure that is not known
//! is NaN or `None`, never 0. Pure; made by `cli`, rendered by [`super::report`] and
//! [`super::pictures`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::super::records::Records;
use super::answers::{Answer, Answers, Asked, Key};
use super::rows::{Half, Row};
use super::sweep::{self, Curve, Outcome, Pair, Point, wilson};
use crate::confidence::measure::{aurc, auroc, brier, ece};
use crate::confidence::{Calibration, Feature};

/// Bins of the calibration error and of reliability diagrams.
pub const BINS: usize = 10;

/// A model and its answers to the rows that count, in their order.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its full name.
    pub name: String,
    /// One per row.
    pub answers: Vec<Answer>,
}

/// A score of the first model's answers.
#[derive(Debug, Clone)]
pub struct Scored {
    /// Its name: a feature's, or a calibration's.
    pub name: String,
    /// One per row; NaN where an answer has none.
    pub values: Vec<f64>,
    /// The same as a probability of being right, where the score can be taken for one.
    pub probabilities: Option<Vec<f64>>,
}

/// A policy that was asked live.
#[derive(Debug, Clone)]
pub struct Lived {
    /// The policy's name, and its file's.
    pub name: String,
    /// Which of the rows were asked, by place.
    pub rows: Vec<usize>,
    /// The answers to them.
    pub answers: Vec<Answer>,
    /// Where the records said that an answer would be kept, by row; `None`: they do not say.
    pub predicted: Vec<Option<bool>>,
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which rows.
    pub half: Half,
    /// The data set's name.
    pub title: String,
    /// Rows that every model has answered.
    pub rows: Vec<Row>,
    /// Which slice a task is in; a task that is not named is its own.
    pub slices: BTreeMap<String, String>,
    /// In the order they were named: the first is the local one.
    pub models: Vec<Model>,
    /// Of the first model.
    pub scores: Vec<Scored>,
    /// Policies that were asked live.
    pub lived: Vec<Lived>,
    /// The first model's answers under constraint: the row's place, and the answer.
    pub constrained: Vec<(usize, Answer)>,
    /// The machine, in words.
    pub machine: String,
}

/// How a score does on answers.
#[derive(Debug, Clone, Serialize)]
pub struct Quality {
    /// The score.
    pub score: String,
    /// The chance that a right answer scores above a wrong one.
    pub auroc: Option<f64>,
    /// The area under risk against coverage; less is better.
    pub aurc: Option<f64>,
    /// The calibration error of its probability.
    pub ece: Option<f64>,
    /// The squared error of its probability.
    pub brier: Option<f64>,
}

/// How a model does on a group of rows.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// Rows.
    pub rows: usize,
    /// Right ones.
    pub right: usize,
    /// `right / rows`.
    pub share: f64,
    /// The 95 % interval of Wilson.
    pub low: f64,
    /// Its other end.
    pub high: f64,
}

impl Share {
    /// So many of so many.
    pub fn of(right: usize, rows: usize) -> Share {
        let (low, high) = wilson(right, rows);
        Share { rows, right, share: right as f64 / rows as f64, low, high }
    }
}

impl Found {
    /// The slice of a row.
    pub fn slice(&self, row: &Row) -> String {
        self.slices.get(&row.task).unwrap_or(&row.task).clone()
    }

    /// Both models' outcomes, where two and more were asked: the first and the last.
    pub fn pairs(&self) -> Option<Vec<Pair>> {
        let [local, .., upstream] = self.models.as_slice() else { return None };
        let pair = |(one, other): (&Answer, &Answer)| Pair { local: outcome(one), upstream: outcome(other) };
        Some(local.answers.iter().zip(&upstream.answers).map(pair).collect())
    }

    /// The curve of each score and of the baselines; empty with one model.
    pub fn curves(&self) -> Vec<Curve> {
        let Some(pairs) = self.pairs().filter(|pairs| !pairs.is_empty()) else { return Vec::new() };
        let mut curves: Vec<Curve> =
            self.scores.iter().map(|score| sweep::by_score(&pairs, &score.name, &score.values)).collect();
        curves.extend([sweep::by_chance(&pairs), sweep::by_outcome(&pairs)]);
        curves
    }

    /// Each model alone: always the first, … always the last.
    pub fn ends(&self) -> Vec<(String, Point)> {
        let last = self.models.len().saturating_sub(1);
        let alone = |(place, model): (usize, &Model)| {
            let outcomes: Vec<Outcome> = model.answers.iter().map(outcome).collect();
            let kept = if place == 0 && last > 0 { 1.0 } else { f64::from(u8::from(model.name.starts_with("local/"))) };
            (
                format!("always {}", model.name),
                Point::alone(&outcomes, if place == last && last > 0 { 0.0 } else { kept }),
            )
        };
        self.models.iter().enumerate().map(alone).collect()
    }

    /// How each score does on the rows that `among` lets through.
    pub fn qualities(&self, among: impl Fn(&Row) -> bool) -> Vec<Quality> {
        let Some(first) = self.models.first() else { return Vec::new() };
        let places: Vec<usize> = (0..self.rows.len()).filter(|at| among(&self.rows[*at])).collect();
        let graded = |values: &[f64]| -> Vec<(f64, bool)> {
            places.iter().map(|at| (values[*at], first.answers[*at].right)).collect()
        };
        let quality = |score: &Scored| {
            let rows = graded(&score.values);
            let sure = score.probabilities.as_ref().map(|probabilities| graded(probabilities));
            Quality {
                score: score.name.clone(),
                auroc: auroc(&rows),
                aurc: aurc(&rows),
                ece: sure.as_ref().and_then(|rows| ece(rows, BINS)),
                brier: sure.as_ref().and_then(|rows| brier(rows)),
            }
        };
        self.scores.iter().map(quality).collect()
    }

    /// How right a model is on the rows that `among` lets through.
    pub fn share(&self, model: &Model, among: impl Fn(&Row) -> bool) -> Share {
        let among: Vec<&Answer> =
            self.rows.iter().zip(&model.answers).filter(|(row, _)| among(row)).map(|(_, answer)| answer).collect();
        Share::of(among.iter().filter(|answer| answer.right).count(), among.len())
    }

    /// The tasks and levels there are.
    pub fn groups(&self) -> BTreeSet<(String, Option<u32>)> {
        self.rows.iter().map(|row| (row.task.clone(), row.level)).collect()
    }
}

/// What counts of an answer.
pub fn outcome(answer: &Answer) -> Outcome {
    Outcome { right: answer.right, ms: answer.ms, usd: answer.usd.unwrap_or(f64::NAN) }
}

/// The scores of a model's answers: those told with them, or read off their log-probabilities, and
/// those of calibrations.
///
/// # Errors
/// Log-probabilities from which no features can be read.
pub fn scores(model: &Model, calibrations: &[Calibration]) -> Result<Vec<Scored>, String> {
    let told = model.answers.iter().all(|answer| !answer.scores.is_empty());
    let traced = model.answers.iter().all(|answer| answer.logprobs.as_ref().is_some_and(|all| !all.is_empty()));
    if !traced && !calibrations.is_empty() {
        return Err(format!("some answers of {} have no log-probabilities: no calibration can score them", model.name));
    }
    if model.answers.is_empty() || !(told || traced) {
        return Ok(Vec::new());
    }
    let records = if traced { Some(features(model)?) } else { None };
    let feature = |answer: &Answer, feature: Feature| match answer.scores.get(feature.name()) {
        Some(value) if told => *value,
        _ => records
            .as_ref()
            .and_then(|all| all.answers.get(&answer.id))
            .map_or(f64::NAN, |it| it.graded.features.get(feature)),
    };
    let raw = |which: Feature| {
        let values: Vec<f64> = model.answers.iter().map(|answer| feature(answer, which)).collect();
        let probabilities = which.is_logprob().then(|| values.iter().map(|value| value.exp()).collect());
        Scored { name: which.name().to_owned(), values, probabilities }
    };
    let fitted = |calibration: &Calibration| {
        let value = |answer: &Answer| {
            let known = records.as_ref().and_then(|all| all.answers.get(&answer.id));
            known.map_or(f64::NAN, |it| calibration.score.value(|feature| it.graded.features.get(feature)))
        };
        let values: Vec<f64> = model.answers.iter().map(value).collect();
        let probabilities = calibration.score.is_probability().then(|| values.clone());
        Scored { name: calibration.name.clone(), values, probabilities }
    };
    Ok(Feature::TOLD.into_iter().map(raw).chain(calibrations.iter().map(fitted)).collect())
}

/// The features of a model's answers, by row.
///
/// # Errors
/// As of [`Records::parse`].
pub fn features(model: &Model) -> Result<Records, String> {
    let lines: Result<Vec<String>, _> = model.answers.iter().map(serde_json::to_string).collect();
    Records::parse(&(lines.map_err(|error| error.to_string())?.join("\n") + "\n"), &model.name)
}

/// The recorded answers of these rows; `None` in the place of a row that has none.
pub fn recorded(answers: &Answers, model: &str, file: &str, rows: &[Row]) -> Vec<Option<Answer>> {
    let key = |row: &Row| Key { model: model.to_owned(), id: row.id.clone(), form: Asked::Free, file: file.to_owned() };
    rows.iter().map(|row| answers.get(&key(row))).collect()
}
