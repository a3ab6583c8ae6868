//! What a scrape and the log show of requests that ran.

mod labels;
mod live;
mod traced;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::sleep;

use super::{Metrics, Names, Port, Reload, names};
use crate::account::{Meter, Price, Prices};
use crate::backend::fake::{Fake, Step, end, raw, say};
use crate::backend::{Breaker, Figures, State, Status};
use crate::confidence::{Accept, Feature, Judge, Uncertified};
use crate::error::{Error, Kind, Origin, Retry};
use crate::execute::{Backends, run};
use crate::plan::{Decision, Gate, HoldBack, OnFailure, Plan, Stage};
use crate::request::{Ask, Chat, ClientBody, Message, ModelId, Request, Role, TenantId};

const LOCAL: &str = "local/small";
const UP: &str = "up/large";

fn metrics() -> Arc<Metrics> {
    let metrics = Metrics::new().unwrap();
    metrics.adopt(names());
    Arc::new(metrics)
}

fn names() -> Names {
    Names {
        generation: 3,
        asked: ["auto", "small", UP].map(str::to_owned).into(),
        targets: [LOCAL, UP, "any/*"].map(ModelId::new).into(),
        policies: ["cheap".to_owned()].into(),
        addresses: vec![("up".to_owned(), "api.openai.com".to_owned(), 443)],
    }
}

fn request(model: &str) -> Request {
    let message = Message {
        role: Role::User,
        text: "the prompt nobody may read".into(),
        images: 0,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    };
    Request {
        id: "r-1".into(),
        tenant: TenantId::new("team"),
        model: model.into(),
        stream: true,
        ask: Ask::Chat(Chat { messages: vec![message], ..Chat::default() }),
        body: ClientBody { bytes: Bytes::from_static(b"the prompt nobody may read"), ..ClientBody::default() },
        headers: Default::default(),
        authorization: None,
    }
}

fn cascade() -> Plan {
    judged_by(Accept::Threshold(Judge::at_least(Feature::MinLogprob, -1.0)))
}

fn judged_by(accept: Accept) -> Plan {
    let gate = Some(Gate { accept: Arc::new(accept), hold_back: HoldBack::All });
    let stages =
        [(LOCAL, gate), (UP, None)].map(|(name, gate)| Stage { model: ModelId::new(name), gate, skip: None }).into();
    Plan::Cascade { stages, on_failure: OnFailure::Error, pin: None }
}

fn direct(name: &str) -> Plan {
    Plan::Direct { targets: vec![ModelId::new(name)] }
}

/// Runs one request to its end.
async fn ask(metrics: &Arc<Metrics>, model: &str, plan: Plan, backends: &Backends) {
    let price = |input| Price { input, cached_input: None, output: input };
    let table = [("up/*".to_owned(), price(2.0)), (LOCAL.to_owned(), price(0.5))].into();
    let meter = Meter::open(metrics.clone(), Arc::new(Prices { table }));
    let request = Arc::new(request(model));
    meter.asked(&request);
    meter.decided(&Decision { policy: "cheap".into(), rule: "first".into(), plan: plan.clone() }, 3);
    let result = run(plan, request, backends, meter.clone()).await;
    match result {
        Ok(mut completion) => {
            meter.head();
            while completion.deltas.next().await.is_some() {}
        }
        Err(error) => meter.failed(&error),
    }
}

fn backends(local: Vec<Step>, up: Vec<Step>) -> Backends {
    let mut backends = Backends::default();
    backends.models.insert(ModelId::new(LOCAL), Arc::new(Fake::new(local)));
    backends.models.insert(ModelId::new(UP), Arc::new(Fake::new(up)));
    backends.wildcards.insert("any".into(), Arc::new(Fake::new([raw("{}"), end(4, 4)])));
    backends
}

/// The samples of a scrape that are not zero, without histograms' buckets.
fn samples(scrape: &str) -> Vec<&str> {
    let told = |line: &&str| !line.starts_with('#') && !line.contains("_bucket") && !line.ends_with(" 0");
    scrape.lines().filter(told).collect()
}

