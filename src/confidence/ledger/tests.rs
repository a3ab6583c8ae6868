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
    Ledger::open(Subject::of(&grant(calibration())).unwrap(), auditing, NOON).unwrap()
}

fn again(ledger: &Ledger) -> Ledger {
    Ledger::parse(&ledger.render().unwrap(), &ledger.subject()).unwrap()
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
        let kept = ledger.adapted(&other).unwrap();
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
fn another_content_of_the_calibration_is_another_subject() {
    let ledger = ledger(&by_model(1.0, 0.05));
    let recalibrated = Subject::of(&grant(Calibration { date: "2026-12-01".into(), ..calibration() })).unwrap();
    assert_ne!(recalibrated, ledger.subject());
    assert_ne!(recalibrated.file_name(), ledger.subject().file_name());
    assert!(Ledger::parse(&ledger.render().unwrap(), &recalibrated).unwrap_err().contains("another slice"));
    assert_eq!(Subject::of(&grant(calibration())).unwrap(), ledger.subject());
}

#[test]
fn where_something_else_is_measured_the_audit_begins_anew_and_its_counts_stay() {
    let ledger = Arc::new(ledger(&by_model(1.0, 0.05)));
    settle(&ledger, Ok(1.0));
    let (wealth, under_way) = (ledger.status().wealth, ledger.keep(0.0).ticket.unwrap());
    assert!(Arc::ptr_eq(&ledger.adapted(&by_model(0.5, 0.05)).unwrap(), &ledger));
    let status = ledger.status();
    assert_eq!((status.wealth, status.share, status.today.graded, status.total.graded), (wealth, 0.5, 0, 1));
    let feedback = Auditing::new(0.5, Grader::Feedback { within: Duration::from_secs(60) }, 0.0);
    let anew = ledger.adapted(&feedback).unwrap();
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
        assert!(Ledger::parse(&spoilt, &ledger.subject()).unwrap_err().contains(why), "{to}");
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
