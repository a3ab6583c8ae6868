//! When answers are given up before their end: learned on answers whose end is known, and measured.
//!
//! For a grid of thresholds and some numbers of tokens, the limit is the highest score so far below
//! which fewer than epsilon of the answers that went on ended at or above the threshold, counted with
//! one more that did (Laplace), so that few answers set no limit. Promises: the limits are learned on
//! the side of the fit alone; a row stands for the whole rule, early end included, when it is
//! certified. Called by `calibrate`.

use std::collections::BTreeMap;

use super::records::{Answered, Records};
use crate::confidence::certify::Grid;
use crate::confidence::{Early, Level, Limit, Running, Score};

/// After how many tokens an answer may be given up.
const LOOKED_AT: [u64; 10] = [1, 2, 3, 4, 6, 8, 16, 32, 64, 128];

/// What giving up would have saved and lost at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saving {
    /// The threshold.
    pub threshold: f64,
    /// The share of all tokens that would not have been generated.
    pub saved: f64,
    /// The share of the answers otherwise kept that would have been given up.
    pub lost: f64,
}

/// An answer's score on its way.
#[derive(Debug, Clone, PartialEq)]
struct Path {
    score: f64,
    tokens: u64,
    /// (tokens, score so far), where it went on.
    on_the_way: Vec<(u64, f64)>,
}

impl Path {
    fn of(answered: &Answered, score: &Score) -> Path {
        let trace = &answered.trace;
        let tokens = trace.len() as u64;
        let goes_on = |answer: &Running| LOOKED_AT.contains(&answer.tokens()) && !answer.has_ended();
        let on_the_way = Running::along(trace).filter(goes_on).map(|it| (it.tokens(), value(score, &it))).collect();
        Path { score: value(score, &Running::of(trace)), tokens, on_the_way }
    }

    fn at(&self, tokens: u64) -> Option<f64> {
        self.on_the_way.iter().find(|step| step.0 == tokens).map(|step| step.1)
    }

    /// After how many tokens it is given up; `None`: never.
    fn given_up(&self, early: &Early, threshold: f64) -> Option<u64> {
        let below = |step: &&(u64, f64)| early.is_below(threshold, step.0, Some(step.1));
        self.on_the_way.iter().find(below).map(|step| step.0)
    }
}

fn value(score: &Score, running: &Running) -> f64 {
    score.value(|feature| running.value(feature).unwrap_or(f64::NAN))
}

/// The rule, and every answer on its way.
#[derive(Debug)]
pub(super) struct GivingUp {
    pub(super) early: Early,
    paths: BTreeMap<String, Path>,
}

impl GivingUp {
    /// Learns the limits on the answers of these ids.
    pub(super) fn learn(records: &Records, score: &Score, fit: &[&str], epsilon: f64, grid: &Grid) -> GivingUp {
        let path = |(id, answered): (&String, &Answered)| (id.clone(), Path::of(answered, score));
        let paths: BTreeMap<String, Path> = records.answers.iter().map(path).collect();
        let seen: Vec<&Path> = fit.iter().filter_map(|id| paths.get(*id)).collect();
        let mut thresholds = grid.thresholds().to_vec();
        thresholds.sort_by(f64::total_cmp);
        let level = |threshold: f64| {
            let limit = |&tokens: &u64| limit(&seen, tokens, threshold, epsilon).map(|below| Limit { tokens, below });
            Level { threshold, limits: LOOKED_AT.iter().filter_map(limit).collect() }
        };
        let early = Early { epsilon, levels: thresholds.into_iter().map(level).collect() };
        GivingUp { early, paths }
    }

    /// The highest threshold of the grid at which the answer is kept, early end included; minus infinity:
    /// at none.
    pub(super) fn stands_at(&self, id: &str) -> f64 {
        let stands = |path: &Path| self.early.stands_at(path.score, |tokens| path.at(tokens));
        self.paths.get(id).and_then(stands).unwrap_or(f64::NEG_INFINITY)
    }

    /// What the rule saves and loses on these answers.
    pub(super) fn saving(&self, ids: &[&str], threshold: f64) -> Saving {
        let (mut tokens, mut saved, mut kept, mut lost) = (0, 0, 0, 0);
        for path in ids.iter().filter_map(|id| self.paths.get(*id)) {
            let given_up = path.given_up(&self.early, threshold);
            tokens += path.tokens;
            saved += given_up.map_or(0, |at| path.tokens - at);
            kept += u32::from(path.score >= threshold);
            lost += u32::from(path.score >= threshold && given_up.is_some());
        }
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Saving { threshold, saved: share(saved as f64, tokens as f64), lost: share(lost.into(), kept.into()) }
    }
}

