//! Decides whether an answer is right, by the grader that a row names.
//!
//! Hides what each grader takes of an answer: mostly a [`Form`], compared with the row's answer; a
//! row's `json` is an object that is equal after folding its values, `regex` a pattern found in the
//! text. Promises: pure and total; a text that holds nothing of the form is wrong. `judge` is no
//! grader of this kind: a model is asked ([`judge_question`], [`judged`]), and its verdict's basis is
//! a judge, not gold. Called by `eval`.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::confidence::Form;
use crate::confidence::form::fold;

/// How an answer is compared with the one that is known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grader {
    /// By what counts of both.
    Form(Form),
    /// The right answer stands in the text, case aside.
    Contains,
    /// The same object, its values folded.
    Object,
    /// The right answer is a pattern that is found in the text.
    Regex,
    /// A model says.
    Judge,
}

/// The names in data sets.
const NAMES: [(&str, Grader); 14] = [
    ("exact", Grader::Form(Form::Exact)),
    ("word", Grader::Form(Form::Line)),
    ("choice", Grader::Form(Form::Line)),
    ("span", Grader::Form(Form::Line)),
    ("line", Grader::Form(Form::Line)),
    ("text", Grader::Form(Form::Text)),
    ("canonical", Grader::Form(Form::Auto)),
    ("letter", Grader::Form(Form::Letter)),
    ("number", Grader::Form(Form::Number)),
    ("last_number", Grader::Form(Form::Number)),
    ("contains", Grader::Contains),
    ("json", Grader::Object),
    ("regex", Grader::Regex),
    ("judge", Grader::Judge),
];

/// What the judge reads before the question, the right answer and the answer to be judged.
const JUDGE: &str = "You grade answers. Compare the given answer with the reference answer to the question. \
                     Reply with one word: \"right\" if the given answer says the same as the reference, \"wrong\" if it \
                     says something else, something more that contradicts it, or nothing.";

impl Grader {
    /// The grader of this name.
    ///
    /// # Errors
    /// A name that is none; it lists those that are.
    pub fn parse(name: &str) -> Result<Grader, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name).map(|(_, grader)| *grader);
        let known = || NAMES.map(|(known, _)| known).join(", ");
        found.ok_or_else(|| format!("unknown grader \"{name}\"; known: {}", known()))
    }

    /// Whether this can be the right answer of such a row.
    ///
    /// # Errors
    /// An answer of another type, or a pattern that does not compile.
    pub fn check(self, answer: &Value) -> Result<(), String> {
        match (self, answer) {
            (Grader::Object, Value::Object(_)) => Ok(()),
            (Grader::Object, other) => Err(format!("answer {other}: want an object")),
            (Grader::Regex, Value::String(pattern)) => {
                Regex::new(pattern).map(drop).map_err(|error| format!("answer \"{pattern}\": {error}"))
            }
            (_, Value::String(_)) => Ok(()),
            (_, other) => Err(format!("answer {other}: want a string")),
        }
    }

    /// Whether `text` is right where `answer` is; never for [`Grader::Judge`].
    pub fn is_right(self, text: &str, answer: &Value) -> bool {
        let known = answer.as_str().unwrap_or_default();
        match self {
            Grader::Form(form) => form.agree(known, text) == Some(true),
            Grader::Contains => text.to_lowercase().contains(&known.to_lowercase()),
            Grader::Object => object(text).is_some_and(|found| Some(folded(&found)) == answer.as_object().map(folded)),
            Grader::Regex => Regex::new(known).is_ok_and(|pattern| pattern.is_match(text)),
            Grader::Judge => false,
        }
    }
}

/// The JSON object between the first brace and the last.
fn object(text: &str) -> Option<serde_json::Map<String, Value>> {
    let found = text.get(text.find('{')?..=text.rfind('}')?)?;
    serde_json::from_str(found).ok()
}

fn folded(object: &serde_json::Map<String, Value>) -> BTreeMap<&str, String> {
    object.iter().map(|(key, value)| (key.as_str(), fold(&plain(value)))).collect()
}

/// A value as a text; a list as its items, with blanks between them.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// What a judge is asked: whether `text` answers `question` as `answer` does. A system and a user
/// message, each a role and a text.
pub fn judge_question(question: &str, answer: &Value, text: &str) -> [(&'static str, String); 2] {
    let known = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    let asked = format!("Question:\n{question}\n\nReference answer:\n{known}\n\nGiven answer:\n{text}");
    [("system", JUDGE.to_owned()), ("user", asked)]
}

/// What a judge said; `None` where it is no verdict.
pub fn judged(text: &str) -> Option<bool> {
    match Form::Line.read(text) {
        Some(crate::confidence::Reading::Text(line)) => match line.split(' ').next() {
            Some("right") => Some(true),
            Some("wrong") => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_grader_takes_what_means_the_same_and_nothing_else() {
        let table = [
            ("exact", json!("4"), " 4 ", "four"),
            ("word", json!("yes"), "Yes.\nBecause", "yes, it is"),
            ("choice", json!("card arrival"), "Card arrival", "card"),
            ("span", json!("6 pm"), "6 PM\n", "at 6 pm"),
            ("contains", json!("Paris"), "it is paris!", "Rome"),
            ("letter", json!("(B)"), "The answer is (B)", "(A)"),
            ("number", json!("1200"), "$1,200.00 in all", "1201"),
            ("last_number", json!("68"), "25 - 8 = 17; 17 * 4 = 68", "68 and then 4"),
            (
                "json",
                json!({"name": "Ann Lee", "n": "2"}),
                "Sure: {\"n\": 2, \"name\": [\"ann\", \"lee\"]}",
                "{\"n\": 2}",
            ),
            ("regex", json!("^[0-9]{4}$"), "2024", "20245"),
            ("canonical", json!("42"), "It is 42.", "43"),
            ("text", json!("yes it is"), "Yes, it is!", "no"),
        ];
        for (name, answer, right, wrong) in table {
            let grader = Grader::parse(name).unwrap();
            assert_eq!(grader.check(&answer), Ok(()), "{name}");
            assert!(grader.is_right(right, &answer), "{name}: {right}");
            assert!(!grader.is_right(wrong, &answer), "{name}: {wrong}");
            assert!(!grader.is_right("", &answer), "{name}: nothing");
        }
    }

    #[test]
    fn what_cannot_be_graded_is_refused_with_a_reason() {
        assert!(Grader::parse("fuzzy").unwrap_err().contains("known: exact, word"));
        assert!(Grader::Object.check(&json!("x")).unwrap_err().contains("want an object"));
        assert!(Grader::Regex.check(&json!("(")).unwrap_err().contains("answer \"(\""));
        assert!(Grader::Contains.check(&json!(7)).unwrap_err().contains("want a string"));
    }

    #[test]
    fn a_judge_is_shown_all_three_and_only_its_verdict_counts() {
        let [(_, _), (role, asked)] = judge_question("2+2?", &json!("4"), "four");
        assert_eq!(role, "user");
        assert!(["2+2?", "\n4\n", "four"].iter().all(|part| asked.contains(part)), "{asked}");
        let verdicts =
            [("Right.", Some(true)), ("wrong\nsince", Some(false)), ("right enough", Some(true)), ("?", None)];
        for (text, verdict) in verdicts {
            assert_eq!(judged(text), verdict, "{text}");
        }
    }
}
