//! Which requests are traced, what becomes of their spans, and what the page of docs tells of them.

use std::collections::HashSet;

use super::*;
use crate::account::Receipt;
use crate::account::Record;
use crate::control::{Protocol, Telemetry};
use crate::observe::known::Known;
use crate::observe::{Families, spans};
use crate::request::TraceContext;

/// Telemetry to where nobody listens.
fn to_nobody() -> Telemetry {
    Telemetry {
        endpoint: http::Uri::from_static("http://127.0.0.1:9/v1/traces"),
        protocol: Protocol::Http,
        sample: 1.0,
        service: "weir".to_owned(),
        content: false,
        headers: Vec::new(),
    }
}

fn traced(sample: f64) -> Metrics {
    Metrics::new().unwrap().tracing(Some(&Telemetry { sample, ..to_nobody() })).unwrap()
}

/// A request of which nothing is known but that it was there.
fn pass(metrics: &Arc<Metrics>) {
    let meter = Meter::open(metrics.clone(), Arc::new(Prices::default()));
    meter.trace(None);
}

#[tokio::test]
async fn about_the_share_of_new_traces_is_sampled() {
    for (share, least, most) in [(0.0, 0, 0), (0.1, 600, 1400), (1.0, 10_000, 10_000)] {
        let metrics = traced(share);
        let sampled = (0..10_000).filter(|_| metrics.place(None).unwrap().sampled).count();
        assert!((least..=most).contains(&sampled), "{sampled} at {share}");
    }
}

#[tokio::test]
async fn a_client_decides_for_its_own_trace_and_each_request_has_a_span_of_its_own() {
    let given = |sampled| TraceContext { trace_id: 7, span_id: 9, sampled, state: Some("a=b".into()) };
    for (share, sampled) in [(0.0, true), (1.0, false)] {
        let own = traced(share).place(Some(&given(sampled))).unwrap();
        assert_ne!(own.span_id, 9);
        assert_eq!(TraceContext { span_id: 9, ..own }, given(sampled));
    }
    assert_eq!(Metrics::new().unwrap().place(Some(&given(true))), None);
}

#[tokio::test(start_paused = true)]
async fn spans_that_the_collector_does_not_take_are_counted_as_dropped() {
    let metrics = Arc::new(traced(1.0));
    (0..3).for_each(|_| pass(&metrics));
    metrics.flush(Duration::from_secs(600)).await;
    assert_samples(&metrics.render(&[]), &[r#"weir_spans_total{outcome="dropped"} 3"#]);
}

#[tokio::test(start_paused = true)]
async fn what_the_queue_cannot_take_is_dropped_and_nobody_waits() {
    let metrics = Arc::new(traced(1.0));
    (0..3000).for_each(|_| pass(&metrics));
    assert_samples(&metrics.render(&[]), &[r#"weir_spans_total{outcome="dropped"} 952"#]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_at_its_limit() {
    let metrics = Arc::new(traced(1.0));
    (0..2048).for_each(|_| pass(&metrics));
    let began = tokio::time::Instant::now();
    metrics.flush(Duration::from_millis(10)).await;
    assert_eq!(began.elapsed(), Duration::from_millis(10));
}

/// Receipts of traced requests.
#[derive(Debug, Default)]
struct Book(Mutex<Vec<Receipt>>);

impl Book {
    fn only(&self) -> Receipt {
        self.0.lock().unwrap().remove(0)
    }
}

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().unwrap().push(receipt);
    }

    fn place(&self, _: Option<&TraceContext>) -> Option<TraceContext> {
        Some(TraceContext { trace_id: 1, span_id: 1, sampled: true, state: None })
    }
}

async fn receipt(plan: Plan, backends: &Backends) -> Receipt {
    let book = Arc::new(Book::default());
    let meter = Meter::open(book.clone(), Arc::new(Prices::default()));
    meter.trace(None);
    let request = Arc::new(request("auto"));
    meter.asked(&request);
    meter.decided(&Decision { policy: "cheap".into(), rule: "first".into(), plan: plan.clone() }, 3);
    match run(plan, request, backends, meter.clone()).await {
        Ok(mut completion) => while completion.deltas.next().await.is_some() {},
        Err(error) => meter.failed(&error),
    }
    drop(meter);
    book.only()
}

#[tokio::test(start_paused = true)]
async fn spans_are_as_many_as_counted_and_every_one_but_the_root_has_a_parent() {
    let known = Known::of(names(), &Families::register(&prometheus::Registry::new()).unwrap());
    let down = || Step::Fail(Error::new(Kind::Timeout, Origin::Upstream, "late").retry(Retry::Elsewhere));
    let sure = || vec![say("sure", &[-0.1]), end(1, 1)];
    let doubt = || vec![say("doubt", &[-2.0]), Step::Wait(Duration::from_millis(5)), end(1, 1)];
    for (plan, local, up, names) in [
        (direct(UP), vec![], vec![end(1, 1)], &["chat auto", "decide", "chat large"][..]),
        (direct(UP), vec![], vec![down()], &["chat auto", "decide", "chat large"]),
        (cascade(), sure(), vec![], &["chat auto", "decide", "chat local/small", "gate"]),
        (cascade(), doubt(), vec![end(1, 1)], &["chat auto", "decide", "chat local/small", "gate", "chat large"]),
        (cascade(), vec![down()], vec![end(1, 1)], &["chat auto", "decide", "chat local/small", "chat large"]),
    ] {
        let receipt = receipt(plan, &backends(local, up)).await;
        let spans = spans::request(&receipt, &known, None);
        assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(spans::count(&receipt), spans.len() as u64);
        let ids: HashSet<&[u8]> = spans.iter().map(|span| &*span.span_id).collect();
        assert_eq!(ids.len(), spans.len());
        assert!(spans[0].parent_span_id.is_empty());
        assert!(spans[1..].iter().all(|span| ids.contains(&*span.parent_span_id)), "{spans:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_provider_is_called_by_its_name_in_the_conventions() {
    let known = Known::of(names(), &Families::register(&prometheus::Registry::new()).unwrap());
    let receipt = receipt(direct(UP), &backends(vec![], vec![end(1, 1)])).await;
    let told = format!("{:?}", spans::request(&receipt, &known, None)[2].attributes);
    assert!(told.contains("StringValue(\"openai\")") && told.contains("api.openai.com"), "{told}");
}

#[test]
fn the_page_of_docs_tells_of_every_family_and_every_attribute() {
    let page = include_str!("../../../docs/telemetry.md");
    for family in names::ALL {
        assert!(page.contains(&format!("| `{}` | ", family.name)) && page.contains(family.help), "{}", family.name);
    }
    for (name, help) in names::attribute::ALL {
        assert!(page.contains(&format!("| `{name}` | {help} |")), "{name}");
    }
}
