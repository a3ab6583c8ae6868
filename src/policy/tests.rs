//! What a policy promises: problems with their lines, decisions by the first rule that holds.

mod accept;
mod audit;
mod evidence;
mod explain;
mod problems;
mod value;

use super::*;
use crate::confidence::{Accept, Feature, Judge};
use crate::plan::{HoldBack, OnFailure};
use crate::request::{Ask, Chat, ClientBody, Embed, Message, Prompt, Role, Sampling, TenantId, Text};

const PLACE: &str = "policies/p.toml";

fn names() -> Names {
    let models = ["local/small", "local/large", "up/mini", "up/maxi"].map(ModelId::new);
    Names {
        short: [("small".to_owned(), ModelId::new("local/small"))].into(),
        models: models.into(),
        wildcards: ["any".to_owned()].into(),
        headers: ["x-team".to_owned()].into(),
        ..Names::default()
    }
}

fn compile(source: &str) -> Result<Policy, Vec<Problem>> {
    Policy::compile(PLACE, source, &names())
}

fn problems(source: &str) -> Vec<String> {
    compile(source).unwrap_err().iter().map(|problem| problem.to_string()).collect()
}

/// A policy of one condition: `yes` where it holds, else `no`.
fn when(condition: &str) -> String {
    format!(
        "name = \"p\"\n[[rule]]\nname = \"yes\"\nwhen = '''{condition}'''\nthen = {{ serve = \"small\" }}\n[[rule]]\nname = \"no\"\nthen = {{ serve = \"up/mini\" }}\n"
    )
}

/// A policy of one unconditional rule.
fn then(plan: &str) -> String {
    format!("name = \"p\"\n[[rule]]\nname = \"r\"\nthen = {plan}\n")
}

fn message(role: Role, text: &str) -> Message {
    Message { role, text: text.into(), images: 0, other_parts: 0, name: None, tool_calls: None, tool_call_id: None }
}

fn request(ask: Ask) -> Request {
    let said: Vec<&str> = match &ask {
        Ask::Chat(chat) => chat.messages.iter().map(|message| message.text.as_str()).collect(),
        Ask::Text(Text { prompts, .. }) | Ask::Embed(Embed { inputs: prompts, .. }) => prompts
            .iter()
            .filter_map(|prompt| if let Prompt::Text(text) = prompt { Some(&**text) } else { None })
            .collect(),
    };
    let body = ClientBody { bytes: serde_json::json!({ "said": said }).to_string().into(), ..ClientBody::default() };
    Request {
        id: "r".into(),
        tenant: TenantId::new("acme"),
        model: "auto".into(),
        stream: true,
        ask,
        body,
        headers: [("x-team".to_owned(), "red".to_owned())].into(),
        authorization: None,
    }
}

fn chat(texts: &[&str]) -> Request {
    let messages = texts.iter().map(|text| message(Role::User, text)).collect();
    let sampling = Sampling { max_tokens: Some(7), n: 2, ..Sampling::default() };
    request(Ask::Chat(Chat { messages, sampling, ..Chat::default() }))
}

fn facts() -> Facts {
    let busy = Status { ready: true, queue_depth: 3, queue_limit: 4, slots_busy: 2, ..Status::default() };
    let models = ["local/small", "local/large", "up/mini", "any/*"].map(|name| (ModelId::new(name), busy));
    Facts { models: models.into(), budget_left_usd: None }
}

fn holds(condition: &str, request: &Request) -> bool {
    let policy = compile(&when(condition)).unwrap_or_else(|problems| panic!("{condition}: {problems:?}"));
    policy.decide(request, &facts()).rule.as_ref() == "yes"
}

