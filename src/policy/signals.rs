//! What a condition may know of a request, each thing computed when first asked for.
//!
//! Promises: nothing is computed twice for one request, nothing that no condition reaches. What
//! each signal means is written in `docs/policy.md`. Called by `condition` only.

use std::borrow::Cow;
use std::sync::OnceLock;

use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::common::value::CowVal;

use super::language;
use super::secrets::Detectors;
use super::vocabulary::Signal;
use crate::request::{Ask, Chat, Format, Message, Prompt, Request, Role, Sampling};

/// Tokens that a chat template adds around each message, about.
const TOKENS_PER_MESSAGE: i64 = 4;

/// One request being read.
#[derive(Debug)]
pub(super) struct Reading<'r> {
    request: &'r Request,
    text: OnceLock<Cow<'r, str>>,
    prompt_tokens: OnceLock<i64>,
    language: OnceLock<&'static str>,
    code_share: OnceLock<f64>,
    secrets: OnceLock<i64>,
}

impl<'r> Reading<'r> {
    pub(super) fn of(request: &'r Request) -> Self {
        Reading {
            request,
            text: OnceLock::new(),
            prompt_tokens: OnceLock::new(),
            language: OnceLock::new(),
            code_share: OnceLock::new(),
            secrets: OnceLock::new(),
        }
    }

    /// The signal's value; of the type that the vocabulary says.
    pub(super) fn value<'b>(&'b self, signal: Signal) -> CowVal<'b, 'b> {
        match signal {
            Signal::PromptTokens => int(*self.prompt_tokens.get_or_init(|| self.count_tokens())),
            Signal::Messages => int(count(self.messages())),
            Signal::Turns => int(self.turns()),
            Signal::Tools => int(self.chat().and_then(|chat| chat.tools.as_ref()).map_or(0, |t| count(t.count))),
            Signal::Images => int(self.sum(|message| message.images)),
            Signal::OtherParts => int(self.sum(|message| message.other_parts)),
            Signal::Json => {
                CowVal::owned(CelBool::from(self.chat().is_some_and(|chat| !matches!(chat.format, Format::Text))))
            }
            Signal::Language => {
                let language = self.language.get_or_init(|| language::guess(self.text()));
                CowVal::owned(CelString::from(*language))
            }
            Signal::CodeShare => {
                let share = self.code_share.get_or_init(|| language::code_share(self.text()));
                CowVal::owned(CelDouble::from(*share))
            }
            Signal::Model => CowVal::owned(CelString::from(self.request.model.as_str())),
            Signal::Tenant => CowVal::owned(CelString::from(self.request.tenant.as_str())),
            Signal::Stream => CowVal::owned(CelBool::from(self.request.stream)),
            Signal::N => int(self.sampling().map_or(1, |sampling| i64::from(sampling.n.max(1)))),
            Signal::MaxTokens => int(self.sampling().and_then(|s| s.max_tokens).map_or(-1, i64::from)),
            Signal::Text => CowVal::owned(CelString::from(self.text())),
            Signal::Kind => CowVal::owned(CelString::from(self.kind())),
        }
    }

    /// How many secrets the detectors find in everything the request says.
    pub(super) fn secrets(&self, detectors: &Detectors) -> i64 {
        *self.secrets.get_or_init(|| {
            let found: usize = self.texts().into_iter().map(|text| detectors.count(text)).sum();
            count(found)
        })
    }

    /// The header's value; empty where the client did not send it.
    pub(super) fn header(&self, name: &str) -> &str {
        self.request.headers.get(name).map_or("", String::as_str)
    }

    fn chat(&self) -> Option<&'r Chat> {
        match &self.request.ask {
            Ask::Chat(chat) => Some(chat),
            Ask::Text(_) | Ask::Embed(_) => None,
        }
    }

    fn sampling(&self) -> Option<&'r Sampling> {
        match &self.request.ask {
            Ask::Chat(chat) => Some(&chat.sampling),
            Ask::Text(text) => Some(&text.sampling),
            Ask::Embed(_) => None,
        }
    }

    fn prompts(&self) -> &'r [Prompt] {
        match &self.request.ask {
            Ask::Chat(_) => &[],
            Ask::Text(text) => &text.prompts,
            Ask::Embed(embed) => &embed.inputs,
        }
    }

    fn kind(&self) -> &'static str {
        match &self.request.ask {
            Ask::Chat(_) => "chat",
            Ask::Text(_) => "text",
            Ask::Embed(_) => "embed",
        }
    }

    fn messages(&self) -> usize {
        self.chat().map_or(self.prompts().len(), |chat| chat.messages.len())
    }

    fn turns(&self) -> i64 {
        match self.chat() {
            Some(chat) => count(chat.messages.iter().filter(|message| message.role == Role::User).count()),
            None => 1,
        }
    }

    fn sum(&self, of: impl Fn(&Message) -> usize) -> i64 {
        count(self.chat().map_or(0, |chat| chat.messages.iter().map(of).sum()))
    }

    /// The last message of the user; of a completion or an embedding, every prompt.
    fn text(&self) -> &str {
        self.text.get_or_init(|| match self.chat() {
            Some(chat) => {
                let last = chat.messages.iter().rev().find(|message| message.role == Role::User);
                Cow::Borrowed(last.map_or("", |message| message.text.as_str()))
            }
            None => match self.prompts() {
                [Prompt::Text(only)] => Cow::Borrowed(only.as_str()),
                _ => Cow::Owned(self.texts().join("\n")),
            },
        })
    }

    /// Everything the request says in words: messages, tool calls made, tools offered, prompts.
    fn texts(&self) -> Vec<&'r str> {
        let mut texts = Vec::new();
        if let Some(chat) = self.chat() {
            for message in &chat.messages {
                texts.push(message.text.as_str());
                texts.extend(message.tool_calls.as_ref().map(|raw| raw.get()));
            }
            texts.extend(chat.tools.as_ref().map(|tools| tools.raw.get()));
        }
        texts.extend(self.prompts().iter().filter_map(|prompt| match prompt {
            Prompt::Text(text) => Some(text.as_str()),
            Prompt::Tokens(_) => None,
        }));
        texts
    }

    fn count_tokens(&self) -> i64 {
        let said: i64 = self.texts().into_iter().map(language::tokens).sum();
        let given: usize = self
            .prompts()
            .iter()
            .map(|prompt| match prompt {
                Prompt::Tokens(tokens) => tokens.len(),
                Prompt::Text(_) => 0,
            })
            .sum();
        let framing = self.chat().map_or(0, |chat| count(chat.messages.len()) * TOKENS_PER_MESSAGE);
        said + count(given) + framing
    }
}

fn int<'b>(number: i64) -> CowVal<'b, 'b> {
    CowVal::owned(CelInt::from(number))
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
