//! What a ledger remembers, what it forgets at a day's end, and what ends an alarm.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::confidence::{Calibration, Compare, Form, Grader, Risk};
use crate::request::ModelId;

const NOON: u64 = 20_000 * DAY + DAY / 2;

fn calibration() -> Calibration {
    Calibration::parse(include_bytes!("../../../tests/fixtures/calibration.json")).unwrap()
}

fn grant(calibration: Calibration) -> Grant {
    Grant::find(&Arc::new(calibration), Risk::Selective, 0.1, 0.9).unwrap()
}

fn by_model(share: f64, allowance: f64) -> Auditing {
    let model = ModelId::new("up/large");
    Auditing::new(share, Grader::Model { model, compare: Compare::Form(Form::Auto), usd_per_day: 1.0 }, allowance)
}

fn ledger(auditing: &Auditing) -> Ledger {
    Ledger::open(&grant(calibration()), auditing, Arc::default(), NOON).unwrap()
}

fn again(ledger: &Ledger) -> Ledger {
    Ledger::parse(&ledger.render().unwrap(), &ledger.subject().labels, Arc::default()).unwrap()
}

/// Keeps an answer that is drawn, and settles it.
fn settle(ledger: &Ledger, outcome: Result<f64, Skipped>) {
    let ticket = ledger.keep(0.0).ticket.unwrap();
    ledger.settle(ticket, outcome, NOON);
}

fn alarm(ledger: &Ledger) {
    while ledger.objection().is_none() {
        settle(ledger, Ok(1.0));
    }
    assert_eq!(ledger.objection(), Some(Uncertified::Alarmed));
}

#[test]
fn an_alarm_is_told_once_and_outlives_days_reloads_and_restarts() {
    let auditing = by_model(1.0, 0.05);
    let ledger = Arc::new(ledger(&auditing));
    assert_eq!((ledger.news(), ledger.is_due()), (None, false));
    alarm(&ledger);
    assert_eq!((ledger.news(), ledger.news()), (Some(News::Alarmed), None));
    assert_eq!((ledger.is_due(), ledger.is_due()), (true, false));
    ledger.refresh(NOON + 3 * DAY);
    for other in [by_model(0.5, 0.05), by_model(1.0, 0.8), auditing] {
        let kept = ledger.adapted("facts, short", &other).unwrap();
        assert!(Arc::ptr_eq(&kept, &ledger));
        assert_eq!(ledger.objection(), Some(Uncertified::Alarmed));
    }
    let restarted = again(&ledger);
    assert_eq!(restarted.objection(), Some(Uncertified::Alarmed));
    assert_eq!(restarted.news(), Some(News::Alarmed), "who restarts is told too");
    assert_eq!(restarted.status().alarmed_since.as_deref(), Some("2024-10-04T12:00:00Z"));
    assert_eq!(restarted.status(), ledger.status());
}

#[test]
fn what_is_audited_is_what_labels_certify_and_not_what_the_file_says_beside() {
    let subject = |calibration| Subject::of(&grant(calibration)).unwrap();
    let known = subject(calibration());
    let mut cosmetic = calibration();
    (cosmetic.name, cosmetic.slice, cosmetic.model) = ("other".into(), "renamed".into(), "local/renamed".into());
    (cosmetic.date, cosmetic.fitted_rows, cosmetic.attempts) = ("2027-01-01".into(), 1, 9);
    (cosmetic.quality.auroc, cosmetic.model_sha256) = (None, cosmetic.model_sha256.to_uppercase());
    cosmetic.certificates.retain(|one| one.alpha == 0.1);
    assert_eq!(subject(cosmetic), known);
    let attempt = |calibration: &mut Calibration| {
        calibration.attempts = 2;
        calibration.certificates.iter_mut().for_each(|one| one.attempt = 2);
    };
    let labelled = |calibration: &mut Calibration| calibration.labels = Some("ab".repeat(32));
    let file = |calibration: &mut Calibration| calibration.model_sha256 = "cd".repeat(32);
    let key = |calibration: &mut Calibration| calibration.key.max_tokens = Some(64);
    for change in [attempt, labelled, file, key] {
        let mut recalibrated = calibration();
        change(&mut recalibrated);
        let other = subject(recalibrated);
        assert!(other != known && other.file_name() != known.file_name());
    }
    // Whoever says which labels certify is known by them alone: another score makes no new ones of them.
    let named = Calibration { labels: Some("ab".repeat(32)), ..calibration() };
    let mut again = named.clone();
    attempt(&mut again);
    assert_eq!(subject(again), subject(named.clone()));
    assert_ne!(subject(Calibration { labels: Some("ef".repeat(32)), ..named.clone() }), subject(named));
}

