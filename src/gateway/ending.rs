//! What becomes of answers when the process may wait for them no longer.
//!
//! Promises: an answer whose head is out ends with an error that says so (`shutting_down`), one whose
//! head is not becomes a 503 with `retry-after`; the backend's work is dropped, and the receipt names
//! the error. The wait is polled only where the answer has nothing to give. Used by `gateway`.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, select};
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::account::Meter;
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::Delta;

/// When a client should come again: another process is there by then, or soon.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// What comes of the work, or of the end of the process if that is first.
pub(super) async fn unless_ended<T>(work: impl Future<Output = Result<T>>, end: &CancellationToken) -> Result<T> {
    match select(pin!(work), pin!(end.cancelled())).await {
        Either::Left((done, _)) => done,
        Either::Right(((), _)) => Err(shutting_down()),
    }
}

/// The deltas, ending with an error when the process ends first.
pub(super) fn until_ended(
    deltas: BoxStream<'static, Result<Delta>>,
    end: &CancellationToken,
    meter: &Meter,
) -> BoxStream<'static, Result<Delta>> {
    let ended = Box::pin(end.clone().cancelled_owned());
    Ending { deltas: Some(deltas), ended, meter: meter.clone() }.boxed()
}

struct Ending {
    deltas: Option<BoxStream<'static, Result<Delta>>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    meter: Meter,
}

impl Stream for Ending {
    type Item = Result<Delta>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(deltas) = &mut self.deltas else { return Poll::Ready(None) };
        let next = deltas.as_mut().poll_next(context);
        if next.is_ready() || self.ended.as_mut().poll(context).is_pending() {
            return next;
        }
        self.deltas = None;
        let error = shutting_down();
        self.meter.failed(&error);
        Poll::Ready(Some(Err(error)))
    }
}

fn shutting_down() -> Error {
    let message = "this process is shutting down before the answer was complete; ask again";
    Error::new(Kind::Unavailable, Origin::Gateway, message).code("shutting_down").retry(Retry::After(COME_AGAIN))
}