fn assert_samples(scrape: &str, expected: &[&str]) {
    let samples = samples(scrape);
    for line in expected {
        assert!(samples.contains(line), "{line} is not among {samples:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_escalated_request_shows_in_every_family_it_touches() {
    let metrics = metrics();
    let pause = || Step::Wait(Duration::from_millis(100));
    let up = vec![pause(), say("big", &[]), pause(), say(" one", &[]), end(1_000_000, 500_000)];
    let local = vec![say("doubt", &[-0.5, -2.0]), end(1_000_000, 2)];
    ask(&metrics, "auto", cascade(), &backends(local, up)).await;
    let expected = [
        r#"weir_requests_total{model="auto",outcome="ok",served_by="up/large"} 1"#,
        r#"weir_tokens_total{kind="prompt",model="up/large"} 1000000"#,
        r#"weir_tokens_total{kind="cached",model="up/large"} 250000"#,
        r#"weir_tokens_total{kind="completion",model="up/large"} 500000"#,
        r#"weir_tokens_total{kind="wasted",model="local/small"} 2"#,
        r#"weir_cost_usd_total{model="up/large"} 3"#,
        r#"weir_cascade_total{outcome="escalate",policy="cheap",reason="early_low_confidence",stage="local/small"} 1"#,
        r#"weir_cascade_total{outcome="accept",policy="cheap",reason="accepted",stage="up/large"} 1"#,
        r#"weir_confidence_sum{model="local/small",score="min_logprob"} -2"#,
        r#"weir_confidence_count{model="local/small",score="margin"} 1"#,
        r#"weir_ttft_seconds_sum{model="up/large"} 0.1"#,
        r#"weir_itl_seconds_count{model="up/large"} 1"#,
        r#"weir_e2e_seconds_sum{model="up/large"} 0.2"#,
        r#"weir_overhead_seconds_count 1"#,
        r#"weir_generation 3"#,
    ];
    let scrape = metrics.render(&[]);
    assert_samples(&scrape, &expected);
    let overhead = r#"weir_overhead_seconds_bucket{le="0.00002"} 1"#;
    assert!(scrape.contains(overhead), "waiting is not overhead: {scrape}");
}

#[tokio::test(start_paused = true)]
async fn an_accepted_answer_shows_what_it_avoided() {
    let metrics = metrics();
    let backends = backends(vec![say("sure", &[-0.1]), end(1_000_000, 1_000_000)], vec![]);
    ask(&metrics, "auto", cascade(), &backends).await;
    let expected = [
        r#"weir_avoided_cost_usd_total{policy="cheap"} 3"#,
        r#"weir_cost_usd_total{model="local/small"} 1"#,
        r#"weir_cascade_total{outcome="accept",policy="cheap",reason="accepted",stage="local/small"} 1"#,
    ];
    assert_samples(&metrics.render(&[]), &expected);
}

#[tokio::test(start_paused = true)]
async fn uncertified_answers_show_whether_they_were_accepted() {
    let metrics = metrics();
    let backends = backends(vec![say("sure", &[-0.1]), end(5, 1)], vec![say("big", &[]), end(5, 1)]);
    for (otherwise, why) in [
        (Some(Judge::least_probability(0.5)), Uncertified::NoCalibration),
        (None, Uncertified::NoCertificate),
        (None, Uncertified::Sampler),
    ] {
        ask(&metrics, "auto", judged_by(Accept::Promise { granted: Err(why), otherwise }), &backends).await;
    }
    let expected = [
        r#"weir_cascade_total{outcome="accept",policy="cheap",reason="uncertified",stage="local/small"} 1"#,
        r#"weir_cascade_total{outcome="escalate",policy="cheap",reason="uncertified",stage="local/small"} 1"#,
        r#"weir_cascade_total{outcome="escalate",policy="cheap",reason="other_key",stage="local/small"} 1"#,
        r#"weir_cascade_total{outcome="accept",policy="cheap",reason="accepted",stage="up/large"} 2"#,
    ];
    assert_samples(&metrics.render(&[]), &expected);
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_names_the_upstream_and_the_kind() {
    let metrics = metrics();
    let down = Error::new(Kind::Timeout, Origin::Upstream, "no answer in 60 s").retry(Retry::Elsewhere);
    let local = vec![say("doubt", &[-2.0]), end(1_000_000, 1_000_000)];
    ask(&metrics, "auto", cascade(), &backends(local, vec![Step::Fail(down)])).await;
    let expected = [
        r#"weir_requests_total{model="auto",outcome="timeout",served_by="none"} 1"#,
        r#"weir_upstream_errors_total{kind="timeout",upstream="up"} 1"#,
        r#"weir_cascade_total{outcome="fail",policy="cheap",reason="error",stage="up/large"} 1"#,
        r#"weir_e2e_seconds_count{model="none"} 1"#,
    ];
    let scrape = metrics.render(&[]);
    assert_samples(&scrape, &expected);
    assert!(!scrape.contains("weir_overhead_seconds_count 1"), "no head was written");
}

#[tokio::test(start_paused = true)]
async fn labels_are_bounded_whatever_clients_ask_for() {
    let metrics = metrics();
    let backends = backends(vec![], vec![]);
    for name in ["any/one", "any/two", "any/three"] {
        ask(&metrics, name, direct(name), &backends).await;
    }
    let scrape = metrics.render(&[]);
    let expected = [
        r#"weir_requests_total{model="other",outcome="ok",served_by="any/*"} 3"#,
        r#"weir_unpriced_requests_total{model="any/*"} 3"#,
        r#"weir_tokens_total{kind="completion",model="any/*"} 12"#,
    ];
    assert_samples(&scrape, &expected);
    assert!(!scrape.contains("any/one"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_outlives_its_configuration_is_still_counted() {
    let metrics = metrics();
    metrics.adopt(Names { generation: 4, ..Names::default() });
    ask(&metrics, "auto", direct(UP), &backends(vec![], vec![end(1, 1)])).await;
    let expected = [r#"weir_requests_total{model="other",outcome="ok",served_by="other"} 1"#, "weir_generation 4"];
    assert_samples(&metrics.render(&[]), &expected);
}

#[test]
fn gauges_show_the_backends_of_this_scrape_only() {
    let metrics = metrics();
    let local = Status { queue_depth: 2, slots_busy: 3, slots: 8, kv_used_ratio: 0.5, ..Status::default() };
    let up = Status { slots_busy: 7, breaker: Breaker::Open, ..Status::default() };
    let scrape = metrics.render(&[(ModelId::new(LOCAL), local), (ModelId::new(UP), up)]);
    let expected = [
        r#"weir_queue_depth{model="local/small"} 2"#,
        r#"weir_slots{model="local/small",state="busy"} 3"#,
        r#"weir_slots{model="local/small",state="free"} 5"#,
        r#"weir_kv_used_ratio{model="local/small"} 0.5"#,
        r#"weir_slots{model="up/large",state="busy"} 7"#,
        r#"weir_breaker{model="up/large",state="open"} 1"#,
    ];
    assert_samples(&scrape, &expected);
    assert!(!scrape.contains(r#"weir_slots{model="up/large",state="free"}"#));
    assert!(!metrics.render(&[]).contains("weir_slots{"), "gone with its backend");
}

#[test]
fn local_models_tell_their_memory_state_loads_tokens_and_batches() {
    let metrics = metrics();
    let figures = Figures {
        weights_bytes: 5,
        kv_bytes: 7,
        loads: 2,
        failed_loads: 1,
        prefill_tokens: 40,
        decode_tokens: 3,
        batches: [1, 0, 1, 0, 0, 0, 0, 0, 0, 1],
        ..Figures::default()
    };
    let gone = Figures { state: State::Unloaded, ..Figures::default() };
    metrics.show_models(&[(ModelId::new(LOCAL), figures), (ModelId::new("local/gone"), gone)]);
    let expected = [
        r#"weir_model_memory_bytes{kind="weights",model="local/small"} 5"#,
        r#"weir_model_memory_bytes{kind="kv",model="local/small"} 7"#,
        r#"weir_model_state{model="local/small",state="warm"} 1"#,
        r#"weir_model_state{model="local/gone",state="unloaded"} 1"#,
        r#"weir_model_loads_total{model="local/small",outcome="ok"} 2"#,
        r#"weir_model_loads_total{model="local/small",outcome="failed"} 1"#,
        r#"weir_engine_tokens_total{kind="prefill",model="local/small"} 40"#,
        r#"weir_engine_tokens_total{kind="decode",model="local/small"} 3"#,
        r#"weir_engine_batch_tokens_sum{model="local/small"} 43"#,
        r#"weir_engine_batch_tokens_count{model="local/small"} 3"#,
    ];
    let scrape = metrics.render(&[]);
    assert_samples(&scrape, &expected);
    for (bound, below) in [("1", 1), ("4", 2), ("256", 2), ("+Inf", 3)] {
        let line = format!("weir_engine_batch_tokens_bucket{{model=\"local/small\",le=\"{bound}\"}} {below}");
        assert!(scrape.contains(&line), "{line}\n{scrape}");
    }
    metrics.show_models(&[]);
    assert!(!metrics.render(&[]).contains("local/gone"), "gone with its model");
}

#[test]
fn reloads_are_counted_by_outcome() {
    let metrics = metrics();
    metrics.reloaded(Reload::Applied);
    metrics.reloaded(Reload::Refused);
    metrics.reloaded(Reload::Refused);
    let expected = [r#"weir_reloads_total{outcome="applied"} 1"#, r#"weir_reloads_total{outcome="refused"} 2"#];
    assert_samples(&metrics.render(&[]), &expected);
}

#[test]
fn the_promised_names_stand() {
    let promised = [
        "weir_requests_total",
        "weir_tokens_total",
        "weir_cost_usd_total",
        "weir_avoided_cost_usd_total",
        "weir_wasted_cost_usd_total",
        "weir_cascade_total",
        "weir_confidence",
        "weir_ttft_seconds",
        "weir_itl_seconds",
        "weir_e2e_seconds",
        "weir_overhead_seconds",
        "weir_queue_depth",
        "weir_slots",
        "weir_kv_used_ratio",
        "weir_upstream_errors_total",
    ];
    for name in promised {
        assert!(names::ALL.iter().any(|family| family.name == name), "{name}");
    }
}

/// A log kept in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_leaves_one_log_line_with_every_fact_and_no_text() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    // With one dispatcher alive, tracing asks only the current thread's whether a line is wanted,
    // and remembers what another test's thread said. With two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    let metrics = metrics();
    let local = vec![say("answer nobody may read", &[-2.0]), Step::Hang];
    let up = vec![Step::Wait(Duration::from_millis(100)), say("neither this", &[]), end(1_000_000, 500_000)];
    let otherwise = Some(Judge::at_least(Feature::MinLogprob, -1.0));
    let promise = Accept::Promise { granted: Err(Uncertified::NoCertificate), otherwise };
    ask(&metrics, "auto", judged_by(promise), &backends(local, up)).await;
    sleep(Duration::from_secs(1)).await;
    drop(guard);

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).expect("exactly one line");
    assert_eq!(line["target"], "weir::request");
    let attempts = "local/small discarded (early_low_confidence) prompt=~6 cached=0 completion=~1 usd=0.0000035; \
                    up/large served (accepted) prompt=1000000 cached=250000 completion=500000 usd=3";
    let expected = serde_json::json!({
        "message": "request", "id": "r-1", "tenant": "team", "model": "auto", "served_by": "up/large",
        "policy": "cheap", "rule": "first", "generation": 3, "plan": "cascade", "outcome": "ok", "stream": true,
        "attempts": attempts, "cost_usd": 3.0000035, "avoided_usd": 0.0, "wasted_usd": 0.0000035,
        "confidence": "min_logprob=-2, mean_logprob=-2, sum_logprob=-2, margin=1",
        "certificate": "uncertified; why=no_certificate",
        "ttft_ms": 100.0, "e2e_ms": 100.0, "overhead_us": 0,
    });
    assert_eq!(line["fields"], expected);
    assert!(!text.contains("nobody may read") && !text.contains("neither this"));
}
