//! What an evaluation found, as pictures: the frontier of accuracy and cost, risk against coverage,
//! reliability.
//!
//! Promises: no picture without the answers that it would be drawn from. Called by `cli`.

use super::super::picture::{COLOURS, Look, Panel, Series, png, svg};
use super::found::{BINS, Found, Scored};
use super::sweep::{Curve, Point, wilson};

/// A picture and what its files are called.
#[derive(Debug)]
pub struct Picture {
    /// Behind the evaluation's name: `report` + `-risk`.
    pub suffix: &'static str,
    /// The picture as SVG.
    pub svg: String,
}

impl Picture {
    /// The same as PNG.
    ///
    /// # Errors
    /// As of the drawing library.
    pub fn png(&self) -> Result<Vec<u8>, String> {
        png(&self.svg)
    }
}

/// Every picture there is something for.
pub fn pictures(found: &Found) -> Vec<Picture> {
    let all = [("", frontier(found), 3), ("-risk", risk(found), 1), ("-reliability", reliability(found), 3)];
    let drawn = all.into_iter().filter(|(_, panels, _)| !panels.is_empty());
    drawn.map(|(suffix, panels, columns)| Picture { suffix, svg: svg(&panels, columns) }).collect()
}

/// Threshold → share kept, accuracy, cost and latency, beside the baselines.
fn frontier(found: &Found) -> Vec<Panel> {
    let curves = found.curves();
    if curves.is_empty() {
        return Vec::new();
    }
    let ends = found.ends();
    let panel = |title: &str, axes: [&str; 2], read: fn(&Point) -> (f64, f64)| {
        let line = |(place, curve): (usize, &Curve)| {
            let (colour, look) = dress(place, &curve.name);
            Series::new(&curve.name, colour, look, curve.points.iter().map(read).collect())
        };
        let mut series: Vec<Series> = curves.iter().enumerate().map(line).collect();
        for ((name, point), look) in ends.iter().zip([Look::Discs, Look::Squares].into_iter().cycle()) {
            series.push(Series::new(name, "#000000", look, vec![read(point)]));
        }
        Panel { title: title.to_owned(), across: axes[0].to_owned(), up: axes[1].to_owned(), series, span: None }
    };
    let title = format!("{} graded rows, {} half", found.rows.len(), found.half.name());
    vec![
        panel(&title, ["share answered locally", "accuracy"], |point| (point.kept, point.accuracy)),
        panel("what accuracy costs", ["$ per 1 000 requests", "accuracy"], |point| {
            (point.usd_per_1000, point.accuracy)
        }),
        panel("how long it takes", ["share answered locally", "median seconds"], |point| {
            (point.kept, point.median_ms / 1e3)
        }),
    ]
}

/// The share of wrong answers among those kept, over the share kept.
fn risk(found: &Found) -> Vec<Panel> {
    let Some(model) = found.models.first().filter(|model| !model.answers.is_empty() && !found.scores.is_empty()) else {
        return Vec::new();
    };
    let right: Vec<bool> = model.answers.iter().map(|answer| answer.right).collect();
    let wrong = right.iter().filter(|right| !**right).count() as f64 / right.len() as f64;
    let line = |(place, score): (usize, &Scored)| {
        let (colour, look) = dress(place, &score.name);
        Series::new(&score.name, colour, look, risks(&score.values, &right))
    };
    let mut series: Vec<Series> = found.scores.iter().enumerate().map(line).collect();
    // The right ones first, each before the next.
    let perfect: Vec<f64> =
        right.iter().enumerate().map(|(at, right)| at as f64 - if *right { 0.0 } else { 1e9 }).collect();
    series.push(Series::new("random", "#888888", Look::Dashed, vec![(0.0, wrong), (1.0, wrong)]));
    series.push(Series::new("perfect knowledge", "#000000", Look::Dotted, every_row(&perfect, &right)));
    let title = format!("risk against coverage, {}", short(&model.name));
    let (across, up) = ("share of answers kept".to_owned(), "share of wrong ones among them".to_owned());
    vec![Panel { title, across, up, series, span: None }]
}

/// At each share of rows kept that a threshold can keep: how many of them are wrong. Below 2 % of
/// the rows a share is noise, and not drawn.
fn risks(scores: &[f64], right: &[bool]) -> Vec<(f64, f64)> {
    every_row(scores, right).into_iter().filter(|(kept, _)| *kept >= 0.02).collect()
}

fn every_row(scores: &[f64], right: &[bool]) -> Vec<(f64, f64)> {
    let mut rows: Vec<(f64, bool)> = scores.iter().copied().zip(right.iter().copied()).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut kept, mut wrong) = (0, 0);
    let mut points = Vec::new();
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        kept += tied.len();
        wrong += tied.iter().filter(|row| !row.1).count();
        points.push((kept as f64 / rows.len() as f64, wrong as f64 / kept as f64));
    }
    points
}

/// For each score that is a probability: what it says against what is so, in bins of equally many
/// rows.
fn reliability(found: &Found) -> Vec<Panel> {
    let Some(model) = found.models.first() else { return Vec::new() };
    let panel = |(place, score): (usize, &Scored)| {
        let probabilities = score.probabilities.as_ref()?;
        let mut rows: Vec<(f64, bool)> =
            probabilities.iter().zip(&model.answers).map(|(value, answer)| (*value, answer.right)).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let name = if score.name.ends_with("logprob") { format!("exp({})", score.name) } else { score.name.clone() };
        let mut bins =
            Series::new("a tenth of the answers, 95 % interval", dress(place, "").0, Look::Beads, Vec::new());
        for bin in rows.chunks(rows.len().div_ceil(BINS).max(1)) {
            let said = bin.iter().map(|row| row.0).sum::<f64>() / bin.len() as f64;
            let right = bin.iter().filter(|row| row.1).count();
            let (low, high) = wilson(right, bin.len());
            bins.points.push((said, right as f64 / bin.len() as f64));
            bins.bars.push((said, low, high));
        }
        let ideal = Series::new("as it should be", "#888888", Look::Dashed, vec![(0.0, 0.0), (1.0, 1.0)]);
        let (across, up) = ("probability told".to_owned(), "share of right answers".to_owned());
        Some(Panel { title: name, across, up, series: vec![ideal, bins], span: Some((0.0, 1.0)) })
    };
    found.scores.iter().enumerate().filter_map(panel).collect()
}

fn dress(place: usize, name: &str) -> (&'static str, Look) {
    match name {
        "random" => ("#888888", Look::Dashed),
        "perfect knowledge" => ("#000000", Look::Dotted),
        _ => (COLOURS[place % COLOURS.len()], Look::Line),
    }
}

fn short(model: &str) -> &str {
    model.rsplit('/').next().unwrap_or(model)
}
