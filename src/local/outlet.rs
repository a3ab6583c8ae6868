//! The way of deltas from an engine thread to the client that waits for them.
//!
//! The engine never blocks: what the bounded channel does not take stays in the outlet, and the
//! engine pauses that request's slots until it is clear. The client's side is a stream that ends
//! with one `End` or one error, also when the engine gave the request up or ended.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Delta, Part};

/// Deltas under way to a client that is slower than the model.
const UNDER_WAY: usize = 64;

/// The engine's end.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: mpsc::Sender<Delta>,
    pending: VecDeque<Delta>,
    stuck_since: Option<Instant>,
    fate: Arc<OnceLock<Error>>,
}

/// The client's end.
#[derive(Debug)]
pub(super) struct Inlet {
    receiver: mpsc::Receiver<Delta>,
    fate: Arc<OnceLock<Error>>,
}

/// How an outlet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Everything is on its way.
    Clear,
    /// The client has not read for so long.
    Stuck(Duration),
    /// The client has left.
    Closed,
}

/// A new way for one request.
pub(super) fn outlet() -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    let fate = Arc::new(OnceLock::new());
    let outlet = Outlet { sender, pending: VecDeque::new(), stuck_since: None, fate: fate.clone() };
    (outlet, Inlet { receiver, fate })
}

impl Outlet {
    /// Adds a delta; it leaves now or with a later [`Outlet::flush`].
    pub(super) fn push(&mut self, delta: Delta) {
        self.pending.push_back(delta);
    }

    /// Whether the client has left.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether everything pushed has left.
    pub(super) fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends what the client takes.
    pub(super) fn flush(&mut self, now: Instant) -> Flow {
        if self.is_closed() {
            return Flow::Closed;
        }
        while let Some(delta) = self.pending.pop_front() {
            match self.sender.try_send(delta) {
                Ok(()) => self.stuck_since = None,
                Err(mpsc::error::TrySendError::Closed(_)) => return Flow::Closed,
                Err(mpsc::error::TrySendError::Full(delta)) => {
                    self.pending.push_front(delta);
                    let since = *self.stuck_since.get_or_insert(now);
                    return Flow::Stuck(now.saturating_duration_since(since));
                }
            }
        }
        self.stuck_since = None;
        Flow::Clear
    }

    /// Ends the stream with an error, after what has left already.
    pub(super) fn fail(self, error: Error) {
        // A second error changes nothing: the first is the cause.
        let _ = self.fate.set(error);
    }
}

impl Inlet {
    /// The next delta; `None` only after `End`.
    async fn next(&mut self) -> Result<Delta> {
        match self.receiver.recv().await {
            Some(delta) => Ok(delta),
            None => Err(self.fate.get().cloned().unwrap_or_else(engine_ended)),
        }
    }

    /// Waits for the first delta; the stream begins with it.
    pub(super) async fn begin(mut self) -> Result<BoxStream<'static, Result<Delta>>> {
        let first = self.next().await?;
        let ended = matches!(first.part, Part::End(_));
        let rest = stream::unfold((self, ended), |(mut inlet, ended)| async move {
            if ended {
                return None;
            }
            let delta = inlet.next().await;
            let ended = !matches!(&delta, Ok(Delta { part, .. }) if !matches!(part, Part::End(_)));
            Some((delta, (inlet, ended)))
        });
        Ok(stream::once(async { Ok(first) }).chain(rest).boxed())
    }
}

/// The error of a client that reads too slowly.
pub(super) fn read_too_slowly(limit: Duration) -> Error {
    let message = format!("the answer was not read for {} s and was given up", limit.as_secs());
    Error::new(Kind::Timeout, Origin::Client, message)
}

/// The error of requests whose engine is no longer there.
pub(super) fn engine_ended() -> Error {
    Error::new(Kind::Unavailable, Origin::Local, "the model's engine has ended").retry(Retry::Elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: usize) -> Delta {
        Delta::new(0, Part::Text { text: n.to_string(), tokens: Vec::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_loses_nothing_and_is_seen() {
        let (mut outlet, inlet) = outlet();
        for n in 0..UNDER_WAY + 3 {
            outlet.push(text(n));
        }
        outlet.push(Delta::new(0, Part::End(None)));
        assert_eq!(outlet.flush(Instant::now()), Flow::Stuck(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(outlet.flush(Instant::now()), Flow::Stuck(Duration::from_secs(7)));
        let mut stream = inlet.begin().await.unwrap();
        for n in 0..4 {
            let Part::Text { text, .. } = stream.next().await.unwrap().unwrap().part else { panic!() };
            assert_eq!(text, n.to_string());
        }
        assert!(!outlet.is_clear());
        assert_eq!(outlet.flush(Instant::now()), Flow::Clear);
        assert!(outlet.is_clear());
        assert_eq!(stream.count().await, UNDER_WAY);
    }

    #[tokio::test]
    async fn a_failed_request_ends_with_its_error_after_what_was_sent() {
        let (mut outlet, inlet) = outlet();
        outlet.push(text(1));
        outlet.flush(Instant::now());
        outlet.fail(read_too_slowly(Duration::from_secs(30)));
        let deltas: Vec<_> = inlet.begin().await.unwrap().collect().await;
        assert_eq!(deltas.len(), 2);
        assert_eq!(deltas[1].as_ref().unwrap_err().kind(), Kind::Timeout);
    }

    #[tokio::test]
    async fn an_engine_that_ends_is_an_error_not_an_end() {
        let (outlet, inlet) = outlet();
        drop(outlet);
        assert_eq!(inlet.begin().await.err().unwrap().kind(), Kind::Unavailable);
    }

    #[tokio::test]
    async fn a_client_that_left_is_seen() {
        let (mut outlet, inlet) = outlet();
        drop(inlet);
        assert_eq!(outlet.flush(Instant::now()), Flow::Closed);
    }
}
