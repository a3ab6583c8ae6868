//! A receipt → the spans of its trace, as OTLP has them.
//!
//! Pure. Promises: names and attributes of [`super::names::attribute`]; the request's span is the root of
//! what Weir adds, attempts stand under it, a gate under the attempt it judged, evidence under the
//! gate that asked for it; no text of a prompt or an answer unless it is handed over. Called by the
//! exporter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::known::Known;
use super::names::attribute as name;
use super::texts::Texts;
use crate::account::{Asked, AttemptOutcome, AttemptReceipt, AuditReceipt, Outcome, Reason, Receipt, Traced};
use crate::confidence::audit::Skipped;
use crate::error::Origin;
use crate::request::{ModelId, TraceContext, Usage};

/// Flags of a span: sampled, and known whether its parent is remote.
const FLAGS: u32 = 0x101;
/// Its parent is.
const REMOTE: u32 = 0x200;
/// What models on the box run on.
const ON_THE_BOX: &str = "llama.cpp";
/// Who serves where no model does.
const OWN: &str = "weir";
/// Well-known providers, by the ends of their hosts.
const PROVIDERS: [(&str, &str); 12] = [
    ("api.openai.com", "openai"),
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.groq.com", "groq"),
    ("api.deepseek.com", "deepseek"),
    ("api.x.ai", "x_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.cohere.com", "cohere"),
];

/// How many spans [`request`] makes of it.
pub(super) fn count(receipt: &Receipt) -> u64 {
    let Some(traced) = &receipt.traced else { return 0 };
    let asked = receipt.attempts.iter().filter(|attempt| attempt.outcome != AttemptOutcome::Skipped);
    let of_attempts: u64 = asked.map(|attempt| 1 + u64::from(attempt.timing.judged.is_some())).sum();
    1 + u64::from(is_decided(receipt, traced)) + of_attempts
}

/// The spans of a request that is traced; none of another.
pub(super) fn request(receipt: &Receipt, known: &Known, texts: Option<&Texts>) -> Vec<Span> {
    let Some(traced) = receipt.traced.as_deref() else { return Vec::new() };
    let frame = Frame { traced, known };
    let mut spans = vec![frame.server(receipt, texts)];
    if is_decided(receipt, traced) {
        spans.extend(frame.decide(receipt));
    }
    let mut gate: Option<(usize, u64)> = None;
    for attempt in &receipt.attempts {
        if attempt.outcome == AttemptOutcome::Skipped {
            spans[0].events.push(frame.skipped(attempt));
            continue;
        }
        let asked_by = gate.filter(|(stage, _)| attempt.reason == Some(Reason::Evidence) && *stage == attempt.stage);
        let parent = asked_by.map_or(traced.context.span_id, |(_, gate)| gate);
        spans.push(frame.attempt(attempt, parent));
        if let Some(judged) = attempt.timing.judged {
            let id = rand::random();
            gate = Some((attempt.stage, id));
            spans.push(frame.gate(attempt, judged, id));
        }
    }
    spans
}

/// The span of an audit that is traced.
pub(super) fn audit(receipt: &AuditReceipt) -> Option<Span> {
    let span = receipt.span.as_deref()?;
    let context = &span.context;
    let of = Link {
        trace_id: span.of.trace_id.to_be_bytes().into(),
        span_id: span.of.span_id.to_be_bytes().into(),
        flags: 1,
        ..Link::default()
    };
    let mut all = Attributes::default();
    all.put(name::REQUEST_ID, &*receipt.id)
        .put(name::SLICE, receipt.slice.as_str())
        .put(name::OUTCOME, receipt.outcome.map_or_else(Skipped::name, |_| "graded"))
        .some(name::LOSS, receipt.outcome.ok())
        .put(name::PROPENSITY, receipt.propensity)
        .put(name::WEALTH, receipt.wealth)
        .some(name::MODEL, receipt.by.as_ref().map(ModelId::as_str))
        .put(name::COST, receipt.cost_usd)
        .usage(&receipt.usage);
    Some(Span {
        trace_id: context.trace_id.to_be_bytes().into(),
        span_id: context.span_id.to_be_bytes().into(),
        flags: FLAGS,
        name: "audit".to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.began + span.took),
        attributes: all.0,
        links: vec![of],
        ..Span::default()
    })
}

