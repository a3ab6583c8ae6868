//! A decision explained is the decision made, and says why.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{ModelId, Names, Policy, chat, compile, facts, then, when};
use crate::policy::{Facts, When, cases};

fn read_of(policy: &Policy, request: &crate::request::Request) -> serde_json::Value {
    serde_json::to_value(policy.explain(request, &facts())).unwrap()
}

#[test]
fn every_case_of_every_shipped_policy_is_explained_as_it_is_decided() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let files = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut explained = 0;
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "toml")) {
        let headers = ["x-confidential".to_owned()].into();
        let names = Names { any: true, headers, ..Names::default() };
        let policy = Policy::compile("p", &fs::read_to_string(&file).unwrap(), &names).unwrap();
        for line in fs::read_to_string(file.with_extension("cases.jsonl")).unwrap().lines() {
            let (request, facts) = cases::parse(line).unwrap().given(&policy).unwrap();
            let (made, told) = (policy.decide(&request, &facts), policy.explain(&request, &facts));
            assert_eq!(format!("{:?}", told.decision), format!("{made:?}"), "{line}");
            assert_eq!((&told.rule, told.rules.len()), (&made.rule, policy.outline().len()), "{line}");
            let held: Vec<&str> = told.rules.iter().filter(|it| it.held == When::Held).map(|it| &*it.rule).collect();
            assert_eq!(held, [&*made.rule], "{line}");
            explained += 1;
        }
    }
    assert!(explained >= 24, "only {explained} cases");
}

#[test]
fn a_rule_tried_tells_what_it_read_and_one_not_reached_reads_nothing() {
    let policy = compile(&when(r#"request.turns > 1 && request.headers["x-team"] == "red" && request.turns < 9"#));
    let told = read_of(&policy.unwrap(), &chat(&["one", "two"]));
    assert_eq!(told["rule"], "yes");
    assert_eq!(told["rules"][0]["held"], "held");
    let read = json!([{"name": "request.turns", "value": 2}, {"name": "request.headers[\"x-team\"]", "value": "red"}]);
    assert_eq!(told["rules"][0]["read"], read);
    assert_eq!(
        told["rules"][1],
        json!({"rule": "no", "when": null, "held": "not_reached", "failed": null, "read": []})
    );
}

#[test]
fn a_condition_that_fails_is_told_with_its_reason_and_the_request_is_refused() {
    let policy = compile(&when("10 / request.tools > 2")).unwrap();
    let told = read_of(&policy, &chat(&["one"]));
    assert_eq!((&told["rules"][0]["held"], &told["rules"][1]["held"]), (&json!("failed"), &json!("not_reached")));
    assert!(told["rules"][0]["failed"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    assert_eq!((&told["then"]["plan"], &told["then"]["status"]), (&json!("reject"), &json!(500)));
}

#[test]
fn a_fact_without_a_value_is_left_out_and_the_text_is_not_told() {
    let policy = compile(&when("models[\"small\"].ready && budget.left_usd > 1.0")).unwrap();
    let told = serde_json::to_value(policy.explain(&chat(&["a secret thought"]), &Facts::default())).unwrap();
    assert_eq!(told["rules"][0]["read"], json!([{"name": "budget.left_usd", "value": "inf"}]));
    assert!(!told.to_string().contains("thought"), "{told}");
}

#[test]
fn a_cascade_tells_its_gates_as_they_are_for_the_request() {
    let accept = r#"{ score = "min_logprob", at_least = -1.5 }"#;
    let plan =
        format!(r#"{{ cascade = ["small", "up/mini"], accept = {accept}, hold_back = 8, on_failure = "local" }}"#);
    let policy = compile(&then(&plan)).unwrap();
    let outline = serde_json::to_value(policy.outline()).unwrap();
    let stage = json!({"model": "local/small", "keep": "min_logprob >= -1.5", "hold_back": "8 tokens"});
    assert_eq!(outline[0]["then"]["stages"], json!([stage, {"model": "up/mini"}]));
    // This request is for two answers, which are judged whole.
    let told = read_of(&policy, &chat(&["one"]));
    assert_eq!(told["then"]["stages"][0]["hold_back"], "the whole answer");
    assert_eq!((&told["then"]["plan"], &told["then"]["on_failure"]), (&json!("cascade"), &json!("local")));
    let gates = policy.gates();
    assert_eq!((gates.len(), gates[0].stage, &gates[0].model), (1, 0, &ModelId::new("local/small")));
}

#[test]
fn a_promise_tells_what_stands_behind_it() {
    let policy = super::accept::compile("{ max_error = 0.05, else_threshold = 0.8 }", "").unwrap();
    let told = read_of(&policy, &chat(&["one"]));
    let stage = &told["then"]["stages"][0];
    assert_eq!(stage["certificate"], "uncertified; why=no_calibration");
    assert!(stage["keep"].as_str().unwrap().starts_with("min_logprob >= -0.22"), "{stage}");
}

#[test]
fn an_example_is_read_as_a_case_is() {
    let request = Policy::example(r#"{"text": "hello", "tools": 2, "tenant": "acme", "model": "small"}"#).unwrap();
    assert_eq!((request.model.as_str(), request.tenant.as_str()), ("small", "acme"));
    assert!(Policy::example(r#"{"texts": "hello"}"#).unwrap_err().contains("unknown field"));
    assert!(Policy::example("{}").unwrap_err().contains("needs \"text\" or \"messages\""));
}
