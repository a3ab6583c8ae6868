//! How long the last answers took, by the model that served them.
//!
//! The last 512 answers of each model that are at most ten minutes old: quantiles are exact, of
//! these. Models are the labels of metrics, which configurations bound; a model that has answered
//! nothing for ten minutes is forgotten. Used by [`super::Live`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::flow::KEPT;
use crate::account::{Outcome, Receipt};

/// Answers kept of each model.
const ANSWERS: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Latency {
    models: BTreeMap<String, VecDeque<Answer>>,
}

#[derive(Debug)]
struct Answer {
    second: u64,
    ttft: Option<Duration>,
    e2e: Duration,
}

/// The times of one model's last answers, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    model: String,
    /// Of how many answers.
    answers: usize,
    ttft_p50_ms: Option<f64>,
    ttft_p95_ms: Option<f64>,
    e2e_p50_ms: Option<f64>,
    e2e_p95_ms: Option<f64>,
}

impl Latency {
    pub(super) fn add(&mut self, second: u64, served: Option<&str>, receipt: &Receipt) {
        let Some(label) = served.filter(|_| receipt.outcome == Outcome::Ok) else { return };
        let answer = Answer { second, ttft: receipt.ttft, e2e: receipt.e2e };
        match self.models.get_mut(label) {
            Some(answers) => {
                if answers.len() == ANSWERS {
                    answers.pop_front();
                }
                answers.push_back(answer);
            }
            None => drop(self.models.insert(label.to_owned(), [answer].into())),
        }
    }

    pub(super) fn quantiles(&mut self, now: u64) -> Vec<Quantiles> {
        self.models.retain(|_, answers| {
            answers.retain(|answer| answer.second + KEPT > now);
            !answers.is_empty()
        });
        let of = |(model, answers): (&String, &VecDeque<Answer>)| {
            let ttft = sorted(answers.iter().filter_map(|answer| answer.ttft));
            let e2e = sorted(answers.iter().map(|answer| answer.e2e));
            Quantiles {
                model: model.clone(),
                answers: answers.len(),
                ttft_p50_ms: quantile(&ttft, 0.5),
                ttft_p95_ms: quantile(&ttft, 0.95),
                e2e_p50_ms: quantile(&e2e, 0.5),
                e2e_p95_ms: quantile(&e2e, 0.95),
            }
        };
        self.models.iter().map(of).collect()
    }
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times
}

/// The least time that at least this share of the answers did not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let time = sorted.get(rank.saturating_sub(1))?;
    Some((time.as_secs_f64() * 1e6).round() / 1e3)
}
