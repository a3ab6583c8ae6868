//! A capture log is decided anew: what it says is counted, what it does not say is not guessed.

use std::fs;
use std::path::Path;

use crate::lab::past::{Log, read_capture};
use crate::policy::{Names, Policy};
use crate::request::{Ask, Chat, ClientBody, Message, ModelId, Request, Role, TenantId};

use super::*;

const CASCADE: &str =
    "then = { cascade = [\"local/s\", \"up/l\"], accept = { score = \"min_logprob\", at_least = AT } }\n";

fn policy(at_least: &str) -> Policy {
    let source = format!("name = \"p\"\n[[rule]]\nname = \"small first\"\n{}", CASCADE.replace("AT", at_least));
    Policy::compile("p.toml", &source, &Names { any: true, ..Names::default() }).unwrap()
}

fn line(id: &str, min_logprob: f64, reason: &str, up: bool) -> String {
    let local = format!(
        "{{\"model\":\"local/s\",\"outcome\":\"x\",\"reason\":\"{reason}\",\"cost_usd\":0,\"features\":{{\"min_logprob\":{min_logprob},\"log_tokens\":1}}}}"
    );
    let upstream = if up { ",{\"model\":\"up/l\",\"outcome\":\"served\",\"cost_usd\":0.5}" } else { "" };
    let served = if up { "up/l" } else { "local/s" };
    format!(
        "{{\"id\":\"{id}\",\"tenant\":\"t\",\"kind\":\"chat\",\"request\":{{\"model\":\"auto\"}},\"served_by\":\"{served}\",\
         \"decision\":{{\"rule\":\"small first\"}},\"attempts\":[{local}{upstream}]}}\n"
    )
}

fn log() -> Log {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capture.jsonl");
    let hidden = "{\"id\":\"h\",\"kind\":\"chat\",\"request\":{\"prompt\":{\"chars\":3,\"sha256\":\"ab\"}}}\n";
    let text = line("a", -0.1, "accepted", false)
        + hidden
        + &line("b", -2.0, "low_confidence", true)
        + &line("c", -1.0, "early_low_confidence", true)
        + "{\"feedback\":{\"request_id\":\"a\",\"correct\":false}}\n{\"feedback\":{\"request_id\":\"b\",\"score\":0.5}}\n";
    fs::write(&file, text).unwrap();
    read_capture(&file).unwrap()
}

fn request() -> Request {
    let message = Message {
        role: Role::User,
        text: "hi".into(),
        images: 0,
        other_parts: 0,
        name: None,
        tool_calls: None,
        tool_call_id: None,
    };
    Request {
        id: "r".into(),
        tenant: TenantId::anonymous(),
        model: "auto".into(),
        stream: false,
        ask: Ask::Chat(Chat { messages: vec![message], ..Chat::default() }),
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}

fn outcomes(log: &Log, at_least: &str) -> Vec<Outcome> {
    let (policy, request) = (policy(at_least), request());
    let decision = policy.decide(&request, &policy.idle());
    log.requests.iter().map(|past| Outcome::of(past, &request, &decision)).collect()
}

#[test]
fn the_policy_in_force_decides_as_it_did() {
    let log = log();
    assert_eq!(log.left_out, 1);
    let told: Vec<String> = outcomes(&log, "-0.5").into_iter().map(|one| one.told).collect();
    assert_eq!(told, log.requests.iter().map(|past| past.was.clone()).collect::<Vec<_>>());
}

#[test]
fn a_stricter_policy_sends_up_what_it_pays_for_and_a_looser_one_does_not_guess() {
    let log = log();
    let strict = outcomes(&log, "-0.05");
    assert_eq!(strict[0].fate, Fate::Served { model: ModelId::new("up/l"), refused: vec![ModelId::new("local/s")] });
    assert_eq!((strict[0].quality, strict[0].usd, strict[1].usd), (None, None, Some(0.5)));
    let loose = outcomes(&log, "-1.5");
    assert!(matches!(&loose[2].fate, Fate::Unknown(why) if why.to_string().contains("local/s broke off")));
    let told = figures("new", &loose);
    assert!(told.contains("kept on the box 1, gone up 1, rejected 0, not known 1"), "{told}");
    assert!(told.contains("accuracy 0.250, where somebody said: 2 of 3"), "{told}");
}

#[test]
fn an_answer_given_up_as_unlikely_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capture.jsonl");
    fs::write(&file, line("a", -1.0, "early_unlikely", true)).unwrap();
    let loose = outcomes(&read_capture(&file).unwrap(), "-1.5");
    assert!(matches!(&loose[0].fate, Fate::Unknown(why) if why.to_string().contains("local/s broke off")));
}

#[test]
fn evidence_is_no_answer_and_is_paid_for_by_the_answer_it_speaks_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capture.jsonl");
    let own = r#"{"model":"local/s","stage":0,"outcome":"discarded","reason":"low_confidence","cost_usd":0.25,"features":{"min_logprob":-1}}"#;
    let evidence = |model: &str, cost: &str| {
        format!(
            r#"{{"model":"{model}","stage":0,"outcome":"discarded","reason":"evidence","cost_usd":{cost},"features":null}}"#
        )
    };
    let up = r#"{"model":"up/l","stage":1,"outcome":"served","reason":"accepted","cost_usd":4}"#;
    let line = |evidence: &[String]| {
        let attempts = [&[own.to_owned()], evidence, &[up.to_owned()]].concat().join(",");
        format!("{{\"id\":\"a\",\"kind\":\"chat\",\"request\":{{}},\"attempts\":[{attempts}]}}\n")
    };
    let known = line(&[evidence("local/s", "0.5"), evidence("up/l", "1")]);
    fs::write(&file, known + &line(&[evidence("up/m", "null")])).unwrap();
    let log = read_capture(&file).unwrap();
    let of = |request: usize, model: &str| log.requests[request].records.get(&ModelId::new(model));
    assert!(of(0, "local/s").unwrap().features.is_some());
    assert_eq!((of(0, "local/s").unwrap().usd, of(0, "up/l").unwrap().usd), (Some(1.75), Some(4.0)));
    assert_eq!((of(1, "local/s").unwrap().usd, of(1, "up/m").is_none()), (None, true));
}

#[test]
fn a_prompt_of_hidden_tokens_cannot_be_decided_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("capture.jsonl");
    let hidden = r#"{"id":"h","kind":"text","request":{"model":"auto","prompt":{"tokens":3,"sha256":"ab"}}}"#;
    fs::write(&file, hidden).unwrap();
    let log = read_capture(&file).unwrap();
    assert_eq!((log.left_out, log.requests.len()), (1, 0));
}

#[test]
fn what_changes_is_counted_by_its_rule_with_examples() {
    let log = log();
    let before: Vec<String> = log.requests.iter().map(|past| past.was.clone()).collect();
    let told = changes(&log.requests, &before, &outcomes(&log, "-0.05"));
    assert!(told.starts_with("decisions that differ: 1 of 3\n"), "{told}");
    assert!(told.contains("1  changed  small first → local/s  ⇒  small first → up/l  (a)"), "{told}");
}

#[test]
fn a_line_of_something_else_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.jsonl");
    fs::write(&file, line("a", -0.1, "accepted", false) + "[]\n").unwrap();
    assert!(read_capture(&file).unwrap_err().contains("x.jsonl:2: not of a capture log"));
    assert!(read_capture(Path::new("/nowhere")).unwrap_err().contains("cannot read"));
}
