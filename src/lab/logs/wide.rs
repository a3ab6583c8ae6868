//! Logs with one row per question and a column per model: RouteLLM's and LLMRouter's.

use super::table::Table;
use super::{Log, Row, Source, model, problem};
use crate::error::Problem;

/// Two models, right or wrong; what stands in Arena's training data is marked.
pub(super) fn routellm(source: &Source) -> Result<Log, Problem> {
    let table = Table::read(&source.log)?;
    let prompt = table.column("prompt")?;
    let (local, upstream) = (table.column_like("weak_correct")?, table.column_like("strong_correct")?);
    let (marked, domain) = (table.find("contaminated"), table.find("domain"));
    let mut log = Log::default();
    for (at, cells) in table.rows().enumerate() {
        if marked.map(|column| cells.number(column)).transpose()?.is_some_and(|mark| mark != 0.0) {
            log.left_out += 1;
            continue;
        }
        log.rows.push(Row {
            id: at.to_string(),
            prompt: cells.text(prompt).to_owned(),
            domain: domain.map(|column| cells.text(column).to_owned()).unwrap_or_default(),
            local: cells.number(local)?,
            upstream: cells.number(upstream)?,
            cost: 1.0,
            ..Row::default()
        });
    }
    let name = |column: usize, start: &str| table.names()[column][start.len()..].trim_start_matches('_').to_owned();
    log.local = name(local, "weak_correct");
    log.upstream = name(upstream, "strong_correct");
    log.models = pair_means(&log);
    Ok(log)
}

/// The pair's own mean qualities.
pub(super) fn pair_means(log: &Log) -> Vec<(String, f64)> {
    let mean = |quality: fn(&Row) -> f64| log.rows.iter().map(quality).sum::<f64>() / log.rows.len() as f64;
    vec![(log.local.clone(), mean(|row| row.local)), (log.upstream.clone(), mean(|row| row.upstream))]
}

/// A pool of models, each with a quality.
pub(super) fn llmrouter(source: &Source) -> Result<Log, Problem> {
    const NOT_MODELS: [&str; 3] = ["task", "metric", "question"];
    if source.second.is_some() {
        return Err(problem(&source.log, None, "this form has no answers that --second could agree with"));
    }
    let table = Table::read(&source.log)?;
    let (task, question) = (table.column("task")?, table.column("question")?);
    let known: Vec<String> =
        table.names().iter().filter(|name| !NOT_MODELS.contains(&name.as_str())).cloned().collect();
    let (local, upstream) = (
        model(source, "local", source.local.as_ref(), &known)?,
        model(source, "upstream", source.upstream.as_ref(), &known)?,
    );
    let columns = known.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let (local_at, upstream_at) = (table.column(&local)?, table.column(&upstream)?);
    let mut sums = vec![0.0; known.len()];
    let mut rows = Vec::new();
    for (at, cells) in table.rows().enumerate() {
        for (sum, column) in sums.iter_mut().zip(&columns) {
            *sum += cells.number(*column)?;
        }
        rows.push(Row {
            id: at.to_string(),
            prompt: cells.text(question).to_owned(),
            domain: cells.text(task).to_owned(),
            local: cells.number(local_at)?,
            upstream: cells.number(upstream_at)?,
            cost: 1.0,
            ..Row::default()
        });
    }
    let models = known.into_iter().zip(sums.iter().map(|sum| sum / rows.len() as f64)).collect();
    Ok(Log { rows, local, upstream, models, left_out: 0 })
}
