//! The page in OpenMetrics, read by a strict parser, with exemplars that lead to a trace.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{python, script};
use crate::fake_upstream::{Answer, FakeUpstream};
use crate::gateway::house::{House, answer, upstream};

/// What the parser tells of the page.
fn read(page: &str) -> Vec<Value> {
    let mut command = Command::new(python());
    command.arg(script("read_openmetrics.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{page}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_strict_parser_reads_the_page_and_finds_the_traces_of_sampled_requests() {
    let fake = FakeUpstream::saying(Answer::json(answer("Paris"))).await;
    // Nobody listens there: exemplars do not depend on the collector.
    let telemetry = "telemetry = { otlp = \"http://127.0.0.1:9\", sample = 1.0 }\n";
    let price = "[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 2\n";
    let house = House::open(&format!("{telemetry}{}{price}", upstream("up", &fake, "models = [\"m\"]"))).await;
    let trace = house.ask("up/m").await.header("x-weir-trace-id").to_owned();
    house.receipts(1).await;
    let statuses = house.control.current().statuses();
    let (page, media) = house.metrics.page(Some("application/openmetrics-text;version=1.0.0,*/*;q=0.1"), &statuses);
    assert_eq!(media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let told = read(&page);
    let found: Vec<&str> =
        told.iter().filter(|it| it["trace_id"] == trace.as_str()).filter_map(|it| it["name"].as_str()).collect();
    let expected =
        ["weir_cost_usd_total", "weir_ttft_seconds_bucket", "weir_e2e_seconds_bucket", "weir_overhead_seconds_bucket"];
    assert!(expected.iter().all(|name| found.contains(name)) && found.len() == 4, "{found:?}");
    let cost = told.iter().find(|it| it["name"] == "weir_cost_usd_total").unwrap();
    assert_eq!((&cost["value"], cost["span_id"].as_str().unwrap().len()), (&serde_json::json!(2e-5), 16));

    let (plain, media) = house.metrics.page(Some("text/plain"), &statuses);
    assert!(media.starts_with("text/plain; version=0.0.4") && !plain.contains("trace_id"));
}
