//! What a policy would have made of past requests, beside another or beside what happened.
//!
//! Promises: only what the record says is summed, and beside every sum stands over how many requests
//! it is; what the record does not say is counted by its reason. Pure; called by `cli`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::past::Past;
use super::policies::{Fate, fate, spend};
use crate::plan::Decision;
use crate::request::Request;

/// How many changed requests are named.
const EXAMPLES: usize = 5;

/// What a policy made of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The rule, and who serves.
    pub told: String,
    /// What comes of it.
    pub fate: Fate,
    quality: Option<f64>,
    usd: Option<f64>,
}

impl Outcome {
    /// Of a request under this decision.
    pub fn of(past: &Past, request: &Request, decision: &Decision) -> Outcome {
        let fate = fate(decision, request, &past.records);
        let served = match &fate {
            Fate::Served { model, .. } => model.to_string(),
            Fate::Rejected => "rejected".to_owned(),
            Fate::Unknown(_) => "unknown".to_owned(),
        };
        let quality = match &fate {
            Fate::Served { model, .. } => past.records.get(model).and_then(|record| record.quality),
            Fate::Rejected | Fate::Unknown(_) => None,
        };
        let usd = spend(&fate, &past.records);
        Outcome { told: format!("{} → {served}", decision.rule), fate, quality, usd }
    }
}

/// The figures of one policy, as text.
pub fn figures(name: &str, outcomes: &[Outcome]) -> String {
    let total = outcomes.len();
    let count = |is: fn(&Fate) -> bool| outcomes.iter().filter(|one| is(&one.fate)).count();
    let local = count(|fate| matches!(fate, Fate::Served { model, .. } if model.is_local()));
    let elsewhere = count(|fate| matches!(fate, Fate::Served { model, .. } if !model.is_local()));
    let (rejected, unknown) = (count(|fate| *fate == Fate::Rejected), count(|fate| matches!(fate, Fate::Unknown(_))));
    let sum = |values: Vec<f64>| (values.len(), values.iter().sum::<f64>());
    let (graded, quality) = sum(outcomes.iter().filter_map(|one| one.quality).collect());
    let (priced, usd) = sum(outcomes.iter().filter_map(|one| one.usd).collect());
    let mut out = format!("{name}: {total} requests\n");
    let mut line = |text: String| out.push_str(&format!("  {text}\n"));
    line(format!("kept on the box {local}, gone up {elsewhere}, rejected {rejected}, not known {unknown}"));
    if graded > 0 {
        line(format!("accuracy {:.3}, where somebody said: {graded} of {total}", quality / graded as f64));
    } else {
        line("accuracy not known: nobody said what the answers were like".to_owned());
    }
    line(format!("spend ${usd:.6}, over the {priced} of {total} whose cost is on record"));
    for (why, count) in reasons(outcomes) {
        line(format!("not known for {count}: {why}"));
    }
    out
}

fn reasons(outcomes: &[Outcome]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for one in outcomes {
        if let Fate::Unknown(why) = &one.fate {
            *reasons.entry(why.to_string()).or_insert(0) += 1;
        }
    }
    reasons
}

/// Which decisions differ, as text: counts of before → after, and the first examples. `before` stands
/// beside `after`, request by request; empty where it is not known.
pub fn changes(requests: &[Past], before: &[String], after: &[Outcome]) -> String {
    let mut counts: BTreeMap<(&str, &str), (usize, Vec<&str>)> = BTreeMap::new();
    for ((past, before), after) in requests.iter().zip(before).zip(after) {
        let entry = counts.entry((before, &after.told)).or_default();
        entry.0 += 1;
        if entry.1.len() < EXAMPLES {
            entry.1.push(&past.id);
        }
    }
    let changed: usize =
        counts.iter().filter(|((before, after), _)| before != after).map(|(_, (count, _))| count).sum();
    let mut out = format!("decisions that differ: {changed} of {}\n", requests.len());
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.1.0));
    for ((before, after), (count, ids)) in rows {
        // Writing to a string cannot fail.
        let _ = if before == after {
            writeln!(out, "{count:>7}  same     {before}")
        } else {
            writeln!(out, "{count:>7}  changed  {before}  ⇒  {after}  ({})", ids.join(", "))
        };
    }
    out
}

#[cfg(test)]
mod tests;
