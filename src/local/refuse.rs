//! What a local model cannot serve, by the request's fields. Pure.
//!
//! A refusal is a 400 that names the field; another target may serve the request.

use super::template::Template;
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Chat, Text};

/// The error of a request that this model cannot serve because of `param`.
pub(super) fn local(param: &str, message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, Origin::Local, message).param(param).retry(Retry::Elsewhere)
}

/// Whether a model with this chat template can serve the chat.
pub(super) fn chat(chat: &Chat, template: Option<&Template>) -> Result<()> {
    upstream_only(chat.upstream_only.as_deref())?;
    let Some(template) = template else {
        return Err(local("messages", "this model has no usable chat template; ask /v1/completions"));
    };
    for (number, message) in chat.messages.iter().enumerate() {
        let param = format!("messages[{number}].content");
        if message.images > 0 {
            return Err(local(&param, "this model reads text only, not images"));
        }
        if message.other_parts > 0 {
            return Err(local(&param, "this model reads text only"));
        }
    }
    let offers = chat.tools.as_ref().is_some_and(|tools| tools.count > 0);
    let called = chat.messages.iter().any(|message| message.tool_calls.is_some());
    if (offers || called) && !template.supports_tools() {
        let param = if offers { "tools" } else { "messages" };
        return Err(local(param, "this model's chat template has no place for tools"));
    }
    Ok(())
}

/// Whether a model can serve the completion.
pub(super) fn text(text: &Text) -> Result<()> {
    upstream_only(text.upstream_only.as_deref())
}

fn upstream_only(param: Option<&str>) -> Result<()> {
    match param {
        Some(param) => Err(local(param, format!("this model cannot honour {param}"))),
        None => Ok(()),
    }
}

/// The error of a prompt that does not fit.
pub(super) fn too_long(param: &str, tokens: usize, context: u32) -> Error {
    let message =
        format!("the prompt has {tokens} tokens, the model's context takes {context} for prompt and answer together");
    local(param, message).code("context_length_exceeded")
}
