//! How a row's answer can be asked for under constraint (`response_format: json_schema`).
//!
//! A choice, a letter or a word becomes an enum of what the prompt names, a number a number, an
//! object an object with the keys that the prompt names. Written for the prompts of
//! `benches/tasks`; a row whose prompt names nothing has no schema. Pure; called by `cli`.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Value, json};

use super::rows::Row;

/// Finds what prompts name.
#[derive(Debug)]
pub struct Constraints {
    banking: Regex,
    categories: Regex,
    options: Regex,
    keys: Regex,
    letters: Regex,
    items: Regex,
    /// Every label of the banking rows that stands alone: needed to split `a or b or c`.
    labels: BTreeSet<String>,
}

impl Constraints {
    /// For the rows of this data set.
    ///
    /// # Errors
    /// A fault in the patterns themselves.
    pub fn of(rows: &[Row]) -> Result<Constraints, regex::Error> {
        let mut found = Constraints {
            banking: Regex::new(r"Is this about (.*)\? Answer with one of these only")?,
            categories: Regex::new(r"categories: (.*)\. Answer with the category only")?,
            options: Regex::new(r"Options: (.*)\.\n")?,
            keys: Regex::new(r"with the keys? (.*?);")?,
            letters: Regex::new(r"(?m)^(\([A-Z]\)) ")?,
            items: Regex::new(r"(?m)^- (\w+)$")?,
            labels: BTreeSet::new(),
        };
        for row in rows {
            found.labels = std::mem::take(&mut found.labels).into_iter().chain(found.alone(row)).collect();
        }
        Ok(found)
    }

    /// The JSON schema of a row's answer; `None` where its form says nothing.
    pub fn schema(&self, row: &Row) -> Option<Value> {
        match row.graded_by.as_str() {
            "choice" | "letter" | "word" => self.choices(row).map(|named| json!({"type": "string", "enum": named})),
            "number" => Some(json!({"type": "number"})),
            "json" => Some(self.object(row)),
            _ => None,
        }
    }

    fn object(&self, row: &Row) -> Value {
        let named = first(&self.keys, row.question()).map(|text| text.replace(" and ", ", "));
        let keys: Vec<&str> = named.iter().flat_map(|named| named.split(", ")).collect();
        let properties: serde_json::Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties, "required": keys, "additionalProperties": false})
    }

    fn choices(&self, row: &Row) -> Option<Vec<String>> {
        let last = row.question();
        if let Some(named) = first(&self.banking, last) {
            let (mut sure, rest) = listed(named);
            sure.extend(self.split_last(rest));
            return Some(sure);
        }
        if let Some(named) = first(&self.categories, row.message(0)).or_else(|| first(&self.options, last)) {
            return Some(named.split(", ").map(str::to_owned).collect());
        }
        if row.graded_by == "letter" {
            return Some(all(&self.letters, last));
        }
        if last.contains("yes or no") || last.contains("sentence plausible?") {
            return Some(vec!["yes".to_owned(), "no".to_owned()]);
        }
        let items = all(&self.items, last);
        let truth = || (row.graded_by == "word").then(|| vec!["True".to_owned(), "False".to_owned()]);
        if items.is_empty() { truth() } else { Some(items) }
    }

    fn alone(&self, row: &Row) -> Vec<String> {
        let Some(named) = first(&self.banking, row.question()) else { return Vec::new() };
        let (mut sure, rest) = listed(named);
        let pair: Vec<&str> = rest.split(" or ").collect();
        if pair.len() == 2 {
            sure.extend(pair.into_iter().map(str::to_owned));
        }
        sure.into_iter().map(|label| label.to_lowercase()).collect()
    }

    /// `visa or mastercard or transfer timing` → its two labels; where unclear, the last `or` divides.
    fn split_last(&self, rest: &str) -> Vec<String> {
        let words: Vec<&str> = rest.split(" or ").collect();
        let splits = (1..words.len()).map(|at| [words[..at].join(" or "), words[at..].join(" or ")]);
        let known =
            |pair: &[String; 2]| pair.iter().filter(|label| self.labels.contains(&label.to_lowercase())).count();
        splits.max_by_key(known).map_or_else(|| vec![rest.to_owned()], Vec::from)
    }
}

/// A constrained answer as a grader reads it: a JSON string without its quotes.
pub fn plain(row: &Row, text: &str) -> String {
    if row.graded_by == "json" {
        return text.to_owned();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::String(said)) => said,
        Ok(said) => said.to_string(),
        Err(_) => text.to_owned(),
    }
}

/// `a, b, c or d` → what certainly is a choice, and the rest that is one or two of them.
fn listed(text: &str) -> (Vec<String>, &str) {
    match text.rsplit_once(", ") {
        Some((sure, rest)) => (sure.split(", ").map(str::to_owned).collect(), rest),
        None => (Vec::new(), text),
    }
}

fn first<'t>(pattern: &Regex, text: &'t str) -> Option<&'t str> {
    Some(pattern.captures(text)?.get(1)?.as_str())
}

fn all(pattern: &Regex, text: &str) -> Vec<String> {
    pattern.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str().to_owned())).collect()
}