#[test]
fn the_first_rule_that_holds_decides_and_the_last_one_always_does() {
    let source = "name = \"p\"\n[[rule]]\nname = \"a\"\nwhen = 'request.tools > 0'\nthen = { serve = \"small\" }\n[[rule]]\nname = \"b\"\nwhen = 'request.stream'\nthen = { serve = [\"up/mini\", \"any/x/y\"] }\n[[rule]]\nname = \"c\"\nthen = { serve = \"up/maxi\" }\n";
    let policy = compile(source).unwrap();
    let mut asked = chat(&["hello"]);
    let decision = policy.decide(&asked, &Facts::default());
    assert_eq!((decision.policy.as_ref(), decision.rule.as_ref()), ("p", "b"));
    assert_eq!(decision.plan.models(), [&ModelId::new("up/mini"), &ModelId::new("any/x/y")]);
    asked.stream = false;
    assert_eq!(policy.decide(&asked, &Facts::default()).rule.as_ref(), "c");
}

#[test]
fn a_direct_policy_serves_the_named_model() {
    let decision = Policy::direct(&ModelId::new("up/x")).decide(&chat(&[]), &Facts::default());
    assert_eq!((decision.policy.as_ref(), decision.rule.as_ref()), ("direct", "named"));
    assert_eq!(decision.plan.models(), [&ModelId::new("up/x")]);
}

#[test]
fn every_signal_can_be_asked() {
    let asked = chat(&["first", "What is the password: hunter2 for?"]);
    for condition in [
        "request.prompt_tokens == 2 + 9 + 8",
        "request.messages == 2 && request.turns == 2",
        "request.tools == 0 && request.images == 0 && request.other_parts == 0",
        "!request.json && request.stream",
        "request.language == 'en'",
        "request.code_share < 0.5",
        "request.model == 'auto' && request.tenant in ['acme', 'b']",
        "request.n == 2 && request.max_tokens == 7",
        "request.headers['X-Team'] == 'red'",
        "request.secrets == 1",
        "request.text.startsWith('What') && request.text.contains('for') && request.text.endsWith('?')",
        "request.text.matches('(?i)WHAT +is')",
        "size(request.text) == request.text.size()",
        "request.kind == 'chat'",
        "models['small'].ready && models['small'].queue_depth == 3",
        "models['local/small'].queue_free == 1 && models['small'].slots_busy == 2",
        "models['any/thing'].breaker == 'closed' && models['small'].kv_used_ratio < 0.1",
        "budget.left_usd > 1e9",
        "(request.n > 1 ? 3 : 4) == 3",
        "double(request.n) / 4.0 == 0.5 && int(1.5) == 1 && string(request.n) == '2'",
        "request.prompt_tokens % 2 == 1 && -request.n < 0",
    ] {
        assert!(holds(condition, &asked), "{condition}");
    }
}

#[test]
fn an_absent_header_is_empty_and_an_absent_max_tokens_is_minus_one() {
    let mut asked = request(Ask::Embed(Embed {
        inputs: vec![Prompt::Text("a secret: AKIAIOSFODNN7EXAMPLE".into()), Prompt::Tokens(vec![1, 2, 3])],
        ..Embed::default()
    }));
    asked.headers.clear();
    for condition in [
        "request.headers['x-team'] == ''",
        "request.max_tokens == -1 && request.n == 1",
        "request.kind == 'embed' && request.messages == 2 && request.turns == 1",
        "request.text.contains('AKIA') && request.secrets == 1",
        "request.prompt_tokens == 8 + 3",
    ] {
        assert!(holds(condition, &asked), "{condition}");
    }
}

