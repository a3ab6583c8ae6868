//! Reads what a chat request says of tools: those offered, the choice demanded, calls made before.
//!
//! The arrays stay as they came; only what must hold for a local model's template is checked.
//! `chat` calls it.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{decode, missing, wrong};
use crate::error::Error;
use crate::request::{ToolChoice, Tools};

/// `tool_choice` as clients write it.
pub(super) enum Choice {
    None,
    Auto,
    Required,
    Function(String),
    /// A form that only some upstreams know.
    Other,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrObject;
        impl<'de> Visitor<'de> for WordOrObject {
            type Value = Choice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of none, auto, required, or an object that names a function")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Choice, E> {
                match word {
                    "none" => Ok(Choice::None),
                    "auto" => Ok(Choice::Auto),
                    "required" => Ok(Choice::Required),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice, A::Error> {
                let named = Named::deserialize(MapAccessDeserializer::new(map))?;
                match (&*named.kind, named.function) {
                    ("function", Some(function)) => Ok(Choice::Function(function.name)),
                    ("function", None) => Err(A::Error::missing_field("function")),
                    _ => Ok(Choice::Other),
                }
            }
        }
        deserializer.deserialize_any(WordOrObject)
    }
}

#[derive(serde::Deserialize)]
struct Named<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    function: Option<FunctionName>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object with the name of a function")]
struct FunctionName {
    name: String,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a tool object")]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a function object")]
struct Function<'a> {
    name: String,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// Checks the tools offered against the choice demanded. `None` where no tool may be called.
pub(super) fn check_tools(
    raw: Option<&RawValue>,
    choice: Option<Choice>,
    upstream_only: &mut Option<String>,
) -> Result<Option<Tools>, Error> {
    let mut names = Vec::new();
    if let Some(raw) = raw {
        for (at, tool) in decode::<Vec<Tool<'_>>>(raw.get(), "tools")?.into_iter().enumerate() {
            if tool.kind != "function" {
                upstream_only.get_or_insert_with(|| "tools".to_owned());
                names.push(String::new());
                continue;
            }
            names.push(check_function(tool.function, &format!("tools[{at}].function"))?);
        }
    }
    let choice = match choice {
        None | Some(Choice::Auto) => ToolChoice::Auto,
        Some(Choice::None) => return Ok(None),
        Some(_) if names.is_empty() => {
            return Err(wrong("tool_choice", "given without tools; offer some, or leave it out"));
        }
        Some(Choice::Required) => ToolChoice::Required,
        Some(Choice::Function(name)) if names.contains(&name) => ToolChoice::Function(name),
        Some(Choice::Function(name)) => {
            let what = format!("no tool is named {name:?}; offered: {}", names.join(", "));
            return Err(wrong("tool_choice.function.name", what));
        }
        Some(Choice::Other) => {
            upstream_only.get_or_insert_with(|| "tool_choice".to_owned());
            ToolChoice::Auto
        }
    };
    let offered = raw.filter(|_| !names.is_empty());
    Ok(offered.map(|raw| Tools { raw: raw.to_owned(), count: names.len(), choice }))
}

fn check_function(function: Option<Function<'_>>, at: &str) -> Result<String, Error> {
    let function = function.ok_or_else(|| missing(at))?;
    if function.name.is_empty() {
        return Err(wrong(format!("{at}.name"), "the name of a function is empty"));
    }
    if function.parameters.is_some_and(|schema| !schema.get().starts_with('{')) {
        return Err(wrong(format!("{at}.parameters"), "expected a JSON schema, which is an object"));
    }
    Ok(function.name)
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a tool call object")]
struct CallFields {
    #[serde(rename = "id")]
    _id: String,
    function: Option<CalledFunction>,
    custom: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object with the name and arguments of a function")]
struct CalledFunction {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "arguments")]
    _arguments: String,
}

/// Checks the form of calls that an assistant made before.
pub(super) fn check_calls(raw: &RawValue, at: &str) -> Result<(), Error> {
    let calls: Vec<CallFields> = decode(raw.get(), at)?;
    match calls.iter().position(|call| call.function.is_none() && call.custom.is_none()) {
        Some(index) => Err(missing(format!("{at}[{index}].function"))),
        None => Ok(()),
    }
}
