//! What certificates promise, by brute force and by simulation.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn promise(risk: Risk, alpha: f64, delta: f64) -> Promise {
    Promise::check(risk, alpha, delta).unwrap()
}

fn row(score: f64, loss: f64) -> Row {
    Row { score, loss }
}

/// `n` rows with falling scores; the places in `wrong` lose.
fn falling(n: usize, wrong: &[usize]) -> Vec<Row> {
    (0..n).map(|at| row(-(at as f64), f64::from(wrong.contains(&at)))).collect()
}

fn every_score(rows: &[Row]) -> Grid {
    rows.iter().map(|row| row.score).collect::<Vec<f64>>().into()
}

/// Rows whose score is uniform and whose loss has the probability that `risk` gives to the score.
fn draw(random: &mut SmallRng, n: usize, risk: impl Fn(f64) -> f64) -> Vec<Row> {
    let one = |random: &mut SmallRng| {
        let score: f64 = random.random();
        row(score, f64::from(random.random::<f64>() < risk(score)))
    };
    (0..n).map(|_| one(random)).collect()
}

fn hundredths() -> Grid {
    (0..100).map(|step| f64::from(step) / 100.0).collect::<Vec<f64>>().into()
}

/// Below this the share of 400 draws lies with near certainty when its expectation is .1.
const TENTH_OF_400: f64 = 0.1 + 3.0 * 0.015;

fn share_violated(mut violates: impl FnMut(&mut SmallRng) -> bool) -> f64 {
    let mut random = SmallRng::seed_from_u64(7);
    (0..400).filter(|_| violates(&mut random)).count() as f64 / 400.0
}

#[test]
fn the_grid_falls_without_repeats_and_ends_where_everything_is_kept() {
    let scores: Vec<f64> = (0..1000).map(f64::from).chain([f64::NAN, f64::NEG_INFINITY]).collect();
    let grid = Grid::of_scores(&scores, 100);
    assert_eq!(grid.thresholds().len(), 100);
    assert_eq!((grid.thresholds()[0], grid.thresholds()[99]), (990.0, 0.0));
    assert!(grid.thresholds().windows(2).all(|pair| pair[0] > pair[1]));
    assert_eq!(Grid::of_scores(&[0.5; 40], 100).thresholds(), [0.5]);
    assert!(Grid::of_scores(&[], 100).thresholds().is_empty());
}

