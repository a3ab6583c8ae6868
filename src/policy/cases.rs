//! A policy's own examples: requests and facts, and what the policy must decide.
//!
//! Hides the form of `NAME.cases.jsonl` (one JSON object per line, `docs/policy.md`). Promises:
//! unknown keys are problems, so that a misspelt expectation cannot pass. Called by
//! `Policy::check_cases`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Facts, Policy};
use crate::backend::{Breaker, Status};
use crate::error::Problem;
use crate::plan::{Decision, Plan};
use crate::request::{
    Ask, Chat, ClientBody, Embed, Format, Message, ModelId, Prompt, Request, Role, Sampling, TenantId, Text,
    ToolChoice, Tools,
};

/// Runs every case of the file.
pub(super) fn check(policy: &Policy, place: &str, source: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in source.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if let Err(message) = check_line(policy, line) {
            problems.push(Problem { place: format!("{place}:{}", index + 1), message });
        }
    }
    problems
}

fn check_line(policy: &Policy, line: &str) -> Result<(), String> {
    let case: Case = serde_json::from_str(line).map_err(|error| format!("not a case: {error}"))?;
    let name = case.name.clone();
    run(policy, case).map_err(|message| format!("case \"{name}\": {message}"))
}

fn run(policy: &Policy, case: Case) -> Result<(), String> {
    let facts = case.facts.build(policy)?;
    let request = case.request.build()?;
    case.expect.check(&policy.decide(&request, &facts))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    request: CaseRequest,
    #[serde(default)]
    facts: CaseFacts,
    expect: Expect,
}

