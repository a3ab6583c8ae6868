//! Renders a conversation into the prompt its model was trained on: the chat template out of the
//! GGUF's metadata, in Jinja as Hugging Face runs it.
//!
//! Promises what `apply_chat_template(…, add_generation_prompt=True)` gives, byte for byte, for
//! templates within the common subset (dates are UTC), in bounded work. The prompt may begin with
//! the template's own BOS: the engine must not add another. Called once per request.

mod python;
#[cfg(test)]
mod tests;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::{Captures, Regex};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Chat, Message};

/// Instructions and units of 64 bytes that one prompt may cost: far more than a full context
/// needs, and over within a second or two.
const FUEL: u64 = 20_000_000;

const NAME: &str = "chat";

/// The chat template of one model.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    supports_tools: bool,
}

impl Template {
    /// Compiles the template's source; `bos` and `eos` are the texts of the model's special
    /// tokens. The error says what is wrong with the source, and in which line.
    pub(crate) fn compile(source: &str, bos: &str, eos: &str) -> std::result::Result<Template, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", python::strftime_now);
        let source = without_generation_tags(source)?;
        environment.add_template_owned(NAME, source).map_err(|error| describe(&error))?;
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        let mut template = Template { environment, bos, eos, supports_tools: false };
        template.supports_tools = template.shows_a_tool();
        Ok(template)
    }

    /// Whether the prompt tells the model of the tools that a request offers.
    pub(crate) fn supports_tools(&self) -> bool {
        self.supports_tools
    }

    /// The prompt, up to where the model's answer begins.
    ///
    /// # Errors
    /// `Invalid` at `messages` with the template's own words where it refuses the conversation
    /// (roles out of order, say); another model may take it.
    pub(crate) fn render(&self, chat: &Chat) -> Result<String> {
        let messages = chat.messages.iter().enumerate().map(|(at, message)| read(at, message));
        let messages: Vec<Json> = messages.collect::<Result<_>>()?;
        let tools = chat.tools.as_ref().filter(|tools| tools.count > 0);
        let tools = tools.map(|tools| parse("tools", &tools.raw)).transpose()?;
        self.run(messages, tools).map_err(|error| {
            let said = describe(&error);
            refuse("messages", format!("the model's chat template refuses the messages: {said}"))
        })
    }

    fn run(&self, messages: Vec<Json>, tools: Option<Json>) -> std::result::Result<String, minijinja::Error> {
        let context = json!({
            "messages": messages,
            "tools": tools,
            "documents": null,
            "add_generation_prompt": true,
            "bos_token": self.bos,
            "eos_token": self.eos,
        });
        self.environment.get_template(NAME)?.render(Value::from(Serde(context)))
    }

    fn shows_a_tool(&self) -> bool {
        const PROBE: &str = "probe_of_weir";
        let messages = vec![json!({"role": "user", "content": "?"})];
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": PROBE, "description": "?", "parameters": parameters});
        let tools = json!([{"type": "function", "function": function}]);
        self.run(messages, Some(tools)).is_ok_and(|prompt| prompt.contains(PROBE))
    }
}

/// A message as templates expect it; what was not given is absent, but `content` always is there.
fn read(at: usize, message: &Message) -> Result<Json> {
    let mut fields = Map::new();
    fields.insert("role".to_owned(), message.role.name().into());
    fields.insert("content".to_owned(), message.text.as_str().into());
    if let Some(name) = &message.name {
        fields.insert("name".to_owned(), name.as_str().into());
    }
    if let Some(raw) = &message.tool_calls {
        let mut calls = parse(&format!("messages[{at}].tool_calls"), raw)?;
        calls.as_array_mut().into_iter().flatten().for_each(open_arguments);
        fields.insert("tool_calls".to_owned(), calls);
    }
    if let Some(id) = &message.tool_call_id {
        fields.insert("tool_call_id".to_owned(), id.as_str().into());
    }
    Ok(Json::Object(fields))
}

/// Replaces a call's arguments, text in the API, by the object that templates expect.
fn open_arguments(call: &mut Json) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return;
    };
    let text = arguments.as_str().unwrap_or_default();
    if let Ok(object @ Json::Object(_)) = serde_json::from_str(text) {
        *arguments = object;
    }
}

fn parse(param: &str, raw: &RawValue) -> Result<Json> {
    serde_json::from_str(raw.get()).map_err(|error| refuse(param, format!("{param} cannot be read: {error}")))
}

fn refuse(param: &str, message: String) -> Error {
    Error::new(Kind::Invalid, Origin::Local, message).param(param).retry(Retry::Elsewhere)
}

/// The template's own words where it has any, and the line.
fn describe(error: &minijinja::Error) -> String {
    let said = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{said} (line {line} of the template)"),
        None => said,
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Hugging Face's `{% generation %}` marks the model's words for training; for a prompt it means
/// nothing.
fn without_generation_tags(source: &str) -> std::result::Result<String, String> {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}");
    let tag = tag.map_err(|error| error.to_string())?;
    let plain = |tag: &Captures<'_>| {
        let statement = if tag.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {statement} {}%}}", &tag[1], &tag[3])
    };
    Ok(tag.replace_all(source, plain).into_owned())
}
