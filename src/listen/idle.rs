//! When a connection is idle: no request is in flight on it, and none was for a while.
//!
//! hyper's own timers do not see a client that sends nothing, or half of h2's preface, or h2 that
//! answers pings and asks nothing. Counted in atomics, because every request passes here. Used by
//! `connection`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What happens on one connection.
#[derive(Debug)]
pub(super) struct Traffic {
    opened: Instant,
    in_flight: AtomicUsize,
    /// Requests begun and requests ended.
    changes: AtomicU64,
    /// When the last request ended, in microseconds since the connection was opened.
    last: AtomicU64,
    /// Whether a request came as h2.
    h2: AtomicBool,
    /// Told of each request that ends.
    over: Notify,
}

impl Traffic {
    /// Nothing has happened yet on a connection that is opened now.
    pub(super) fn open() -> Arc<Traffic> {
        Arc::new(Traffic {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            h2: AtomicBool::new(false),
            over: Notify::new(),
        })
    }

    /// A request has begun; it is in flight until the value is dropped, and `counted` with it.
    pub(super) fn begin(self: &Arc<Self>, version: Version, counted: TaskTrackerToken) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.h2.store(true, Ordering::Relaxed);
        }
        InFlight { traffic: Arc::clone(self), _counted: counted }
    }

    /// Whether the connection is known to speak h2.
    pub(super) fn is_h2(&self) -> bool {
        self.h2.load(Ordering::Relaxed)
    }

    /// Waits until there was no request for as long as `limit`; ends at most one `limit` later.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let before = self.changes.load(Ordering::Relaxed);
            sleep(limit).await;
            let unchanged = self.changes.load(Ordering::Relaxed) == before;
            if unchanged && self.in_flight.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    /// Waits until there was no request for as long as `limit`; at once if that is so already.
    pub(super) async fn quiet(&self, limit: Duration) {
        loop {
            if self.in_flight.load(Ordering::Relaxed) > 0 {
                self.over.notified().await;
                continue;
            }
            let until = self.opened + Duration::from_micros(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    traffic: Arc<Traffic>,
    _counted: TaskTrackerToken,
}

impl InFlight {
    /// The answer's body; with its end the request is over.
    pub(super) fn until_end_of<B>(self, body: B) -> Answer<B> {
        Answer { body, _request: self }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let since = self.traffic.opened.elapsed().as_micros();
        self.traffic.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.traffic.changes.fetch_add(1, Ordering::Relaxed);
        self.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.traffic.over.notify_one();
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
