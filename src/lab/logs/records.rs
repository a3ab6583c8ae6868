//! Our own form: one JSON object per line, or the same names as columns of a CSV file.

use std::io::BufRead;

use serde::Deserialize;

use super::table::open;
use super::wide::pair_means;
use super::{Log, Row, Source, problem};
use crate::error::Problem;

/// One line. Names that are not known are left alone.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: Option<String>,
    prompt: String,
    #[serde(default)]
    domain: String,
    local: f64,
    upstream: f64,
    #[serde(default)]
    cost: Option<f64>,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    agrees: Option<bool>,
}

pub(super) fn read(source: &Source) -> Result<Log, Problem> {
    let mut file = open(&source.log)?;
    let unreadable = |error: std::io::Error| problem(&source.log, None, format!("cannot read: {error}"));
    let json = file.fill_buf().map_err(unreadable)?.trim_ascii_start().starts_with(b"{");
    let rows = if json { lines(source, file) } else { table(source, file) }?;
    let name = |given: &Option<String>, otherwise: &str| given.clone().unwrap_or_else(|| otherwise.to_owned());
    let (local, upstream) = (name(&source.local, "local"), name(&source.upstream, "upstream"));
    let mut log = Log { rows, local, upstream, ..Log::default() };
    log.models = pair_means(&log);
    Ok(log)
}

fn lines(source: &Source, file: impl BufRead) -> Result<Vec<Row>, Problem> {
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(file.lines()) {
        let refused = |message: String| problem(&source.log, Some(number), message);
        let line = line.map_err(|error| refused(format!("cannot read: {error}")))?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line).map_err(|error| refused(format!("not a record: {error}")))?;
            rows.push(row(record, number).map_err(refused)?);
        }
    }
    Ok(rows)
}

fn table(source: &Source, file: impl BufRead) -> Result<Vec<Row>, Problem> {
    let mut reader = csv::Reader::from_reader(file);
    let mut rows = Vec::new();
    let headers = reader.headers().cloned();
    let not_csv = |error: csv::Error| {
        problem(&source.log, error.position().map(csv::Position::line), format!("not a record: {error}"))
    };
    let headers = headers.map_err(not_csv)?;
    for record in reader.records() {
        let record = record.map_err(not_csv)?;
        let line = record.position().map_or(0, csv::Position::line);
        let read = record.deserialize(Some(&headers)).map_err(not_csv)?;
        rows.push(row(read, line).map_err(|message| problem(&source.log, Some(line), message))?);
    }
    Ok(rows)
}

/// Checked: qualities finite, the cost not below 0.
fn row(record: Record, line: u64) -> Result<Row, String> {
    let cost = record.cost.unwrap_or(1.0);
    if !(record.local.is_finite() && record.upstream.is_finite()) {
        return Err(format!("qualities {} and {}: both must be finite", record.local, record.upstream));
    }
    if !(cost.is_finite() && cost >= 0.0) {
        return Err(format!("cost {cost}: must be finite and not below 0"));
    }
    if record.score.is_some_and(f64::is_nan) {
        return Err("score NaN: leave it out where there is none".to_owned());
    }
    Ok(Row {
        id: record.id.unwrap_or_else(|| line.to_string()),
        prompt: record.prompt,
        domain: record.domain,
        local: record.local,
        upstream: record.upstream,
        cost,
        score: record.score,
        agrees: record.agrees,
    })
}
