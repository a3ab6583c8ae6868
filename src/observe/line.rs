//! One line of the capture log: a receipt and its texts as a JSON object.
//!
//! Promises: with `redact` no find of a known kind is left in a text; without `text` no text is left
//! at all but the names and values that say how was asked. Used by [`super::capture`].

use std::time::SystemTime;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use crate::account::{AttemptReceipt, Captured, Receipt};
use crate::confidence::Feature;
use crate::control::Capture;
use crate::policy::Redactor;
use crate::request::Verdict;

/// Where, without its arrays, a body holds what is no client's text.
const PLAIN: [&[&str]; 9] = [
    &["model"],
    &["reasoning_effort"],
    &["service_tier"],
    &["messages", "role"],
    &["messages", "content", "type"],
    &["messages", "tool_calls", "type"],
    &["response_format", "type"],
    &["tools", "type"],
    &["tool_choice", "type"],
];

/// Where texts may stand as the numbers of their tokens.
const TOKENS: [&[&str]; 2] = [&["prompt"], &["input"]];

/// Members below which clients choose the names: of their own, and of schemas.
const OWN_NAMES: [&str; 4] = ["metadata", "schema", "parameters", "guided_json"];

/// How lines are rendered.
#[derive(Debug)]
pub(super) struct Lines {
    redactor: Option<Redactor>,
    text: bool,
    share: f64,
}

impl Lines {
    pub(super) fn new(settings: &Capture) -> Result<Lines, String> {
        let redactor = settings.redact_secrets.then(Redactor::build).transpose()?;
        Ok(Lines { redactor, text: settings.text, share: settings.share })
    }

    /// The line, its end included.
    pub(super) fn render(&self, time: SystemTime, receipt: &Receipt) -> String {
        let time = humantime::format_rfc3339_millis(time).to_string();
        let line = match (&receipt.captured, &receipt.feedback) {
            (_, Some(feedback)) => {
                let told = match feedback.verdict {
                    Verdict::Scored(score) => json!({"request_id": &*feedback.request_id, "score": score}),
                    verdict => json!({"request_id": &*feedback.request_id, "correct": verdict == Verdict::Correct}),
                };
                json!({"time": time, "feedback": told})
            }
            (Some(captured), None) => self.request(&time, receipt, captured),
            (None, None) => return String::new(),
        };
        format!("{line}\n")
    }

    fn request(&self, time: &str, receipt: &Receipt, captured: &Captured) -> Value {
        let body = serde_json::from_slice(&captured.body).map_or(Value::Null, |body| self.hide(&[], body));
        let decision = receipt.decided.as_ref().map(|decided| {
            let (policy, rule, plan) = (&*decided.policy, &*decided.rule, decided.plan.name());
            json!({"policy": policy, "rule": rule, "generation": decided.generation, "plan": plan})
        });
        json!({
            "time": time,
            "id": &*receipt.id,
            "tenant": receipt.tenant.as_str(),
            "model": &*receipt.asked,
            "kind": captured.kind,
            "request": body,
            "answer": answer(captured).map(|text| self.hide(&[], Value::String(text))),
            "served_by": receipt.served_by.as_ref().map(|model| model.as_str()),
            "outcome": receipt.outcome.name(),
            "decision": decision,
            "certificate": receipt.standing.as_ref().map(ToString::to_string),
            "attempts": receipt.attempts.iter().map(attempt).collect::<Vec<Value>>(),
            "captured_with": self.share,
            "audit": receipt.audit.map(|audit| json!({"propensity": audit.propensity, "drawn": audit.drawn})),
            "cost_usd": receipt.cost_usd,
            "ttft_ms": receipt.ttft.map(|time| time.as_secs_f64() * 1e3),
            "e2e_ms": receipt.e2e.as_secs_f64() * 1e3,
        })
    }

    /// The value without what must not be kept; `place` is the members it stands under.
    fn hide(&self, place: &[&str], value: Value) -> Value {
        match value {
            Value::String(text) if PLAIN.contains(&place) => Value::String(text),
            Value::String(text) if !self.text => json!({"chars": text.chars().count(), "sha256": sha256(&text)}),
            Value::String(text) => Value::String(self.redacted(place.last().copied().unwrap_or_default(), text)),
            Value::Array(items) if !self.text && TOKENS.contains(&place) && items.iter().any(Value::is_number) => {
                json!({"tokens": items.len(), "sha256": sha256(&Value::Array(items).to_string())})
            }
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.hide(place, item)).collect()),
            Value::Object(members) => {
                let hidden = members.into_iter().map(|(name, value)| {
                    let within = [place, &[&name]].concat();
                    (self.name(place, &name), self.hide(&within, value))
                });
                Value::Object(hidden.collect::<Map<String, Value>>())
            }
            other => other,
        }
    }

    /// The name of a member of what stands at `place`.
    fn name(&self, place: &[&str], name: &str) -> String {
        let own = place.iter().any(|member| OWN_NAMES.contains(member));
        match &self.redactor {
            _ if !own => name.to_owned(),
            _ if !self.text => format!("sha256:{}", sha256(name)),
            Some(redactor) => redactor.redact(name),
            None => name.to_owned(),
        }
    }

    fn redacted(&self, name: &str, text: String) -> String {
        match &self.redactor {
            Some(redactor) if redactor.is_secret(name, &text) => "[password]".to_owned(),
            Some(redactor) => redactor.redact(&text),
            None => text,
        }
    }
}

