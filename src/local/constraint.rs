//! The form an answer must have: `response_format` and a demanded tool call, as a token mask.
//!
//! A client's schema is hostile until proven otherwise. It is compiled by llguidance (pure Rust:
//! no C++ exception can end the process) within limits on size, work and stack; whatever goes
//! wrong, a panic too, is a 400 that names the field. Compiled outside the engine thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Format, ToolChoice, Tools};

/// The longest schema, bytes.
const LONGEST: usize = 256 * 1024;
/// The stack of the thread that compiles: schemas nest, and so does the compiler.
const STACK: usize = 64 * 1024 * 1024;
/// At most so much white space between two JSON tokens: a small model never ends it by itself.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";

/// The matcher of a request's format, or `None` for free text. A bad schema is a 400.
pub(super) fn compile_format(factory: &ParserFactory, format: &Format) -> Result<Option<Matcher>> {
    let schema = match format {
        Format::Text => return Ok(None),
        Format::JsonObject => json!({"type": "object"}),
        Format::JsonSchema(raw) => parse_schema(raw).map_err(|reason| invalid("response_format", &reason))?,
    };
    let grammar = TopLevelGrammar::from_json_schema(with_bounded_space(schema));
    compile(factory, grammar).map(Some).map_err(|reason| invalid("response_format", &reason))
}

/// The matcher of an answer that must call a tool, or `None` where the model may choose.
pub(super) fn compile_calls(factory: &ParserFactory, tools: &Tools) -> Result<Option<Matcher>> {
    let wanted = match &tools.choice {
        ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => None,
        ToolChoice::Function(name) => Some(name.as_str()),
    };
    let schema = call_schema(&tools.raw, wanted).map_err(|reason| invalid("tools", &reason))?;
    let lark = format!("start: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json {schema}\n");
    compile(factory, TopLevelGrammar::from_lark(lark)).map(Some).map_err(|reason| invalid("tools", &reason))
}

/// The error of a constraint that broke while the answer was generated.
pub(super) fn broken(error: impl std::fmt::Display) -> Error {
    invalid("response_format", &format!("too complex to follow: {}", first_line(&error.to_string())))
}

fn invalid(param: &str, reason: &str) -> Error {
    let message = format!("the schema cannot be followed by this model: {reason}");
    Error::new(Kind::Invalid, Origin::Local, message).param(param).code("invalid_schema").retry(Retry::Elsewhere)
}

fn parse_schema(raw: &RawValue) -> std::result::Result<Value, String> {
    let text = raw.get();
    if text.len() > LONGEST {
        return Err(format!("it has {} bytes, at most {LONGEST} are taken", text.len()));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema),
        other => Err(format!("a schema is an object, not {other}").chars().take(200).collect()),
    }
}

/// Our own compiler options; what a client wrote there does not count.
fn with_bounded_space(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE}));
    }
    schema
}

