//! Takes out of a text what looks like a secret, and says of what kind it was.
//!
//! The kinds are those that `request.secrets` counts. Promises: a find is taken out to the end of its
//! word, a private key to its last line; what has no form of its own stays. Called by `observe` for
//! the capture log.

use std::fmt;

use super::secrets::{Detectors, Find};

/// Takes secrets out of texts.
pub struct Redactor(Detectors);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// With every pattern.
    ///
    /// # Errors
    /// A fault in the patterns themselves.
    pub fn build() -> Result<Redactor, String> {
        Detectors::build().map(Redactor).map_err(|error| error.to_string())
    }

    /// The text with `[KIND]` in the place of each secret.
    pub fn redact(&self, text: &str) -> String {
        let (mut out, mut from) = (String::new(), 0);
        for find in self.0.finds(text) {
            let end = whole(text, &find);
            if end <= from {
                continue;
            }
            let start = find.range.start.max(from);
            out.push_str(&text[from..start]);
            out.push_str(&format!("[{}]", find.kind));
            from = end;
        }
        out + &text[from..]
    }

    /// Whether a value that stands under this name is a secret by it (`password`, `api_key`).
    pub fn is_secret(&self, name: &str, value: &str) -> bool {
        self.0.finds(&format!("{name}: \"{value}\"")).iter().any(|find| find.kind == "password")
    }
}

/// Where the secret ends: the pattern of a key finds no more than what makes it one.
fn whole(text: &str, find: &Find) -> usize {
    let rest = &text[find.range.end..];
    if find.kind == "private-key" {
        let last = rest.find("-----END").map(|at| at + rest[at..].find('\n').unwrap_or(rest.len() - at));
        return find.range.end + last.unwrap_or(rest.len());
    }
    let of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    find.range.end + rest.find(|c| !of_word(c)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_whole_by_their_kind_and_the_rest_stays() {
        let redactor = Redactor::build().unwrap();
        let github = format!("ghp_{}", "a1B2c3D4e5F6".repeat(4));
        for (text, redacted) in [
            ("pay with 4111 1111 1111 1111, thanks", "pay with [card], thanks"),
            ("key sk-proj-abcdefghijklmnopqrstuvwxyz0123456789 here", "key [api-key] here"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----\nbye", "[private-key]\nbye"),
            ("-----BEGIN PRIVATE KEY-----\nMIIEabc", "[private-key]"),
            ("password = hunter2 and 123-45-6789", "[password] and [social-security]"),
            ("nothing to hide", "nothing to hide"),
            (github.as_str(), "[code-host-token]"),
        ] {
            assert_eq!(redactor.redact(text), redacted, "{text}");
        }
        assert!(redactor.is_secret("api_key", "abcd-efgh-1") && !redactor.is_secret("city", "Paris"));
    }
}
