//! Holds an answer's last bytes back until what must outlive a crash is written.
//!
//! Promises: a client that has read an answer to its end can rely on it: the request's line is in the
//! capture log, and what it cost is in the journal of budgets, whatever happens to the process. The
//! tab is settled then. Only where something must last; used by `gateway`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::account::Meter;
use crate::api::Body;

/// The body, if nothing of its request must last; else the body with its last bytes held back.
pub(super) fn held(body: Body, meter: &Meter) -> Body {
    if !meter.is_lasting() {
        return body;
    }
    Held { body, meter: Some(meter.clone()), last: None, writing: None }.boxed_unsync()
}

type Item = Option<Result<Frame<Bytes>, <Body as http_body::Body>::Error>>;

struct Held {
    body: Body,
    /// Taken when the answer is complete.
    meter: Option<Meter>,
    last: Item,
    writing: Option<BoxFuture<'static, ()>>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Item> {
        if self.writing.is_none() {
            let next = ready!(Pin::new(&mut self.body).poll_frame(context));
            let goes_on = matches!(next, Some(Ok(_))) && !self.body.is_end_stream();
            let Some(meter) = self.meter.take_if(|_| !goes_on) else { return Poll::Ready(next) };
            self.last = next;
            self.writing = Some(meter.settle_lasting());
        }
        if let Some(writing) = &mut self.writing {
            ready!(writing.as_mut().poll(context));
            self.writing = None;
        }
        Poll::Ready(self.last.take())
    }

    fn is_end_stream(&self) -> bool {
        self.meter.is_none() && self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_ref().and_then(|last| last.as_ref().ok()?.data_ref().map(Bytes::len));
        let mut hint = self.body.size_hint();
        if let (Some(exact), Some(last)) = (hint.exact(), last) {
            hint.set_exact(exact + last as u64);
        }
        hint
    }
}
