//! The routers and baselines of a replay: each turns a log into one rank per row.
//!
//! The higher the rank, the earlier a row goes upstream. Learned routers see a row's text and domain
//! but never its outcome: they are fitted on other folds, drawn at random (`in-domain`) or of whole
//! domains (`left-out`). Pure but for the seed of the folds. Called by `replay`.

use std::collections::HashMap;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::logs::{Log, Row};
use crate::confidence::gap::Predictor;
use crate::confidence::gap::scorer::{Scorer, Sight};
use crate::confidence::gap::terms::{BUCKETS, Text, Weights};

/// How many neighbours are asked.
const NEIGHBOURS: usize = 100;
/// At most so many folds of whole domains; beyond it several domains share one.
const MOST_DOMAIN_FOLDS: usize = 64;

/// What a router may know when it decides: the honest label of its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Knows {
    /// Nothing.
    Nothing,
    /// The prompt; nothing was learned.
    Prompt,
    /// The prompt, after learning on other requests of the same domains.
    InDomain,
    /// The prompt, after learning on other domains only.
    LeftOut,
    /// The local answers: the local model was asked first.
    Answers,
    /// The local answers and the prompt, after learning in-domain.
    AnswersInDomain,
    /// A scorer from elsewhere: what it was trained on is not known here.
    Given,
    /// The outcome: no router can know it.
    Outcome,
}

/// A rank per row.
#[derive(Debug, Clone)]
pub(super) struct Ranking {
    pub(super) name: String,
    pub(super) knows: Knows,
    pub(super) ranks: Vec<f64>,
    /// Rows above it would go upstream if the share were free; `None`: the router does not say.
    pub(super) threshold: Option<f64>,
}

/// Every router that this log can be replayed with.
pub(super) fn all(log: &Log, folds: usize, seed: u64, given: Option<&Predictor>) -> Vec<Ranking> {
    let rows = &log.rows;
    let mut rankings = vec![ranking("random", Knows::Nothing, None, rows.iter().map(|_| 0.0))];
    let texts: Vec<Text> = rows.iter().map(|row| Text::read(&row.prompt)).collect();
    let at_random = random_folds(rows.len(), folds, seed);
    let by_domain = domain_folds(rows);
    if texts.iter().any(|text| !text.buckets.is_empty()) {
        let length = rows.iter().map(|row| row.prompt.chars().count() as f64);
        rankings.push(ranking("prompt length", Knows::Prompt, None, length));
        let sorts = [(Knows::InDomain, Some(&at_random)), (Knows::LeftOut, by_domain.as_ref())];
        for (knows, folds) in sorts.into_iter().filter_map(|(knows, folds)| Some((knows, folds?))) {
            rankings.push(ranking("TF-IDF ridge", knows, Some(0.0), ridge(rows, &texts, folds, Sight::Words)));
            let ours = ridge(rows, &texts, folds, Sight::WordsAndShape);
            rankings.push(ranking("words and shape", knows, Some(0.0), ours));
            rankings.push(ranking("nearest neighbours", knows, Some(0.0), neighbours(rows, &texts, folds)));
        }
    }
    if by_domain.is_some() {
        rankings.push(ranking("domain mean gap", Knows::InDomain, Some(0.0), domain_means(rows, &at_random)));
    }
    if let Some(predictor) = given {
        let gaps = texts.iter().map(|text| predictor.scorer().gap_of(text));
        rankings.push(ranking("given scorer", Knows::Given, Some(0.0), gaps));
    }
    rankings.extend(after_answers(rows, &rankings));
    rankings.push(ranking("oracle", Knows::Outcome, Some(0.0), rows.iter().map(gap)));
    rankings
}

fn ranking(name: &str, knows: Knows, threshold: Option<f64>, ranks: impl IntoIterator<Item = f64>) -> Ranking {
    Ranking { name: name.to_owned(), knows, ranks: ranks.into_iter().collect(), threshold }
}

fn gap(row: &Row) -> f64 {
    row.upstream - row.local
}

/// Those that ask the local model first: the log's own score, the agreement of two models.
fn after_answers(rows: &[Row], before: &[Ranking]) -> Vec<Ranking> {
    let mut rankings = Vec::new();
    if rows.iter().any(|row| row.score.is_some()) {
        // Without a score nothing is to be believed.
        let doubt = rows.iter().map(|row| row.score.map_or(f64::INFINITY, |score| -score));
        rankings.push(ranking("score of the log", Knows::Answers, None, doubt));
    }
    if rows.iter().any(|row| row.agrees.is_some()) {
        let doubt = rows.iter().map(|row| f64::from(row.agrees != Some(true)));
        rankings.push(ranking("agreement", Knows::Answers, Some(0.5), doubt));
        if let Some(words) = before.iter().find(|ranking| ranking.name == "words and shape") {
            // The scorer orders rows within both groups: squashed, it cannot cross them.
            let within = words.ranks.iter().map(|gap| gap.tanh() / 2.0);
            let both = rows.iter().zip(within).map(|(row, within)| f64::from(row.agrees != Some(true)) + within);
            rankings.push(ranking("agreement, then words", Knows::AnswersInDomain, None, both));
        }
    }
    rankings
}

