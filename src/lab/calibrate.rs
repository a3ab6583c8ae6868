//! From graded answers to a calibration file.
//!
//! The answers are split by their ids: a score is fitted on one side, and so is the grid of
//! thresholds; the other side, unseen until then, measures and certifies. Promises: the same
//! answers and settings give the same file; too few answers are refused with how many more are
//! needed, before a label of the other side is looked at and an attempt spent. Called by
//! `weir calibrate`.

#[cfg(test)]
mod tests;

use std::str::FromStr;

use super::early::{GivingUp, Saving};
use super::records::{Answered, Records};
use crate::confidence::certify::{Grid, Plan, Promise, Refusal, Row};
use crate::confidence::{
    Basis, Calibration, Certificate, Feature, Graded, Isotonic, Key, Logistic, Platt, Quality, Raw, Score, Split,
    Transform,
};

/// What is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What a policy calls it.
    pub name: String,
    /// The model whose answers they are.
    pub model: String,
    /// The kind of traffic they came from.
    pub slice: String,
    /// Which kind of score.
    pub score: Wanted,
    /// The most tokens an answer could have; `None`: no limit was set.
    pub max_tokens: Option<u64>,
    /// The date the file shall bear.
    pub date: String,
    /// What is to be certified; `None`: nothing.
    pub promise: Option<Promise>,
    /// The chance to end well that may be given away by giving answers up early; `None`: none are.
    pub early: Option<f64>,
    /// The attempts at a certificate made on this slice before, each on its own labels.
    pub attempts: u32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The calibration; it has a certificate if one was wanted and not refused.
    pub calibration: Calibration,
    /// Why the certificate was refused. The attempt is spent: the file must be kept.
    pub refusal: Option<Refusal>,
    /// What giving answers up early saves and loses, where that was wanted.
    pub saving: Option<Saving>,
}

/// A kind of score, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `logistic`: over every feature that the answers tell and that differs among them.
    Logistic,
    /// `platt:FEATURE`: one-sided for a log-probability, else untransformed.
    Platt(Feature),
    /// `isotonic:FEATURE`.
    Isotonic(Feature),
    /// `FEATURE`: as it is.
    Raw(Feature),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let feature = |name: &str| Feature::try_from(name.to_owned());
        match text.split_once(':') {
            None if text == "logistic" => Ok(Wanted::Logistic),
            None => feature(text).map(Wanted::Raw),
            Some(("platt", name)) => feature(name).map(Wanted::Platt),
            Some(("isotonic", name)) => feature(name).map(Wanted::Isotonic),
            Some((kind, _)) => Err(format!("unknown kind of score \"{kind}\"; known: logistic, platt, isotonic")),
        }
    }
}

/// The share of ids whose answers are for the fit.
const FIT_SHARE: f64 = 0.5;

/// The thresholds that may be certified.
const GRID_POINTS: usize = 30;

