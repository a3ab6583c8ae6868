//! Reads a legacy completion request, and a request for embeddings.
//!
//! Both take one text, many, or token ids instead of them. `parse` calls it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::fields::{Fields, Integer, Taken, integer, missing, note, set, wrong};
use super::sampling::{Envelope, Opened, SamplingFields};
use crate::error::Error;
use crate::request::{Embed, Prompt, Text};

/// The most prompts or inputs of one request.
const MOST_INPUTS: usize = 2048;

/// The fields of a legacy completion request.
#[derive(Default)]
pub(super) struct TextFields<'a> {
    pub(super) envelope: Envelope<'a>,
    sampling: SamplingFields,
    prompt: Option<Prompts>,
    echo: Option<bool>,
    logprobs: Option<Integer>,
    best_of: Option<Integer>,
    upstream_only: Option<String>,
}

impl<'de> Fields<'de> for TextFields<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error> {
        match key {
            "prompt" => set(&mut self.prompt, map),
            "echo" => set(&mut self.echo, map),
            "logprobs" => set(&mut self.logprobs, map),
            "best_of" => set(&mut self.best_of, map),
            "suffix" => note(&mut self.upstream_only, key, map),
            _ => match self.envelope.take(key, map)? {
                Taken::Yes => Ok(Taken::Yes),
                Taken::No => self.sampling.take(key, map),
            },
        }
    }
}

impl TextFields<'_> {
    /// Checks the values.
    pub(super) fn check(self, opened: &Opened) -> Result<Text, Error> {
        let mut sampling = self.sampling.check()?;
        sampling.include_usage = opened.include_usage;
        let most = integer("logprobs", self.logprobs, 0..=5, "a whole number from 0 to 5")?;
        sampling.logprobs = most.is_some();
        sampling.top_logprobs = most.unwrap_or(0);
        let mut upstream_only = self.upstream_only;
        let best_of = integer("best_of", self.best_of, 1..=128, "a whole number from 1 to 128")?;
        if let Some(best_of) = best_of.filter(|best_of| *best_of > 1) {
            if best_of < sampling.n {
                return Err(wrong("best_of", format!("{best_of} is less than n, which is {}", sampling.n)));
            }
            upstream_only.get_or_insert_with(|| "best_of".to_owned());
        }
        Ok(Text {
            prompts: self.prompt.ok_or_else(|| missing("prompt"))?.check("prompt", true)?,
            echo: self.echo.unwrap_or(false),
            sampling,
            upstream_only,
        })
    }
}

/// The fields of a request for embeddings.
#[derive(Default)]
pub(super) struct EmbedFields<'a> {
    pub(super) envelope: Envelope<'a>,
    input: Option<Prompts>,
    encoding_format: Option<String>,
    dimensions: Option<Integer>,
}

impl<'de> Fields<'de> for EmbedFields<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error> {
        match key {
            "input" => set(&mut self.input, map),
            "encoding_format" => set(&mut self.encoding_format, map),
            "dimensions" => set(&mut self.dimensions, map),
            _ => self.envelope.take(key, map),
        }
    }
}

impl EmbedFields<'_> {
    /// Checks the values.
    pub(super) fn check(self) -> Result<Embed, Error> {
        let base64 = match self.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let what = format!("unknown encoding {other:?}, expected float or base64");
                return Err(wrong("encoding_format", what));
            }
        };
        Ok(Embed {
            inputs: self.input.ok_or_else(|| missing("input"))?.check("input", false)?,
            base64,
            dimensions: integer("dimensions", self.dimensions, 1..=u32::MAX, "a whole number of at least 1")?,
        })
    }
}

/// One prompt or several, each a text or token ids.
struct Prompts {
    prompts: Vec<Prompt>,
    /// Whether they came as an array, so that one of them is named by its place.
    many: bool,
}

impl Prompts {
    /// Checks that there are some, not too many, and none empty (texts may be, where said).
    fn check(self, name: &str, empty_text: bool) -> Result<Vec<Prompt>, Error> {
        let count = self.prompts.len();
        if count == 0 {
            return Err(wrong(name, "the array is empty"));
        }
        if count > MOST_INPUTS {
            return Err(wrong(name, format!("{count} entries, expected at most {MOST_INPUTS}")));
        }
        let empty = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.is_empty() && !empty_text,
            Prompt::Tokens(tokens) => tokens.is_empty(),
        };
        match self.prompts.iter().position(empty) {
            Some(at) if self.many => Err(wrong(format!("{name}[{at}]"), "it is empty")),
            Some(_) => Err(wrong(name, "it is empty")),
            None => Ok(self.prompts),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;
        impl<'de> Visitor<'de> for AnyForm {
            type Value = Prompts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, or token ids")
            }
            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts { prompts: vec![Prompt::Text(text.to_owned())], many: false })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompts, A::Error> {
                let mut prompts = Vec::new();
                let mut tokens = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    match entry {
                        Entry::Whole(prompt) => prompts.push(prompt),
                        Entry::Token(token) => tokens.push(token),
                    }
                    if !prompts.is_empty() && !tokens.is_empty() {
                        return Err(A::Error::custom("token ids and prompts stand in one array"));
                    }
                }
                if tokens.is_empty() {
                    return Ok(Prompts { prompts, many: true });
                }
                Ok(Prompts { prompts: vec![Prompt::Tokens(tokens)], many: false })
            }
        }
        deserializer.deserialize_any(AnyForm)
    }
}

/// One entry of an array of prompts.
enum Entry {
    Whole(Prompt),
    Token(u32),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyEntry;
        impl<'de> Visitor<'de> for AnyEntry {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id, or an array of token ids")
            }
            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Whole(Prompt::Text(text.to_owned())))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Entry, E> {
                let out_of_range = || E::invalid_value(serde::de::Unexpected::Unsigned(number), &self);
                u32::try_from(number).map(Entry::Token).map_err(|_| out_of_range())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entry, A::Error> {
                let mut tokens = Vec::new();
                while let Some(Integer(number)) = seq.next_element()? {
                    let token = u32::try_from(number);
                    tokens.push(token.map_err(|_| A::Error::custom(format_args!("{number} is not a token id")))?);
                }
                Ok(Entry::Whole(Prompt::Tokens(tokens)))
            }
        }
        deserializer.deserialize_any(AnyEntry)
    }
}
