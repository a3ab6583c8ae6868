//! What a local model cannot serve, by the request's fields. Pure.
//!
//! A refusal is a 400 that names the field; another target may serve the request.

use super::template::Template;
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Chat, Embed, Sampling, Text};

/// Answers to one request at most: all of them are kept while one is judged.
const MOST_ANSWERS: usize = 256;
/// Entries of `logit_bias` at most: each costs every step of the engine.
const MOST_BIASES: usize = 1024;

/// The error of a request that this model cannot serve because of `param`.
pub(super) fn local(param: &str, message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, Origin::Local, message).param(param).retry(Retry::Elsewhere)
}

/// Whether a model with this chat template can serve the chat.
pub(super) fn chat(chat: &Chat, template: Option<&Template>) -> Result<()> {
    upstream_only(chat.upstream_only.as_deref())?;
    amount(1, &chat.sampling)?;
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

/// The refusal of a model that makes embeddings only.
pub(super) fn no_text() -> Error {
    local("model", "this model makes embeddings and generates no text")
}

/// The refusal of a model that generates only.
pub(super) fn no_vectors() -> Error {
    local("model", "this model generates text and makes no embeddings")
}

/// Whether a model that makes so many dimensions can serve the request.
pub(super) fn dimensions(embed: &Embed, made: u64) -> Result<()> {
    match embed.dimensions {
        Some(wanted) if u64::from(wanted) != made => {
            Err(local("dimensions", format!("this model makes {made} dimensions, not {wanted}")))
        }
        _ => Ok(()),
    }
}

/// Whether a model can serve the completion.
pub(super) fn text(text: &Text) -> Result<()> {
    upstream_only(text.upstream_only.as_deref())?;
    amount(text.prompts.len(), &text.sampling)
}

/// Whether a model can serve so many prompts sampled like this.
fn amount(prompts: usize, sampling: &Sampling) -> Result<()> {
    let answers = prompts.saturating_mul(sampling.n.max(1) as usize);
    if answers > MOST_ANSWERS {
        let message = format!(
            "{prompts} prompts with n = {} ask for {answers} answers, at most {MOST_ANSWERS} are given",
            sampling.n
        );
        return Err(local("n", message));
    }
    let biases = sampling.logit_bias.len();
    if biases > MOST_BIASES {
        return Err(local("logit_bias", format!("{biases} entries, at most {MOST_BIASES} are taken")));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Prompt;

    fn refused(prompts: usize, n: u32, biases: u32) -> Option<String> {
        let logit_bias = (0..biases).map(|token| (token, 1.0)).collect();
        let sampling = Sampling { n, logit_bias, ..Sampling::default() };
        let asked = Text { prompts: vec![Prompt::Tokens(vec![1]); prompts], sampling, ..Text::default() };
        let error = text(&asked).err()?;
        assert_eq!((error.kind(), error.detail().retry), (Kind::Invalid, Retry::Elsewhere));
        Some(format!("{}: {}", error.detail().param.as_deref().unwrap(), error.detail().message))
    }

    #[test]
    fn a_request_for_too_much_names_the_limit() {
        assert_eq!(refused(2, 128, 1024), None);
        assert_eq!(refused(256, 0, 0), None);
        let answers = "n: 2048 prompts with n = 128 ask for 262144 answers, at most 256 are given";
        assert_eq!(refused(2048, 128, 0).as_deref(), Some(answers));
        assert_eq!(refused(1, 1, 1025).as_deref(), Some("logit_bias: 1025 entries, at most 1024 are taken"));
        let sampling = Sampling { logit_bias: vec![(1, 1.0); 1025], ..Sampling::default() };
        let error = chat(&Chat { sampling, ..Chat::default() }, None).unwrap_err();
        assert_eq!(error.detail().param.as_deref(), Some("logit_bias"));
    }

    #[test]
    fn a_prompt_too_long_for_this_model_may_fit_another() {
        let error = too_long("messages", 9000, 8192);
        assert_eq!((error.detail().code, error.detail().retry), (Some("context_length_exceeded"), Retry::Elsewhere));
    }
}
