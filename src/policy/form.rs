//! Reads a policy file's TOML table by table and says what is wrong where.
//!
//! Hides spans and types of TOML values. Promises: every problem has `FILE:LINE`, none stops the
//! reading of the rest. Called by `compile` only.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Problem;

/// A value of the file and where it stands.
pub(super) type Entry<'s> = Spanned<DeValue<'s>>;

/// The file being read and the problems found so far.
#[derive(Debug)]
pub(super) struct Form<'s> {
    place: &'s str,
    source: &'s str,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
}

/// One table of the file: what it is called in problems, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Section<'t, 's> {
    pub(super) title: String,
    pub(super) table: &'t DeTable<'s>,
    pub(super) span: Range<usize>,
}

impl<'s> Form<'s> {
    pub(super) fn new(place: &'s str, source: &'s str) -> Self {
        Form { place, source, problems: Vec::new(), notes: Vec::new() }
    }

    /// The file's table, or `None` when it is not TOML.
    pub(super) fn parse(&mut self) -> Option<Spanned<DeTable<'s>>> {
        let (table, errors) = DeTable::parse_recoverable(self.source);
        let sound = errors.is_empty();
        for error in errors {
            let message = error.message().trim_end().replace('\n', ", ");
            self.problem(error.span().unwrap_or(0..0), format!("not TOML: {message}"));
        }
        sound.then_some(table)
    }

    /// Notes a problem that stands at the start of `span`.
    pub(super) fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        let line = self.line(span.start);
        self.problem_at_line(line, message);
    }

    pub(super) fn problem_at_line(&mut self, line: usize, message: impl Into<String>) {
        let place = format!("{}:{line}", self.place);
        self.problems.push(Problem { place, message: message.into() });
    }

    /// Notes what a person should know of and what is no problem.
    pub(super) fn note(&mut self, span: Range<usize>, message: impl Into<String>) {
        let place = format!("{}:{}", self.place, self.line(span.start));
        self.notes.push(Problem { place, message: message.into() });
    }

    /// What was noted, in the order of lines.
    pub(super) fn into_notes(self) -> Vec<Problem> {
        self.notes
    }

    pub(super) fn sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Every problem, in the order of lines.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems
            .sort_by_key(|problem| problem.place.rsplit(':').next().and_then(|line| line.parse::<usize>().ok()));
        self.problems
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.source.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    /// The file's line on which the *text* of a string value begins: the line of its quotes, or
    /// the next one where a multi-line string opens with a line break.
    pub(super) fn text_line(&self, span: Range<usize>) -> usize {
        let raw = self.source.get(span.clone()).unwrap_or("");
        let opened = raw.strip_prefix("'''").or_else(|| raw.strip_prefix("\"\"\""));
        let broken = opened.is_some_and(|rest| rest.starts_with('\n') || rest.starts_with("\r\n"));
        self.line(span.start) + usize::from(broken)
    }

    /// Reports keys of the section that are not in `known`.
    pub(super) fn check_keys(&mut self, section: &Section<'_, 's>, known: &[&str]) {
        for key in section.table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let hint = suggest(key.get_ref(), known.iter().copied());
                let message = format!("{}: unknown key \"{}\"{hint}", section.title, key.get_ref());
                self.problem(key.span(), message);
            }
        }
    }

    /// The section's entry of this name; its absence is a problem.
    pub(super) fn required<'t>(&mut self, section: &Section<'t, 's>, key: &str) -> Option<&'t Entry<'s>> {
        let entry = section.table.get(key);
        if entry.is_none() {
            let message = format!("{}: missing key \"{key}\"", section.title);
            self.problem(section.span.clone(), message);
        }
        entry
    }

    pub(super) fn text<'t>(&mut self, title: &str, key: &str, entry: &'t Entry<'s>) -> Option<&'t str> {
        match entry.get_ref().as_str() {
            Some("") => {
                self.problem(entry.span(), format!("{title}: \"{key}\" must not be empty"));
                None
            }
            Some(text) => Some(text),
            None => self.wrong_type(title, key, "a string", entry),
        }
    }

    /// A finite number; integers are taken too.
    pub(super) fn number(&mut self, title: &str, key: &str, entry: &Entry<'s>) -> Option<f64> {
        let value = entry.get_ref();
        let text = match (value.as_float(), value.as_integer()) {
            (Some(float), _) => float.as_str().replace('_', ""),
            (None, Some(integer)) if integer.radix() == 10 => integer.as_str().replace('_', ""),
            _ => return self.wrong_type(title, key, "a number", entry),
        };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(number),
            _ => self.wrong_type(title, key, "a finite number", entry),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&mut self, title: &str, key: &str, entry: &Entry<'s>) -> Option<usize> {
        let parsed = entry
            .get_ref()
            .as_integer()
            .and_then(|integer| usize::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok());
        match parsed {
            Some(number) => Some(number),
            None => self.wrong_type(title, key, "a whole number", entry),
        }
    }

    pub(super) fn table<'t>(&mut self, title: &str, key: &str, entry: &'t Entry<'s>) -> Option<Section<'t, 's>> {
        match entry.get_ref().as_table() {
            Some(table) => Some(Section { title: format!("{title}: {key}"), table, span: entry.span() }),
            None => self.wrong_type(title, key, "a table", entry),
        }
    }

    /// Notes that the value is of another type than `wanted`; always `None`.
    pub(super) fn wrong_type<T>(&mut self, title: &str, key: &str, wanted: &str, entry: &Entry<'s>) -> Option<T> {
        let raw = self.source.get(entry.span()).unwrap_or("");
        let shown = if raw.len() <= 40 && !raw.contains('\n') {
            format!("`{raw}`")
        } else {
            format!("this {}", entry.get_ref().type_str())
        };
        self.problem(entry.span(), format!("{title}: \"{key}\" must be {wanted}, not {shown}"));
        None
    }
}

/// `; did you mean "x"; known: a, b, c` for an unknown name.
pub(super) fn suggest<'k>(wrong: &str, known: impl Iterator<Item = &'k str>) -> String {
    const MOST_SHOWN: usize = 24;
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|name| (distance(wrong, name), *name)).min();
    let mut hint = match nearest {
        Some((steps, name)) if steps * 3 <= wrong.chars().count() => {
            format!("; did you mean \"{name}\"")
        }
        _ => String::new(),
    };
    hint.push_str("; known: ");
    match known.get(..MOST_SHOWN) {
        Some(shown) if known.len() > MOST_SHOWN => hint.push_str(&format!("{}, …", shown.join(", "))),
        _ if known.is_empty() => hint.push_str("none"),
        _ => hint.push_str(&known.join(", ")),
    }
    hint
}

/// Edits of one character between two names (Levenshtein, 1965), one row at a time.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let change = row[j] + usize::from(a != *b);
            next.push(change.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
