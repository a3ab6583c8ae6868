//! The body of an upstream's answer: read whole, or as a stream of deltas.
//!
//! [`Events`] decodes server-sent events as they come, one delta per event with the upstream's
//! bytes untouched, remembers the usage wherever it stands, and tells an answer that was
//! completed from one that broke off. Dropping it closes the connection (or h2 stream), which is
//! how the upstream learns that nobody listens any more. `call` makes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep};

use super::endpoint::Visit;
use super::failure::{Asked, Failure, Outcome, silent, told, unavailable};
use super::link::Answer;
use crate::error::{Error, Result};
use crate::request::{Delta, Part, Usage};
use crate::wire::openai::{is_finish, scan};
use crate::wire::sse::{Decoder, Event};

/// The longest answer that is read whole, bytes.
pub(super) const LONGEST_ANSWER: usize = 64 * 1024 * 1024;
/// How long to wait for the end of a body after `[DONE]`, so that its connection can be used
/// again.
const LINGER: Duration = Duration::from_millis(25);

/// The time-outs of one call: a single timer, armed where a wait begins. What is there already
/// costs no timer.
#[derive(Debug)]
pub(super) struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    armed: bool,
}

impl Patience {
    /// Waits at most `limit`, from the first wait on.
    pub(super) fn new(limit: Duration) -> Self {
        Patience { sleep: None, limit, armed: false }
    }

    /// Waits at most `limit`, from the next wait on.
    pub(super) fn renew(&mut self, limit: Duration) {
        (self.limit, self.armed) = (limit, false);
    }

    /// Runs `work`; `Err` is the limit that passed first. Cancel-safe as far as `work` is.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> std::result::Result<T, Duration> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll(cx).map(|()| Err(self.limit)),
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (limit, armed) = (self.limit, std::mem::replace(&mut self.armed, true));
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !armed {
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx)
    }
}

/// How reading a body went wrong.
#[derive(Debug)]
pub(super) enum Cut {
    /// Nothing came for this long.
    Silent(Duration),
    /// The connection broke.
    Broken,
    /// More than the most came: here is the beginning.
    TooLong(Bytes),
}

/// Reads a body to its end; copies nothing where it comes in one frame. At most `most` bytes.
pub(super) async fn read_whole(
    mut body: Answer,
    patience: &mut Patience,
    idle: Duration,
    most: usize,
) -> std::result::Result<Bytes, Cut> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(most).min(most);
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    patience.renew(idle);
    while !body.is_end_stream() {
        let Some(frame) = patience.during(body.frame()).await.map_err(Cut::Silent)? else { break };
        let Ok(piece) = frame.map_err(|_| Cut::Broken)?.into_data() else { continue };
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.reserve(expected.max(first.len() + piece.len()));
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
        if first.len() + whole.len() > most {
            let mut beginning = if whole.is_empty() { first } else { whole.freeze() };
            beginning.truncate(most);
            return Err(Cut::TooLong(beginning));
        }
        patience.renew(idle);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Events come.
    Flowing,
    /// `[DONE]` has come.
    Done,
    /// The last delta was given.
    Over,
}

/// A streamed answer.
#[derive(Debug)]
pub(super) struct Events {
    asked: Arc<Asked>,
    body: Answer,
    decoder: Decoder,
    patience: Patience,
    idle: Duration,
    usage: Option<Usage>,
    /// The last chunk with choices: says whether the answer was complete.
    last: Bytes,
    phase: Phase,
    /// Whether the upstream told an error.
    told: bool,
    /// Counts the call as running until the answer is dropped.
    _visit: Option<Visit>,
}

impl Events {
    /// The events of `body`. `patience` is armed for the first one; after each piece it is
    /// `idle` long.
    pub(super) fn new(asked: Arc<Asked>, body: Answer, patience: Patience, idle: Duration) -> Self {
        Events {
            asked,
            body,
            decoder: Decoder::default(),
            patience,
            idle,
            usage: None,
            last: Bytes::new(),
            phase: Phase::Flowing,
            told: false,
            _visit: None,
        }
    }

