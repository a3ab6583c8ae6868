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
use crate::plan::{Decision, Pin, Plan};
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

/// Facts in which every model that a condition reads is ready and idle.
pub(super) fn idle(policy: &Policy) -> Facts {
    CaseFacts::default().build(policy).unwrap_or_default()
}

fn check_line(policy: &Policy, line: &str) -> Result<(), String> {
    let case = parse(line)?;
    let run = || {
        let (request, facts) = case.given(policy)?;
        case.expect.check(&policy.decide(&request, &facts), &request)
    };
    run().map_err(|message: String| format!("case \"{}\": {message}", case.name))
}

pub(super) fn parse(line: &str) -> Result<Case, String> {
    serde_json::from_str(line).map_err(|error| format!("not a case: {error}"))
}

/// The request that a case's `request` describes.
pub(super) fn request(source: &str) -> Result<Request, String> {
    let body = body(source)?;
    let request: CaseRequest = serde_json::from_str(source).map_err(|error| format!("not a case: {error}"))?;
    request.build(body)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    name: String,
    request: Box<RawValue>,
    #[serde(default)]
    facts: CaseFacts,
    expect: Expect,
}

impl Case {
    /// The request and the facts that it describes.
    pub(super) fn given(&self, policy: &Policy) -> Result<(Request, Facts), String> {
        Ok((request(self.request.get())?, self.facts.build(policy)?))
    }
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
    temperature: Option<f32>,
    /// More fields of the client's body; see [`body`].
    #[serde(rename = "body")]
    _body: serde_json::Map<String, serde_json::Value>,
}

