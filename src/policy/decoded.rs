//! Everything that a client's JSON says, as one text to be searched: each string decoded.
//!
//! Reads the body as it came, so that no field is forgotten, known or not. JSON inside a string
//! (the arguments of a tool call) is read likewise; what a `data:` URL encodes is left out, and so
//! are the numbers of the body itself. Promises: linear in the body's length, no recursion deeper
//! than [`DEEPEST`]. Called by `signals` when a condition asks for `request.secrets`.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// How deep JSON inside JSON's strings is read.
const DEEPEST: usize = 2;

/// The text of valid JSON. Members stay `"name":"value"`; a line ends after every other string.
pub(super) fn text(json: &str) -> String {
    let mut said = String::with_capacity(json.len());
    add(&mut said, json, 0);
    said
}

fn add(said: &mut String, json: &str, depth: usize) {
    let mut rest = json;
    while let Some(start) = rest.find('"') {
        let (between, from) = rest.split_at(start);
        add_marks(said, between, depth);
        let (literal, after) = from.split_at(length(from));
        said.push('"');
        add_string(said, literal, depth);
        said.push('"');
        rest = after;
    }
    add_marks(said, rest, depth);
}

/// Adds what stands between two strings. The body's own numbers (a seed, say) are no text.
fn add_marks(said: &mut String, between: &str, depth: usize) {
    let marks = between.trim_ascii();
    if !marks.starts_with(':') {
        said.push('\n');
    }
    said.extend(marks.chars().filter(|mark| depth > 0 || !mark.is_ascii_digit()));
}

/// How long the string literal is that `json` begins with, quotes included.
fn length(json: &str) -> usize {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

fn add_string(said: &mut String, literal: &str, depth: usize) {
    let inside = literal.trim_start_matches('"');
    let inside = inside.strip_suffix('"').unwrap_or(inside);
    let decoded = match inside.contains('\\') {
        true => serde_json::from_str(literal).map_or(Cow::Borrowed(inside), Cow::<str>::Owned),
        false => Cow::Borrowed(inside),
    };
    if is_data_url(&decoded) {
        return;
    }
    let json = decoded.trim_ascii_start().starts_with(['{', '[', '"']);
    if json && depth < DEEPEST && serde_json::from_str::<IgnoredAny>(&decoded).is_ok() {
        return add(said, &decoded, depth + 1);
    }
    said.push_str(&decoded);
}

/// Whether the text is a `data:` URL in base64 (RFC 2397), and nothing else.
fn is_data_url(text: &str) -> bool {
    let encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
    let parts = text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    parts.is_some_and(|(media, rest)| !media.contains(char::is_whitespace) && rest.bytes().all(encoded))
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn strings_are_decoded_and_stand_in_lines_of_their_own() {
        for (json, expected) in [
            (r#"{"a":"b"}"#, "\n{\"a\":\"b\"\n}"),
            (r#"{"a" : "\u0041\nB", "c": ["d","\"e\\"]}"#, "\n{\"a\":\"A\nB\"\n,\"c\": [\"d\"\n,\"\"e\\\"\n]}"),
            (r#"{"seed":4111,"n":[12,3]}"#, "\n{\"seed\":,\"n\":[,]}"),
            (r#"{"a":""}"#, "\n{\"a\":\"\"\n}"),
        ] {
            assert_eq!(text(json), expected, "{json}");
        }
    }

    #[test]
    fn json_inside_a_string_is_read_twice_deep_with_its_numbers() {
        let inner = r#"{"k":"x\ny","n":12}"#;
        let once = serde_json::json!({ "arguments": inner }).to_string();
        assert!(text(&once).contains("\"k\":\"x\ny\"\n,\"n\":12}"), "{}", text(&once));
        let twice = serde_json::json!({ "arguments": once }).to_string();
        assert!(text(&twice).contains("x\ny"), "{}", text(&twice));
        let thrice = serde_json::json!({ "arguments": twice }).to_string();
        assert!(text(&thrice).contains("x\\ny"), "{}", text(&thrice));
        let prose = r#"{"a":"[see] \"k\": 1"}"#;
        assert!(text(prose).contains("[see] \"k\": 1"));
    }

    #[test]
    fn only_a_whole_data_url_is_left_out() {
        assert!(!text(r#"{"url":"data:image/png;base64,QUtJQQ=="}"#).contains("QUtJ"));
        for kept in ["data: the key", "data:text/plain,hello", "data:a;base64,QQ== and more", "see data:a;base64,QQ=="]
        {
            assert!(text(&serde_json::json!([kept]).to_string()).contains(kept), "{kept}");
        }
    }
}