    /// The first delta. The endpoint is to blame where none comes, unless an error is told.
    pub(super) async fn first(&mut self) -> Outcome<Delta> {
        match self.next().await {
            Some(Ok(delta)) => Ok(delta),
            Some(Err(error)) => Err(Failure::last(error, !self.told)),
            None => Err(Failure::last(self.broken("its stream is empty"), true)),
        }
    }

    /// The same events; the call counts as running until they are dropped.
    pub(super) fn during(self, visit: Visit) -> Self {
        Events { _visit: Some(visit), ..self }
    }

    /// What an event gives: nothing for marks, else a delta.
    fn take(&mut self, event: Event) -> Result<Option<Delta>> {
        if event.is_done() {
            self.phase = Phase::Done;
            self.patience.renew(LINGER);
            return Ok(None);
        }
        if event.data.trim_ascii().is_empty() || self.phase == Phase::Done {
            return Ok(None);
        }
        if event.error {
            return Err(self.tell(event.data));
        }
        let found = scan(event.data)
            .map_err(|error| self.broken(&format!("an event of the stream is no JSON object: {error}")))?;
        if found.error {
            return Err(self.tell(found.raw.bytes));
        }
        self.usage = found.usage.or(self.usage);
        if !found.raw.choices_empty {
            self.last = found.raw.bytes.clone();
        }
        Ok(Some(Delta { choice: 0, part: Part::Raw, raw: Some(found.raw) }))
    }

    /// The next delta of what has been read already; `None`: read on.
    fn decoded(&mut self) -> Result<Option<Delta>> {
        while let Some(event) = self.decoder.next().map_err(|error| self.broken(&error.to_string()))? {
            if let Some(delta) = self.take(event)? {
                return Ok(Some(delta));
            }
        }
        Ok(None)
    }

    /// The body has ended: what an unclosed last event gives, else the end.
    fn finished(&mut self) -> Result<Delta> {
        let rest = self.decoder.finish().map_err(|error| self.broken(&error.to_string()))?;
        if let Some(event) = rest
            && let Some(delta) = self.take(event)?
        {
            return Ok(delta);
        }
        if self.phase == Phase::Done || is_finish(&self.last) {
            Ok(self.end())
        } else {
            Err(self.broken("the stream ended early"))
        }
    }

    fn end(&mut self) -> Delta {
        self.phase = Phase::Over;
        Delta::new(0, Part::End(self.usage))
    }

    fn tell(&mut self, error: Bytes) -> Error {
        self.told = true;
        told(&self.asked, error)
    }

    fn broken(&self, what: &str) -> Error {
        unavailable(&self.asked.upstream, what)
    }

    fn poll_delta(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delta>> {
        loop {
            if let Some(delta) = self.decoded()? {
                return Poll::Ready(Ok(delta));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(_)) if self.phase == Phase::Done => return Poll::Ready(Ok(self.end())),
                Poll::Ready(Some(Ok(frame))) => {
                    self.patience.renew(self.idle);
                    if let Ok(piece) = frame.into_data() {
                        self.decoder.push(piece);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(self.finished()),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(self.broken("the stream broke off"))),
                Poll::Pending => {
                    ready!(self.patience.poll(cx));
                    return Poll::Ready(if self.phase == Phase::Done {
                        Ok(self.end())
                    } else {
                        Err(silent(&self.asked.upstream, self.patience.limit))
                    });
                }
            }
        }
    }
}

impl Stream for Events {
    type Item = Result<Delta>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.phase == Phase::Over {
            return Poll::Ready(None);
        }
        let delta = ready!(self.poll_delta(cx));
        if delta.is_err() {
            self.phase = Phase::Over;
        }
        Poll::Ready(Some(delta))
    }
}
