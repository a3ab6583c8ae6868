//! Whole replays of small logs.

use super::logs::{Log, Row};
use super::replay::{Settings, replay, train};
use super::report::{Figures, Report};
use super::routers::Knows;

const SETTINGS: Settings = Settings { folds: 5, seed: 7, resamples: 50, shares: Vec::new() };

fn log(rows: impl Iterator<Item = (String, &'static str, f64, f64)>) -> Log {
    let row = |(prompt, domain, local, upstream): (String, &str, f64, f64)| Row {
        prompt,
        domain: domain.to_owned(),
        local,
        upstream,
        cost: 1.0,
        ..Row::default()
    };
    Log { rows: rows.map(row).collect(), ..Log::default() }
}

/// Proofs gain by going up, capitals do not; both domains have both.
fn learnable() -> Log {
    log((0..300).map(|at| {
        let (text, local) = if at % 2 == 0 { ("prove lemma", 0.0) } else { ("capital of land", 1.0) };
        (format!("{text} number{at}"), if at % 4 < 2 { "a" } else { "b" }, local, 1.0)
    }))
}

fn found<'a>(report: &'a Report, router: &str, knows: Knows) -> &'a Figures {
    report.routers.iter().find(|figures| figures.router == router && figures.knows == knows).unwrap()
}

#[test]
fn what_can_be_learned_is_learned_in_domain_and_across_domains() {
    let report = replay(&learnable(), &SETTINGS, None);
    let oracle = found(&report, "oracle", Knows::Outcome).apgr.unwrap();
    for router in ["TF-IDF ridge", "words and shape", "nearest neighbours"] {
        for knows in [Knows::InDomain, Knows::LeftOut] {
            let apgr = found(&report, router, knows).apgr.unwrap();
            assert!(apgr > oracle - 0.05, "{router} {knows:?}: {apgr}, oracle {oracle}");
        }
    }
}

/// Each prompt has words of its own and nothing else: a router that saw a row's outcome would know it.
#[test]
fn no_learned_router_sees_the_outcome_of_the_row_it_ranks() {
    let log = log((0..60_u32).map(|at| {
        let local = f64::from(at.wrapping_mul(2_654_435_761) >> 16 & 1);
        (format!("own{at:02} word{at:02}"), if at % 2 == 0 { "a" } else { "b" }, local, 1.0)
    }));
    let report = replay(&log, &SETTINGS, None);
    for router in ["TF-IDF ridge", "nearest neighbours"] {
        for knows in [Knows::InDomain, Knows::LeftOut] {
            let apgr = found(&report, router, knows).apgr.unwrap();
            assert!(apgr < 0.65, "{router} {knows:?}: {apgr}");
        }
    }
    let domain = found(&report, "domain mean gap", Knows::InDomain).apgr.unwrap();
    assert!(domain < 0.65, "{domain}");
}

#[test]
fn the_same_seed_gives_the_same_report_and_an_interval_holds_its_figure() {
    let log = learnable();
    let (one, other) = (replay(&log, &SETTINGS, None), replay(&log, &SETTINGS, None));
    assert_eq!(one.render_table(), other.render_table());
    for figures in &one.routers {
        let (apgr, interval) = (figures.apgr.unwrap(), figures.apgr_interval.unwrap());
        assert!(interval.low - 1e-9 <= apgr && apgr <= interval.high + 1e-9, "{}", figures.router);
    }
    assert_eq!(one.render_curves().lines().count(), 1 + 101 * one.routers.len());
}

#[test]
fn a_log_without_prompts_or_domains_keeps_the_routers_that_need_neither() {
    let mut log = log([(String::new(), "", 0.0, 1.0), (String::new(), "", 1.0, 1.0)].into_iter());
    let names = |log: &Log| -> Vec<String> {
        replay(log, &SETTINGS, None).routers.into_iter().map(|figures| figures.router).collect()
    };
    assert_eq!(names(&log), ["random", "oracle"]);
    log.rows[0].agrees = Some(false);
    log.rows[1].score = Some(-0.1);
    assert_eq!(names(&log), ["random", "score of the log", "agreement", "oracle"]);
}

/// Two rows agree (one of them wrong), two do not.
#[test]
fn agreement_keeps_what_both_say_and_sends_up_the_rest() {
    let mut log = log([1.0, 0.0, 0.0, 1.0].into_iter().map(|local| (String::new(), "", local, 1.0)));
    for (row, agrees) in log.rows.iter_mut().zip([true, true, false, false]) {
        row.agrees = Some(agrees);
    }
    let report = replay(&log, &SETTINGS, None);
    let chosen = found(&report, "agreement", Knows::Answers).chosen.unwrap();
    assert!((chosen.share - 0.5).abs() < 1e-9 && (chosen.quality - 0.75).abs() < 1e-9, "{chosen:?}");
}

#[test]
fn a_scorer_from_elsewhere_is_labelled_as_given() {
    let log = learnable();
    let report = replay(&log, &SETTINGS, Some(&train(&log, "2026-11-24")));
    let given = report.routers.iter().find(|figures| figures.router == "given scorer").unwrap();
    assert_eq!(given.knows, Knows::Given);
    assert!(given.apgr.unwrap() > 0.7);
}
