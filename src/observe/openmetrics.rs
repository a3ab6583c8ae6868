//! Gathered families → OpenMetrics text 1.0, with exemplars, which the metric library cannot write.
//!
//! Promises: what a strict parser takes (a test asks prometheus_client's). A histogram with buckets
//! below 0 has no sum and no count there, as the standard demands: its `+Inf` bucket is the count.
//! Rendered for scrapers that ask for it.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Exemplars};
use super::names;

/// What it is called in HTTP.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole page.
pub(super) fn render(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut page = String::new();
    for family in families {
        let name = family.name();
        let (stem, kind) = match family.get_field_type() {
            MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            MetricType::HISTOGRAM => (name, "histogram"),
            _ => (name, "gauge"),
        };
        put(&mut page, format_args!("# TYPE {stem} {kind}\n# HELP {stem} {}\n", escape(family.help())));
        let known = names::ALL.iter().find(|known| known.name == name).map(|known| known.name);
        for metric in family.get_metric() {
            let of = |bucket| exemplars.of(known?, model(metric), bucket);
            match kind {
                "counter" => {
                    let value = metric.get_counter().get_value();
                    put(&mut page, format_args!("{stem}_total{} {value}", labels(metric.get_label(), None)));
                    exemplar(&mut page, of(0));
                }
                "histogram" => histogram(&mut page, name, metric, of),
                _ => {
                    let value = metric.get_gauge().get_value();
                    put(&mut page, format_args!("{stem}{} {}\n", labels(metric.get_label(), None), number(value)));
                }
            }
        }
    }
    page.push_str("# EOF\n");
    page
}

fn histogram(page: &mut String, name: &str, metric: &Metric, exemplar_of: impl Fn(usize) -> Option<Exemplar>) {
    let spread: &Histogram = metric.get_histogram();
    let (buckets, count) = (spread.get_bucket(), spread.get_sample_count());
    for (place, bucket) in buckets.iter().enumerate() {
        let end = bound(bucket.upper_bound());
        let within = bucket.cumulative_count();
        put(page, format_args!("{name}_bucket{} {within}", labels(metric.get_label(), Some(&end))));
        exemplar(page, exemplar_of(place));
    }
    put(page, format_args!("{name}_bucket{} {count}", labels(metric.get_label(), Some("+Inf"))));
    exemplar(page, exemplar_of(buckets.len()));
    if buckets.iter().all(|bucket| bucket.upper_bound() >= 0.0) {
        let (plain, sum) = (labels(metric.get_label(), None), number(spread.get_sample_sum()));
        put(page, format_args!("{name}_count{plain} {count}\n{name}_sum{plain} {sum}\n"));
    }
}

/// The rest of a sample's line.
fn exemplar(page: &mut String, exemplar: Option<Exemplar>) {
    if let Some(Exemplar { trace_id, span_id, value, at }) = exemplar {
        let at = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let ids = format!(r#"{{trace_id="{trace_id:032x}",span_id="{span_id:016x}"}}"#);
        put(page, format_args!(" # {ids} {} {at:.3}", number(value)));
    }
    page.push('\n');
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}

fn model(metric: &Metric) -> &str {
    metric.get_label().iter().find(|label| label.name() == "model").map_or("", LabelPair::value)
}

fn labels(pairs: &[LabelPair], end: Option<&str>) -> String {
    let own = pairs.iter().map(|pair| format!(r#"{}="{}""#, pair.name(), escape(pair.value())));
    let all: Vec<String> = own.chain(end.map(|end| format!(r#"le="{end}""#))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value.is_infinite() { if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned() } else { value.to_string() }
}

/// The end of a bucket, always with a decimal point.
fn bound(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.1}") } else { value.to_string() }
}
