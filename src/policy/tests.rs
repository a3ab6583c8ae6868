//! What a policy promises: problems with their lines, decisions by the first rule that holds.

use super::*;
use crate::plan::{HoldBack, OnFailure};
use crate::request::{Ask, Chat, ClientBody, Embed, Message, Prompt, Role, Sampling, TenantId};

const PLACE: &str = "policies/p.toml";

fn names() -> Names {
    let models = ["local/small", "local/large", "up/mini", "up/maxi"].map(ModelId::new);
    Names {
        short: [("small".to_owned(), ModelId::new("local/small"))].into(),
        models: models.into(),
        wildcards: ["any".to_owned()].into(),
        headers: ["x-team".to_owned()].into(),
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
    Request {
        id: "r".into(),
        tenant: TenantId::new("acme"),
        model: "auto".into(),
        stream: true,
        ask,
        body: ClientBody::default(),
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
    let Plan::Reject { status, message } = decision.plan else { panic!("not rejected") };
    assert_eq!(status.as_u16(), 500);
    assert!(message.contains("rule \"yes\" of policy \"p\""), "{message}");
}

#[test]
fn a_model_of_which_nothing_is_known_rejects_the_request() {
    let policy = compile(&when("models['small'].ready")).unwrap();
    let decision = policy.decide(&chat(&["x"]), &Facts::default());
    assert!(matches!(decision.plan, Plan::Reject { .. }));
}

#[test]
fn wrong_conditions_are_found_at_load() {
    for (condition, wanted) in [
        ("request.promt_tokens > 1", "unknown signal \"request.promt_tokens\"; did you mean \"prompt_tokens\"; known: "),
        ("requst.tools > 1", "unknown name \"requst\"; did you mean \"request\"; known: request, models, budget"),
        ("request.tools", "must be true or false, but is int"),
        ("request.tools > 'a'", "\">\" does not take int and string"),
        ("request.tools && true", "\"&&\" does not take int and bool"),
        ("request.code_share * 2 > 1.0", "\"*\" does not take double and int"),
        ("request.text.contain('a')", "unknown function \".contain(…)\"; did you mean \"contains\""),
        ("upper(request.text) == 'A'", "unknown function \"upper(…)\""),
        ("request.text.contains(3)", "\".contains(…)\" does not take these types or this many"),
        ("request.text.matches('(')", "\"(\" is not a regular expression: unclosed group"),
        ("request.text.matches(request.model)", "the pattern of matches(\"…\") must be written out"),
        ("request.headers['x-tam'] == ''", "header \"x-tam\" is not named in the configuration; did you mean \"x-team\""),
        ("models['smal'].ready", "unknown model \"smal\""),
        ("models['small'].redy", "unknown fact \"models[\\\"small\\\"].redy\"; did you mean \"ready\""),
        ("budget.left > 1.0", "unknown fact \"budget.left\""),
        ("models.small.ready", "write models[\"small\"].ready: a model's name is quoted"),
        ("request.text.x == 1", "\".x\": only request, budget and models[\"…\"] have fields"),
        ("request == 1", "\"request\" alone is no value"),
        ("has(request.tools)", "has(…) is not needed"),
        ("[1, 2].exists(x, x == request.tools)", "loops, maps and structs are not allowed"),
        ("request.tools in []", "an empty list contains nothing"),
        ("request.tools in [1, 'a']", "a list's elements must be of one type"),
        ("request.tools > ", "not a CEL expression"),
        ("1 / 0 == 1", "fails on a sample request"),
        ("request.text == null", "bytes and null have no use in a condition"),
    ] {
        let found = problems(&when(condition));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{condition}: {found:?}");
        assert!(found[0].starts_with("policies/p.toml:4: rule \"yes\": when: "), "{found:?}");
    }
}

#[test]
fn a_flaw_of_a_condition_of_several_lines_names_its_own_line() {
    let found = problems(&when("\nrequest.tools > 0\n|| request.imags > 0\n|| request.text > 3"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("policies/p.toml:6: rule \"yes\": when: unknown signal"), "{found:?}");
    assert!(found[1].starts_with("policies/p.toml:7: "), "{found:?}");
}

#[test]
fn wrong_plans_are_found_at_load() {
    for (plan, wanted) in [
        ("{ serve = \"smoll\" }", "rule \"r\": then: unknown model \"smoll\""),
        ("{ serve = \"local/smal\" }", "did you mean \"local/small\"; known: local/large, local/small, up/maxi, up/mini, any/*"),
        ("{ serve = [] }", "\"serve\" must be a model's name or an array of names"),
        ("{ serve = [\"small\", \"local/small\"] }", "model \"local/small\" stands there twice"),
        ("{ serve = \"small\", hold_back = 3 }", "unknown key \"hold_back\""),
        ("{ serve = \"small\", reject = { status = 400, message = \"m\" } }", "needs exactly one of serve, cascade, reject"),
        ("{}", "needs exactly one of serve, cascade, reject"),
        ("3", "\"then\" must be a table, not `3`"),
        ("{ cascade = [\"small\"], accept = { score = \"margin\", at_least = 1 } }", "a cascade needs at least 2 models"),
        ("{ cascade = [\"up/mini\", \"small\"], accept = { score = \"margin\", at_least = 1 } }", "\"up/mini\" cannot be gated"),
        ("{ cascade = [\"small\", \"up/mini\"] }", "missing key \"accept\""),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"mean_logprb\", at_least = -1 } }", "unknown score \"mean_logprb\"; did you mean \"mean_logprob\""),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"min_logprob\", at_least = 0.5 } }", "nothing reaches 0.5"),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"min_logprob\" } }", "missing key \"at_least\""),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = nan } }", "\"at_least\" must be a finite number"),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 1.5 } }", "\"max_error\" must be between 0 and 1"),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, confidence = 2 } }", "\"confidence\" must be between 0 and 1"),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, score = \"margin\" } }", "unknown key \"score\""),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 1 }, hold_back = 0 }", "\"hold_back\" must be a number of tokens (at least 1) or \"all\", not `0`"),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 1 }, on_failure = \"upstream\" }", "\"on_failure\" must be \"local\" or \"error\""),
        ("{ reject = { status = 200, message = \"m\" } }", "\"status\" must be 400 to 599, not `200`"),
        ("{ reject = { status = 403 } }", "missing key \"message\""),
    ] {
        let found = problems(&then(plan));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{plan}: {found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("policies/p.toml:4: ")), "{found:?}");
    }
}

