//! How many series there are, whatever clients send and however often the configuration changes.

use super::*;

/// How many samples a page has.
fn series(metrics: &Metrics) -> usize {
    metrics.render(&[]).lines().filter(|line| !line.starts_with('#')).count()
}

/// A request as hostile as a client, or the past, can make it.
async fn ask_oddly(metrics: &Arc<Metrics>, odd: &str) {
    let target = format!("any/{odd}");
    let meter = Meter::open(metrics.clone(), Arc::new(Prices::default()));
    let request = Request { id: odd.into(), tenant: TenantId::new(odd), ..request(odd) };
    meter.asked(&request);
    let plan = direct(&target);
    meter.decided(&Decision { policy: odd.into(), rule: odd.into(), plan: plan.clone() }, 3);
    let result = run(plan, Arc::new(request), &backends(vec![], vec![]), meter.clone()).await;
    let mut deltas = result.unwrap().deltas;
    while deltas.next().await.is_some() {}
    let gone = ModelId::new(format!("gone-{odd}/m"));
    meter.attempt(&gone, 0).failed(&Error::new(Kind::Timeout, Origin::Upstream, odd));
    ask(metrics, odd, cascade(), &backends(vec![say(odd, &[-2.0]), end(1, 1)], vec![end(1, 1)])).await;
}

#[tokio::test(start_paused = true)]
async fn hostile_names_make_no_series() {
    let metrics = metrics();
    ask_oddly(&metrics, "first").await;
    let before = series(&metrics);
    for odd in ["\"", "\\", "\n", "weir{x=\"1\"} 1", "ümlaut", " ", &"x".repeat(100_000)] {
        ask_oddly(&metrics, odd).await;
    }
    for number in 0..200 {
        ask_oddly(&metrics, &format!("name-{number}")).await;
    }
    assert_eq!(series(&metrics), before);
    assert!(!metrics.render(&[]).contains("name-7"));
}

#[tokio::test(start_paused = true)]
async fn names_that_are_gone_from_the_configuration_are_gone_from_the_page() {
    let metrics = metrics();
    let in_generation = |generation: u64| Names {
        generation,
        asked: vec![format!("auto-{generation}")],
        targets: vec![ModelId::new(format!("local/m-{generation}")), ModelId::new(format!("up-{generation}/large"))],
        policies: [format!("policy-{generation}")].into(),
        addresses: Vec::new(),
    };
    let mut counts = Vec::new();
    for generation in 4..204 {
        metrics.adopt(in_generation(generation));
        let [local, up] = [format!("local/m-{generation}"), format!("up-{generation}/large")].map(ModelId::new);
        let meter = Meter::open(metrics.clone(), Arc::new(Prices::default()));
        meter.asked(&request(&format!("auto-{generation}")));
        let policy = format!("policy-{generation}").into();
        meter.decided(&Decision { policy, rule: "r".into(), plan: cascade() }, generation);
        meter.attempt(&local, 0).discarded(crate::account::Reason::LowConfidence);
        meter.attempt(&up, 1).failed(&Error::new(Kind::Timeout, Origin::Upstream, "late"));
        drop(meter);
        counts.push(series(&metrics));
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    let page = metrics.render(&[]);
    assert!(page.contains("policy-203") && page.contains("upstream=\"up-203\""), "{page}");
    assert!(!page.contains("-202") && !page.contains("policy-4\""), "{page}");
}

#[test]
fn names_of_an_older_generation_that_come_late_change_nothing() {
    let metrics = metrics();
    let older = Names { generation: 2, targets: vec![ModelId::new("local/gone")], ..Names::default() };
    let before = metrics.render(&[]);
    metrics.adopt(older);
    assert_eq!(metrics.render(&[]), before);
    assert!(before.contains("weir_generation 3") && before.contains(UP), "{before}");
}

#[test]
fn a_name_that_stays_keeps_its_counts() {
    let metrics = metrics();
    let meter = Meter::open(metrics.clone(), Arc::new(Prices::default()));
    meter.asked(&request("auto"));
    meter.decided(&Decision { policy: "cheap".into(), rule: "r".into(), plan: direct(UP) }, 3);
    drop(meter);
    metrics.adopt(Names { generation: 4, ..names() });
    let expected = [r#"weir_requests_total{model="auto",outcome="canceled",served_by="none"} 1"#, "weir_generation 4"];
    assert_samples(&metrics.render(&[]), &expected);
}

#[test]
fn ports_and_draining_are_shown() {
    let metrics = metrics();
    metrics.show_connections(Port::Data, 7);
    metrics.show_connections(Port::Admin, 1);
    metrics.show_draining(true);
    let expected = [r#"weir_connections{port="data"} 7"#, r#"weir_connections{port="admin"} 1"#, "weir_draining 1"];
    let page = metrics.render(&[]);
    assert_samples(&page, &expected);
    let started = samples(&page).iter().any(|line| line.starts_with("weir_process_start_time_seconds "));
    assert!(started && page.contains("\nprocess_resident_memory_bytes "), "{page}");
}