/// Makes a calibration, with a certificate if one is wanted and can be had.
///
/// # Errors
/// Too few answers for the fit, the measures or the certificate, or answers that teach nothing;
/// what is missing. Nothing is spent.
pub fn calibrate(records: &Records, settings: &Settings) -> Result<Made, String> {
    let (fit_side, other_side) = sides(records);
    let score = fit(&fit_side, records, settings.score)?;
    let (fit_rows, rows) = (scored(&score, &fit_side), scored(&score, &other_side));
    let seen: Vec<f64> = fit_rows.iter().map(|row| row.0).collect();
    let grid = Grid::of_scores(&seen, GRID_POINTS);
    let giving_up = settings.early.map(|epsilon| GivingUp::learn(records, &score, (epsilon, FIT_SHARE), &grid));
    let standing = giving_up.as_ref().map_or_else(|| rows.clone(), GivingUp::rows);
    let certified = settings.promise.map(|promise| certify(promise, settings.attempts + 1, grid.clone(), &standing));
    let (certificates, refusal) = match certified {
        None => (Vec::new(), None),
        Some(Ok(certificate)) => (vec![certificate], None),
        Some(Err(refusal @ Refusal::TooRisky { .. })) => (Vec::new(), Some(refusal)),
        Some(Err(refusal)) => return Err(format!("{refusal} among those not used for the fit, half of all")),
    };
    let quality = Quality::of(&rows, score.is_probability()).ok_or_else(|| {
        format!("the {} answers kept for measuring are all right or all wrong; grade more", rows.len())
    })?;
    let middle = grid.thresholds().get(grid.thresholds().len() / 2);
    let threshold = certificates.first().map(|it: &Certificate| &it.threshold).or(middle);
    let saving = giving_up.as_ref().zip(threshold).map(|(rule, threshold)| rule.saving(*threshold));
    let calibration = Calibration {
        version: Calibration::VERSION,
        name: settings.name.clone(),
        model: settings.model.clone(),
        model_sha256: records.model_sha256.clone(),
        slice: settings.slice.clone(),
        basis: Basis::Gold,
        grader: None,
        score,
        key: Key {
            template: None,
            sampler: Key::GREEDY.to_owned(),
            constraint: None,
            max_tokens: settings.max_tokens.map(Key::bucket),
            hold_back: None,
        },
        fitted_rows: fit_side.len() as u64,
        quality,
        date: settings.date.clone(),
        attempts: settings.attempts + u32::from(settings.promise.is_some()),
        early: giving_up.map(|rule| rule.early),
        certificates,
    };
    calibration.render().map(|_| Made { calibration, refusal, saving })
}

/// The boldest threshold of a grid, made of the scores that the fit saw, for which the other side's
/// labels prove the promise at the share of delta that this attempt may spend.
fn certify(promise: Promise, attempt: u32, grid: Grid, rows: &[(f64, bool)]) -> Result<Certificate, Refusal> {
    let plan = Plan::new(promise.at_attempt(attempt), grid);
    let labelled: Vec<Row> =
        rows.iter().map(|&(score, right)| Row { score, loss: f64::from(u8::from(!right)) }).collect();
    let certified = plan.certify(&labelled)?;
    Ok(Certificate {
        kind: promise.risk(),
        alpha: promise.alpha(),
        delta: promise.delta(),
        threshold: certified.threshold,
        rows: certified.rows as u64,
        kept: certified.kept as u64,
        wrong: certified.losses as u64,
        attempt,
    })
}

/// The answers for the fit, and the others.
fn sides(records: &Records) -> (Vec<Graded>, Vec<Graded>) {
    let is_for_fit = |(id, _): &(&String, &Answered)| Split::of(id, FIT_SHARE) == Split::Fit;
    let (fit, other): (Vec<_>, Vec<_>) = records.answers.iter().partition(is_for_fit);
    let graded = |side: Vec<(&String, &Answered)>| side.into_iter().map(|(_, answered)| answered.graded).collect();
    (graded(fit), graded(other))
}

fn fit(rows: &[Graded], records: &Records, wanted: Wanted) -> Result<Score, String> {
    let known = |feature: Feature| match records.known.contains(&feature) {
        true => Ok(feature),
        false => Err(format!("not every answer tells \"{feature}\"; name another feature")),
    };
    match wanted {
        Wanted::Raw(feature) => known(feature).map(|feature| Score::Feature(Raw { feature })),
        Wanted::Isotonic(feature) => Isotonic::fit(rows, known(feature)?).map(Score::Isotonic),
        Wanted::Platt(feature) => {
            let transform = if feature.is_logprob() { Transform::OneSided } else { Transform::Identity };
            Platt::fit(rows, known(feature)?, transform).map(Score::Platt)
        }
        Wanted::Logistic => {
            let differs = |feature: &Feature| {
                rows.windows(2).any(|pair| pair[0].features.get(*feature) != pair[1].features.get(*feature))
            };
            let features: Vec<Feature> = records.known.iter().copied().filter(differs).collect();
            Logistic::fit(rows, &features).map(Score::Logistic)
        }
    }
}

fn scored(score: &Score, rows: &[Graded]) -> Vec<(f64, bool)> {
    rows.iter().map(|row| (score.value(|feature| row.features.get(feature)), row.right)).collect()
}
