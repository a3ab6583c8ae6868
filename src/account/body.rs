//! The client's body with its waits noted: what a slow client costs is not our overhead.
//!
//! Promises: frames pass unchanged; only the time in which the body had nothing to give counts as
//! waiting. Wrapped by `gateway` round the body that `api::parse` reads.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Meter;

/// A body whose waits are noted on a tab.
pub struct Awaited<B> {
    meter: Meter,
    body: B,
    waiting: bool,
}

impl<B> Awaited<B> {
    pub(super) fn new(meter: Meter, body: B) -> Awaited<B> {
        Awaited { meter, body, waiting: false }
    }

    fn set_waiting(&mut self, waiting: bool) {
        if waiting == std::mem::replace(&mut self.waiting, waiting) {
            return;
        }
        let mut state = self.meter.tab().state();
        if waiting {
            state.waits.begin(Instant::now());
        } else {
            state.waits.end(Instant::now());
        }
    }
}

impl<B> fmt::Debug for Awaited<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl<B: Body + Unpin> Body for Awaited<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.set_waiting(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Awaited<B> {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}