/// A fold per row.
type Folds = Vec<usize>;

/// Folds of equal size, drawn at random.
fn random_folds(rows: usize, folds: usize, seed: u64) -> Folds {
    let mut assigned: Folds = (0..rows).map(|at| at % folds).collect();
    assigned.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
    assigned
}

/// Folds of whole domains; `None` where there are not two domains.
fn domain_folds(rows: &[Row]) -> Option<Folds> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut assigned = Folds::with_capacity(rows.len());
    for row in rows {
        let next = numbers.len();
        assigned.push(*numbers.entry(&row.domain).or_insert(next) % MOST_DOMAIN_FOLDS);
    }
    (numbers.len() > 1).then_some(assigned)
}

/// For every fold: the rows outside it and the rows in it.
fn splits(folds: &Folds) -> impl Iterator<Item = (Vec<usize>, Vec<usize>)> + '_ {
    let count = folds.iter().max().map_or(0, |most| most + 1);
    (0..count).map(|fold| (0..folds.len()).partition(|&at| folds[at] != fold))
}

/// What a fold's rows are predicted to gain, by a function of (rows outside, rows inside).
fn crossed(folds: &Folds, mut predict: impl FnMut(&[usize], &[usize]) -> Vec<f64>) -> Vec<f64> {
    let mut ranks = vec![0.0; folds.len()];
    for (outside, inside) in splits(folds) {
        for (at, rank) in inside.iter().zip(predict(&outside, &inside)) {
            ranks[*at] = rank;
        }
    }
    ranks
}

fn ridge(rows: &[Row], texts: &[Text], folds: &Folds, sight: Sight) -> Vec<f64> {
    crossed(folds, |outside, inside| {
        let seen: Vec<&Text> = outside.iter().map(|&at| &texts[at]).collect();
        let gaps: Vec<f64> = outside.iter().map(|&at| gap(&rows[at])).collect();
        let scorer = Scorer::fit(&seen, &gaps, sight);
        inside.iter().map(|&at| scorer.gap_of(&texts[at])).collect()
    })
}

/// The mean gap of the domain's rows in other folds; of all rows where there are none.
fn domain_means(rows: &[Row], folds: &Folds) -> Vec<f64> {
    crossed(folds, |outside, inside| {
        let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
        let mut whole = (0.0, 0.0);
        for row in outside.iter().map(|&at| &rows[at]) {
            let sum = sums.entry(&row.domain).or_default();
            *sum = (sum.0 + gap(row), sum.1 + 1.0);
            whole = (whole.0 + gap(row), whole.1 + 1.0);
        }
        let mean = |&at: &usize| {
            let (sum, count) = sums.get(rows[at].domain.as_str()).copied().unwrap_or(whole);
            if count > 0.0 { sum / count } else { 0.0 }
        };
        inside.iter().map(mean).collect()
    })
}

/// The mean gap of the nearest texts by cosine of their TF-IDF vectors.
fn neighbours(rows: &[Row], texts: &[Text], folds: &Folds) -> Vec<f64> {
    crossed(folds, |outside, inside| {
        let seen: Vec<&Text> = outside.iter().map(|&at| &texts[at]).collect();
        let weights = Weights::learn(&seen, 1);
        let mut postings: Vec<Vec<(u32, f32)>> = vec![Vec::new(); BUCKETS];
        for (place, text) in seen.iter().enumerate() {
            for (bucket, value) in weights.vector(text) {
                postings[bucket as usize].push((place as u32, value));
            }
        }
        let mean = |&at: &usize| {
            let mut likeness = vec![0.0_f32; outside.len()];
            for (bucket, value) in weights.vector(&texts[at]) {
                for &(place, other) in &postings[bucket as usize] {
                    likeness[place as usize] += value * other;
                }
            }
            let mut places: Vec<usize> = (0..outside.len()).collect();
            let most = NEIGHBOURS.min(places.len());
            if most < places.len() {
                places.select_nth_unstable_by(most, |&a, &b| likeness[b].total_cmp(&likeness[a]));
            }
            places[..most].iter().map(|&place| gap(&rows[outside[place]])).sum::<f64>() / most.max(1) as f64
        };
        inside.iter().map(mean).collect()
    })
}

/// How often each row is drawn when as many rows as there are are drawn with replacement.
pub(super) fn resample(rows: usize, random: &mut Xoshiro256PlusPlus) -> Vec<u16> {
    let mut counts = vec![0; rows];
    for _ in 0..rows {
        counts[random.random_range(0..rows)] += 1;
    }
    counts
}