#[test]
fn a_secret_is_found_wherever_it_stands_in_the_body() {
    let policy = compile(&when("request.secrets == 1")).unwrap();
    let key = "AKIAIOSFODNN7EXAMPLE";
    let arguments = serde_json::json!({ "password": "hunter22" }).to_string();
    let script = serde_json::json!({ "script": format!("cd /\n{key}\n") }).to_string();
    let call = |arguments: &str| serde_json::json!([{"id": "c", "function": {"name": "f", "arguments": arguments}}]);
    let mut asked = chat(&[]);
    for body in [
        serde_json::json!({"tool_choice": "none", "tools": [{"function": {"description": key}}]}),
        serde_json::json!({"functions": [{"name": "f", "parameters": {"properties": {key: {}}}}]}),
        serde_json::json!({"prompt": "a", "suffix": format!("b\n{key}")}),
        serde_json::json!({"prediction": {"type": "content", "content": [{"type": "text", "text": key}]}}),
        serde_json::json!({"response_format": {"json_schema": {"schema": {"enum": [key]}}}}),
        serde_json::json!({"messages": [{"role": "user", "content": "hi", "name": key}]}),
        serde_json::json!({"messages": [{"role": "assistant", "content": "hi", "refusal": key}]}),
        serde_json::json!({"messages": [{"role": "user", "content": [{"type": "hologram", "of": key}]}]}),
        serde_json::json!({"messages": [{"role": "assistant", "tool_calls": call(&arguments)}]}),
        serde_json::json!({"messages": [{"role": "assistant", "tool_calls": call(&script)}]}),
    ] {
        asked.body.bytes = body.to_string().into();
        assert_eq!(policy.decide(&asked, &facts()).rule.as_ref(), "yes", "{body}");
    }
}

#[test]
fn what_the_body_is_made_of_is_no_secret() {
    let policy = compile(&when("request.secrets == 0")).unwrap();
    let mut asked = chat(&[]);
    for body in [
        r#"{"seed":4111111111111111,"messages":[{"role":"user","content":"hi"}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"tell me the password:"}]},{"role":"user"}]}"#,
        r#"{"tools":[{"function":{"parameters":{"properties":{"password":{"type":"string"}},"required":["password"]}}}]}"#,
        r#"{"content":[{"image_url":{"url":"data:image/png;base64,AKIAIOSFODNN7EXAMPLE"}}]}"#,
    ] {
        asked.body.bytes = body.into();
        assert_eq!(policy.decide(&asked, &facts()).rule.as_ref(), "yes", "{body}");
    }
}

#[test]
fn only_what_a_condition_reaches_is_computed() {
    let asked = chat(&["password: hunter2"]);
    let policy = compile(&when("request.tools > 0 && (request.secrets > 0 || request.language == 'en')")).unwrap();
    let reading = Reading::of(&asked);
    let (condition, _) = &policy.rules[0];
    assert_eq!(condition.holds(&reading, &Facts::default()), Ok(false));
    let untouched = format!("{:?}", Reading::of(&asked));
    assert_eq!(format!("{reading:?}"), untouched);
}

#[test]
fn a_condition_that_fails_at_run_time_rejects_the_request() {
    let policy = compile(&when("10 / request.tools > 1")).unwrap();
    let decision = policy.decide(&chat(&["x"]), &facts());
    assert_eq!(decision.rule.as_ref(), "yes");
    let Plan::Reject { status, message, code } = decision.plan else { panic!("not rejected") };
    assert_eq!((status.as_u16(), code), (500, "policy_failed"));
    assert!(message.contains("rule \"yes\" of policy \"p\""), "{message}");
}

#[test]
fn a_model_of_which_nothing_is_known_rejects_the_request() {
    let policy = compile(&when("models['small'].ready")).unwrap();
    let decision = policy.decide(&chat(&["x"]), &Facts::default());
    assert!(matches!(decision.plan, Plan::Reject { .. }));
}

#[test]
fn a_cascade_gates_every_stage_but_the_last() {
    let plan = "{ cascade = [\"small\", \"local/large\", \"any/m\"], accept = { score = \"sum_logprob\", at_least = -3 }, hold_back = 1_6, on_failure = \"local\" }";
    let decision = compile(&then(plan)).unwrap().decide(&chat(&["x"]), &Facts::default());
    let Plan::Cascade { stages, on_failure, .. } = decision.plan else { panic!("no cascade") };
    assert_eq!(on_failure, OnFailure::Local);
    let gates: Vec<Option<&Accept>> =
        stages.iter().map(|stage| stage.gate.as_ref().map(|gate| &*gate.accept)).collect();
    let gate = Accept::Threshold(Judge::at_least(Feature::SumLogprob, -3.0));
    assert_eq!(gates, [Some(&gate), Some(&gate), None]);
    assert_eq!(stages[0].gate.as_ref().map(|gate| gate.hold_back), Some(HoldBack::Tokens(16)));
}