/// A request that fails before it is decided on has been parsed, and no more.
fn is_decided(receipt: &Receipt, traced: &Traced) -> bool {
    receipt.decided.is_some() && traced.decided.is_some()
}

/// What all spans of a request share.
struct Frame<'a> {
    traced: &'a Traced,
    known: &'a Known,
}

impl Frame<'_> {
    fn operation(&self) -> Option<&'static str> {
        self.traced.asked.as_ref().map(|asked| asked.operation)
    }

    fn span(&self, name: String, (id, parent): (u64, u64), (from, to): (Duration, Duration)) -> Span {
        let TraceContext { trace_id, state, .. } = &self.traced.context;
        Span {
            trace_id: trace_id.to_be_bytes().into(),
            span_id: id.to_be_bytes().into(),
            parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().into() },
            trace_state: state.as_deref().unwrap_or_default().to_owned(),
            flags: FLAGS,
            name,
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: nanos(self.traced.began + from),
            end_time_unix_nano: nanos(self.traced.began + to),
            ..Span::default()
        }
    }

    /// The span of the whole request.
    fn server(&self, receipt: &Receipt, texts: Option<&Texts>) -> Span {
        let served = receipt.attempts.iter().find(|attempt| served(attempt));
        let name = match self.operation() {
            Some(operation) => format!("{operation} {}", receipt.asked),
            None if receipt.feedback.is_some() => "feedback".to_owned(),
            None => "request".to_owned(),
        };
        let ids = (self.traced.context.span_id, self.traced.parent.unwrap_or(0));
        let mut span = self.span(name, ids, (Duration::ZERO, receipt.e2e));
        span.kind = SpanKind::Server.into();
        span.flags |= if self.traced.parent.is_some() { REMOTE } else { 0 };
        let mut all = Attributes::default();
        if let Some(asked) = &self.traced.asked {
            all.put(name::OPERATION, asked.operation)
                .put(name::PROVIDER, served.map_or(OWN, |attempt| self.provider(&attempt.model)))
                .put(name::REQUEST_MODEL, &*receipt.asked)
                .put(name::STREAM, receipt.stream)
                .asked(asked);
        }
        all.some(name::RESPONSE_MODEL, receipt.served_by.as_ref().map(ModelId::as_str));
        if let Some(served) = served {
            all.usage(&served.usage).finish(served);
        }
        let (first, overhead) = (receipt.ttft.filter(|_| receipt.stream), receipt.overhead);
        all.some(name::FIRST_CHUNK, first.map(|time| time.as_secs_f64()))
            .some(name::OVERHEAD, overhead.map(|time| time.as_secs_f64()))
            .put(name::REQUEST_ID, &*receipt.id)
            .put(name::TENANT, receipt.tenant.as_str())
            .put(name::OUTCOME, receipt.outcome.name())
            .decision(receipt)
            .some(name::COST, receipt.cost_usd)
            .some(name::AVOIDED, receipt.avoided_usd)
            .some(name::WASTED, receipt.wasted_usd)
            .some(name::CERTIFICATE, receipt.standing.as_ref().map(ToString::to_string))
            .some(name::CONFIDENCE, receipt.confidence().map(ToString::to_string))
            .some(name::DEGRADED, receipt.degraded);
        if receipt.pinned {
            all.put(name::PINNED, true);
        }
        if let (Some(texts), Some(captured)) = (texts, &receipt.captured) {
            all.some(name::INPUT_MESSAGES, texts.asked(captured)).some(name::OUTPUT_MESSAGES, texts.said(captured));
        }
        if let (Outcome::Error(kind), Some(error)) = (receipt.outcome, &receipt.error) {
            all.put(name::ERROR_TYPE, kind.name()).put(name::ORIGIN, error.origin.name());
            // What a client did wrong is no error of the server's.
            let ours = error.origin != Origin::Client;
            span.status = ours.then(|| failed(error.message.as_deref()));
        }
        span.attributes = all.0;
        span
    }

    fn decide(&self, receipt: &Receipt) -> Option<Span> {
        let mut span =
            self.span("decide".to_owned(), (rand::random(), self.traced.context.span_id), self.traced.decided?);
        let mut all = Attributes::default();
        all.decision(receipt);
        span.attributes = all.0;
        Some(span)
    }

    fn attempt(&self, attempt: &AttemptReceipt, parent: u64) -> Span {
        let of_backend = match attempt.origin {
            Origin::Local => attempt.model.as_str(),
            _ => attempt.model.split().map_or(attempt.model.as_str(), |(_, rest)| rest),
        };
        let operation = self.operation().unwrap_or("chat");
        let times = (attempt.timing.began, attempt.timing.ended);
        let mut span = self.span(format!("{operation} {of_backend}"), (attempt.span_id, parent), times);
        let mut all = Attributes::default();
        all.put(name::OPERATION, operation)
            .put(name::PROVIDER, self.provider(&attempt.model))
            .put(name::REQUEST_MODEL, of_backend)
            .put(name::MODEL, attempt.model.as_str())
            .put(name::STAGE, attempt.stage as i64)
            .put(name::OUTCOME, attempt.outcome.name())
            .some(name::REASON, attempt.reason.map(Reason::name))
            .usage(&attempt.usage)
            .finish(attempt)
            .some(name::COST, attempt.cost_usd)
            .some(name::CONFIDENCE, attempt.scores.as_ref().map(ToString::to_string));
        if attempt.estimated {
            all.put(name::ESTIMATED, true);
        }
        if attempt.origin == Origin::Upstream {
            span.kind = SpanKind::Client.into();
            if let Some((host, port)) = attempt.model.split().and_then(|(upstream, _)| self.known.address(upstream)) {
                all.put(name::SERVER_ADDRESS, host.as_str()).put(name::SERVER_PORT, i64::from(*port));
            }
        }
        if let AttemptOutcome::Failed(kind) = attempt.outcome {
            all.put(name::ERROR_TYPE, kind.name());
            span.status = Some(failed(attempt.failure.as_ref().and_then(|failure| failure.message.as_deref())));
        }
        if let Some(first) = attempt.timing.first {
            span.events.push(self.event("first_chunk", first, Attributes::default()));
        }
        span.attributes = all.0;
        span
    }

    fn gate(&self, attempt: &AttemptReceipt, judged: (Duration, Duration), id: u64) -> Span {
        let mut span = self.span("gate".to_owned(), (id, attempt.span_id), judged);
        let mut all = Attributes::default();
        all.put(name::ACCEPTED, served(attempt) && attempt.reason != Some(Reason::Degraded))
            .some(name::REASON, attempt.reason.map(Reason::name))
            .some(name::CONFIDENCE, attempt.scores.as_ref().map(ToString::to_string))
            .some(name::EVIDENCE, attempt.evidence.as_ref().map(ToString::to_string))
            .some(name::CERTIFICATE, attempt.standing.as_ref().map(ToString::to_string));
        span.attributes = all.0;
        span
    }

    /// A stage that was passed over.
    fn skipped(&self, attempt: &AttemptReceipt) -> Event {
        let mut all = Attributes::default();
        all.put(name::MODEL, attempt.model.as_str())
            .put(name::STAGE, attempt.stage as i64)
            .some(name::REASON, attempt.reason.map(Reason::name))
            .some(name::CERTIFICATE, attempt.standing.as_ref().map(ToString::to_string));
        self.event("skipped", attempt.timing.began, all)
    }

    fn event(&self, name: &str, at: Duration, attributes: Attributes) -> Event {
        let time_unix_nano = nanos(self.traced.began + at);
        Event { name: name.to_owned(), time_unix_nano, attributes: attributes.0, ..Event::default() }
    }

    fn provider<'m>(&self, model: &'m ModelId) -> &'m str {
        if model.is_local() {
            return ON_THE_BOX;
        }
        let upstream = model.split().map_or(OWN, |(upstream, _)| upstream);
        let host = self.known.address(upstream).map_or("", |(host, _)| host.as_str());
        PROVIDERS.iter().find(|(end, _)| host.ends_with(end)).map_or(upstream, |(_, provider)| provider)
    }
}

