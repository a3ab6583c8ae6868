//! An answer as a stream of server-sent events.
//!
//! [`Lines`] renders deltas to events and knows no clock; [`Events`] is the body that pulls the
//! deltas, gathers what is ready into one frame, and sends a comment when nothing has come for a
//! while. Dropping the body drops the deltas, and with them the work. `respond` makes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use http_body::Frame;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::{Answer, CallForm, ChunkChoice, ChunkDelta, FINGERPRINT, TextChoice};
use super::fold::broken_off;
use super::logprobs::{self, characters, shown};
use super::reject::event_body;
use super::respond::Tail;
use super::shape::{Endpoint, Shape};
use crate::error::Error;
use crate::request::{Delta, Finish, ModelId, Part, Raw, Token, ToolCall, Usage};
use crate::wire::openai::respell;
use crate::wire::sse::{DONE, render_comment, render_into};

/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(15);

/// How many bytes are gathered into one frame while more is ready.
const FULL: usize = 16 * 1024;

/// Renders deltas to events.
struct Lines {
    shape: Shape,
    id: String,
    model: ModelId,
    /// By choice: what has been told of it.
    choices: Vec<Told>,
    /// Whether an upstream's chunk has told the usage.
    usage_told: bool,
    out: BytesMut,
}

/// What has been told of a choice.
#[derive(Clone, Default)]
struct Told {
    /// Whether its role has.
    role: bool,
    /// How many characters, as far as tokens tell; those of an echoed prompt too.
    offset: usize,
    /// Whether a token has.
    token: bool,
}

/// Whether more deltas are to come.
#[derive(PartialEq)]
enum More {
    Yes,
    No(Option<Usage>),
}

impl Lines {
    /// Renders one delta; nothing where it has nothing that the client may see.
    fn delta(&mut self, delta: Delta) -> More {
        if let Some(raw) = &delta.raw {
            self.pass(raw);
        }
        let index = delta.choice;
        match delta.part {
            Part::End(usage) => return More::No(usage),
            _ if delta.raw.is_some() => {}
            Part::Text { text, tokens } => self.text(index, &text, &tokens),
            Part::ToolCall(call) => self.call(index, &call),
            Part::Finish(finish) => self.finish(index, finish),
            Part::Embedding(_) | Part::Raw => {}
        }
        More::Yes
    }

    /// Renders an upstream's chunk: its bytes, with Weir's name of the model and without a usage
    /// that the client did not ask for.
    fn pass(&mut self, raw: &Raw) {
        self.usage_told |= raw.tells_usage;
        if self.shape.include_usage || !raw.only_usage() {
            let chunk = respell(raw, self.model.as_str(), self.shape.include_usage);
            render_into(&mut self.out, &chunk);
        }
    }

    fn text(&mut self, index: u32, text: &str, tokens: &[Token]) {
        let most = self.shape.logprobs.filter(|_| shown(tokens).next().is_some());
        if text.is_empty() && most.is_none() {
            return;
        }
        match self.shape.endpoint {
            Endpoint::Text => {
                let told = self.told(index);
                told.token |= !tokens.is_empty();
                if !told.token {
                    told.offset += characters(text.as_bytes());
                }
                let logprobs = most.map(|most| logprobs::text(tokens, most, &mut told.offset));
                self.chunk(&[TextChoice { text, index, logprobs, finish_reason: None }], None);
            }
            Endpoint::Chat | Endpoint::Embed { .. } => {
                let logprobs = most.map(|most| logprobs::chat(tokens, most));
                self.role(index);
                let delta = ChunkDelta { content: Some(text), ..ChunkDelta::default() };
                self.chunk(&[ChunkChoice { index, delta, logprobs, finish_reason: None }], None);
            }
        }
    }

