//! The main job on real models over HTTP: a 135M model answers first, a 0.5B model in another
//! process is the upstream. Reload and drain of the same binary stand here too.

use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::gateway_process::{Answer, Process, alone, until};

pub(crate) const SMALL: &str = "local/smollm2-135m-instruct";
pub(crate) const LARGE: &str = "large/qwen2.5-coder-0.5b-instruct";

const LOCAL_ONLY: &str = r#"
engine_threads = 1

[[model]]
name = "local/smollm2-135m-instruct"
file = "smollm2-135m-instruct"
context = 2048

[[virtual]]
name = "auto"
policy = "auto.toml"
"#;

const UPSTREAM: &str = r#"
engine_threads = 1

[[model]]
name = "local/qwen2.5-coder-0.5b-instruct"
file = "qwen2.5-coder-0.5b-instruct"
context = 2048
"#;

/// The upstream of these tests: the 0.5B model in a process of its own.
pub(crate) fn start_upstream() -> Process {
    Process::start(&[("weir.toml", UPSTREAM)])
}

/// The gateway: four virtual models over one local model and the upstream at `base`.
pub(crate) fn start_gateway(base: &str) -> Process {
    let names = ["lenient", "early", "strict", "strict-or-local"];
    let virtuals = names.map(|name| format!("[[virtual]]\nname = \"{name}\"\npolicy = \"{name}.toml\"\n"));
    let config = format!(
        r#"
engine_threads = 1

[[model]]
name = "{SMALL}"
file = "smollm2-135m-instruct"
context = 2048

[[upstream]]
name = "large"
endpoints = ["{base}/v1"]
models = ["qwen2.5-coder-0.5b-instruct"]
retries = 0

[[price]]
model = "{LARGE}"
input = 0.4
cached_input = 0.1
output = 1.6

{}"#,
        virtuals.concat()
    );
    let policies = [
        policy("lenient", "at_least = -1000.0 }"),
        policy("early", "at_least = -1000.0 }, hold_back = 2"),
        policy("strict", "at_least = 1000.0 }"),
        policy("strict-or-local", "at_least = 1000.0 }, on_failure = \"local\""),
    ];
    let files = names.map(|name| format!("{name}.toml"));
    let mut all = vec![("weir.toml", config.as_str())];
    all.extend(files.iter().map(String::as_str).zip(policies.iter().map(String::as_str)));
    Process::start(&all)
}

/// A policy of one cascade; what follows the score is the caller's. No margin is below 0, and none
/// of a real model is 1000.
fn policy(name: &str, rest: &str) -> String {
    format!(
        "name = \"{name}\"\n\n[[rule]]\nname = \"small first\"\n\
         then = {{ cascade = [\"{SMALL}\", \"{LARGE}\"], accept = {{ score = \"margin\", {rest} }}\n"
    )
}

fn question(model: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "What is the capital of France? Answer with one word."}]);
    json!({"model": model, "messages": messages, "max_tokens": 12, "temperature": 0, "stream": stream})
}

/// What both kinds of answer must tell: who served, by which policy, how sure the local model was.
fn check_story(answer: &Answer, served_by: &str, policy: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-weir-served-by"), served_by, "{answer:?}");
    assert_eq!(answer.header("x-weir-policy"), format!("{policy}@1; rule=small%20first"));
    assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    assert!(!answer.text().is_empty(), "{answer:?}");
}

fn check_confidence(told: &str) {
    let scores: Vec<(&str, f64)> = told
        .split(", ")
        .map(|pair| pair.split_once('=').unwrap_or_else(|| panic!("no confidence in {told:?}")))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    let names: Vec<&str> = scores.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["min_logprob", "mean_logprob", "sum_logprob", "margin"], "{told}");
    assert!(scores.iter().take(3).all(|(_, value)| *value <= 0.0) && scores[3].1 >= 0.0, "{told}");
    assert!(scores[2].1 <= scores[0].1 && scores[0].1 <= scores[1].1, "{told}");
}

