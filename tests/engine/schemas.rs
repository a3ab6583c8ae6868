//! Answers of a demanded form, and schemas that mean harm.

use serde_json::{Value, json};
use weir::error::Kind;
use weir::request::{Ask, Chat, Format, Role};

use super::harness::*;

fn formatted(question: &str, format: Format, max_tokens: u32) -> Ask {
    let messages = vec![message(Role::User, question)];
    Ask::Chat(Chat { messages, format, sampling: greedy(max_tokens), ..Chat::default() })
}

fn schema(schema: &str) -> Format {
    Format::JsonSchema(serde_json::value::RawValue::from_string(schema.to_owned()).expect("JSON"))
}

#[test]
fn an_answer_under_a_schema_satisfies_it() {
    runtime().block_on(async {
        let smol = smol().await;
        let person = json!({
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
            "required": ["name", "age"],
            "additionalProperties": false,
        });
        let choice = say(&smol, formatted("Describe a person as JSON.", schema(&person.to_string()), 100)).await;
        let value: Value = serde_json::from_str(&choice.text).unwrap_or_else(|error| panic!("{error}: {}", choice.text));
        assert!(value["name"].is_string() && value["age"].is_u64(), "{value}");
        assert_eq!(value.as_object().map(|object| object.len()), Some(2));
        assert!(choice.tokens.iter().all(|token| token.logprob <= 0.0 && token.logprob.is_finite()));
        let one_of = say(&smol, formatted("Yes or no?", schema(r#"{"enum": ["yes", "no"]}"#), 20)).await;
        assert!([r#""yes""#, r#""no""#].contains(&one_of.text.trim()), "{}", one_of.text);
    });
}

#[test]
fn any_object_is_an_object() {
    runtime().block_on(async {
        let qwen = open(weir::local::ModelConfig { slots: 1, context: Some(1024), ..config(QWEN) }).await;
        let choice =
            say(&qwen, formatted("Give me a JSON object with a name and an age.", Format::JsonObject, 120)).await;
        let value: Value =
            serde_json::from_str(&choice.text).unwrap_or_else(|error| panic!("{error}: {}", choice.text));
        assert!(value.is_object());
    });
}

/// Nested `depth` times: deeper than any parser should follow.
fn nested(depth: usize) -> String {
    let open = r#"{"type":"object","properties":{"a":"#;
    format!("{}{{}}{}", open.repeat(depth), "}}".repeat(depth))
}

/// Schemas that mean harm, each with its first characters.
fn hostile() -> Vec<(String, String)> {
    let wide: Value = (0..3000)
        .map(|n| (format!("property{n}"), json!({"type": "string"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let wide = json!({"type": "object", "properties": wide}).to_string();
    let all_of =
        json!({"allOf": vec![json!({"anyOf": vec![json!({"type": "object", "properties": {"a": {}}}); 20]}); 20]})
            .to_string();
    let schemas = [
        nested(30),
        nested(60),
        nested(5000),
        wide,
        all_of,
        format!(r#"{{"const": "{}"}}"#, "x".repeat(300_000)),
        format!(r#"{{"type": "string", "pattern": "{}"}}"#, "(a|b|ab)*c{1,100}".repeat(200)),
        r#"{"type": "string", "pattern": "^(a+)+(b+)+(c{1,1000}){1,1000}$"}"#.into(),
        r#"{"type": "string", "pattern": "((((((((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}){1,99}){1,99}){1,99}){1,99})"}"#.into(),
        r#"{"type": "string", "pattern": "^((a|b|ab)*c{1,100}){200}$"}"#.into(),
        r#"{"type": "string", "pattern": "^(.*a.{20})*(.*b.{20})*(.*c.{20})*$"}"#.into(),
        r#"{"type": "string", "pattern": "^[a-z]{1,200}([0-9]{1,200}[a-z]{1,200}){50}$"}"#.into(),
        r#"{"type": "string", "pattern": "(?=look)ahead"}"#.into(),
        r#"{"type": "string", "pattern": "["}"#.into(),
        r#"{"type": "string", "minLength": 4000000000, "maxLength": 4000000001}"#.into(),
        r#"{"type": "array", "minItems": 1000000000}"#.into(),
        r#"{"type": "integer", "multipleOf": 0}"#.into(),
        r#"{"type": "number", "minimum": 1e308, "maximum": -1e308}"#.into(),
        r##"{"$ref": "#"}"##.into(),
        r##"{"$ref": "#/$defs/none"}"##.into(),
        r#"{"$ref": "http://127.0.0.1:9/schema.json"}"#.into(),
        r#"{"$ref": "file:///etc/passwd"}"#.into(),
        r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##.into(),
        r##"{"allOf": [{"$ref": "#"}, {"$ref": "#"}]}"##.into(),
        r##"{"anyOf": [{"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}]}"##.into(),
        r#"{"type": 7}"#.into(),
        r#"{"type": "nonsense"}"#.into(),
        r#"{"properties": []}"#.into(),
        r#"{"x-guidance": {"whitespace_pattern": "["}}"#.into(),
        r#"{"x-guidance": 3, "type": "object"}"#.into(),
        "false".into(),
        "true".into(),
        "[]".into(),
        "3".into(),
        r#""text""#.into(),
        "null".into(),
        "{}".into(),
    ];
    let named = schemas.into_iter().map(|text| (text.chars().take(70).collect(), text));
    named.collect()
}

#[test]
fn hostile_schemas_are_refused_or_followed_and_end_nothing() {
    runtime().block_on(async {
        let smol = smol().await;
        for (shown, text) in hostile() {
            let begun = tokio::time::Instant::now();
            match ask(&smol, formatted("Answer.", schema(&text), 6)).await {
                Ok(answer) => println!("{:5} ms {shown}: {:?}", begun.elapsed().as_millis(), answer.choices[0].text),
                Err(error) => {
                    println!("{:5} ms {shown}: {error}", begun.elapsed().as_millis());
                    assert_eq!(error.kind(), Kind::Invalid, "{shown}");
                    assert_eq!(error.detail().param.as_deref(), Some("response_format"), "{shown}");
                }
            }
        }
        assert_eq!(say(&smol, text("The sun is", greedy(3))).await.tokens.len(), 3, "the engine still answers");
    });
}
