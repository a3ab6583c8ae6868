//! When a connection is idle: no request is in flight on it, and none was for a while.
//!
//! hyper's own timers do not see a client that sends nothing, or half of h2's preface, or h2 that
//! answers pings and asks nothing. Counted in atomics, because every request passes here. Used by
//! `connection`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};

/// What happens on one connection.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    in_flight: AtomicUsize,
    /// Requests begun and requests ended.
    changes: AtomicU64,
}

impl Traffic {
    /// A request has begun; it is in flight until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Waits until there was no request for as long as `limit`; ends at most one `limit` later.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let before = self.changes.load(Ordering::Relaxed);
            tokio::time::sleep(limit).await;
            let unchanged = self.changes.load(Ordering::Relaxed) == before;
            if unchanged && self.in_flight.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Traffic>);

impl InFlight {
    /// The answer's body; with its end the request is over.
    pub(super) fn until_end_of<B>(self, body: B) -> Answer<B> {
        Answer { body, _request: self }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that keeps its request in flight.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    _request: InFlight,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