/// The comment before `[DONE]`, and that nothing but chunks of this model stands before it.
fn check_stream(answer: &Answer, model: &str) -> String {
    let lines: Vec<&str> = answer.body.lines().filter(|line| !line.is_empty()).collect();
    let [chunks @ .., comment, done] = lines.as_slice() else { panic!("{answer:?}") };
    assert_eq!(*done, "data: [DONE]", "{answer:?}");
    for chunk in chunks.iter().filter(|line| !line.starts_with(':')) {
        let chunk: Value = serde_json::from_str(chunk.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&chunk["object"], &chunk["model"]), (&json!("chat.completion.chunk"), &json!(model)), "{chunk}");
    }
    comment.strip_prefix(": weir").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// An answer that is believed is served from the box, whole and as a stream, early or not.
pub(crate) fn check_kept(gateway: &Process) {
    let whole = gateway.ask(&question("lenient", false));
    check_story(&whole, SMALL, "lenient");
    check_confidence(whole.header("x-weir-confidence"));
    assert_eq!(whole.header("x-weir-cost-usd"), "0");
    assert_eq!(whole.json()["model"], SMALL);
    for name in ["lenient", "early"] {
        let stream = gateway.ask(&question(name, true));
        check_story(&stream, SMALL, name);
        let comment = check_stream(&stream, SMALL);
        assert!(comment.starts_with(" cost-usd=0 confidence="), "{comment}");
        check_confidence(comment.split_once("confidence=").unwrap().1);
    }
}

/// An answer that is not believed goes on to the upstream; the client sees one answer, whose
/// story tells of both.
pub(crate) fn check_escalated(gateway: &Process) {
    let whole = gateway.ask(&question("strict", false));
    check_story(&whole, LARGE, "strict");
    check_confidence(whole.header("x-weir-confidence"));
    assert!(whole.header("x-weir-cost-usd").parse::<f64>().unwrap() > 0.0, "{whole:?}");
    assert_eq!(whole.json()["model"], LARGE);
    assert!(whole.text().contains("Paris"), "{whole:?}");
    let stream = gateway.ask(&question("strict", true));
    check_story(&stream, LARGE, "strict");
    check_stream(&stream, LARGE);
    assert!(stream.text().contains("Paris"), "{stream:?}");
}

/// The upstream is gone: the refused local answer is served where the policy says so, marked; else
/// the client gets the upstream's failure.
pub(crate) fn check_degraded(gateway: &Process) {
    for stream in [false, true] {
        let answer = gateway.ask(&question("strict-or-local", stream));
        check_story(&answer, SMALL, "strict-or-local");
        assert_eq!(answer.header("x-weir-degraded"), "upstream-failed", "{answer:?}");
        let refused = gateway.ask(&question("strict", stream));
        assert!([502, 503].contains(&refused.status), "{refused:?}");
        assert_eq!(refused.header("x-weir-origin"), "upstream", "{refused:?}");
        assert!(refused.json()["error"]["message"].is_string(), "{refused:?}");
    }
    check_story(&gateway.ask(&question("lenient", false)), SMALL, "lenient");
}

/// Every family that boards rely on, with its labels.
fn check_metrics(gateway: &Process) {
    let large = format!("model=\"{LARGE}\"");
    let small = format!("model=\"{SMALL}\"");
    let served_small = format!("served_by=\"{SMALL}\"");
    let at_least = |count: f64, family: &str, pieces: &[&str]| {
        let found = gateway.metric(family, pieces);
        assert!(found >= count, "{family} {pieces:?}: {found}\n{}", gateway.metrics());
    };
    at_least(3.0, "weir_requests_total", &["outcome=", &served_small, "model=\"lenient\""]);
    at_least(1.0, "weir_tokens_total", &["kind=", &small]);
    at_least(1.0, "weir_tokens_total", &["kind=", &large]);
    at_least(2.0, "weir_cascade_total", &["policy=\"strict\"", "stage=", "outcome=", "reason="]);
    at_least(1.0, "weir_confidence_count", &["score=\"min_logprob\"", &small]);
    at_least(2.0, "weir_upstream_errors_total", &["upstream=\"large\"", "kind="]);
    at_least(1.0, "weir_slots", &["state="]);
    for family in ["weir_cost_usd_total", "weir_avoided_cost_usd_total"] {
        assert!(gateway.metric(family, &[]) > 0.0, "{family}\n{}", gateway.metrics());
    }
    for family in ["weir_ttft_seconds", "weir_itl_seconds", "weir_e2e_seconds", "weir_overhead_seconds"] {
        at_least(1.0, &format!("{family}_count"), &[]);
    }
    let page = gateway.metrics();
    for family in ["weir_wasted_cost_usd_total", "weir_queue_depth", "weir_kv_used_ratio"] {
        assert!(page.lines().any(|line| line.starts_with(family)), "{family}\n{page}");
    }
}