/// The highest score after so many tokens below which too few answers ended well.
fn limit(paths: &[&Path], tokens: u64, threshold: f64, epsilon: f64) -> Option<f64> {
    let mut steps: Vec<(f64, bool)> =
        paths.iter().filter_map(|path| Some((path.at(tokens)?, path.score >= threshold))).collect();
    steps.retain(|step| step.0.is_finite());
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut well, mut found) = (0_u32, 0_u32, None);
    for (place, &(score, ended_well)) in steps.iter().enumerate() {
        below += 1;
        well += u32::from(ended_well);
        let next = steps.get(place + 1).map_or(score.next_up(), |next| next.0);
        if next > score && f64::from(well + 1) < epsilon * f64::from(below + 1) {
            found = Some(next);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::confidence::certify::{Promise, Risk};
    use crate::confidence::{Feature, Raw};
    use crate::lab::calibrate::{Labels, Made, Settings, Slice, Sources, Tasks, Upstream, Wanted, calibrate};

    /// Of six tokens each; half begin and go on badly, and are wrong; one in 80 only begins badly.
    fn records(rows: usize) -> Records {
        let line = |row: usize| {
            let logprobs = match (row % 80, row % 2) {
                (1, _) => [-0.6, -0.02, -0.02, -0.02, -0.02, -0.02],
                (_, 0) => [-0.1 - (row % 7) as f64 / 100.0; 6],
                _ => [-0.7; 6],
            };
            json!({"model": "local/s", "id": format!("row-{row}"), "right": row.is_multiple_of(2) || row % 80 == 1, "finish": "stop",
                "file": "ab".repeat(32), "logprobs": logprobs, "margins": vec![1.0; 6]})
            .to_string()
                + "\n"
        };
        Records::parse(&(0..rows).map(line).collect::<String>(), "local/s").unwrap()
    }

    fn made(early: Option<f64>) -> Made {
        let settings = Settings {
            model: "local/s".into(),
            score: Wanted::Raw(Feature::SumLogprob),
            labels: Labels::Gold,
            max_tokens: None,
            date: "2026-11-24".into(),
            promise: Some(Promise::check(Risk::Selective, 0.1, 0.1).unwrap()),
            together: false,
            mix: Vec::new(),
            early,
        };
        let slice = Slice { name: "s".into(), calibration: "s".into(), tasks: Vec::new(), attempts: 0 };
        let sources = Sources { records: records(800), tasks: Tasks::default(), upstream: Upstream::default() };
        calibrate(&sources, &[slice], &settings).0.remove(0).unwrap()
    }

    fn path(score: f64, after_two: f64) -> Path {
        Path { score, tokens: 4, on_the_way: vec![(2, after_two)] }
    }

    #[test]
    fn a_limit_is_the_highest_below_which_too_few_end_well() {
        let paths = |bad: usize| {
            let bad = (0..bad).map(|_| path(-9.0, -2.0));
            bad.chain((0..10).map(|_| path(-1.0, -1.0))).collect::<Vec<_>>()
        };
        assert_eq!(limit(&paths(30).iter().collect::<Vec<_>>(), 2, -3.0, 0.05), Some(-1.0));
        assert_eq!(
            limit(&paths(18).iter().collect::<Vec<_>>(), 2, -3.0, 0.05),
            None,
            "one more that ended well would be too many"
        );
        assert_eq!(limit(&paths(30).iter().collect::<Vec<_>>(), 4, -3.0, 0.05), None, "none went on");
        assert_eq!(
            limit(&paths(30).iter().collect::<Vec<_>>(), 2, 0.0, 0.05),
            Some((-1.0_f64).next_up()),
            "nobody ends so well"
        );
    }

    #[test]
    fn what_is_given_up_is_not_counted_as_kept_when_the_rule_is_certified() {
        let (with, without) = (made(Some(0.05)), made(None));
        let [with_one, without_one] = [&with, &without].map(|made| made.calibration.certificates[0].clone());
        assert_eq!(with_one.threshold, without_one.threshold);
        assert!(with_one.kept < without_one.kept, "those that only began badly: {with_one:?} {without_one:?}");
        let Saving { threshold, saved, lost } = with.saving.unwrap();
        assert_eq!(threshold, with_one.threshold);
        assert!((0.35..0.45).contains(&saved), "{saved}: five of six tokens of the bad half");
        let share = 1.0 - with_one.kept as f64 / without_one.kept as f64;
        assert!((lost - share).abs() < 1e-9, "{lost} {share}");
        assert!(without.calibration.early.is_none() && without.saving.is_none());
    }

    #[test]
    fn a_path_is_looked_at_where_the_answer_goes_on() {
        let records = records(2);
        let score = Score::Feature(Raw { feature: Feature::SumLogprob });
        let path = Path::of(&records.answers["row-0"], &score);
        assert_eq!(path.on_the_way.iter().map(|step| step.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!((path.at(4).unwrap() + 0.4).abs() < 1e-6 && (path.score + 0.6).abs() < 1e-6);
    }
}
