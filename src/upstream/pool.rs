//! The connections to one endpoint: the idle ones, newest first, or the one that is shared.
//!
//! Hides which HTTP version was agreed on. Promises: an idle connection that the endpoint has closed
//! is not used again as far as that can be seen; none is kept idle for longer than about two
//! minutes; a shared connection's own task ends when nobody uses it any more. `endpoint` holds one
//! per address.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::dial::{Dial, NoConnection};
use super::link::{Io, Link, Single};

const IDLE: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// More idle connections than this are closed.
const MOST_IDLE: usize = 1024;

/// The connections to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    dial: Dial,
    kept: Mutex<Kept>,
    tasks: TaskTracker,
    own: Weak<Pool>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    idle: Vec<Idle>,
    shared: Option<http2::SendRequest<Full<Bytes>>>,
    /// Whether a task closes what is idle for long.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    single: Box<Single>,
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(dial: Dial) -> Arc<Self> {
        Arc::new_cyclic(|own| Pool { dial, kept: Mutex::default(), tasks: TaskTracker::new(), own: own.clone() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to send the next request on: the shared one, an idle one, or a new one.
    pub(super) async fn take(&self) -> Result<Link, NoConnection> {
        if let Some(link) = self.kept().take() {
            return Ok(link);
        }
        // Boxed: connecting is rare, and its future is large.
        Box::pin(self.connect()).await
    }

    async fn connect(&self) -> Result<Link, NoConnection> {
        let (io, h2) = self.dial.connect().await?;
        if h2 { self.share(io).await } else { Ok(Link::Single(Box::new(Single::open(io).await?))) }
    }

    /// Takes back a connection whose answer has ended.
    pub(super) fn give(&self, mut single: Box<Single>) {
        if !single.is_ready() {
            return;
        }
        let mut kept = self.kept();
        if kept.idle.len() < MOST_IDLE {
            kept.idle.push(Idle { since: Instant::now(), single });
        }
        if !std::mem::replace(&mut kept.swept, true) {
            self.tasks.spawn(sweep(self.own.clone()));
        }
    }

    /// Makes this the shared connection, unless another call was faster.
    async fn share(&self, io: Io) -> Result<Link, NoConnection> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).adaptive_window(true);
        builder.keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
        let (sender, driver) = builder.handshake(io).await?;
        let mut kept = self.kept();
        if let Some(faster) = kept.shared() {
            return Ok(Link::Shared(faster));
        }
        kept.shared = Some(sender.clone());
        self.tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a shared connection ended");
            }
        });
        Ok(Link::Shared(sender))
    }
}

impl Kept {
    fn shared(&self) -> Option<http2::SendRequest<Full<Bytes>>> {
        self.shared.as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    fn take(&mut self) -> Option<Link> {
        if let Some(sender) = self.shared() {
            return Some(Link::Shared(sender));
        }
        let here = Handle::current().id();
        loop {
            let nearest = self.idle.iter().rposition(|idle| idle.single.home() == here);
            let place = nearest.or(self.idle.len().checked_sub(1))?;
            let Idle { since, mut single } = self.idle.remove(place);
            if since.elapsed() < IDLE && single.is_ready() {
                return Some(Link::Single(single));
            }
        }
    }
}

/// Closes what is idle for long, as long as there is a pool.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut kept = pool.kept();
        kept.idle.retain(|idle| idle.since.elapsed() < IDLE);
        if kept.idle.is_empty() {
            kept.swept = false;
            return;
        }
    }
}
