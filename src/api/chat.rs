//! Reads a chat request: its messages, tools and form of answer.
//!
//! Text is read; images, sound, files, tools and schemas are only looked at, they stay in the
//! client's bytes. What a local model cannot honour is noted, not refused: an upstream may know
//! it. `parse` calls it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{Fields, Integer, Taken, decode, integer, missing, note, set, wrong};
use super::sampling::{Envelope, Opened, SamplingFields};
use super::tools::{Choice, check_calls, check_tools};
use crate::error::Error;
use crate::request::{Chat, Format, Message, Role};

/// The fields of a chat request.
#[derive(Default)]
pub(super) struct ChatFields<'a> {
    pub(super) envelope: Envelope<'a>,
    sampling: SamplingFields,
    messages: Option<Vec<MessageFields<'a>>>,
    tools: Option<&'a RawValue>,
    tool_choice: Option<Choice>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<&'a RawValue>,
    logprobs: Option<bool>,
    top_logprobs: Option<Integer>,
    modalities: Option<Vec<Cow<'a, str>>>,
    upstream_only: Option<String>,
}

impl<'de> Fields<'de> for ChatFields<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error> {
        match key {
            "messages" => set(&mut self.messages, map),
            "tools" => set(&mut self.tools, map),
            "tool_choice" => set(&mut self.tool_choice, map),
            "parallel_tool_calls" => set(&mut self.parallel_tool_calls, map),
            "response_format" => set(&mut self.response_format, map),
            "logprobs" => set(&mut self.logprobs, map),
            "top_logprobs" => set(&mut self.top_logprobs, map),
            "modalities" => set(&mut self.modalities, map),
            "audio" | "prediction" | "web_search_options" | "functions" | "function_call" => {
                note(&mut self.upstream_only, key, map)
            }
            _ => match self.envelope.take(key, map)? {
                Taken::Yes => Ok(Taken::Yes),
                Taken::No => self.sampling.take(key, map),
            },
        }
    }
}

impl ChatFields<'_> {
    /// Checks the values.
    pub(super) fn check(self, opened: &Opened) -> Result<Chat, Error> {
        let mut sampling = self.sampling.check()?;
        sampling.include_usage = opened.include_usage;
        sampling.logprobs = self.logprobs.unwrap_or(false);
        let most = integer("top_logprobs", self.top_logprobs, 0..=20, "a whole number from 0 to 20")?;
        if most.is_some_and(|most| most > 0) && !sampling.logprobs {
            return Err(wrong("top_logprobs", "given without logprobs; set logprobs to true"));
        }
        sampling.top_logprobs = most.unwrap_or(0);
        let mut upstream_only = self.upstream_only;
        if self.modalities.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            upstream_only.get_or_insert_with(|| "modalities".to_owned());
        }
        Ok(Chat {
            messages: check_messages(self.messages.ok_or_else(|| missing("messages"))?, &mut upstream_only)?,
            tools: check_tools(self.tools, self.tool_choice, &mut upstream_only)?,
            sampling,
            format: check_format(self.response_format)?,
            upstream_only,
        })
    }
}

fn check_messages(messages: Vec<MessageFields<'_>>, upstream_only: &mut Option<String>) -> Result<Vec<Message>, Error> {
    if messages.is_empty() {
        return Err(wrong("messages", "the array is empty, expected at least one message"));
    }
    let check = |(at, message): (usize, MessageFields<'_>)| {
        if message.function_call.is_some() || message.audio.is_some() {
            upstream_only.get_or_insert_with(|| format!("messages[{at}]"));
        }
        message.check(&format_args!("messages[{at}]"))
    };
    messages.into_iter().enumerate().map(check).collect()
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a message object")]
struct MessageFields<'a> {
    role: RoleName,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Box<RawValue>>,
    tool_call_id: Option<String>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    function_call: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
}

