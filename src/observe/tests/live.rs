//! What the page of the admin port is told of requests that ran.

use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::policy::{Names, Policy};

const POLICY: &str = r#"
name = "cheap"
[[rule]]
name = "first"
then = { cascade = ["local/small", "up/large"], accept = { score = "min_logprob", at_least = -1.0 } }
"#;

fn policy(source: &str) -> Policy {
    Policy::compile("p", source, &Names { any: true, ..Names::default() }).unwrap()
}

fn watched() -> Arc<Metrics> {
    let metrics = metrics();
    metrics.watch(policy(POLICY).gates());
    metrics
}

fn recent(metrics: &Metrics, since: u64, after: u64) -> Value {
    serde_json::to_value(metrics.recent(since, after)).unwrap()
}

fn kept() -> Backends {
    backends(vec![say("sure", &[-0.5]), end(10, 1)], vec![Step::Hang])
}

fn refused() -> Backends {
    let local = vec![say("doubt", &[-0.5, -2.0]), end(10, 2)];
    backends(local, vec![Step::Wait(Duration::from_millis(100)), say("big", &[]), end(1_000_000, 4)])
}

#[tokio::test(start_paused = true)]
async fn each_second_counts_which_way_requests_went_and_what_they_cost() {
    let metrics = watched();
    ask(&metrics, "auto", cascade(), &kept()).await;
    ask(&metrics, "auto", cascade(), &kept()).await;
    advance(Duration::from_secs(2)).await;
    ask(&metrics, "auto", cascade(), &refused()).await;
    ask(&metrics, UP, direct(UP), &refused()).await;
    let broken = vec![Step::Fail(Error::new(Kind::Unavailable, Origin::Upstream, "gone").retry(Retry::Never))];
    ask(&metrics, UP, direct(UP), &backends(vec![], broken)).await;
    let told = recent(&metrics, 0, 0);
    let seconds = &told["seconds"];
    assert_eq!((&seconds["first"], &seconds["local"]), (&json!(0), &json!([2, 0, 0])));
    assert_eq!((&seconds["escalated"], &seconds["direct"]), (&json!([0, 0, 1]), &json!([0, 0, 1])));
    assert_eq!((&seconds["failed"], &told["totals"]["failed"]), (&json!([0, 0, 1]), &json!(1)));
    assert!(told["totals"]["spent_usd"].as_f64().unwrap() > 4.0, "{told}");
    assert!(told["totals"]["wasted_usd"].as_f64().unwrap() > 0.0, "{told}");
    let later = recent(&metrics, 2, 0);
    assert_eq!((&later["seconds"]["first"], &later["seconds"]["escalated"]), (&json!(2), &json!([1])));
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_a_second_is_forgotten_and_totals_are_not() {
    let metrics = watched();
    ask(&metrics, "auto", cascade(), &kept()).await;
    advance(Duration::from_secs(600)).await;
    let told = recent(&metrics, 0, 0);
    assert_eq!(told["seconds"]["local"].as_array().unwrap().len(), 600);
    assert_eq!((&told["seconds"]["first"], &told["totals"]["local"]), (&json!(1), &json!(1)));
    assert!(told["seconds"]["local"].as_array().unwrap().iter().all(|count| *count == 0), "{told}");
    assert_eq!(told["latency"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn decisions_are_numbered_and_only_the_last_are_kept() {
    let metrics = watched();
    for _ in 0..405 {
        ask(&metrics, "auto", cascade(), &kept()).await;
    }
    let told = recent(&metrics, 0, 0);
    let decisions = told["decisions"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[0]["number"]), (400, &json!(6)));
    let newest = recent(&metrics, 0, 404);
    assert_eq!((newest["decisions"].as_array().unwrap().len(), &newest["decisions"][0]["number"]), (1, &json!(405)));
    assert_eq!(recent(&metrics, 0, 405)["decisions"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_decision_tells_who_served_and_why_and_nothing_that_was_said() {
    let metrics = watched();
    ask(&metrics, "auto", cascade(), &refused()).await;
    ask(&metrics, "auto", cascade(), &kept()).await;
    let told = recent(&metrics, 0, 0);
    let escalated = &told["decisions"][0];
    assert_eq!((&escalated["outcome"], &escalated["reason"]), (&json!("escalated"), &json!("early_low_confidence")));
    assert_eq!((&escalated["served_by"], &escalated["asked"]), (&json!(UP), &json!("auto")));
    assert_eq!((&escalated["policy"], &escalated["rule"]), (&json!("cheap"), &json!("first")));
    assert_eq!(escalated["confidence"]["min_logprob"], -2.0);
    assert_eq!(
        escalated["stages"][0],
        json!({"model": LOCAL, "outcome": "discarded", "reason": "early_low_confidence"})
    );
    assert_eq!(escalated["ttft_ms"], 100.0);
    let local = &told["decisions"][1];
    assert_eq!((&local["outcome"], &local["reason"]), (&json!("local"), &json!("accepted")));
    for text in ["nobody may read", "doubt", "sure"] {
        assert!(!told.to_string().contains(text), "{text}: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_shows_the_scores_it_kept_and_escalated_and_its_threshold() {
    let metrics = watched();
    ask(&metrics, "auto", cascade(), &kept()).await;
    ask(&metrics, "auto", cascade(), &refused()).await;
    let told = recent(&metrics, 0, 0);
    let gate = &told["gates"][0];
    assert_eq!((&gate["score"], &gate["model"]), (&json!("min_logprob"), &json!(LOCAL)));
    assert_eq!(gate["thresholds"], json!([{"at": -1.0, "of": "threshold"}]));
    assert_eq!((&gate["judged_kept"], &gate["judged_escalated"]), (&json!(1), &json!(1)));
    let column = |name: &str| gate[name].as_array().unwrap().iter().position(|count| *count == 1).unwrap();
    assert!(column("escalated") < column("kept"), "{gate}");
    assert_eq!(gate["high"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_an_unchanged_gate_has_judged_and_forgets_that_of_a_changed_one() {
    let metrics = watched();
    ask(&metrics, "auto", cascade(), &kept()).await;
    metrics.watch(policy(POLICY).gates());
    assert_eq!(recent(&metrics, 0, 0)["gates"][0]["judged_kept"], 1);
    metrics.watch(policy(&POLICY.replace("-1.0", "-3.0")).gates());
    let gate = &recent(&metrics, 0, 0)["gates"][0];
    assert_eq!((&gate["judged_kept"], &gate["thresholds"][0]["at"]), (&json!(0), &json!(-3.0)));
}

#[tokio::test(start_paused = true)]
async fn latency_is_told_by_who_served() {
    let metrics = watched();
    for wait in [300, 100, 200, 400] {
        let up = vec![
            Step::Wait(Duration::from_millis(wait)),
            say("big", &[]),
            Step::Wait(Duration::from_millis(wait)),
            end(1, 1),
        ];
        ask(&metrics, UP, direct(UP), &backends(vec![], up)).await;
    }
    ask(&metrics, "any/thing", direct("any/thing"), &backends(vec![], vec![])).await;
    let told = recent(&metrics, 0, 0);
    let row =
        |model: &str| told["latency"].as_array().unwrap().iter().find(|row| row["model"] == model).unwrap().clone();
    let expected = json!({"model": UP, "answers": 4, "ttft_p50_ms": 200.0, "ttft_p95_ms": 400.0, "e2e_p50_ms": 400.0, "e2e_p95_ms": 800.0});
    assert_eq!(row(UP), expected);
    assert_eq!(row("any/*")["answers"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_name_is_cut() {
    let metrics = watched();
    let long = format!("any/{}", "x".repeat(10_000));
    ask(&metrics, &long, direct(&long), &backends(vec![], vec![])).await;
    let told = recent(&metrics, 0, 0);
    assert_eq!(told["decisions"][0]["served_by"].as_str().unwrap().chars().count(), 101);
    assert!(told["decisions"][0]["asked"].as_str().unwrap().chars().count() <= 101);
}