/// A schema of `{"name": …, "arguments": …}` for the tools that may be called.
fn call_schema(tools: &RawValue, wanted: Option<&str>) -> std::result::Result<Value, String> {
    if tools.get().len() > LONGEST {
        return Err(format!("they have {} bytes, at most {LONGEST} are taken", tools.get().len()));
    }
    let tools: Vec<Value> = serde_json::from_str(tools.get()).map_err(|error| error.to_string())?;
    let functions = tools.iter().filter_map(|tool| tool.get("function"));
    let calls: Vec<Value> = functions
        .filter(|function| wanted.is_none_or(|name| function["name"] == name))
        .enumerate()
        .map(|(number, function)| {
            let mut parameters = function.get("parameters").cloned().unwrap_or_else(|| json!({"type": "object"}));
            if let Value::Object(fields) = &mut parameters {
                // Its own identity, so that its `#/$defs/…` is looked up inside it.
                fields.insert("$id".into(), json!(format!("weir:tool/{number}")));
            }
            json!({
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        })
        .collect();
    match calls.is_empty() {
        true => Err(format!("none of them is the function {}", wanted.unwrap_or("that must be called"))),
        false => Ok(with_bounded_space(json!({"anyOf": calls}))),
    }
}

/// Compiles on a thread with a deep stack; every failure is a reason.
fn compile(factory: &ParserFactory, grammar: TopLevelGrammar) -> std::result::Result<Matcher, String> {
    let build = || {
        let mut matcher = Matcher::new(factory.create_parser(grammar));
        // The first mask is where lexers are built: fail here and not in the engine.
        matcher.compute_mask().map_err(|error| first_line(&error.to_string()))?;
        Ok(matcher)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("weir-schema".into()).stack_size(STACK);
        let compiled = thread.spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(build)));
        match compiled.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(Ok(matcher))) => matcher,
            Ok(_) => Err("the compiler failed on it".into()),
            Err(error) => Err(format!("no thread to compile it on: {error}")),
        }
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities};

    use super::*;

    /// A vocabulary of single bytes.
    fn factory() -> ParserFactory {
        let tokens = ApproximateTokEnv::single_byte_env();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &[]).unwrap();
        factory.quiet();
        factory
    }

    fn accepts(matcher: &Matcher, text: &str) -> bool {
        let mut matcher = matcher.deep_clone();
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        matcher.validate_tokens(&tokens).unwrap() == tokens.len()
    }

    fn tools(choice: ToolChoice) -> Tools {
        let tools = json!([
            {"type": "function", "function": {"name": "add", "parameters": {
                "type": "object",
                "properties": {"by": {"$ref": "#/$defs/step"}},
                "required": ["by"],
                "additionalProperties": false,
                "$defs": {"step": {"type": "integer"}},
            }}},
            {"type": "function", "function": {"name": "now"}},
        ]);
        Tools { raw: serde_json::value::to_raw_value(&tools).unwrap(), count: 2, choice, parallel_tool_calls: true }
    }

    #[test]
    fn a_demanded_call_is_one_of_the_offered_tools() {
        let matcher = compile_calls(&factory(), &tools(ToolChoice::Required)).unwrap().unwrap();
        let call = |inner: &str| format!("<tool_call>\n{inner}\n</tool_call>");
        assert!(accepts(&matcher, &call(r#"{"name": "add", "arguments": {"by": 3}}"#)));
        assert!(accepts(&matcher, &call(r#"{"name": "now", "arguments": {}}"#)));
        assert!(!accepts(&matcher, &call(r#"{"name": "add", "arguments": {"by": "3"}}"#)));
        assert!(!accepts(&matcher, &call(r#"{"name": "sub", "arguments": {}}"#)));
        assert!(!accepts(&matcher, "Sure"));
    }

    #[test]
    fn a_demanded_function_is_the_only_one() {
        let matcher = compile_calls(&factory(), &tools(ToolChoice::Function("now".into()))).unwrap().unwrap();
        assert!(accepts(&matcher, "<tool_call>\n{\"name\": \"now\""));
        assert!(!accepts(&matcher, "<tool_call>\n{\"name\": \"add\""));
        let unknown = compile_calls(&factory(), &tools(ToolChoice::Function("sub".into()))).err().unwrap();
        assert_eq!(unknown.detail().param.as_deref(), Some("tools"));
        assert!(compile_calls(&factory(), &tools(ToolChoice::Auto)).unwrap().is_none());
    }

    #[test]
    fn white_space_between_tokens_has_an_end() {
        let matcher = compile_format(&factory(), &Format::JsonObject).unwrap().unwrap();
        assert!(accepts(&matcher, "{\n    \"a\": 1"));
        assert!(!accepts(&matcher, &format!("{{{}", " ".repeat(60))));
        assert!(!accepts(&matcher, "[1]"));
        assert!(compile_format(&factory(), &Format::Text).unwrap().is_none());
    }
}