impl MessageFields<'_> {
    fn check(self, at: &fmt::Arguments<'_>) -> Result<Message, Error> {
        let RoleName { role, tool } = self.role;
        if let Some(calls) = &self.tool_calls {
            if role != Role::Assistant {
                return Err(wrong(format!("{at}.tool_calls"), "only an assistant calls tools"));
            }
            check_calls(calls, &format!("{at}.tool_calls"))?;
        }
        if tool && self.tool_call_id.is_none() {
            return Err(missing(format!("{at}.tool_call_id")));
        }
        if self.content.is_none() {
            let said = self.tool_calls.is_some() || self.refusal.is_some();
            let elsewhere = said || self.function_call.is_some() || self.audio.is_some();
            if role != Role::Assistant || !elsewhere {
                return Err(missing(format!("{at}.content")));
            }
        }
        let content = self.content.unwrap_or_default();
        let refusal = self.refusal.filter(|_| content.text.is_empty());
        Ok(Message {
            role,
            text: refusal.map_or(content.text, Cow::into_owned),
            images: content.images,
            other_parts: content.other_parts,
            name: self.name,
            tool_calls: self.tool_calls,
            tool_call_id: self.tool_call_id,
        })
    }
}

/// A role as clients name it; `tool` unless it is the older `function`.
struct RoleName {
    role: Role,
    tool: bool,
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = RoleName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of system, developer, user, assistant, tool")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RoleName, E> {
                let role = match name {
                    "system" | "developer" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" | "function" => Role::Tool,
                    _ => return Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
                };
                Ok(RoleName { role, tool: name == "tool" })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// What a message says: a text, or parts.
#[derive(Default)]
struct Content {
    text: String,
    texts: usize,
    images: usize,
    other_parts: usize,
}

impl Content {
    /// Adds a part; texts are joined by line ends.
    fn add(&mut self, part: Part<'_>) {
        match part {
            Part::Text(text) => {
                self.text.push_str(if self.texts > 0 { "\n" } else { "" });
                self.text.push_str(&text);
                self.texts += 1;
            }
            Part::Image => self.images += 1,
            Part::Other => self.other_parts += 1,
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content { text: text.to_owned(), ..Content::default() })
            }
            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content { text, ..Content::default() })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut content = Content::default();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    content.add(part);
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

/// One part of a message. Kinds that are not known here are for an upstream to judge.
#[derive(serde::Deserialize)]
#[serde(try_from = "PartFields<'_>", bound(deserialize = "'de: 'a"))]
enum Part<'a> {
    Text(Cow<'a, str>),
    Image,
    Other,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a content part object")]
struct PartFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    image_url: Option<IgnoredAny>,
    input_audio: Option<IgnoredAny>,
    file: Option<IgnoredAny>,
}

impl<'a> TryFrom<PartFields<'a>> for Part<'a> {
    type Error = String;

    fn try_from(part: PartFields<'a>) -> Result<Self, String> {
        let missing = |name: &str| format!("missing field `{name}`");
        match &*part.kind {
            "text" => part.text.map(Part::Text).ok_or_else(|| missing("text")),
            "image_url" => part.image_url.map(|_| Part::Image).ok_or_else(|| missing("image_url")),
            "input_audio" => part.input_audio.map(|_| Part::Other).ok_or_else(|| missing("input_audio")),
            "file" => part.file.map(|_| Part::Other).ok_or_else(|| missing("file")),
            _ => Ok(Part::Other),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a response format object")]
struct FormatFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    json_schema: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object")]
struct SchemaFields {
    schema: Box<RawValue>,
}

fn check_format(format: Option<&RawValue>) -> Result<Format, Error> {
    let Some(raw) = format else {
        return Ok(Format::Text);
    };
    let at = "response_format";
    let fields: FormatFields<'_> = decode(raw.get(), at)?;
    match &*fields.kind {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            let at = format!("{at}.json_schema");
            let raw = fields.json_schema.ok_or_else(|| missing(&at))?;
            let schema = decode::<SchemaFields>(raw.get(), &at)?.schema;
            if !schema.get().starts_with('{') {
                return Err(wrong(format!("{at}.schema"), "expected a JSON schema, which is an object"));
            }
            Ok(Format::JsonSchema(schema))
        }
        kind => {
            let what = format!("unknown form {kind:?}, expected one of text, json_object, json_schema");
            Err(wrong(format!("{at}.type"), what))
        }
    }
}