    fn call(&mut self, index: u32, call: &ToolCall) {
        self.role(index);
        let delta = ChunkDelta { tool_calls: Some([CallForm::chunk(call)]), ..ChunkDelta::default() };
        self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None);
    }

    fn finish(&mut self, index: u32, finish: Finish) {
        let finish_reason = Some(finish.name());
        if self.shape.endpoint == Endpoint::Text {
            return self.chunk(&[TextChoice { text: "", index, logprobs: None, finish_reason }], None);
        }
        self.role(index);
        let delta = ChunkDelta::default();
        self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason }], None);
    }

    /// Tells a choice's role, once.
    fn role(&mut self, index: u32) {
        if std::mem::replace(&mut self.told(index).role, true) {
            return;
        }
        let delta = ChunkDelta { role: Some("assistant"), content: Some(""), tool_calls: None };
        self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None);
    }

    fn told(&mut self, index: u32) -> &mut Told {
        let index = index as usize;
        if self.choices.len() <= index {
            self.choices.resize(index + 1, Told::default());
        }
        &mut self.choices[index]
    }

    /// Renders the usage where it was asked for, the story, and the end mark.
    fn end(&mut self, usage: Option<Usage>, story: &str) {
        if let Some(usage) = usage.filter(|_| self.shape.include_usage && !self.usage_told) {
            self.chunk::<ChunkChoice<'_>>(&[], Some(usage));
        }
        if !story.is_empty() {
            self.out.extend_from_slice(&render_comment(&format!("weir {story}")));
        }
        self.out.extend_from_slice(DONE);
    }

    fn error(&mut self, error: &Error) {
        render_into(&mut self.out, &event_body(error));
    }

    fn chunk<C: Serialize>(&mut self, choices: &[C], usage: Option<Usage>) {
        let text = self.shape.endpoint == Endpoint::Text;
        let chunk = Answer {
            id: &self.id,
            object: if text { "text_completion" } else { "chat.completion.chunk" },
            created: self.shape.created,
            model: self.model.as_str(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.shape.include_usage.then(|| usage.map(Into::into)),
        };
        self.out.put_slice(b"data: ");
        // Forms of strings and numbers cannot fail to be written to memory.
        let _ = serde_json::to_writer((&mut self.out).writer(), &chunk);
        self.out.put_slice(b"\n\n");
    }
}

/// Knows how long nothing has been sent. The timer is touched only when it fires or is first
/// needed, so that a fast stream costs a reading of the clock per frame.
struct Silence {
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new() -> Self {
        Silence { since: Instant::now(), timer: None }
    }

    fn broken(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when nothing has been sent for [`SILENCE`].
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.since + SILENCE)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let due = self.since + SILENCE;
            if timer.deadline() >= due {
                self.since = Instant::now();
                timer.as_mut().reset(self.since + SILENCE);
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

/// The body of a streamed answer.
pub(super) struct Events {
    /// `None` once the stream is over.
    deltas: Option<BoxStream<'static, Result<Delta, Error>>>,
    lines: Lines,
    silence: Silence,
    tail: Tail,
}

impl Events {
    pub(super) fn new(
        deltas: BoxStream<'static, Result<Delta, Error>>,
        shape: Shape,
        model: ModelId,
        tail: Tail,
    ) -> Self {
        let lines =
            Lines { id: shape.answer_id(), shape, model, choices: Vec::new(), usage_told: false, out: BytesMut::new() };
        Events { deltas: Some(deltas), lines, silence: Silence::new(), tail }
    }

    /// Takes in one step of the stream.
    fn step(&mut self, next: Option<Result<Delta, Error>>) {
        match next.unwrap_or_else(|| Err(broken_off())) {
            Ok(delta) => {
                if let More::No(usage) = self.lines.delta(delta) {
                    self.deltas = None;
                    self.lines.end(usage, &(self.tail)());
                }
            }
            Err(error) => {
                self.deltas = None;
                self.lines.error(&error);
            }
        }
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        while let Some(deltas) = &mut this.deltas {
            match deltas.as_mut().poll_next(cx) {
                Poll::Ready(next) => this.step(next),
                Poll::Pending if this.lines.out.is_empty() => {
                    ready!(this.silence.poll(cx));
                    return Poll::Ready(Some(Ok(Frame::data(render_comment("keep-alive")))));
                }
                Poll::Pending => break,
            }
            if this.lines.out.len() >= FULL {
                break;
            }
        }
        if this.lines.out.is_empty() {
            return Poll::Ready(None);
        }
        this.silence.broken();
        Poll::Ready(Some(Ok(Frame::data(this.lines.out.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.deltas.is_none() && self.lines.out.is_empty()
    }
}
