//! Answers as they can be compared: a number, a letter, an object, a line, a text.
//!
//! Hides what of an answer counts: `The total is 1,200.` and `1200` are the same number, `(B)` and
//! `B, since …` the same letter. Promises: pure and total; where a text holds nothing of the form,
//! there is nothing to compare, and no answer agrees with it. Audits, agreement of samples and the
//! graders of `lab` go by it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What of an answer counts when it is compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The whole text, without the blanks around it.
    Exact,
    /// The first line, folded.
    Line,
    /// The last number in the text.
    Number,
    /// The first capital letter that stands alone, as of a choice: `B`, `(B)`, `[B]`.
    Letter,
    /// The JSON value from the first brace or bracket to the last; the order of keys does not count.
    Json,
    /// The whole text, folded.
    Text,
    /// As the answer looks: JSON where it is an object or a list, a letter where it is no more than
    /// one, a number where it is no more than one with a word or two, else the text.
    Auto,
}

/// An answer reduced to what counts: equal when the answers agree.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// A number.
    Number(f64),
    /// A JSON value.
    Json(Value),
    /// A letter, a line or a text.
    Text(String),
}

/// How many words an answer may have and still be taken for its number.
const FEW_WORDS: usize = 3;

impl Form {
    /// Every form.
    pub const ALL: [Form; 7] =
        [Form::Exact, Form::Line, Form::Number, Form::Letter, Form::Json, Form::Text, Form::Auto];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Form::Exact => "exact",
            Form::Line => "line",
            Form::Number => "number",
            Form::Letter => "letter",
            Form::Json => "json",
            Form::Text => "text",
            Form::Auto => "auto",
        }
    }

    /// The form of this name.
    pub fn parse(name: &str) -> Option<Form> {
        Form::ALL.into_iter().find(|form| form.name() == name)
    }

    /// What counts of a text; `None` where it holds nothing of this form.
    pub fn read(self, text: &str) -> Option<Reading> {
        let text = text.trim();
        let filled = |text: String| (!text.is_empty()).then_some(Reading::Text(text));
        match self {
            Form::Exact => filled(text.to_owned()),
            Form::Line => filled(fold(text.lines().next().unwrap_or_default())),
            Form::Text => filled(fold(text)),
            Form::Number => last_number(text).map(Reading::Number),
            Form::Letter => first_letter(text).map(|letter| Reading::Text(letter.to_string())),
            Form::Json => json(text).map(Reading::Json),
            Form::Auto => looks_like(text).read(text),
        }
    }

    /// Whether two answers agree; `None` where either holds nothing of this form.
    pub fn agree(self, one: &str, other: &str) -> Option<bool> {
        let form = if self == Form::Auto { looks_like(one.trim()) } else { self };
        Some(form.read(one)? == form.read(other)?)
    }
}

/// Lower case, single blanks, no punctuation but colons and hyphens.
pub fn fold(text: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || c.is_whitespace() || matches!(c, '_' | ':' | '-');
    let lower: String = text.to_lowercase().chars().filter(kept).collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn looks_like(text: &str) -> Form {
    let bare = text.trim_matches(|c: char| !c.is_alphanumeric());
    let words = text.split_whitespace().count();
    if json(text).is_some_and(|value| value.is_object() || value.is_array()) && text.ends_with(['}', ']']) {
        Form::Json
    } else if bare.len() == 1 && first_letter(text).is_some() {
        Form::Letter
    } else if words <= FEW_WORDS && numbers(text).count() == 1 {
        Form::Number
    } else {
        Form::Text
    }
}

fn last_number(text: &str) -> Option<f64> {
    numbers(text).last()
}

/// `-1,234.5`: a sign, digits with commas between them, a fraction. A sign behind a letter or a digit
/// is a hyphen, and no sign.
fn numbers(text: &str) -> impl Iterator<Item = f64> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + bytes.get(at..)?.iter().position(u8::is_ascii_digit)?;
        let mut end = run(bytes, begin, b',');
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            end = run(bytes, end + 1, b'0');
        }
        at = end;
        let signed = begin > 0 && bytes[begin - 1] == b'-' && !(begin > 1 && bytes[begin - 2].is_ascii_alphanumeric());
        let digits: String = text[begin..end].chars().filter(|c| *c != ',').collect();
        digits.parse().ok().map(|number: f64| if signed { -number } else { number })
    })
}