#[test]
fn a_cascade_keeps_what_it_believes_escalates_what_it_does_not_and_survives_its_upstream() {
    let _turn = alone();
    let upstream = start_upstream();
    let gateway = start_gateway(&upstream.base);
    check_kept(&gateway);
    check_escalated(&gateway);
    drop(upstream);
    check_degraded(&gateway);
    check_metrics(&gateway);
}

fn serves_small(name: &str) -> String {
    format!("name = \"{name}\"\n\n[[rule]]\nname = \"all\"\nthen = {{ serve = \"{SMALL}\" }}\n")
}

#[test]
fn a_reload_under_load_loses_no_request_and_a_refused_file_keeps_the_running_policy() {
    let _turn = alone();
    let gateway = Process::start(&[("weir.toml", LOCAL_ONLY), ("auto.toml", &serves_small("first"))]);
    let (stop, gateway) = (AtomicBool::new(false), &gateway);
    let policies: Vec<String> = std::thread::scope(|scope| {
        let ask = || {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = gateway.ask(&question("auto", seen.len() % 2 == 1));
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(!answer.text().is_empty(), "{answer:?}");
                seen.push(answer.header("x-weir-policy").to_owned());
            }
            seen
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        let _stop = StopOnDrop(&stop);

        gateway
            .write("auto.toml", &serves_small("broken").replace("[[rule]]", "[[rule]]\nwhen = 'request.nonsense > 1'"));
        gateway.hang_up();
        until("the refusal", || (gateway.metric("weir_reloads_total", &["outcome=\"refused\""]) == 1.0).then_some(()));
        let kept = gateway.ask(&question("auto", false));
        assert_eq!(kept.header("x-weir-policy"), "first@1; rule=all");

        gateway.write("auto.toml", &serves_small("second"));
        gateway.hang_up();
        until("the second generation", || {
            (gateway.ask(&question("auto", false)).header("x-weir-policy") == "second@2; rule=all").then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    for policy in &policies {
        assert!(["first@1; rule=all", "second@2; rule=all"].contains(&policy.as_str()), "{policies:?}");
    }
    assert!(policies.iter().any(|policy| policy.starts_with("first")), "{policies:?}");
    assert_eq!(gateway.metric("weir_generation", &[]), 2.0);
}

/// So that a failed assertion ends the clients too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_drain_finishes_the_running_stream_turns_readiness_off_and_exits_with_0() {
    let _turn = alone();
    let mut gateway = Process::start(&[("weir.toml", LOCAL_ONLY), ("auto.toml", &serves_small("only"))]);
    // Leaves an idle connection in the client's pool, which must not hold the drain up.
    gateway.ask(&question("auto", false));
    let mut long = question("auto", true);
    long["messages"][0]["content"] = json!("Tell a long story about a river.");
    long["max_tokens"] = json!(200);
    let (status, _, mut lines) = gateway.open(&long);
    let mut body = String::new();
    lines.read_line(&mut body).unwrap();
    assert_eq!((status, body.starts_with("data:")), (200, true), "{body}");

    gateway.terminate();
    until("readiness to be off", || (gateway.probe("/readyz") != Some(200)).then_some(()));
    lines.read_to_string(&mut body).unwrap();
    assert!(body.trim_end().ends_with("data: [DONE]"), "{body}");
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
}
