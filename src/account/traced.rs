//! What a trace tells of a request beyond its receipt: where it stands, and when what happened.
//!
//! Promises: where a request is not traced, nothing is kept but what is passed on to backends; where
//! it is not sampled, nothing but its ids. One reading of the wall clock anchors a request; all else are
//! distances from its first byte. Noted by the Meter, read by `observe`, which makes spans of it.

use std::num::NonZero;
use std::time::{Duration, SystemTime};

use crate::request::{Ask, Format, Request, Sampling, TraceContext};

/// The trace of one request.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    /// What backends are told where the request is not sampled.
    pub(super) onward: Option<TraceContext>,
    /// Where it is.
    pub(super) traced: Option<Box<Traced>>,
}

/// A sampled request.
#[derive(Debug, Clone)]
pub struct Traced {
    /// The trace, and the request's own span.
    pub context: TraceContext,
    /// The client's span.
    pub parent: Option<u64>,
    /// When its first byte came.
    pub began: SystemTime,
    /// When it was parsed and when it was decided on, since then.
    pub decided: Option<(Duration, Duration)>,
    /// What was asked for, where that could be read.
    pub asked: Option<Asked>,
}

/// What was asked for; no text of the client's.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `chat`, `text_completion` or `embeddings`.
    pub operation: &'static str,
    /// How the answer was to be generated; `None` of vectors.
    pub sampling: Option<Sampling>,
    /// Whether it had to be JSON.
    pub json: bool,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Asked {
        let bare = |given: &Sampling| Some(Sampling { stop: Vec::new(), logit_bias: Vec::new(), ..given.clone() });
        let (operation, sampling, json) = match &request.ask {
            Ask::Chat(chat) => ("chat", bare(&chat.sampling), !matches!(chat.format, Format::Text)),
            Ask::Text(text) => ("text_completion", bare(&text.sampling), false),
            Ask::Embed(_) => ("embeddings", None, false),
        };
        Asked { operation, sampling, json }
    }
}

impl Tracing {
    /// The trace of a request that a client has placed in `given`, and the gateway in `own`.
    pub(super) fn of(given: Option<TraceContext>, own: Option<TraceContext>) -> Tracing {
        match own {
            Some(context) if context.sampled => {
                let (parent, began) = (given.map(|given| given.span_id), SystemTime::now());
                let traced = Traced { context, parent, began, decided: None, asked: None };
                Tracing { onward: None, traced: Some(Box::new(traced)) }
            }
            own => Tracing { onward: own.or(given), traced: None },
        }
    }

    /// What a backend is told: `span_id` is the attempt's.
    pub(super) fn told(&self, span_id: u64) -> Option<TraceContext> {
        let sampled = self.traced.as_ref().map(|traced| TraceContext { span_id, ..traced.context.clone() });
        sampled.or_else(|| self.onward.clone())
    }

    /// The id of a new span; 0 where none is kept.
    pub(super) fn span_id(&self) -> u64 {
        if self.traced.is_some() { span_id() } else { 0 }
    }
}

/// A new id.
pub(super) fn span_id() -> u64 {
    rand::random::<NonZero<u64>>().get()
}

/// When an attempt began, answered and ended, since the request's first byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// When it was asked, or passed over.
    pub began: Duration,
    /// When the first part of its answer came.
    pub first: Option<Duration>,
    /// When a gate began to look at its answer, and when it decided.
    pub judged: Option<(Duration, Duration)>,
    /// When its answer was over.
    pub ended: Duration,
}

/// The span of an audit: the root of a trace of its own, linked to the request's.
#[derive(Debug, Clone)]
pub struct AuditSpan {
    /// Its own place.
    pub context: TraceContext,
    /// The span of the request whose answer is audited.
    pub of: TraceContext,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
}