#[test]
fn no_certificate_comes_from_fewer_labels_than_its_mathematics_needs() {
    for alpha in [0.05, 0.1, 0.2] {
        for delta in [0.05, 0.1] {
            let least = smallest_n(alpha, delta, 0);
            let at_one_error = smallest_n(alpha, delta, 1);
            for n in 0..at_one_error + 2 {
                let rows = falling(n, &[]);
                for risk in [Risk::Selective, Risk::Regret, Risk::Joint] {
                    let plan = Plan::new(promise(risk, alpha, delta), every_score(&rows));
                    let need = if risk == Risk::Selective { at_one_error } else { least };
                    match plan.certify(&rows) {
                        Ok(found) => assert!(n >= need && found.bound <= alpha, "{risk:?} {alpha} {n}"),
                        Err(Refusal::TooFew { have, need: told }) => {
                            assert!(n < need && have == n && told == need.max(n + 1), "{risk:?} {alpha} {n}: {told}");
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
    }
}

/// Whatever is drawn and declared: what is certified is backed by as many labels as its test needs.
#[test]
fn a_certificate_of_any_plan_and_any_rows_is_proved_by_the_labels_it_counts() {
    let mut random = SmallRng::seed_from_u64(3);
    let (mut certified, mut refused) = (0, 0);
    for round in 0..600 {
        let risk = Risk::ALL[round % 3];
        let (alpha, delta) = (0.02 + 0.4 * random.random::<f64>(), 0.01 + 0.3 * random.random::<f64>());
        let losses = if round % 2 == 0 { Losses::Binary } else { Losses::Bounded };
        let (starts, attempt) = (1 + round % 4, 1 + (round % 5) as u32);
        let n = random.random_range(0..400);
        let wrong: f64 = 0.3 * random.random::<f64>();
        let mut rows = draw(&mut random, n, |score| wrong * (1.0 - score));
        if losses == Losses::Bounded {
            rows.iter_mut().for_each(|row| row.loss *= random.random::<f64>());
        }
        let promise = promise(risk, alpha, delta).at_attempt(attempt);
        let plan = Plan { promise, losses, grid: hundredths(), starts };
        let level = promise.delta() / starts as f64;
        let alone = plan.certify(&rows);
        // Beside others delta is shared: never more is certified.
        let together = certify_together(&[(&plan, &rows), (&plan, &rows)]).swap_remove(0);
        for (found, level) in [(alone, level), (together, level)] {
            let Ok(found) = found else {
                refused += 1;
                continue;
            };
            certified += 1;
            let kept: Vec<&Row> = rows.iter().filter(|row| row.score >= found.threshold).collect();
            let lost: f64 = kept.iter().map(|row| row.loss).sum();
            assert!(found.kept == kept.len() && (found.losses - lost).abs() < 1e-9, "{found:?}");
            let counted = risk.denominator(found.kept, n);
            let p = match losses {
                Losses::Binary => binomial_cdf(lost.round() as usize, counted, alpha),
                Losses::Bounded => hoeffding_bentkus(found.losses, counted, alpha),
            };
            assert!(p <= level && found.bound <= alpha + 1e-9, "{risk:?} {alpha} {delta} {found:?}: {p}");
            assert!(counted >= smallest_n(alpha, level, 0), "{found:?}: fewer than could prove it without a loss");
        }
    }
    assert!(certified > 100 && refused > 100, "{certified} {refused}");
}

#[test]
fn selective_risk_counts_the_kept_and_the_others_count_everybody() {
    // 100 rows: the best 50 with two errors, then 50 all wrong.
    let wrong: Vec<usize> = [10, 30].into_iter().chain(50..100).collect();
    let rows = falling(100, &wrong);
    let found = |risk| Plan::new(promise(risk, 0.1, 0.1), every_score(&rows)).certify(&rows);
    // Kept rows: at 50, two errors give a bound of .104; at 38 two are too many, and the walk never starts.
    assert!(matches!(found(Risk::Selective), Err(Refusal::TooRisky { kept: 38, .. })));
    // All rows: 5 losses of 100 have a bound of .092, 6 of .104.
    let joint = found(Risk::Joint).unwrap();
    assert_eq!((joint.kept, joint.losses, joint.threshold, joint.rows), (53, 5.0, -52.0, 100));
    assert_eq!(found(Risk::Regret).unwrap(), joint);
    assert!((joint.bound - upper_bound(5, 100, 0.1)).abs() < 1e-12);
}

#[test]
fn the_walk_equals_a_search_by_hand_on_every_small_sample() {
    // Every placement of errors among 12 rows, alpha .3, delta .3, starting where one error is survived.
    let promise = promise(Risk::Selective, 0.3, 0.3);
    for pattern in 0u32..1 << 12 {
        let wrong: Vec<usize> = (0..12).filter(|bit| pattern >> bit & 1 == 1).collect();
        let rows = falling(12, &wrong);
        let plan = Plan::new(promise, every_score(&rows));
        let mut expected = None;
        for kept in plan.smallest_kept(12)..=12 {
            let losses = wrong.iter().filter(|at| **at < kept).count();
            if upper_bound(losses, kept, 0.3) > 0.3 {
                break;
            }
            expected = Some(kept);
        }
        assert_eq!(plan.certify(&rows).ok().map(|found| found.kept), expected, "{pattern:b}");
    }
}

#[test]
fn skipped_thresholds_do_not_fail_and_early_errors_end_only_one_of_several_starts() {
    // The very best row is wrong: of no account where 38 rows are asked for.
    let rows = falling(200, &[0]);
    let plan = Plan::new(promise(Risk::Selective, 0.1, 0.1), every_score(&rows));
    assert_eq!(plan.certify(&rows).unwrap().kept, 200);
    // Five errors among the first 38 end the only walk; five starts still find the safe rest.
    let rows = falling(240, &[1, 5, 9, 13, 17]);
    let plan = Plan::new(promise(Risk::Selective, 0.1, 0.1), every_score(&rows));
    assert!(matches!(plan.certify(&rows), Err(Refusal::TooRisky { kept: 38, losses: 5.0, .. })));
    let five = Plan { starts: 5, ..plan.clone() };
    assert_eq!(five.certify(&rows).unwrap().kept, 240);
    assert!(five.smallest_kept(240) > plan.smallest_kept(240), "starts share delta");
}

#[test]
fn where_the_walk_starts_depends_on_n_and_alpha_only() {
    let plan = |alpha| Plan::new(promise(Risk::Selective, alpha, 0.1), Grid::from(vec![0.0]));
    assert_eq!([100, 249, 250, 1000].map(|n| plan(0.1).smallest_kept(n)), [38, 38, 80, 80]);
    assert_eq!([18, 125].map(|n| plan(0.2).smallest_kept(n)), [18, 40]);
    assert_eq!(plan(0.05).smallest_kept(500), 160);
}

#[test]
fn a_stricter_promise_never_keeps_more_and_more_losses_never_help() {
    let mut random = SmallRng::seed_from_u64(3);
    for _ in 0..40 {
        let rows = draw(&mut random, 200, |score| 0.4 * (1.0 - score));
        for risk in [Risk::Regret, Risk::Joint] {
            let kept = |alpha, delta, rows: &[Row]| {
                Plan::new(promise(risk, alpha, delta), hundredths()).certify(rows).map_or(0, |found| found.kept)
            };
            assert!(kept(0.1, 0.1, &rows) <= kept(0.2, 0.1, &rows));
            assert!(kept(0.1, 0.05, &rows) <= kept(0.1, 0.1, &rows));
            let mut worse = rows.clone();
            worse.iter_mut().step_by(9).for_each(|row| row.loss = 1.0);
            assert!(kept(0.1, 0.1, &worse) <= kept(0.1, 0.1, &rows));
        }
    }
}

#[test]
fn losses_that_were_not_declared_are_refused_and_nan_scores_are_never_kept() {
    let mut rows = falling(100, &[]);
    rows[40].loss = 0.5;
    let plan = Plan::new(promise(Risk::Joint, 0.1, 0.1), every_score(&rows));
    assert_eq!(plan.certify(&rows), Err(Refusal::BadLoss { row: 40, loss: 0.5 }));
    let bounded = Plan { losses: Losses::Bounded, ..plan.clone() };
    assert_eq!(bounded.certify(&rows).unwrap().kept, 100);
    rows[40].loss = f64::NAN;
    assert!(matches!(bounded.certify(&rows), Err(Refusal::BadLoss { row: 40, .. })));
    rows[40] = row(f64::NAN, 1.0);
    let found = plan.certify(&rows).unwrap();
    assert_eq!((found.rows, found.kept, found.losses), (100, 99, 0.0));
}

#[test]
fn a_selective_certificate_breaks_its_promise_in_at_most_delta_of_the_draws() {
    // The hardest case: every threshold's risk is a hair above alpha, so that any certificate is false.
    let plan = Plan::new(promise(Risk::Selective, 0.2, 0.1), hundredths());
    let flat = share_violated(|random| plan.certify(&draw(random, 120, |_| 0.201)).is_ok());
    assert!(flat > 0.01 && flat <= TENTH_OF_400, "{flat}");
    // Safe at the top, then worse: P(wrong | score ≥ t) = .4·(1 − t), above alpha below t = .5.
    let slope = share_violated(|random| {
        let rows = draw(random, 150, |score| 0.8 * (1.0 - score));
        plan.certify(&rows).is_ok_and(|found| found.threshold < 0.5)
    });
    assert!(slope <= TENTH_OF_400, "{slope}");
    let five = Plan { starts: 5, ..plan };
    let flat = share_violated(|random| five.certify(&draw(random, 120, |_| 0.201)).is_ok());
    assert!(flat <= TENTH_OF_400, "{flat}");
}

#[test]
fn plain_tuning_breaks_the_same_promise_far_more_often() {
    let grid = hundredths();
    let naive = share_violated(|random| {
        let rows = draw(random, 150, |score| 0.8 * (1.0 - score));
        let fits = |point: &Point| point.kept > 0 && point.losses / point.kept as f64 <= 0.2;
        points(&grid, &rows).iter().rev().find(|point| fits(point)).is_some_and(|point| point.threshold < 0.5)
    });
    assert!(naive > 0.3, "{naive}");
}

#[test]
fn a_joint_certificate_with_bounded_losses_breaks_its_promise_in_at_most_delta_of_the_draws() {
    // Losses uniform in [0, 1 − score]: the joint risk at t is (1 − t)²/4, which is .05 at t = .553.
    let plan = Plan { losses: Losses::Bounded, ..Plan::new(promise(Risk::Joint, 0.05, 0.1), hundredths()) };
    let mut certified = 0;
    let violated = share_violated(|random| {
        let mut rows = draw(random, 150, |_| 0.0);
        rows.iter_mut().for_each(|row| row.loss = random.random::<f64>() * (1.0 - row.score));
        let found = plan.certify(&rows);
        certified += usize::from(found.is_ok());
        found.is_ok_and(|found| (1.0 - found.threshold).powi(2) / 4.0 > 0.05)
    });
    assert!(violated <= TENTH_OF_400 && certified > 300, "{violated}, {certified} certified");
}

#[test]
fn conformal_control_holds_on_average_and_promises_no_more() {
    // Joint risk at t with P(wrong | score) = 1 − score: (1 − t)²/2.
    let risk = |threshold: f64| (1.0 - threshold).powi(2) / 2.0;
    let mut mean = 0.0;
    let violated = share_violated(|random| {
        let rows = draw(random, 100, |score| 1.0 - score);
        let found = control_expectation(&hundredths(), &rows, 0.1).map_or(0.0, risk);
        mean += found / 400.0;
        found > 0.1
    });
    assert!(mean <= 0.1 && violated > 0.2, "mean {mean}, above in {violated}");
    assert_eq!(control_expectation(&hundredths(), &[row(0.5, 0.0); 8], 0.1), None, "1/9 is above .1");
    assert_eq!(control_expectation(&hundredths(), &[row(0.5, 0.0); 9], 0.1), Some(0.0));
    assert_eq!(control_expectation(&hundredths(), &[row(0.5, 2.0); 9], 0.9), None);
}

#[test]
fn attempts_spend_delta_and_no_more_than_it() {
    let first = promise(Risk::Joint, 0.1, 0.1);
    let spent: f64 = (1..=2000).map(|attempt| first.at_attempt(attempt).delta()).sum();
    assert!(spent < 0.1 && spent > 0.0999);
    assert!((first.at_attempt(1).delta() - 0.060_792_71).abs() < 1e-8);
    assert!((first.at_attempt(2).delta() - 0.015_198_18).abs() < 1e-8);
}

#[test]
fn slices_together_follow_holm_where_each_has_one_threshold() {
    // Errors of 100 rows → p-values; Holm by hand beside it.
    for errors in [[2, 3, 9], [0, 1, 2], [4, 4, 4], [3, 5, 4], [9, 9, 9], [3, 4, 2]] {
        let rows = errors.map(|wrong| falling(100, &(0..wrong).collect::<Vec<_>>()));
        let plan = Plan::new(promise(Risk::Selective, 0.1, 0.1), Grid::from(vec![-1000.0]));
        let slices: Vec<(&Plan, &[Row])> = rows.iter().map(|rows| (&plan, rows.as_slice())).collect();
        let found: Vec<bool> = certify_together(&slices).iter().map(Result::is_ok).collect();
        let p = errors.map(|wrong| binomial_cdf(wrong, 100, 0.1));
        let mut order = [0, 1, 2];
        order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
        let mut expected = [false; 3];
        for (step, &at) in order.iter().enumerate() {
            if p[at] > 0.1 / (3 - step) as f64 {
                break;
            }
            expected[at] = true;
        }
        assert_eq!(found, expected, "{errors:?}");
    }
}

#[test]
fn all_slices_together_break_a_promise_in_at_most_delta_of_the_draws() {
    let plan = Plan::new(promise(Risk::Selective, 0.2, 0.1), Grid::from(vec![0.8, 0.6, 0.4, 0.2, 0.0]));
    let mut safe_certified = 0;
    let violated = share_violated(|random| {
        let safe = draw(random, 120, |_| 0.01);
        let broken: Vec<Vec<Row>> = (0..3).map(|_| draw(random, 120, |_| 0.201)).collect();
        let slices: Vec<(&Plan, &[Row])> =
            std::iter::once(&safe).chain(&broken).map(|rows| (&plan, rows.as_slice())).collect();
        let found = certify_together(&slices);
        safe_certified += usize::from(found[0].is_ok());
        found[1..].iter().any(Result::is_ok)
    });
    assert!(violated <= TENTH_OF_400 && violated > 0.01, "{violated}");
    assert!(safe_certified > 390, "{safe_certified}");
    assert!(certify_together(&[]).is_empty());
}

#[test]
fn an_error_rate_from_disagreement_adds_what_agreement_may_hide() {
    let bound = error_from_disagreement(&promise(Risk::Selective, 0.05, 0.05), 1, 100, 0.05);
    assert!((bound.at_most - 0.05 - upper_bound(1, 100, 0.05)).abs() < 1e-12);
    assert!((bound.delta - 0.1).abs() < 1e-12);
    assert_eq!(error_from_disagreement(&promise(Risk::Selective, 0.05, 0.05), 0, 0, 0.05).at_most, 1.0);
}

#[test]
fn a_promise_survives_its_file_and_a_bad_one_is_refused() {
    let kept = promise(Risk::Selective, 0.05, 0.1);
    let text = serde_json::to_string(&kept).unwrap();
    assert_eq!(text, r#"{"risk":"selective","alpha":0.05,"delta":0.1}"#);
    assert_eq!(serde_json::from_str::<Promise>(&text).unwrap(), kept);
    assert!(serde_json::from_str::<Promise>(r#"{"risk":"joint","alpha":1.0,"delta":0.1}"#).is_err());
    assert!(Promise::check(Risk::Joint, 0.1, f64::NAN).is_err());
}

#[test]
fn a_refusal_says_how_many_labels_are_missing() {
    let rows = falling(20, &[]);
    let refusal = Plan::new(promise(Risk::Selective, 0.1, 0.1), every_score(&rows)).certify(&rows).unwrap_err();
    assert_eq!(refusal, Refusal::TooFew { have: 20, need: 38 });
    assert_eq!(refusal.to_string(), "20 labels are too few to certify anything: about 18 more are needed");
    // Only one row in four is ever kept: four times as many are needed.
    let grid = Grid::from(vec![-4.0]);
    let refusal = Plan::new(promise(Risk::Selective, 0.1, 0.1), grid).certify(&rows).unwrap_err();
    assert_eq!(refusal, Refusal::TooFew { have: 20, need: 152 });
}