#[test]
fn wrong_files_are_found_at_load() {
    let rule = "[[rule]]\nname = \"r\"\nthen = { serve = \"small\" }\n";
    for (source, wanted) in [
        ("name = ".to_owned(), "policies/p.toml:1: not TOML: "),
        ("name = \"a\"\nname = \"b\"\n".to_owned(), "policies/p.toml:2: not TOML: duplicate key"),
        (String::new(), "policies/p.toml:1: policy: missing key \"name\""),
        ("name = \"p\"\n".to_owned(), "policies/p.toml:1: policy: missing key \"rule\""),
        (format!("name = \"p q\"\n{rule}"), "policies/p.toml:1: policy: name \"p q\" must be"),
        (format!("name = 3\n{rule}"), "policies/p.toml:1: policy: \"name\" must be a string, not `3`"),
        (format!("name = \"p\"\nrules = 1\n{rule}"), "policies/p.toml:2: policy: unknown key \"rules\"; did you mean \"rule\""),
        ("name = \"p\"\n[rule]\nname = \"r\"\n".to_owned(), "policy: write a rule as [[rule]], not as [rule]"),
        (format!("name = \"p\"\n{rule}{rule}"), "policies/p.toml:5: rule \"r\": never reached, since rule \"r\""),
        (format!("name = \"p\"\n{rule}{rule}"), "policies/p.toml:6: rule \"r\": a rule of this name stands above"),
        ("name = \"p\"\n[[rule]]\nthen = { serve = \"small\" }\n".to_owned(), "policies/p.toml:2: rule 1: missing key \"name\""),
        ("name = \"p\"\n[[rule]]\nname = \"r\"\n".to_owned(), "rule \"r\": missing key \"then\""),
        ("name = \"p\"\n[[rule]]\nname = \"r\"\nwhen = 'true'\nthen = { serve = \"small\" }\n".to_owned(), "policies/p.toml:2: rule \"r\": the last rule must have no \"when\""),
        ("name = \"p\"\n[[rule]]\nname = \"r\"\nwhen = 3\nthen = { serve = \"small\" }\n".to_owned(), "rule \"r\": \"when\" must be a string, not `3`"),
    ] {
        let found = problems(&source);
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{source}\n{found:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_lines() {
    let source = "nam = 1\n[[rule]]\nname = \"a\"\nwhen = 'request.x'\nthen = { serve = \"y\" }\n[[rule]]\nname = \"a\"\nwhat = 1\nthen = { cascade = [\"up/mini\"], hold_back = -1 }\n";
    let found = problems(source);
    let lines: Vec<&str> = found.iter().filter_map(|problem| problem.split(':').nth(1)).collect();
    assert_eq!(lines, ["1", "1", "4", "5", "7", "8", "9", "9", "9"], "{found:#?}");
}

#[test]
fn a_cascade_gates_every_stage_but_the_last() {
    let plan = "{ cascade = [\"small\", \"local/large\", \"any/m\"], accept = { score = \"sum_logprob\", at_least = -3 }, hold_back = 1_6, on_failure = \"local\" }";
    let decision = compile(&then(plan)).unwrap().decide(&chat(&["x"]), &Facts::default());
    let Plan::Cascade { stages, on_failure } = decision.plan else { panic!("no cascade") };
    assert_eq!(on_failure, OnFailure::Local);
    let gates: Vec<Option<String>> =
        stages.iter().map(|stage| stage.gate.as_ref().map(|gate| gate.judge.to_string())).collect();
    let gate = Some("sum_logprob >= -3".to_owned());
    assert_eq!(gates, [gate.clone(), gate, None]);
    assert_eq!(stages[0].gate.as_ref().map(|gate| gate.hold_back), Some(HoldBack::Tokens(16)));
}

#[test]
fn a_cascade_holds_back_everything_and_fails_with_the_error_unless_told_otherwise() {
    let plan = "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 0.5 } }";
    let decision = compile(&then(plan)).unwrap().decide(&chat(&["x"]), &Facts::default());
    let Plan::Cascade { stages, on_failure } = decision.plan else { panic!("no cascade") };
    assert_eq!(on_failure, OnFailure::Error);
    assert_eq!(stages[0].gate.as_ref().map(|gate| gate.hold_back), Some(HoldBack::All));
}

#[test]
fn an_error_bound_falls_back_on_its_threshold_or_accepts_nothing() {
    for (accept, judge) in [
        ("{ max_error = 0.05, confidence = 0.9, else_threshold = 0.5 }", "min_logprob >= -0.6931 (uncertified)"),
        ("{ max_error = 0.05 }", "min_logprob: never accepted (uncertified)"),
    ] {
        let plan = format!("{{ cascade = [\"small\", \"up/mini\"], accept = {accept} }}");
        let decision = compile(&then(&plan)).unwrap().decide(&chat(&["x"]), &Facts::default());
        let Plan::Cascade { stages, .. } = decision.plan else { panic!("no cascade") };
        let gate = stages[0].gate.as_ref().map(|gate| gate.judge.to_string());
        assert_eq!(gate.as_deref(), Some(judge));
    }
}

#[test]
fn the_built_in_policy_takes_the_names_it_is_given() {
    let (local, upstream) = (ModelId::new("local/small"), ModelId::new("up/mini"));
    let policy = Policy::auto(&local, &upstream, &names()).unwrap();
    assert_eq!(policy.models(), [local.clone(), upstream.clone()].into());
    let decision = policy.decide(&chat(&["hello"]), &Facts {
        models: vec![(local, Status { ready: true, queue_limit: 1, ..Status::default() })],
        budget_left_usd: None,
    });
    assert!(matches!(decision.plan, Plan::Cascade { .. }), "{decision:?}");
    let odd = Policy::auto(&ModelId::new("local/a\"b"), &upstream, &names()).unwrap_err();
    assert!(odd[0].message.contains("must have no quotes"), "{odd:?}");
}

#[test]
fn a_case_that_is_decided_otherwise_or_cannot_be_read_is_a_problem() {
    let policy = compile(&when("request.text.contains('x') && models['small'].ready")).unwrap();
    let good = r#"{"name":"a","request":{"text":"x"},"expect":{"rule":"yes","plan":"serve","models":["local/small"]}}"#;
    assert_eq!(policy.check_cases("c.jsonl", good), []);
    for (case, wanted) in [
        (good.replace("\"text\":\"x\"", "\"text\":\"y\""), "c.jsonl:2: case \"a\": expected rule \"yes\", but rule \"no\" decided serve"),
        (good.replace("\"serve\"", "\"cascade\""), "expected plan cascade"),
        (good.replace("local/small", "up/mini"), "expected models"),
        (good.replace("\"request\"", "\"facts\":{\"models\":{\"local/small\":{\"ready\":false}}},\"request\""), "expected rule \"yes\""),
        (good.replace("\"text\"", "\"txt\""), "not a case: unknown field `txt`"),
        (good.replace("\"rule\"", "\"ruel\""), "not a case: unknown field `ruel`"),
        (good.replace("\"text\":\"x\"", ""), "needs \"text\" or \"messages\""),
        ("{".to_owned(), "not a case: "),
    ] {
        let found = policy.check_cases("c.jsonl", &format!("\n{case}\n"));
        assert_eq!(found.len(), 1, "{case}");
        assert!(found[0].to_string().contains(wanted), "{} should say {wanted}", found[0]);
    }
}