/// The body that the client would have sent: what the case says of it, and the fields of `body`.
fn body(case: &str) -> Result<Bytes, String> {
    use serde_json::{Map, Value, json};
    let mut said: Map<String, Value> = serde_json::from_str(case).map_err(|error| format!("not a case: {error}"))?;
    let kind = said.remove("kind");
    for no_field in ["tenant", "headers", "images", "json"] {
        said.remove(no_field);
    }
    if let Some(Value::Object(more)) = said.remove("body") {
        said.extend(more);
    }
    if let Some(text) = said.remove("text") {
        match kind.as_ref().and_then(Value::as_str) {
            Some("text") => drop(said.insert("prompt".into(), text)),
            Some("embed") => drop(said.insert("input".into(), text)),
            _ => {
                let messages = said.entry("messages").or_insert_with(|| json!([]));
                messages.as_array_mut().into_iter().for_each(|all| all.push(json!({"role": "user", "content": text})));
            }
        }
    }
    serde_json::to_vec(&said).map(Bytes::from).map_err(|error| error.to_string())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseMessage {
    role: String,
    #[serde(default)]
    content: Content,
    name: Option<String>,
    tool_calls: Option<Box<RawValue>>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl Default for Content {
    fn default() -> Self {
        Content::Text(String::new())
    }
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
    /// 64 unless given, of an upstream's model unlimited.
    queue_free: Option<u32>,
    slots_busy: u32,
    kv_used_ratio: f32,
    breaker: String,
}

impl Default for CaseStatus {
    fn default() -> Self {
        CaseStatus {
            ready: true,
            queue_depth: 0,
            queue_free: None,
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
    /// What stands behind an answer that the first gate keeps, as the header tells it, or `none`.
    certificate: Option<String>,
}

impl CaseFacts {
    /// Every model that a condition reads is idle and ready unless the case says otherwise.
    fn build(&self, policy: &Policy) -> Result<Facts, String> {
        let mut models: BTreeMap<ModelId, Status> = BTreeMap::new();
        for model in policy.watched() {
            models.insert(model.clone(), CaseStatus::default().build(model)?);
        }
        for (name, status) in &self.models {
            let model = ModelId::new(name.as_str());
            let status = status.build(&model)?;
            models.insert(model, status);
        }
        Ok(Facts { models: models.into_iter().collect(), budget_left_usd: self.budget_left_usd })
    }
}

impl CaseStatus {
    fn build(&self, model: &ModelId) -> Result<Status, String> {
        let unsaid = if model.is_local() { 64 } else { u32::MAX };
        let states = [Breaker::Closed, Breaker::Open, Breaker::HalfOpen];
        let Some(breaker) = states.into_iter().find(|state| state.name() == self.breaker) else {
            return Err(format!("unknown breaker \"{}\"; known: closed, open, half_open", self.breaker));
        };
        Ok(Status {
            ready: self.ready,
            queue_depth: self.queue_depth,
            queue_limit: self.queue_depth.saturating_add(self.queue_free.unwrap_or(unsaid)),
            slots_busy: self.slots_busy,
            slots: 0,
            kv_used_ratio: self.kv_used_ratio,
            breaker,
            ..Status::default()
        })
    }
}

impl CaseRequest {
    fn build(self, body: Bytes) -> Result<Request, String> {
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
            body: ClientBody { bytes: body, ..ClientBody::default() },
            authorization: None,
        })
    }

    fn ask(self) -> Result<Ask, String> {
        let Self { max_tokens, temperature, n, .. } = self;
        let sampling = Sampling { max_tokens, temperature, n: n.unwrap_or(1), ..Sampling::default() };
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
        Some(count) => Ok(Tools { raw, count, choice: ToolChoice::Auto, parallel_tool_calls: true }),
        None => Err("\"tools\" must be an array or a number".into()),
    }
}

impl CaseMessage {
    fn build(self) -> Result<Message, String> {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
        let Some(role) = roles.into_iter().find(|role| role.name() == self.role) else {
            return Err(format!("unknown role \"{}\"; known: system, user, assistant, tool", self.role));
        };
        let said = Message {
            name: self.name,
            tool_calls: self.tool_calls,
            tool_call_id: self.tool_call_id,
            ..message(role, String::new())
        };
        let parts = match self.content {
            Content::Text(text) => return Ok(Message { text, ..said }),
            Content::Parts(parts) => parts,
        };
        let texts: Vec<&str> =
            parts.iter().filter(|part| part.r#type == "text").map(|part| part.text.as_str()).collect();
        let images = parts.iter().filter(|part| part.r#type == "image_url").count();
        let other_parts = parts.len() - texts.len() - images;
        Ok(Message { images, other_parts, text: texts.join("\n"), ..said })
    }
}

fn message(role: Role, text: String) -> Message {
    Message { role, text, images: 0, other_parts: 0, name: None, tool_calls: None, tool_call_id: None }
}

impl Expect {
    /// An error says how the decision differs from what is expected.
    fn check(&self, decision: &Decision, request: &Request) -> Result<(), String> {
        let plan = &decision.plan;
        let (kind, status) = match plan {
            Plan::Direct { .. } => ("serve", None),
            Plan::Cascade { .. } => ("cascade", None),
            Plan::Reject { status, .. } => ("reject", Some(status.as_u16())),
        };
        let rule = decision.rule.as_ref();
        let models: Vec<&str> = plan.models().into_iter().map(ModelId::as_str).collect();
        let certificate = certificate(plan, request);
        let pairs = [
            (self.rule.as_ref().map(|rule| format!("rule \"{rule}\"")), format!("rule \"{rule}\"")),
            (self.plan.as_ref().map(|plan| format!("plan {plan}")), format!("plan {kind}")),
            (self.models.as_ref().map(|all| format!("models {all:?}")), format!("models {models:?}")),
            (self.status.map(|status| format!("status {:?}", Some(status))), format!("status {status:?}")),
            (self.certificate.as_ref().map(|it| format!("certificate {it:?}")), format!("certificate {certificate:?}")),
        ];
        if pairs.iter().all(|(wanted, _)| wanted.is_none()) {
            return Err("expects nothing; name a rule, plan, models, status or certificate".into());
        }
        match pairs.into_iter().find(|(wanted, got)| wanted.as_ref().is_some_and(|w| w != got)) {
            None => Ok(()),
            Some((wanted, got)) => Err(format!(
                "expected {}, but rule \"{rule}\" decided {kind} {models:?} with {got}",
                wanted.unwrap_or_default()
            )),
        }
    }
}

/// What stands behind an answer that the first gate keeps; `none` without a gate or a promise.
fn certificate(plan: &Plan, request: &Request) -> String {
    let Plan::Cascade { stages, pin, .. } = plan else { return "none".to_owned() };
    let pins = pin.is_some() && Pin::binds(request);
    let standing = stages.first().and_then(|stage| stage.ruling(request, 0, pins)?.standing);
    standing.map_or_else(|| "none".to_owned(), |standing| standing.to_string())
}