fn sha256(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attempt(attempt: &AttemptReceipt) -> Value {
    let features = attempt.scores.as_ref().and_then(|scores| scores.features());
    let told = features.map(|features| {
        let value = |feature: Feature| (feature.name().to_owned(), json!(features.get(feature)));
        Feature::ALL.into_iter().map(value).collect::<Map<String, Value>>()
    });
    json!({
        "model": attempt.model.as_str(),
        "stage": attempt.stage,
        "outcome": attempt.outcome.name(),
        "reason": attempt.reason.map(|reason| reason.name()),
        "finish": attempt.finish.map(|finish| finish.name()),
        "prompt_tokens": attempt.usage.prompt_tokens,
        "completion_tokens": attempt.usage.completion_tokens,
        "cost_usd": attempt.cost_usd,
        "features": told,
    })
}

/// The text of the first choice; `None` where there is none.
pub(super) fn answer(captured: &Captured) -> Option<String> {
    if !captured.said.text.is_empty() {
        return Some(captured.said.text.clone());
    }
    let texts: Vec<String> = captured.said.raw.iter().filter_map(content).collect();
    (!texts.is_empty()).then(|| texts.concat())
}

/// The text that a chunk of a stream or a whole answer holds.
fn content(bytes: &Bytes) -> Option<String> {
    let told: Value = serde_json::from_slice(bytes).ok()?;
    let choice = told.get("choices")?.as_array()?.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0)?;
    let places = ["/message/content", "/delta/content", "/text"];
    places.iter().find_map(|place| choice.pointer(place)?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(redact_secrets: bool, text: bool) -> Lines {
        let (file, share, acknowledged) = ("x".into(), 1.0, true);
        Lines::new(&Capture { file, max_bytes: 1, keep: 0, redact_secrets, text, share, acknowledged }).unwrap()
    }

    fn body() -> Value {
        json!({"model": "auto", "n": 2, "messages": [{"role": "user", "content": "card 4111 1111 1111 1111"}], "password": "hunter-two"})
    }

    #[test]
    fn secrets_are_taken_out_by_their_form_and_by_their_name() {
        let hidden = lines(true, true).hide(&[], body());
        assert_eq!(hidden["messages"][0]["content"], "card [card]");
        assert_eq!(
            (&hidden["password"], &hidden["model"], &hidden["n"]),
            (&json!("[password]"), &json!("auto"), &json!(2))
        );
        assert_eq!(lines(false, true).hide(&[], body()), body());
    }

    #[test]
    fn without_text_lengths_and_hashes_stay() {
        let hidden = lines(true, false).hide(&[], body());
        assert_eq!(hidden["messages"][0]["content"]["chars"], 24);
        assert_eq!((&hidden["messages"][0]["role"], &hidden["n"]), (&json!("user"), &json!(2)));
        assert!(!hidden.to_string().contains("4111") && !hidden.to_string().contains("hunter"));
    }

    #[test]
    fn without_text_no_token_of_a_prompt_stays() {
        for (member, prompt, tokens) in
            [("prompt", json!([71, 72, 73]), "/tokens"), ("input", json!([[71, 72, 73]]), "/0/tokens")]
        {
            let body = json!({member: prompt, "n": 1});
            let hidden = lines(true, false).hide(&[], body.clone());
            assert_eq!((hidden[member].pointer(tokens), &hidden["n"]), (Some(&json!(3)), &json!(1)));
            assert!(!hidden.to_string().contains("[71"), "{hidden}");
            assert_eq!(lines(true, true).hide(&[], body.clone()), body);
        }
    }

    #[test]
    fn a_text_does_not_stay_because_of_the_name_it_stands_under() {
        let said = json!({"type": "umbrella", "role": "umbrella", "model": "umbrella", "object": "umbrella"});
        let body = json!({"model": "auto", "metadata": said, "tools": [{"type": "function", "function": said}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "umbrella", "extra": said}]}],
            "messages.role": "umbrella", "object": "umbrella"});
        let hidden = lines(true, false).hide(&[], body);
        assert!(!hidden.to_string().contains("umbrella"), "{hidden}");
        assert_eq!((&hidden["model"], &hidden["tools"][0]["type"]), (&json!("auto"), &json!("function")));
        let message = &hidden["messages"][0];
        assert_eq!((&message["role"], &message["content"][0]["type"]), (&json!("user"), &json!("text")));
        let secret = lines(true, true).hide(&[], json!({"metadata": {"type": "card 4111 1111 1111 1111"}}));
        assert_eq!(secret["metadata"]["type"], "card [card]");
    }

    #[test]
    fn names_that_clients_choose_are_hidden_like_texts() {
        let own = json!({"4111 1111 1111 1111": {"umbrella": 1}});
        let body = json!({"metadata": own, "tools": [{"function": {"parameters": {"properties": own}}}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": own}}}});
        let redacted = lines(true, true).hide(&[], body.clone());
        assert!(!redacted.to_string().contains("4111"), "{redacted}");
        assert_eq!(redacted["metadata"]["[card]"]["umbrella"], 1);
        let hidden = lines(true, false).hide(&[], body.clone()).to_string();
        assert!(!hidden.contains("4111") && !hidden.contains("umbrella"), "{hidden}");
        assert_eq!(lines(false, true).hide(&[], body.clone()), body);
    }

    #[test]
    fn the_text_of_an_upstreams_answer_is_read_in_either_form() {
        for (bytes, text) in [
            (r#"{"choices":[{"index":0,"message":{"content":"a"}}]}"#, Some("a")),
            (r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"c"}}]}"#, Some("c")),
            (r#"{"choices":[{"text":"d"}]}"#, Some("d")),
            (r#"{"choices":[]}"#, None),
            ("{", None),
        ] {
            assert_eq!(content(&Bytes::from_static(bytes.as_bytes())).as_deref(), text, "{bytes}");
        }
    }
}
