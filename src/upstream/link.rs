//! One connection to an endpoint, and one exchange on it.
//!
//! An HTTP/1.1 connection is driven by the future that waits for its answer and by the body that is
//! read from it: no task of its own, no wake-up between tasks, and dropping either closes it. An
//! HTTP/2 connection is shared and driven by a tracked task. `pool` keeps them, `call` asks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Id};

use super::pool::Pool;

/// A connection's bytes.
pub(super) type Io = MaybeHttpsStream<TokioIo<TcpStream>>;
type Body = Full<Bytes>;

/// A connection that serves one exchange at a time.
#[derive(Debug)]
pub(super) struct Single {
    sender: http1::SendRequest<Body>,
    /// `None` once it has ended.
    driver: Option<http1::Connection<Io, Body>>,
    home: Id,
}

impl Single {
    /// Speaks HTTP/1.1 over these bytes.
    pub(super) async fn open(io: Io) -> hyper::Result<Self> {
        // Head and body in one write: mostly they are small.
        let (sender, driver) = http1::Builder::new().writev(false).handshake(io).await?;
        Ok(Single { sender, driver: Some(driver), home: Handle::current().id() })
    }

    /// The runtime that watches the socket.
    pub(super) fn home(&self) -> Id {
        self.home
    }

    /// Moves what can be moved, without waiting.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            // How it ended, the answer or its body tells.
            self.driver = None;
        }
    }

    /// Whether another exchange may begin: nothing is left of the last, and neither side has closed it.
    pub(super) fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends the request and waits for the head of its answer.
    async fn exchange(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let mut answer = std::pin::pin!(self.sender.send_request(request));
        std::future::poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// What a request is sent on.
#[derive(Debug)]
pub(super) enum Link {
    /// HTTP/1.1.
    Single(Box<Single>),
    /// HTTP/2.
    Shared(http2::SendRequest<Body>),
}

impl Link {
    /// Sends the request and waits for the head of its answer, whose body gives an HTTP/1.1
    /// connection back to `pool` at its end. Dropping the future or the body ends the exchange.
    pub(super) async fn ask(self, request: Request<Body>, pool: &Arc<Pool>) -> hyper::Result<Response<Answer>> {
        let (answered, link) = match self {
            Link::Single(mut single) => (single.exchange(request).await?, Some((single, Arc::clone(pool)))),
            Link::Shared(mut sender) => (sender.send_request(request).await?, None),
        };
        let (head, body) = answered.into_parts();
        let mut answer = Answer { body, link };
        if answer.is_end_stream() {
            answer.release();
        }
        Ok(Response::from_parts(head, answer))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    /// The connection that brings it, until the end.
    link: Option<(Box<Single>, Arc<Pool>)>,
}

impl Answer {
    fn release(&mut self) {
        if let Some((single, pool)) = self.link.take() {
            pool.give(single);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Pending, Some((single, _))) = (&polled, &mut self.link) {
            single.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.release();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
