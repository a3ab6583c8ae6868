//! Beyond the public figures: the learned scorer and agreement, with the penalty chosen apart.
//!
//! A third of the prompts chooses the ridge's penalty and takes no further part; on the others the
//! scorer is cross-validated, once over prompts (in-domain) and once over whole domains (left out).
//! The program calls `report`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use weir::confidence::Split;
use weir::confidence::gap::{About, Predictor};
use weir::lab::logs::{self, Form, Log, Row, Source};
use weir::lab::metrics::{Curve, Ranked, apgr, sort};

/// The fold of each row, from a seed.
type Folding = fn(&[Row], u64) -> Vec<usize>;

const PENALTIES: [f64; 6] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0];
/// The share of prompts that chooses the penalty.
const CHOOSING: f64 = 1.0 / 3.0;
const FOLDS: usize = 5;
/// Whole domains share so many folds.
const DOMAIN_FOLDS: usize = 10;

/// A router's ranks over the rows, and what it knows.
struct Router {
    name: String,
    knows: &'static str,
    ranks: Vec<f64>,
}

/// One table per log.
pub(crate) fn report(folder: &Path, resamples: usize, seed: u64) -> Result<String, String> {
    let mut text = format!(
        "## Beyond: the scorer of words and shape, and agreement\n\nThe penalty λ is the best of {PENALTIES:?} by APGR on a third of \
         the prompts, which takes no further part. In-domain: trained on other prompts of the same subjects, \
         {FOLDS} folds. Left-out: trained on other subjects only, {DOMAIN_FOLDS} folds. The gain is that of APGR over prompt \
         length, middle 95 % of {resamples} paired resamples. RouteLLM's own routers were trained on other data, so that only \
         left-out rows compare with its published .603 (MMLU).\n\n"
    );
    for (name, log) in [
        ("RouteLLM mmlu", crate::routellm(folder, "mmlu")?),
        ("RouteLLM gsm8k", crate::routellm(folder, "gsm8k")?),
        ("MMLU-Pro, second Mistral-7B", mmlu_pro(folder)?),
    ] {
        text += &table(name, &log, resamples, seed);
    }
    Ok(text)
}

fn mmlu_pro(folder: &Path) -> Result<Log, String> {
    let source = Source {
        log: folder.join("mmlu_pro/results.csv.gz"),
        form: Form::MmluPro,
        prompts: Some(folder.join("mmlu_pro/questions.csv.gz")),
        local: Some("Phi-3-mini-4k-instruct".to_owned()),
        second: Some("Mistral-7B-Instruct-v0.2".to_owned()),
        upstream: Some("Meta-Llama-3_1-70B-Instruct".to_owned()),
    };
    logs::read(&source).map_err(|problem| problem.to_string())
}