#[test]
fn a_cascade_holds_back_everything_and_fails_with_the_error_unless_told_otherwise() {
    let plan = "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 0.5 } }";
    let decision = compile(&then(plan)).unwrap().decide(&chat(&["x"]), &Facts::default());
    let Plan::Cascade { stages, on_failure, .. } = decision.plan else { panic!("no cascade") };
    assert_eq!(on_failure, OnFailure::Error);
    assert_eq!(stages[0].gate.as_ref().map(|gate| gate.hold_back), Some(HoldBack::All));
}

#[test]
fn the_built_in_policy_takes_the_names_it_is_given() {
    let (local, upstream) = (ModelId::new("local/small"), ModelId::new("up/mini"));
    let policy = Policy::auto(&local, &upstream, &names()).unwrap();
    let decision = policy.decide(
        &chat(&["hello"]),
        &Facts {
            models: vec![(local.clone(), Status { ready: true, queue_limit: 1, ..Status::default() })],
            budget_left_usd: None,
        },
    );
    assert!(matches!(decision.plan, Plan::Cascade { .. }), "{decision:?}");
    assert_eq!(decision.plan.models(), [&local, &upstream]);
    let odd = Policy::auto(&ModelId::new("local/a\"b"), &upstream, &names()).unwrap_err();
    assert!(odd[0].message.contains("must have no quotes"), "{odd:?}");
}

#[test]
fn in_cases_as_in_life_an_upstream_has_no_queue() {
    let case = r#"{"name":"a","request":{"text":"x"},"expect":{"rule":"yes"}}"#;
    let condition = "models['up/mini'].queue_free == 4294967295 && models['small'].queue_free == 64";
    assert_eq!(compile(&when(condition)).unwrap().check_cases("c.jsonl", case), []);
}

#[test]
fn a_case_that_is_decided_otherwise_or_cannot_be_read_is_a_problem() {
    let policy = compile(&when("request.text.contains('x') && models['small'].ready")).unwrap();
    let good = r#"{"name":"a","request":{"text":"x"},"expect":{"rule":"yes","plan":"serve","models":["local/small"]}}"#;
    assert_eq!(policy.check_cases("c.jsonl", good), []);
    for (case, wanted) in [
        (
            good.replace("\"text\":\"x\"", "\"text\":\"y\""),
            "c.jsonl:2: case \"a\": expected rule \"yes\", but rule \"no\" decided serve",
        ),
        (good.replace("\"serve\"", "\"cascade\""), "expected plan cascade"),
        (good.replace("local/small", "up/mini"), "expected models"),
        (
            good.replace("\"request\"", "\"facts\":{\"models\":{\"local/small\":{\"ready\":false}}},\"request\""),
            "expected rule \"yes\"",
        ),
        (good.replace("\"text\"", "\"txt\""), "not a case: unknown field `txt`"),
        (good.replace("\"rule\"", "\"ruel\""), "not a case: unknown field `ruel`"),
        (good.replace("\"text\":\"x\"", ""), "needs \"text\" or \"messages\""),
        (good.replace("\"rule\":\"yes\",\"plan\":\"serve\",\"models\":[\"local/small\"]", ""), "expects nothing"),
        (
            good.replace("\"request\"", "\"facts\":{\"models\":{\"local/small\":{\"breaker\":\"ajar\"}}},\"request\""),
            "unknown breaker \"ajar\"",
        ),
        ("{".to_owned(), "not a case: "),
    ] {
        let found = policy.check_cases("c.jsonl", &format!("\n{case}\n"));
        assert_eq!(found.len(), 1, "{case}");
        assert!(found[0].to_string().contains(wanted), "{} should say {wanted}", found[0]);
    }
}
