//! The handle on one request's tab that rides through the rooms.
//!
//! Promises: clones share one tab; the last handle dropped (a clone, an attempt or a followed
//! stream) settles it. No method waits. `gateway` opens it at the request's first byte and notes
//! what becomes of the request; `execute` notes the attempts.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::receipt::{Decided, Failure, PlanKind, Reason};
use super::story::{self, Story};
use super::tab::{Form, Tab};
use super::traced::{self, Tracing};
use super::{Asked, Attempt, AuditTab, Awaited, Captured, Offer, Pacers, Prices, Record};
use crate::confidence::gap::Pacing;
use crate::confidence::{Standing, Uncertified};
use crate::error::Error;
use crate::plan::{Decision, Plan};
use crate::request::{Ask, Chat, Feedback, ModelId, Prompt, Request, TenantId, TraceContext};

/// A handle on one request's tab. Clones share it; the last one dropped settles it (one
/// `Record::record`).
#[derive(Debug, Clone)]
pub struct Meter(Arc<Tab>);

impl Meter {
    /// Opens a tab at the request's first byte.
    pub fn open(record: Arc<dyn Record>, prices: Arc<Prices>) -> Meter {
        Meter(Arc::new(Tab::open(record, prices)))
    }

    /// Notes who asks, as known before the body is read, so that a body that cannot be read is
    /// accounted to somebody.
    pub fn asker(&self, id: &Arc<str>, tenant: &TenantId) {
        self.0.state().asker = Some((id.clone(), tenant.clone()));
    }

    /// Finds the request's place in a trace; `given` is the client's.
    pub fn trace(&self, given: Option<TraceContext>) {
        let own = self.0.record.place(given.as_ref());
        if given.is_some() || own.is_some() {
            self.0.state().tracing = Tracing::of(given, own);
        }
    }

    /// The client's body, with the time it makes us wait noted, so that it is not our overhead.
    pub fn client_body<B>(&self, body: B) -> Awaited<B> {
        Awaited::new(self.clone(), body)
    }

    pub(super) fn tab(&self) -> &Tab {
        &self.0
    }

    /// Notes who asks what, once parsed.
    pub fn asked(&self, request: &Request) {
        let mut state = self.0.state();
        state.asker = Some((request.id.clone(), request.tenant.clone()));
        state.asked = Some(request.model.as_str().into());
        state.stream = request.stream;
        state.form = Form::of(request);
        state.prompt_estimate = prompt_estimate(&request.ask);
        let (logged, traced) = (self.0.record.captures(), state.tracing.traced.is_some());
        if logged || traced && self.0.record.shows() {
            state.captured = Some(Box::new(Captured { logged, ..Captured::of(request) }));
        }
        if let Some(traced) = &mut state.tracing.traced {
            let parsed = self.0.opened.elapsed();
            (traced.asked, traced.decided) = (Some(Asked::of(request)), Some((parsed, parsed)));
        }
    }

    /// Notes the decision and the generation of the configuration it was made under.
    pub fn decided(&self, decision: &Decision, generation: u64) {
        let kind = match &decision.plan {
            Plan::Direct { .. } => PlanKind::Direct,
            Plan::Cascade { .. } => PlanKind::Cascade,
            Plan::Reject { .. } => PlanKind::Reject,
        };
        let mut state = self.0.state();
        if let Some((_, decided)) = state.tracing.traced.as_mut().and_then(|traced| traced.decided.as_mut()) {
            *decided = self.0.opened.elapsed();
        }
        if let Plan::Cascade { stages, .. } = &decision.plan {
            state.stage_prices = stages.iter().map(|stage| self.0.prices.of(&stage.model)).collect();
        }
        state.decided =
            Some(Decided { policy: decision.policy.clone(), rule: decision.rule.clone(), generation, plan: kind });
    }

    /// Notes that the request failed with this error.
    pub fn failed(&self, error: &Error) {
        self.0.state().error = Some(Failure::of(error));
    }

    /// Notes what the client says of an earlier answer.
    pub fn feedback(&self, feedback: Feedback) {
        self.0.state().feedback = Some(feedback);
    }

