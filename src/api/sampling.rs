//! The fields that chat and text completions share: who answers, streamed or not, and how the
//! answer is generated.
//!
//! [`Envelope`] is what every endpoint has, [`SamplingFields`] what generation has. Both take
//! keys one by one and are checked when the whole object has been read.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{Integer, Number, Taken, decode, integer, keep, missing, number, set, wrong};
use crate::error::Error;
use crate::request::{ClientBody, Sampling};
use crate::wire::openai::span;

/// The longest name of a model, bytes.
const LONGEST_NAME: usize = 256;

/// The fields of every endpoint. The raw ones may have to change on the way to an upstream.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    user: Option<Cow<'a, str>>,
}

/// What the envelope says.
pub(super) struct Opened {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) body: ClientBody,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object")]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl<'de> Envelope<'de> {
    pub(super) fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error> {
        match key {
            "model" => keep(&mut self.model, map),
            "stream" => keep(&mut self.stream, map),
            "stream_options" => keep(&mut self.stream_options, map),
            "user" => set(&mut self.user, map),
            _ => Ok(Taken::No),
        }
    }

    /// Checks the values; `whole` is the body that they were read from.
    pub(super) fn open(&self, whole: &Bytes) -> Result<Opened, Error> {
        let range = |raw: &RawValue| span(whole, raw.get());
        let raw = self.model.ok_or_else(|| missing("model"))?;
        let model: String = decode(raw.get(), "model")?;
        if model.trim().is_empty() {
            return Err(wrong("model", "the name of a model is empty; /v1/models lists the names"));
        }
        if model.len() > LONGEST_NAME {
            return Err(wrong("model", format!("the name of a model is longer than {LONGEST_NAME} bytes")));
        }
        let stream = match self.stream {
            Some(raw) => decode::<Option<bool>>(raw.get(), "stream")?.unwrap_or(false),
            None => false,
        };
        let options = match self.stream_options {
            Some(raw) => decode::<Option<StreamOptions>>(raw.get(), "stream_options")?,
            None => None,
        };
        if options.is_some() && !stream {
            return Err(wrong("stream_options", "given without stream; set stream to true, or leave it out"));
        }
        Ok(Opened {
            model,
            stream,
            include_usage: options.and_then(|options| options.include_usage).unwrap_or(false),
            body: ClientBody {
                bytes: whole.clone(),
                model: range(raw),
                stream: self.stream.map(range),
                stream_options: self.stream_options.map(range),
            },
        })
    }
}

/// The fields of generation.
#[derive(Default)]
pub(super) struct SamplingFields {
    max_tokens: Option<Integer>,
    max_completion_tokens: Option<Integer>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    top_k: Option<Integer>,
    min_p: Option<Number>,
    seed: Option<Integer>,
    stop: Option<Texts>,
    presence_penalty: Option<Number>,
    frequency_penalty: Option<Number>,
    repeat_penalty: Option<Number>,
    logit_bias: Option<Bias>,
    n: Option<Integer>,
}

impl SamplingFields {
    pub(super) fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<Taken, A::Error> {
        match key {
            "max_tokens" => set(&mut self.max_tokens, map),
            "max_completion_tokens" => set(&mut self.max_completion_tokens, map),
            "temperature" => set(&mut self.temperature, map),
            "top_p" => set(&mut self.top_p, map),
            "top_k" => set(&mut self.top_k, map),
            "min_p" => set(&mut self.min_p, map),
            "seed" => set(&mut self.seed, map),
            "stop" => set(&mut self.stop, map),
            "presence_penalty" => set(&mut self.presence_penalty, map),
            "frequency_penalty" => set(&mut self.frequency_penalty, map),
            "repeat_penalty" => set(&mut self.repeat_penalty, map),
            "logit_bias" => set(&mut self.logit_bias, map),
            "n" => set(&mut self.n, map),
            _ => Ok(Taken::No),
        }
    }

    /// Checks the ranges. Log-probabilities differ between the endpoints and are left out.
    pub(super) fn check(self) -> Result<Sampling, Error> {
        let positive = "a whole number of at least 1";
        let penalty = "a number from -2 to 2";
        let max_tokens = integer("max_tokens", self.max_tokens, 1..=u32::MAX, positive)?;
        let max_completion = integer("max_completion_tokens", self.max_completion_tokens, 1..=u32::MAX, positive)?;
        let share = "a number above 0, at most 1";
        Ok(Sampling {
            max_tokens: max_completion.or(max_tokens),
            temperature: number("temperature", self.temperature, 0.0..=2.0, "a number from 0 to 2")?,
            top_p: number("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, share)?,
            top_k: integer("top_k", self.top_k, 0..=u32::MAX, "a whole number of at least 0")?,
            min_p: number("min_p", self.min_p, 0.0..=1.0, "a number from 0 to 1")?,
            seed: self.seed.map(|Integer(seed)| seed as u64),
            stop: check_stop(self.stop)?,
            presence_penalty: number("presence_penalty", self.presence_penalty, -2.0..=2.0, penalty)?,
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0..=2.0, penalty)?,
            repeat_penalty: number(
                "repeat_penalty",
                self.repeat_penalty,
                f32::MIN_POSITIVE..=10.0,
                "a number above 0, at most 10",
            )?,
            logit_bias: self.logit_bias.map(|bias| bias.0).unwrap_or_default(),
            n: integer("n", self.n, 1..=128, "a whole number from 1 to 128")?.unwrap_or(1),
            ..Sampling::default()
        })
    }
}

fn check_stop(stop: Option<Texts>) -> Result<Vec<String>, Error> {
    let Some(Texts(texts)) = stop else {
        return Ok(Vec::new());
    };
    if texts.len() > 4 {
        return Err(wrong("stop", format!("{} texts, expected at most 4", texts.len())));
    }
    match texts.iter().position(String::is_empty) {
        Some(at) if texts.len() > 1 => Err(wrong(format!("stop[{at}]"), "an empty text ends nothing")),
        Some(_) => Err(wrong("stop", "an empty text ends nothing")),
        None => Ok(texts),
    }
}

/// A text, or an array of them.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

/// Token id → addend.
struct Bias(Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for Bias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PerToken;
        impl<'de> Visitor<'de> for PerToken {
            type Value = Bias;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids and numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bias, A::Error> {
                let mut bias = Vec::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    let Ok(token) = key.parse::<u32>() else {
                        return Err(A::Error::custom(format_args!("{key:?} is not a token id")));
                    };
                    let Number(addend) = map.next_value()?;
                    if !(-100.0..=100.0).contains(&addend) {
                        let range = "is out of range, expected a number from -100 to 100";
                        return Err(A::Error::custom(format_args!("{addend} for token {token} {range}")));
                    }
                    bias.push((token, addend as f32));
                }
                Ok(Bias(bias))
            }
        }
        deserializer.deserialize_map(PerToken)
    }
}