#[test]
fn an_alarm_is_that_of_the_labels_whatever_else_they_certify() {
    let calibration = Arc::new(calibration());
    let of = |risk, alpha| Grant::find(&calibration, risk, alpha, 0.9).unwrap();
    let alarm = Arc::new(Alarm::default());
    let open = |grant: &Grant| Ledger::open(grant, &by_model(1.0, 0.05), Arc::clone(&alarm), NOON).unwrap();
    let [selective, joint] = [of(Risk::Selective, 0.1), of(Risk::Joint, 0.05)];
    let (first, other) = (open(&selective), open(&joint));
    assert_ne!(first.subject().file_name(), other.subject().file_name());
    self::alarm(&first);
    assert_eq!((other.objection(), other.news()), (Some(Uncertified::Alarmed), Some(News::Alarmed)));
    let heard = Arc::new(Alarm::default());
    let text = other.render().unwrap();
    Ledger::parse(&text, &other.subject().labels, Arc::clone(&heard)).unwrap();
    assert_eq!(heard.since(), Some(NOON), "its file says so too");
    assert!(Ledger::parse(&text, "others", heard).unwrap_err().contains("of other labels"));
}

#[test]
fn where_something_else_is_measured_the_audit_begins_anew_and_its_counts_stay() {
    let ledger = Arc::new(ledger(&by_model(1.0, 0.05)));
    settle(&ledger, Ok(1.0));
    let (wealth, under_way) = (ledger.status().wealth, ledger.keep(0.0).ticket.unwrap());
    assert!(Arc::ptr_eq(&ledger.adapted("facts, short", &by_model(0.5, 0.05)).unwrap(), &ledger));
    let status = ledger.status();
    assert_eq!((status.wealth, status.share, status.today.graded, status.total.graded), (wealth, 0.5, 0, 1));
    let feedback = Auditing::new(0.5, Grader::Feedback { within: Duration::from_secs(60) }, 0.0);
    let anew = ledger.adapted("facts, short", &feedback).unwrap();
    ledger.settle(under_way, Ok(1.0), NOON);
    let status = anew.status();
    assert!((status.wealth - 1.0).abs() < 1e-12, "a grade of the old kind is no bet of the new");
    assert_eq!((status.rate, status.alarm_above, status.total.graded, status.open), ("errors", 0.1, 1, 0));
}

#[test]
fn too_many_skipped_audits_leave_the_slice_unmonitored_until_the_day_ends() {
    let ledger = ledger(&by_model(1.0, 0.05));
    for step in 0..20 {
        settle(&ledger, if step < 2 { Err(Skipped::Budget) } else { Ok(0.0) });
    }
    assert_eq!(ledger.objection(), Some(Uncertified::Unmonitored));
    assert_eq!((ledger.news(), ledger.news()), (Some(News::Unmonitored), None));
    ledger.refresh(NOON + DAY / 2 - 1);
    assert_eq!(ledger.objection(), Some(Uncertified::Unmonitored));
    ledger.refresh(NOON + DAY / 2);
    assert_eq!((ledger.objection(), ledger.news()), (None, Some(News::Watching)));
    assert!(ledger.is_due(), "a day's end is written down");
}