/// A chat body with the fields that a policy can see, or the shorthand `text`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaseRequest {
    kind: Option<String>,
    text: Option<String>,
    messages: Vec<CaseMessage>,
    tools: Option<Box<RawValue>>,
    images: usize,
    json: bool,
    response_format: Option<serde_json::Value>,
    model: Option<String>,
    tenant: Option<String>,
    headers: BTreeMap<String, String>,
    stream: bool,
    n: Option<u32>,
    max_tokens: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseMessage {
    role: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
struct ContentPart {
    r#type: String,
    #[serde(default)]
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaseFacts {
    models: BTreeMap<String, CaseStatus>,
    budget_left_usd: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaseStatus {
    ready: bool,
    queue_depth: u32,
    queue_free: u32,
    slots_busy: u32,
    kv_used_ratio: f32,
    breaker: String,
}

impl Default for CaseStatus {
    fn default() -> Self {
        CaseStatus {
            ready: true,
            queue_depth: 0,
            queue_free: 64,
            slots_busy: 0,
            kv_used_ratio: 0.0,
            breaker: "closed".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    rule: Option<String>,
    plan: Option<String>,
    models: Option<Vec<String>>,
    status: Option<u16>,
}

impl CaseFacts {
    /// Every model that a condition reads is idle and ready unless the case says otherwise.
    fn build(&self, policy: &Policy) -> Result<Facts, String> {
        let idle = CaseStatus::default().build()?;
        let mut models: BTreeMap<ModelId, Status> = policy.watched().map(|model| (model.clone(), idle)).collect();
        for (name, status) in &self.models {
            models.insert(ModelId::new(name.as_str()), status.build()?);
        }
        Ok(Facts { models: models.into_iter().collect(), budget_left_usd: self.budget_left_usd })
    }
}

impl CaseStatus {
    fn build(&self) -> Result<Status, String> {
        let states = [Breaker::Closed, Breaker::Open, Breaker::HalfOpen];
        let Some(breaker) = states.into_iter().find(|state| state.name() == self.breaker) else {
            return Err(format!("unknown breaker \"{}\"; known: closed, open, half_open", self.breaker));
        };
        Ok(Status {
            ready: self.ready,
            queue_depth: self.queue_depth,
            queue_limit: self.queue_depth.saturating_add(self.queue_free),
            slots_busy: self.slots_busy,
            slots: 0,
            kv_used_ratio: self.kv_used_ratio,
            breaker,
        })
    }
}

impl CaseRequest {
    fn build(self) -> Result<Request, String> {
        let model = self.model.clone().unwrap_or_else(|| "auto".into());
        let tenant = self.tenant.as_deref().map_or_else(TenantId::anonymous, TenantId::new);
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        Ok(Request {
            id: "case".into(),
            tenant,
            model,
            stream: self.stream,
            headers: headers.collect(),
            ask: self.ask()?,
            body: ClientBody { bytes: Bytes::new(), ..ClientBody::default() },
            authorization: None,
        })
    }

    fn ask(self) -> Result<Ask, String> {
        let sampling = Sampling { max_tokens: self.max_tokens, n: self.n.unwrap_or(1), ..Sampling::default() };
        let text = self.text.clone().map(Prompt::Text);
        match self.kind.as_deref().unwrap_or("chat") {
            "chat" => Ok(Ask::Chat(Chat { sampling, ..self.chat()? })),
            "text" => {
                let prompts = text.into_iter().collect();
                Ok(Ask::Text(Text { prompts, sampling, ..Text::default() }))
            }
            "embed" => Ok(Ask::Embed(Embed { inputs: text.into_iter().collect(), ..Embed::default() })),
            other => Err(format!("unknown kind \"{other}\"; known: chat, text, embed")),
        }
    }

    fn chat(self) -> Result<Chat, String> {
        let mut messages: Vec<Message> = self.messages.into_iter().map(CaseMessage::build).collect::<Result<_, _>>()?;
        messages.extend(self.text.map(|text| message(Role::User, text)));
        let Some(last) = messages.last_mut() else {
            return Err("the request needs \"text\" or \"messages\"".into());
        };
        last.images += self.images;
        let typed = |kind: &serde_json::Value| kind.get("type").is_some_and(|kind| kind != "text");
        let json = self.json || self.response_format.as_ref().is_some_and(typed);
        let format = if json { Format::JsonObject } else { Format::Text };
        let tools = self.tools.map(tools).transpose()?;
        Ok(Chat { messages, tools, format, ..Chat::default() })
    }
}

/// The tools as an array of definitions, or only how many there are.
fn tools(raw: Box<RawValue>) -> Result<Tools, String> {
    let count = match serde_json::from_str(raw.get()) {
        Ok(serde_json::Value::Array(tools)) => Some(tools.len()),
        Ok(serde_json::Value::Number(count)) => count.as_u64().and_then(|n| usize::try_from(n).ok()),
        _ => None,
    };
    match count {
        Some(count) => Ok(Tools { raw, count, choice: ToolChoice::Auto }),
        None => Err("\"tools\" must be an array or a number".into()),
    }
}

impl CaseMessage {
    fn build(self) -> Result<Message, String> {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
        let Some(role) = roles.into_iter().find(|role| role.name() == self.role) else {
            return Err(format!("unknown role \"{}\"; known: system, user, assistant, tool", self.role));
        };
        let parts = match self.content {
            Content::Text(text) => return Ok(message(role, text)),
            Content::Parts(parts) => parts,
        };
        let texts: Vec<&str> =
            parts.iter().filter(|part| part.r#type == "text").map(|part| part.text.as_str()).collect();
        let images = parts.iter().filter(|part| part.r#type == "image_url").count();
        let other_parts = parts.len() - texts.len() - images;
        Ok(Message { images, other_parts, ..message(role, texts.join("\n")) })
    }
}

fn message(role: Role, text: String) -> Message {
    Message { role, text, images: 0, other_parts: 0, name: None, tool_calls: None, tool_call_id: None }
}

impl Expect {
    /// An error says how the decision differs from what is expected.
    fn check(&self, decision: &Decision) -> Result<(), String> {
        let plan = &decision.plan;
        let (kind, status) = match plan {
            Plan::Direct { .. } => ("serve", None),
            Plan::Cascade { .. } => ("cascade", None),
            Plan::Reject { status, .. } => ("reject", Some(status.as_u16())),
        };
        let rule = decision.rule.as_ref();
        let models: Vec<&str> = plan.models().into_iter().map(ModelId::as_str).collect();
        let pairs = [
            (self.rule.as_ref().map(|rule| format!("rule \"{rule}\"")), format!("rule \"{rule}\"")),
            (self.plan.as_ref().map(|plan| format!("plan {plan}")), format!("plan {kind}")),
            (self.models.as_ref().map(|all| format!("models {all:?}")), format!("models {models:?}")),
            (self.status.map(|status| format!("status {:?}", Some(status))), format!("status {status:?}")),
        ];
        if pairs.iter().all(|(wanted, _)| wanted.is_none()) {
            return Err("expects nothing; name a rule, plan, models or status".into());
        }
        match pairs.into_iter().find(|(wanted, got)| wanted.as_ref().is_some_and(|w| w != got)) {
            None => Ok(()),
            Some((wanted, _)) => {
                Err(format!("expected {}, but rule \"{rule}\" decided {kind} {models:?}", wanted.unwrap_or_default()))
            }
        }
    }
}