/// Where digits, and this byte among them, end.
fn run(bytes: &[u8], begin: usize, also: u8) -> usize {
    let rest = &bytes[begin..];
    begin + rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != also).unwrap_or(rest.len())
}

fn first_letter(text: &str) -> Option<char> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let chars: Vec<char> = text.chars().collect();
    let alone = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| chars.get(before));
        ![before, chars.get(at + 1)].into_iter().flatten().any(|c| word(*c))
    };
    (0..chars.len()).find(|at| chars[*at].is_ascii_uppercase() && alone(*at)).map(|at| chars[at])
}

fn json(text: &str) -> Option<Value> {
    let begin = text.find(['{', '['])?;
    let end = text.rfind(['}', ']'])?;
    let value: Value = serde_json::from_str(text.get(begin..=end)?).ok()?;
    Some(floats(value))
}

/// Numbers as floats, so that `1` and `1.0` are equal.
fn floats(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(members.into_iter().map(|(key, value)| (key, floats(value))).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(floats).collect()),
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_agrees() {
        let same = [
            (Form::Number, "The total is 1,200.", "1200"),
            (Form::Number, "3 + 4 = -7.50", "-7.5"),
            (Form::Letter, "(B)", "B, since A is an article"),
            (Form::Json, "```json\n{\"a\": 1, \"b\": [true]}\n```", "{\"b\":[true],\"a\":1.0}"),
            (Form::Line, "Card arrival.\nBecause…", "card  ARRIVAL"),
            (Form::Text, "Yes, it is!", "yes it is"),
            (Form::Exact, " x ", "x"),
            (Form::Auto, "42", "It is 42."),
            (Form::Auto, "{\"a\":1}", "{ \"a\": 1 }"),
            (Form::Auto, "(C)", "C"),
        ];
        for (form, one, other) in same {
            assert_eq!(form.agree(one, other), Some(true), "{form:?}: {one} / {other}");
        }
    }

    #[test]
    fn what_differs_disagrees() {
        let different = [
            (Form::Number, "2021-05-03", "2021-05-04"),
            (Form::Letter, "(A)", "(B)"),
            (Form::Json, "{\"a\":1}", "{\"a\":2}"),
            (Form::Text, "a b", "ab"),
            (Form::Exact, "X", "x"),
            (Form::Auto, "Paris", "Rome"),
        ];
        for (form, one, other) in different {
            assert_eq!(form.agree(one, other), Some(false), "{form:?}: {one} / {other}");
        }
    }

    #[test]
    fn what_holds_nothing_of_the_form_cannot_be_compared() {
        let cases =
            [(Form::Number, "none"), (Form::Letter, "abc"), (Form::Json, "{"), (Form::Text, " … "), (Form::Exact, "")];
        for (form, text) in cases {
            assert_eq!(form.read(text), None, "{form:?}: {text}");
            assert_eq!(form.agree(text, "7 A {}"), None, "{form:?}: {text}");
        }
    }

    #[test]
    fn a_hyphen_is_no_sign() {
        assert_eq!(Form::Number.read("COVID-19"), Some(Reading::Number(19.0)));
        assert_eq!(Form::Number.read("it was -3"), Some(Reading::Number(-3.0)));
    }

    #[test]
    fn every_form_has_a_name() {
        for form in Form::ALL {
            assert_eq!(Form::parse(form.name()), Some(form));
        }
    }
}