/// Whether the client got something of this answer.
fn served(attempt: &AttemptReceipt) -> bool {
    let asked = attempt.outcome != AttemptOutcome::Skipped && attempt.reason != Some(Reason::Evidence);
    asked && !attempt.wasted
}

fn failed(message: Option<&str>) -> Status {
    Status { message: message.unwrap_or_default().to_owned(), code: StatusCode::Error.into() }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Attributes of one span.
#[derive(Debug, Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn put(&mut self, name: &str, value: impl Into<Told>) -> &mut Self {
        let value = Some(AnyValue { value: Some(value.into().0) });
        self.0.push(KeyValue { key: name.to_owned(), value, ..KeyValue::default() });
        self
    }

    fn some(&mut self, name: &str, value: Option<impl Into<Told>>) -> &mut Self {
        value.into_iter().for_each(|value| {
            self.put(name, value);
        });
        self
    }

    fn usage(&mut self, usage: &Usage) -> &mut Self {
        self.put(name::INPUT_TOKENS, usage.prompt_tokens as i64)
            .put(name::OUTPUT_TOKENS, usage.completion_tokens as i64);
        let cached = Some(usage.cached_tokens as i64).filter(|cached| *cached > 0);
        self.some(name::CACHED_TOKENS, cached)
    }

    fn finish(&mut self, attempt: &AttemptReceipt) -> &mut Self {
        let reasons = attempt.finish.map(|finish| {
            let value = Some(Value::StringValue(finish.name().to_owned()));
            Told(Value::ArrayValue(ArrayValue { values: vec![AnyValue { value }] }))
        });
        self.some(name::FINISH_REASONS, reasons)
    }

    fn decision(&mut self, receipt: &Receipt) -> &mut Self {
        let Some(decided) = &receipt.decided else { return self };
        self.put(name::POLICY, &*decided.policy)
            .put(name::RULE, &*decided.rule)
            .put(name::GENERATION, decided.generation as i64)
            .put(name::PLAN, decided.plan.name())
    }

    fn asked(&mut self, asked: &Asked) -> &mut Self {
        if asked.operation == "chat" {
            self.put(name::OUTPUT_TYPE, if asked.json { "json" } else { "text" });
        }
        let Some(sampling) = &asked.sampling else { return self };
        // As it was written: 0.7, not 0.699999988079071.
        let number = |given: Option<f32>| given.map(|given| (f64::from(given) * 1e6).round() / 1e6);
        self.some(name::MAX_TOKENS, sampling.max_tokens.map(i64::from))
            .some(name::TEMPERATURE, number(sampling.temperature))
            .some(name::TOP_P, number(sampling.top_p))
            .some(name::TOP_K, sampling.top_k.map(i64::from))
            .some(name::SEED, sampling.seed.and_then(|seed| i64::try_from(seed).ok()))
            .some(name::FREQUENCY_PENALTY, number(sampling.frequency_penalty))
            .some(name::PRESENCE_PENALTY, number(sampling.presence_penalty))
            .some(name::CHOICES, Some(i64::from(sampling.n)).filter(|n| *n > 1))
    }
}

/// The value of an attribute.
pub(super) struct Told(Value);

impl From<&str> for Told {
    fn from(text: &str) -> Told {
        Told(Value::StringValue(text.to_owned()))
    }
}

impl From<String> for Told {
    fn from(text: String) -> Told {
        Told(Value::StringValue(text))
    }
}

impl From<bool> for Told {
    fn from(is: bool) -> Told {
        Told(Value::BoolValue(is))
    }
}

impl From<i64> for Told {
    fn from(number: i64) -> Told {
        Told(Value::IntValue(number))
    }
}

impl From<f64> for Told {
    fn from(number: f64) -> Told {
        Told(Value::DoubleValue(number))
    }
}
