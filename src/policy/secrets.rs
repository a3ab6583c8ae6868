//! Finds what looks like a secret: keys, tokens, card and account numbers, passwords.
//!
//! Simple patterns, checked by checksum where there is one. Promises: linear in the text's
//! length, one pass where nothing is found, overlapping finds count once. Misses what has no form
//! of its own. The list stands in `docs/policy.md`. Called by `signals` when a condition asks for
//! `request.secrets`.

use std::ops::Range;

use regex::{Regex, RegexSet};

/// Confirms a find, and may shorten it; `None`: it only looked like one.
type Confirm = fn(&str, Range<usize>) -> Option<Range<usize>>;

/// A word may begin after an escaped line end or tab too: texts quote JSON and source.
const PATTERNS: [(&str, Confirm); 10] = [
    (r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----", always),
    (r"(?:(?-u:\b)|\\[nrt])(?:AKIA|ASIA)[0-9A-Z]{16}(?-u:\b)", always),
    (r"(?:(?-u:\b)|\\[nrt])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}|glpat-[A-Za-z0-9_-]{20})", always),
    (r"(?:(?-u:\b)|\\[nrt])(?:sk-[A-Za-z0-9_-]{20}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30})", always),
    (r"(?:(?-u:\b)|\\[nrt])xox[abeoprs]-[A-Za-z0-9-]{10}", always),
    (r"(?:(?-u:\b)|\\[nrt])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", always),
    (r"(?:(?-u:\b)|\\[nrt])[2-6][0-9](?:[ -]?[0-9]){11,17}(?-u:\b)", card),
    (r"(?:(?-u:\b)|\\[nrt])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}(?-u:\b)", account),
    (r"(?:(?-u:\b)|\\[nrt])[0-9]{3}-[0-9]{2}-[0-9]{4}(?-u:\b)", social_security),
    (
        r#"(?i)(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?token)\\*["']?[ \t]*[:=][ \t]*(?:\\*"[^"\s]{4,}"|'[^'\s]{4,}'|[^\s"'<>(){}\[\],;]{6,})"#,
        password,
    ),
];

/// What each pattern finds, in their order.
const KINDS: [&str; 10] = [
    "private-key",
    "cloud-key",
    "code-host-token",
    "api-key",
    "chat-token",
    "web-token",
    "card",
    "account",
    "social-security",
    "password",
];

/// A secret in a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Find {
    /// Where it stands.
    pub(super) range: Range<usize>,
    /// What it is.
    pub(super) kind: &'static str,
}

/// The compiled patterns.
#[derive(Debug)]
pub(super) struct Detectors {
    /// All at once, to see which are worth a look.
    any: RegexSet,
    each: Vec<(Regex, Confirm)>,
}

impl Detectors {
    pub(super) fn build() -> Result<Detectors, regex::Error> {
        let any = RegexSet::new(PATTERNS.map(|(text, _)| text))?;
        let compiled = PATTERNS.iter().map(|(text, confirm)| Ok((Regex::new(text)?, *confirm)));
        Ok(Detectors { any, each: compiled.collect::<Result<_, regex::Error>>()? })
    }

    /// How many secrets stand in the text.
    pub(super) fn count(&self, text: &str) -> usize {
        let mut end = 0;
        let mut apart = 0;
        for Find { range, .. } in self.finds(text) {
            apart += usize::from(range.start >= end);
            end = end.max(range.end);
        }
        apart
    }

    /// Every secret in the text, by where it begins; they may overlap.
    pub(super) fn finds(&self, text: &str) -> Vec<Find> {
        let mut finds: Vec<Find> = Vec::new();
        for ((pattern, confirm), kind) in
            self.any.matches(text).into_iter().filter_map(|at| Some((self.each.get(at)?, *KINDS.get(at)?)))
        {
            let confirmed = pattern.find_iter(text).filter_map(|find| confirm(text, word(find.as_str(), find.range())));
            finds.extend(confirmed.map(|range| Find { range, kind }));
        }
        finds.sort_by_key(|find| find.range.start);
        finds
    }
}

/// The find without the escape before its first word.
fn word(found: &str, find: Range<usize>) -> Range<usize> {
    let escape = if found.starts_with('\\') { 2 } else { 0 };
    find.start + escape..find.end
}

fn always(_: &str, find: Range<usize>) -> Option<Range<usize>> {
    Some(find)
}

