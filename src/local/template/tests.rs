//! Rendering pinned against what Hugging Face renders.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, from_str};

use super::Template;
use crate::error::{Kind, Origin, Retry};
use crate::request::{Chat, Message, Role, ToolChoice, Tools};

const SMOLLM2: &str = include_str!("../../../tests/fixtures/templates/smollm2-135m-instruct.jinja");
const CODER_05: &str = include_str!("../../../tests/fixtures/templates/qwen2.5-coder-0.5b-instruct.jinja");
const CODER_15: &str = include_str!("../../../tests/fixtures/templates/qwen2.5-coder-1.5b-instruct.jinja");
const PYTHONIC: &str = include_str!("../../../tests/fixtures/templates/pythonic.jinja");
const CASES: &str = include_str!("../../../tests/fixtures/templates/cases.json");

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    messages: Vec<Wire>,
    tools: Option<Box<RawValue>>,
    prompt: Option<String>,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    role: String,
    content: String,
    name: Option<String>,
    tool_calls: Option<Box<RawValue>>,
    tool_call_id: Option<String>,
}

fn message(wire: Wire) -> Message {
    let role = match wire.role.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => Role::Tool,
    };
    Message {
        role,
        text: wire.content,
        images: 0,
        other_parts: 0,
        name: wire.name,
        tool_calls: wire.tool_calls,
        tool_call_id: wire.tool_call_id,
    }
}

fn offered(raw: Box<RawValue>) -> Tools {
    let count = from_str::<Vec<Json>>(raw.get()).unwrap().len();
    Tools { raw, count, choice: ToolChoice::Auto }
}

fn chat(messages: Vec<Wire>, tools: Option<Box<RawValue>>) -> Chat {
    let messages = messages.into_iter().map(message).collect();
    Chat { messages, tools: tools.map(offered), ..Chat::default() }
}

/// One user message.
fn question() -> Chat {
    chat(from_str(r#"[{"role": "user", "content": "Hi"}]"#).unwrap(), None)
}

fn compile(source: &str) -> Template {
    Template::compile(source, "<s>", "</s>").unwrap()
}

#[test]
fn prompts_are_those_of_hugging_face() {
    let cases: Vec<Case> = from_str(CASES).unwrap();
    assert_eq!(cases.len(), 32);
    for case in cases {
        let template = compile(match case.template.as_str() {
            "smollm2-135m-instruct.jinja" => SMOLLM2,
            "qwen2.5-coder-0.5b-instruct.jinja" => CODER_05,
            "qwen2.5-coder-1.5b-instruct.jinja" => CODER_15,
            "pythonic.jinja" => PYTHONIC,
            other => panic!("no such template: {other}"),
        });
        let rendered = template.render(&chat(case.messages, case.tools));
        let name = format!("{} on {}", case.template, case.conversation);
        match (rendered, case.prompt, case.refused) {
            (Ok(prompt), Some(wanted), _) => assert_eq!(prompt, wanted, "{name}"),
            (Err(error), _, Some(words)) => {
                assert!(error.detail().message.contains(&words), "{name}: {error}");
            }
            (rendered, ..) => panic!("{name}: {rendered:?}"),
        }
    }
}

#[test]
fn a_template_that_ignores_tools_does_not_support_them() {
    for (source, wanted) in [
        (SMOLLM2, false),
        (CODER_05, true),
        (CODER_15, true),
        (PYTHONIC, true),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}", false),
    ] {
        assert_eq!(compile(source).supports_tools(), wanted, "{source}");
    }
}

#[test]
fn tools_of_an_empty_offer_are_not_rendered() {
    let mut with_none = question();
    let raw = RawValue::from_string("[{\"never\": \"shown\"}]".to_owned()).unwrap();
    with_none.tools = Some(Tools { raw, count: 0, choice: ToolChoice::Auto });
    let template = compile(CODER_05);
    assert_eq!(template.render(&with_none).unwrap(), template.render(&question()).unwrap());
}

#[test]
fn a_refusal_carries_the_templates_own_words_and_lets_another_model_try() {
    let source = "{% if messages[0].role == 'user' %}\n{{ raise_exception('Begin with \\'system\\'') }}{% endif %}";
    let error = compile(source).render(&question()).unwrap_err();
    let detail = error.detail();
    assert_eq!((detail.kind, detail.origin), (Kind::Invalid, Origin::Local));
    assert_eq!(detail.retry, Retry::Elsewhere);
    assert_eq!(detail.param.as_deref(), Some("messages"));
    assert_eq!(
        detail.message,
        "the model's chat template refuses the messages: Begin with 'system' (line 2 of the template)"
    );
}

#[test]
fn a_broken_template_is_refused_with_its_line() {
    let error = Template::compile("fine\n{% if %}", "", "").unwrap_err();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn a_template_that_never_ends_runs_out_of_fuel() {
    let source = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    let mut template = compile("");
    template.environment.set_fuel(Some(100_000));
    template.environment.add_template_owned(super::NAME, source).unwrap();
    let error = template.render(&question()).unwrap_err();
    assert!(error.detail().message.contains("fuel"), "{error}");
    assert_eq!(compile("x").environment.fuel(), Some(super::FUEL));
}

#[test]
fn arguments_that_are_no_object_stay_as_they_are() {
    let messages = r#"[{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "not json"}}, {"id": 1}]}]"#;
    let template = compile("{{ messages[0].tool_calls | tojson }}");
    let prompt = template.render(&chat(from_str(messages).unwrap(), None)).unwrap();
    assert_eq!(prompt, r#"[{"function": {"name": "f", "arguments": "not json"}}, {"id": 1}]"#);
}

#[test]
fn the_date_of_today_can_be_asked_for() {
    let prompt = compile("{{ strftime_now('%Y') }}").render(&question()).unwrap();
    assert!(prompt.parse::<u32>().unwrap() >= 2025, "{prompt}");
}