fn table(name: &str, log: &Log, resamples: usize, seed: u64) -> String {
    let (choosing, rows): (Vec<Row>, Vec<Row>) =
        log.rows.iter().cloned().partition(|row| Split::of(&row.prompt, CHOOSING) == Split::Fit);
    let mut routers = vec![Router {
        name: "prompt length".to_owned(),
        knows: "prompt",
        ranks: rows.iter().map(|row| row.prompt.chars().count() as f64).collect(),
    }];
    let mut kinds: Vec<(&'static str, Folding)> = vec![("in-domain", at_random)];
    if rows.iter().any(|row| row.domain != rows[0].domain) {
        kinds.push(("left-out", by_domain));
    }
    if rows.iter().any(|row| row.agrees.is_some()) {
        let doubt = rows.iter().map(|row| f64::from(row.agrees != Some(true)));
        routers.push(Router { name: "agreement".to_owned(), knows: "answers", ranks: doubt.collect() });
    }
    for (knows, folds) in kinds {
        let quality = |penalty: f64| {
            let ranks = crossed(&choosing, &folds(&choosing, seed), penalty);
            apgr(&sorted(&choosing, &ranks, None)).unwrap_or(f64::NAN)
        };
        let best = PENALTIES.into_iter().max_by(|a, b| quality(*a).total_cmp(&quality(*b))).unwrap_or(PENALTIES[0]);
        let ranks = crossed(&rows, &folds(&rows, seed), best);
        if rows.iter().any(|row| row.agrees.is_some()) {
            // The scorer orders rows within both groups: squashed, it cannot cross them.
            let both = rows.iter().zip(&ranks).map(|(row, gap)| f64::from(row.agrees != Some(true)) + gap.tanh() / 2.0);
            routers.push(Router { name: format!("agreement, then scorer, λ {best}"), knows, ranks: both.collect() });
        }
        routers.push(Router { name: format!("scorer, λ {best}"), knows, ranks });
    }
    render(name, log, &rows, &routers, (resamples, seed))
}

fn render(name: &str, log: &Log, rows: &[Row], routers: &[Router], (resamples, seed): (usize, u64)) -> String {
    let mut text = format!(
        "### {name}: {} → {}, {} rows reported of {}\n\n| router | knows | APGR | gain | CPT50 | CPT80 |\n|---|---|---|---|---|---|\n",
        log.local,
        log.upstream,
        rows.len(),
        log.rows.len()
    );
    let samples: Vec<Vec<f64>> = routers.iter().map(|router| resampled(rows, router, resamples, seed)).collect();
    for (router, sample) in routers.iter().zip(&samples) {
        let sorted = sorted(rows, &router.ranks, None);
        let curve = Curve::of(&sorted);
        let mut gains: Vec<f64> = sample.iter().zip(&samples[0]).map(|(one, length)| one - length).collect();
        gains.sort_by(f64::total_cmp);
        let at = |share: f64| gains[(share * (gains.len() - 1) as f64).round() as usize];
        let share = |gap: f64| curve.share_closing(gap).unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| {} | {} | {:.3} | {:+.3} – {:+.3} | {:.3} | {:.3} |",
            router.name,
            router.knows,
            apgr(&sorted).unwrap_or(f64::NAN),
            at(0.025),
            at(0.975),
            share(0.5),
            share(0.8)
        );
    }
    text + "\n"
}

fn resampled(rows: &[Row], router: &Router, resamples: usize, seed: u64) -> Vec<f64> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut one = || {
        let drawn: Vec<usize> = rows.iter().map(|_| random.random_range(0..rows.len())).collect();
        apgr(&sorted(rows, &router.ranks, Some(&drawn))).unwrap_or(f64::NAN)
    };
    (0..resamples.max(1)).map(|_| one()).collect()
}

/// The rows, or those drawn of them, as metrics want them.
fn sorted(rows: &[Row], ranks: &[f64], drawn: Option<&[usize]>) -> Vec<Ranked> {
    let one = |at: usize| Ranked { rank: ranks[at], local: rows[at].local, upstream: rows[at].upstream, cost: 1.0 };
    let mut ranked: Vec<Ranked> =
        drawn.map_or_else(|| (0..rows.len()).map(one).collect(), |drawn| drawn.iter().map(|at| one(*at)).collect());
    sort(&mut ranked);
    ranked
}

/// The gap that is predicted of each row by a scorer that was trained without its fold.
fn crossed(rows: &[Row], folds: &[usize], penalty: f64) -> Vec<f64> {
    let mut ranks = vec![0.0; rows.len()];
    for fold in 0..folds.iter().max().map_or(0, |most| most + 1) {
        let outside = rows.iter().zip(folds).filter(|(_, of)| **of != fold).map(|(row, _)| row);
        let gaps = outside.map(|row| (row.prompt.as_str(), row.upstream - row.local));
        let scorer = Predictor::of_prompts_at(penalty, About::default(), gaps);
        for (at, row) in rows.iter().enumerate().filter(|(at, _)| folds[*at] == fold) {
            ranks[at] = scorer.before(&row.prompt);
        }
    }
    ranks
}

fn at_random(rows: &[Row], seed: u64) -> Vec<usize> {
    let mut folds: Vec<usize> = (0..rows.len()).map(|at| at % FOLDS).collect();
    folds.shuffle(&mut SmallRng::seed_from_u64(seed));
    folds
}

fn by_domain(rows: &[Row], _: u64) -> Vec<usize> {
    let mut numbers: BTreeMap<&str, usize> = rows.iter().map(|row| (row.domain.as_str(), 0)).collect();
    numbers.values_mut().enumerate().for_each(|(at, number)| *number = at % DOMAIN_FOLDS);
    rows.iter().map(|row| numbers[row.domain.as_str()]).collect()
}
