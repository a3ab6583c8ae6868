//! Renders an answer: its head, and its body in one piece or as a stream of events.
//!
//! `gateway` calls [`respond`]; the story's headers are its own to add. `models` and `reject` use
//! the small bodies.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::Body;
use super::fold::fold;
use super::shape::Shape;
use super::stream::Events;
use crate::backend::Completion;
use crate::error::Error;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Tells the story of an answer, once it is complete.
pub(super) type Tail = Box<dyn Fn() -> String + Send>;

/// Renders an answer. A stream's head is rendered at once; an answer in one piece is awaited to
/// its end. Dropping the future, or the body, cancels the work.
///
/// `tail` renders the story (`cost-usd=… confidence=…`) for the comment `: weir …` before
/// `[DONE]`; it is called at most once, when a stream is complete, and dropped with the body, so
/// that what it holds lives until the last byte.
///
/// # Errors
///
/// That of an answer in one piece which fails before its end. A stream that fails tells the error
/// as its last event and ends without `[DONE]`.
pub async fn respond(
    completion: Completion,
    shape: Shape,
    tail: Box<dyn Fn() -> String + Send>,
) -> Result<Response<Body>, Error> {
    let Completion { model, headers, deltas } = completion;
    let mut response = if shape.stream {
        let mut response = Response::new(boxed(Events::new(deltas, shape, model, tail)));
        response.headers_mut().insert(CONTENT_TYPE, EVENTS);
        response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
        response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        response
    } else {
        json(fold(deltas, &shape, model.as_str()).await?, Some(tail))
    };
    for (name, value) in &headers {
        response.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    Ok(response)
}

/// A JSON answer; see [`whole`].
pub(super) fn json(bytes: Bytes, kept: Option<Tail>) -> Response<Body> {
    let mut response = Response::new(whole(bytes, kept));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A body in one piece. `kept` lives as long as the body.
pub(super) fn whole(bytes: Bytes, kept: Option<Tail>) -> Body {
    boxed(Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), _kept: kept })
}

fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    body.map_err(|never| match never {}).boxed_unsync()
}

struct Whole {
    bytes: Option<Bytes>,
    _kept: Option<Tail>,
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whole").finish_non_exhaustive()
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