#[test]
fn a_days_budget_is_spent_once_and_is_whole_the_next_day() {
    let ledger = ledger(&by_model(1.0, 0.05));
    assert!(ledger.reserve(0.6, 1.0) && !ledger.reserve(0.6, 1.0));
    ledger.spend(0.6, 0.3);
    assert!(ledger.reserve(0.6, 1.0));
    ledger.spend(0.6, 0.7);
    let status = again(&ledger).status();
    assert!((status.spent_today_usd - 1.0).abs() < 1e-12 && (status.spent_usd - 1.0).abs() < 1e-12);
    assert!(!ledger.reserve(0.01, 1.0) && ledger.reserve(0.0, 1.0));
    ledger.refresh(NOON + DAY);
    assert!(ledger.reserve(1.0, 1.0));
}

#[test]
fn audits_under_way_when_the_process_ends_count_as_skipped() {
    let ledger = ledger(&by_model(1.0, 0.05));
    let tickets: Vec<Ticket> = (0..3).filter_map(|_| ledger.keep(0.0).ticket).collect();
    ledger.settle(tickets[0], Ok(0.0), NOON);
    assert_eq!((ledger.status().open, ledger.status().today.outage), (2, 0));
    let restarted = again(&ledger).status();
    assert_eq!((restarted.open, restarted.today.outage, restarted.today.graded), (0, 2, 1));
}

#[test]
fn feedback_counts_once_from_its_own_tenant_in_time_and_only_where_it_was_asked_for() {
    let within = Duration::from_secs(60);
    let auditing = Auditing::new(0.25, Grader::Feedback { within }, 0.0);
    let ledger = ledger(&auditing);
    let solicit = |id: &str| {
        let ticket = ledger.keep(0.0).ticket.unwrap();
        ledger.solicit((id, "t"), ticket, NOON, within)
    };
    assert!(solicit("a") && solicit("b") && !solicit("a"), "two answers of one id cannot be told apart");
    let ledger = again(&ledger);
    assert_eq!(ledger.hear(("x", "t"), 1.0, NOON), None);
    assert_eq!(ledger.hear(("a", "other"), 1.0, NOON), None);
    assert_eq!(ledger.hear(("a", "t"), 1.0, NOON + 59), Some(0.25));
    assert_eq!(ledger.hear(("a", "t"), 1.0, NOON + 59), None);
    assert_eq!(ledger.hear(("b", "t"), 1.0, NOON + 60), None);
    let Counts { graded, losses, silent, ungradable, outage, .. } = ledger.status().today;
    assert_eq!((graded, losses, silent, ungradable, outage), (1, 1.0, 1, 1, 0));
}

#[test]
fn what_is_no_ledger_is_refused() {
    let ledger = ledger(&by_model(1.0, 0.05));
    let text = ledger.render().unwrap();
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 2", "version 2 is not known"),
        ("\"day\"", "\"days\"", "unknown field `days`"),
        ("\"peak\": 1.0", "\"peak\": -1.0", "negative"),
    ] {
        let spoilt = text.replace(from, to);
        assert_ne!(spoilt, text);
        assert!(Ledger::parse(&spoilt, &ledger.subject().labels, Arc::default()).unwrap_err().contains(why), "{to}");
    }
}

#[test]
fn what_is_told_of_an_audited_certificate_says_what_is_measured() {
    let certified = grant(calibration());
    let told = |auditing| Grant { audit: Some(auditing), ..certified.clone() }.to_string();
    let feedback = Auditing::new(0.5, Grader::Feedback { within: Duration::from_secs(60) }, 0.0);
    let promise = "max_error=0.1 confidence=0.9 slice=facts%2C%20short";
    let disagreement = format!("{promise} audit=disagreement by=up%2Flarge alarm_above=0.15");
    assert_eq!(told(by_model(0.5, 0.05)), disagreement);
    assert_eq!(told(feedback), format!("{promise} audit=errors by=feedback alarm_above=0.1"));
}