/// A payment card: 13 to 19 digits with a right check digit (Luhn, ISO/IEC 7812-1).
fn card(text: &str, find: Range<usize>) -> Option<Range<usize>> {
    let digits: Vec<u32> = text.get(find.clone())?.chars().filter_map(|c| c.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match place % 2 {
            0 => *digit,
            _ => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    let varied = digits.iter().any(|digit| Some(digit) != digits.first());
    (sum.is_multiple_of(10) && varied).then_some(find)
}

/// An IBAN with a right checksum (ISO 13616: mod 97 = 1). Capitals that follow it may have been
/// matched too, so every end at a word's boundary is tried, longest first.
fn account(text: &str, find: Range<usize>) -> Option<Range<usize>> {
    let found = text.get(find.clone())?;
    let ends = found.char_indices().filter(|(_, c)| *c == ' ').map(|(at, _)| at);
    let mut ends: Vec<usize> = ends.chain([found.len()]).collect();
    ends.reverse();
    let end = ends.into_iter().find(|end| found.get(..*end).is_some_and(is_iban))?;
    Some(find.start..find.start + end)
}

fn is_iban(text: &str) -> bool {
    let compact: String = text.chars().filter(|c| *c != ' ').collect();
    if !(15..=34).contains(&compact.len()) {
        return false;
    }
    let (head, tail) = compact.split_at(4);
    let rest = tail.chars().chain(head.chars()).filter_map(|c| c.to_digit(36));
    let modulus = rest.fold(0, |rest, value| (rest * if value < 10 { 10 } else { 100 } + value) % 97);
    modulus == 1
}

/// A United States social security number: no part is all zeros, areas 666 and 9xx do not exist.
fn social_security(text: &str, find: Range<usize>) -> Option<Range<usize>> {
    let number = text.get(find.clone())?;
    let impossible = number.starts_with("000")
        || number.starts_with("666")
        || number.starts_with('9')
        || number.get(4..6) == Some("00")
        || number.ends_with("0000");
    (!impossible).then_some(find)
}

/// `password = …` with a value rather than code that fetches one: quoted, or assigned by `=`, or
/// with a digit in it; never a call or an index.
fn password(text: &str, find: Range<usize>) -> Option<Range<usize>> {
    let found = text.get(find.clone())?;
    let value = found.split_once([':', '='])?.1;
    let code = text.get(find.end..)?.starts_with(['(', '[']);
    let assigned = found.contains('=');
    let quoted = value.trim_start_matches([' ', '\t', '\\']).starts_with(['"', '\'']);
    let digit = value.chars().any(|c| c.is_ascii_digit());
    (quoted || (!code && (assigned || digit))).then_some(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        Detectors::build().unwrap().count(text)
    }

    #[test]
    fn each_kind_of_secret_is_found_once() {
        let github = format!("ghp_{}", "a1B2c3D4e5F6".repeat(3));
        let google = format!("AIza{}", "Ab1_-".repeat(7));
        for text in [
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            "id AKIAIOSFODNN7EXAMPLE here",
            github.as_str(),
            google.as_str(),
            "key sk-proj-abcdefghijklmnopqrstuvwxyz",
            "xoxb-123456789012-abcdef",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
            "card 4111 1111 1111 1111, thanks",
            "5500-0000-0000-0004",
            "IBAN DE89 3704 0044 0532 0130 00 IS MINE",
            "GB82WEST12345698765432",
            "ssn 123-45-6789",
            "password = correcthorse",
            "Password: hunter2",
            "\"api_key\": \"abcd-efgh\"",
            "DB_PASSWORD='s3cr'",
            r#"{\"password\":\"hunter-two\"}"#,
            r"first line\nAKIAIOSFODNN7EXAMPLE\nthird",
            r"a\tDE89370400440532013000\r\n",
            r"a\n123-45-6789",
        ] {
            assert_eq!(count(text), 1, "{text}");
        }
    }

    #[test]
    fn look_alikes_are_not_counted() {
        for text in [
            "",
            "the private key of the door",
            "4111 1111 1111 1112",
            "2222222222222222",
            "DE88 3704 0044 0532 0130 00",
            "000-12-3456 and 666-12-3456 and 912-34-5678",
            "order 123-45-67890",
            "the password: please choose one",
            "password = getpass.getpass()",
            "password = os.environ[\"X\"]",
            "call 2024-01-01 10:00",
            "sk-short",
        ] {
            assert_eq!(count(text), 0, "{text}");
        }
    }

    #[test]
    fn overlapping_finds_count_once_and_others_add_up() {
        assert_eq!(count("api_key = sk-abcdefghijklmnopqrstuvwxyz"), 1);
        assert_eq!(count("4111111111111111 and 123-45-6789\npassword=abcdef1"), 3);
    }
}