    /// What an audit of this request's answer is noted on.
    pub fn audit_tab(&self) -> AuditTab {
        let (record, prices) = (Arc::clone(&self.0.record), Arc::clone(&self.0.prices));
        let state = self.0.state();
        let (id, tenant) = state.asker.clone().unwrap_or_else(|| ("".into(), TenantId::anonymous()));
        let of = state.tracing.traced.as_ref().map(|traced| traced.context.clone());
        let own = |of: TraceContext| {
            (TraceContext { trace_id: rand::random(), span_id: traced::span_id(), sampled: true, state: None }, of)
        };
        AuditTab { record, prices, id, tenant, trace: of.map(own) }
    }

    /// Notes that the answer's head is about to be written (after `api::respond`, which folds an
    /// answer that is not streamed): what went by since the opening, less the time waited for the
    /// client's body and for backends, is the overhead.
    pub fn head(&self) {
        let now = Instant::now();
        let mut state = self.0.state();
        let waited = state.waits.until(now);
        state.overhead = Some((now - self.0.opened).saturating_sub(waited));
    }

    /// Whether something of this request must outlive a crash once its answer is complete.
    pub fn is_lasting(&self) -> bool {
        self.0.is_lasting()
    }

    /// Settles the tab now, before the answer's last bytes, and resolves when what must outlive a
    /// crash is written. What is noted later is not on the receipt.
    pub fn settle_lasting(self) -> BoxFuture<'static, ()> {
        Box::pin(self.0.settle_lasting())
    }

    /// What can be told about the request now.
    pub fn story(&self) -> Story {
        story::tell(&self.0.state())
    }

    /// Notes that a target is about to be asked; until the attempt is followed or has failed, we
    /// wait on it. `stage` is its place in the plan, from 0.
    pub fn attempt(&self, model: &ModelId, stage: usize) -> Attempt {
        Attempt::begin(&self.0, model, stage)
    }

    /// Notes that the conversation stays with the stage that answered before.
    pub fn pinned(&self) {
        self.0.state().pinned = true;
    }

    /// Has all that the request will cost paid from the tenant's budget; the last call counts.
    pub fn paid_from(&self, pacers: &Arc<Pacers>, pacing: &Pacing) {
        Offer::open_budget(&self.0, pacers, pacing);
    }

    /// The offer to ask `model` next; `None` where no budget pays.
    pub fn offer(&self, model: &ModelId) -> Option<Offer> {
        Offer::of(&self.0, model)
    }

    /// Notes that a target was passed over without being asked.
    pub fn skipped(&self, model: &ModelId, stage: usize, reason: Reason) {
        Attempt::skip(&self.0, model, stage, reason, None);
    }

    /// Notes that a target was passed over because nothing certified speaks of the request.
    pub fn uncertified(&self, model: &ModelId, stage: usize, why: Uncertified) {
        let standing = Standing::Uncertified(why);
        Attempt::skip(&self.0, model, stage, Reason::uncertified(why), Some(standing));
    }
}

/// Tokens of a prompt that nobody counts: those given as tokens, and a quarter of the bytes of the
/// texts. Images and audio count nothing: their size says little about their tokens.
fn prompt_estimate(ask: &Ask) -> u64 {
    let prompts = match ask {
        Ask::Chat(chat) => return text_bytes(chat) / 4,
        Ask::Text(text) => &text.prompts,
        Ask::Embed(embed) => &embed.inputs,
    };
    let tokens = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len() as u64 / 4,
        Prompt::Tokens(tokens) => tokens.len() as u64,
    };
    prompts.iter().map(tokens).sum()
}

fn text_bytes(chat: &Chat) -> u64 {
    let tools = chat.tools.as_ref().map_or(0, |tools| tools.raw.get().len());
    let said = chat.messages.iter().map(|message| {
        let calls = message.tool_calls.as_ref().map_or(0, |calls| calls.get().len());
        message.text.len() + calls
    });
    (tools + said.sum::<usize>()) as u64
}
