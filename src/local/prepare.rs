//! Makes a checked request ready for the engine thread: template, tokens, limits, constraint.
//!
//! Runs on a blocking thread: a long prompt takes milliseconds per hundred kilobytes, a schema up
//! to seconds. What is wrong with the request is told here, with the field's name.

use std::sync::Arc;

use serde::Deserialize;

use super::answer::Terms;
use super::aside::fault;
use super::constraint;
use super::job::{Prompt, Work};
use super::model::Model;
use super::refuse;
use crate::error::Result;
use crate::request::{self, Ask, Chat, Request, Sampling, Text, Tools};

/// Everything the engine needs to answer a chat or a completion.
pub(super) fn prepare(model: &Model, context: u32, request: &Request) -> Result<Work> {
    let (prompts, terms) = match &request.ask {
        Ask::Chat(chat) => (vec![read_chat(model, context, chat)?], chat_terms(model, chat)?),
        Ask::Text(text) => (read_texts(model, context, text)?, text_terms(&text.sampling)),
        Ask::Embed(_) => return Err(refuse::local("model", "this model makes no embeddings")),
    };
    check_bias(model, &terms.sampling)?;
    if terms.sampling.max_tokens == Some(0) {
        return Err(refuse::local("max_tokens", "max_tokens is 0: this model answers with at least 1 token"));
    }
    let n = terms.sampling.n.max(1);
    Ok(Work { prompts, n, terms })
}

fn read_chat(model: &Model, context: u32, chat: &Chat) -> Result<Prompt> {
    let Some(template) = &model.template else {
        return Err(refuse::local("messages", "this model has no usable chat template"));
    };
    let text = template.render(chat)?;
    check_bytes(model, context, text.len(), "messages")?;
    build_prompt(model.tokenise_chat(&text)?, None, ("messages", context), &chat.sampling)
}

fn chat_terms(model: &Model, chat: &Chat) -> Result<Terms> {
    let tools = chat.tools.as_ref().filter(|tools| tools.count > 0);
    let plain = matches!(chat.format, request::Format::Text);
    let free = plain && tools.is_none_or(|tools| tools.choice == request::ToolChoice::Auto);
    let matcher = if free {
        None
    } else {
        let factory = model.grammars().map_err(fault)?;
        match tools.map(|tools| constraint::compile_calls(&factory, tools)).transpose()?.flatten() {
            Some(calls) => Some(calls),
            None => constraint::compile_format(&factory, &chat.format)?,
        }
    };
    let sampling = Arc::new(chat.sampling.clone());
    let one_call = tools.is_some_and(|tools| !tools.parallel_tool_calls);
    Ok(Terms { sampling, matcher, tools: tools.map(names), one_call })
}

/// The names of the tools that a client offers.
fn names(tools: &Tools) -> Vec<String> {
    #[derive(Deserialize)]
    struct Tool {
        function: Option<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        name: Option<String>,
    }
    let tools: Vec<Tool> = serde_json::from_str(tools.raw.get()).unwrap_or_default();
    tools.into_iter().filter_map(|tool| tool.function?.name).collect()
}

fn text_terms(sampling: &Sampling) -> Terms {
    Terms { sampling: Arc::new(sampling.clone()), matcher: None, tools: None, one_call: false }
}

fn read_texts(model: &Model, context: u32, text: &Text) -> Result<Vec<Prompt>> {
    let read = |prompt: &request::Prompt| {
        let tokens = read_prompt(model, context, prompt)?;
        let echo = text.echo.then(|| match prompt {
            request::Prompt::Text(text) => text.clone(),
            request::Prompt::Tokens(tokens) => model.vocabulary.text(tokens),
        });
        build_prompt(tokens, echo, ("prompt", context), &text.sampling)
    };
    text.prompts.iter().map(read).collect()
}

fn read_prompt(model: &Model, context: u32, prompt: &request::Prompt) -> Result<Vec<u32>> {
    match prompt {
        request::Prompt::Text(text) => {
            check_bytes(model, context, text.len(), "prompt")?;
            model.tokenise(text, true)
        }
        request::Prompt::Tokens(tokens) => {
            check_tokens(model, tokens, "prompt")?;
            Ok(tokens.clone())
        }
    }
}

/// Refuses token ids that the model does not have: llama.cpp must never see them.
pub(super) fn check_tokens(model: &Model, tokens: &[u32], param: &str) -> Result<()> {
    let known = model.vocabulary.len();
    match tokens.iter().find(|&&token| token as usize >= known) {
        Some(token) => Err(refuse::local(param, format!("token {token} does not exist: the model has {known}"))),
        None => Ok(()),
    }
}

/// Refuses a text that cannot fit whatever its tokens are, before it is tokenised.
pub(super) fn check_bytes(model: &Model, context: u32, bytes: usize, param: &str) -> Result<()> {
    let at_least = bytes / model.vocabulary.longest();
    if at_least > context as usize { Err(refuse::too_long(param, at_least, context)) } else { Ok(()) }
}

fn build_prompt(mut tokens: Vec<u32>, echo: Option<String>, field: (&str, u32), sampling: &Sampling) -> Result<Prompt> {
    let (param, context) = field;
    if tokens.is_empty() {
        return Err(refuse::local(param, "the prompt is empty"));
    }
    let left = context.saturating_sub(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
    if left == 0 {
        return Err(refuse::too_long(param, tokens.len(), context));
    }
    tokens.shrink_to_fit();
    let limit = sampling.max_tokens.unwrap_or(left).min(left);
    Ok(Prompt { tokens: tokens.into(), echo, limit })
}

fn check_bias(model: &Model, sampling: &Sampling) -> Result<()> {
    let tokens: Vec<u32> = sampling.logit_bias.iter().map(|&(token, _)| token).collect();
    check_tokens(model, &tokens, "logit_bias")
}
