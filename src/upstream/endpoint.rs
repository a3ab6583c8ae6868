//! The addresses of an upstream: what is prepared once for each, which one is asked next, and
//! how many calls each carries. `call` chooses through [`Endpoints`] and holds a [`Visit`] for as
//! long as the call lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::config::Config;
use super::dial::Connector;
use super::link::Link;
use super::pool::Pool;
use crate::backend::Breaker as State;
use crate::error::{Error, Kind, Origin, Result};
use crate::request::Ask;

/// More addresses than this are refused.
const MOST: usize = 64;

/// One address.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) pool: Arc<Pool>,
    host: HeaderValue,
    pub(super) models: Place,
    chat: Place,
    text: Place,
    embed: Place,
    breaker: Breaker,
    busy: AtomicU32,
}

/// Where a request goes, as each version of HTTP writes it.
#[derive(Debug)]
pub(super) struct Place {
    whole: Uri,
    path: Uri,
}

impl Endpoint {
    fn build(address: &Uri, config: &Config, connector: &Connector) -> Result<Self> {
        let scheme = address.scheme().filter(|scheme| **scheme == Scheme::HTTP || **scheme == Scheme::HTTPS);
        let (Some(scheme), Some(authority)) = (scheme, address.authority()) else {
            return Err(wrong(config, &format!("endpoint \"{address}\" is no http:// or https:// address")));
        };
        if authority.as_str().contains('@') || address.query().is_some() {
            return Err(wrong(config, "an endpoint must have neither credentials nor a query; use `api_key`"));
        }
        let plain = *scheme == Scheme::HTTP;
        let prefix = address.path().trim_end_matches('/');
        let place = |rest: &str| {
            let bad = |error: &dyn std::fmt::Display| wrong(config, &format!("endpoint \"{address}\": {error}"));
            let mut parts = address.clone().into_parts();
            let path = PathAndQuery::try_from(format!("{prefix}{rest}")).map_err(|error| bad(&error))?;
            parts.path_and_query = Some(path.clone());
            let whole = Uri::from_parts(parts).map_err(|error| bad(&error))?;
            Ok::<_, Error>(Place { whole, path: path.into() })
        };
        let host = HeaderValue::from_str(authority.as_str());
        Ok(Endpoint {
            pool: Pool::new(connector.to(address.clone(), plain && config.h2c)),
            host: host.map_err(|error| wrong(config, &format!("endpoint \"{address}\": {error}")))?,
            models: place("/models")?,
            chat: place("/chat/completions")?,
            text: place("/completions")?,
            embed: place("/embeddings")?,
            breaker: Breaker::new(config.breaker_failures, config.breaker_cool_down, Instant::now()),
            busy: AtomicU32::new(0),
        })
    }

    /// Where a request of this sort goes.
    pub(super) fn place(&self, ask: &Ask) -> &Place {
        match ask {
            Ask::Chat(_) => &self.chat,
            Ask::Text(_) => &self.text,
            Ask::Embed(_) => &self.embed,
        }
    }

    /// Says in the request where it goes, in the words of the link's version of HTTP.
    pub(super) fn address<B>(&self, request: &mut Request<B>, place: &Place, link: &Link) {
        match link {
            Link::Single(_) => {
                *request.uri_mut() = place.path.clone();
                request.headers_mut().insert(HOST, self.host.clone());
            }
            Link::Shared(_) => {
                *request.uri_mut() = place.whole.clone();
                *request.version_mut() = Version::HTTP_2;
            }
        }
    }
}

fn wrong(config: &Config, what: &str) -> Error {
    Error::new(Kind::Invalid, Origin::Gateway, format!("upstream \"{}\": {what}", config.name))
}

/// All addresses of an upstream.
#[derive(Debug)]
pub(super) struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

impl Endpoints {
    /// Prepares them; an address that cannot be one is an error.
    pub(super) fn build(config: &Config) -> Result<Self> {
        if config.endpoints.is_empty() || config.endpoints.len() > MOST {
            let count = config.endpoints.len();
            return Err(wrong(config, &format!("{count} endpoints; there must be 1 to {MOST}")));
        }
        let tls = config.endpoints.iter().any(|address| address.scheme() == Some(&Scheme::HTTPS));
        let connector = Connector::new(config.connect_timeout, tls);
        let built = config.endpoints.iter().map(|address| Endpoint::build(address, config, &connector).map(Arc::new));
        Ok(Endpoints { list: built.collect::<Result<_>>()?, turn: AtomicUsize::new(0) })
    }

    /// Every address, in the configured order.
    pub(super) fn list(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// Takes an address whose breaker admits a call: one not in `tried` rather than one that is,
    /// then the least busy, in turn where equal. `None`: every breaker is open.
    pub(super) fn choose(&self, tried: &mut Tried) -> Option<Visit> {
        let now = Instant::now();
        let count = self.list.len();
        let first_try = tried.0 == 0;
        let turn = self.turn.fetch_add(usize::from(first_try), Ordering::Relaxed);
        loop {
            let admitting = (0..count)
                .map(|step| turn.wrapping_add(step) % count)
                .filter(|at| self.list[*at].breaker.would_admit(now));
            let best = admitting.min_by_key(|at| (tried.has(*at), self.list[*at].busy.load(Ordering::Relaxed)))?;
            // Another call may have taken the trial meanwhile; then this address does not admit any more.
            if let Some(trial) = self.list[best].breaker.admit(now) {
                tried.add(best);
                return Some(Visit::new(Arc::clone(&self.list[best]), trial));
            }
        }
    }

    /// Whether an address not in `tried` admits a call.
    pub(super) fn untried(&self, tried: &Tried) -> bool {
        let now = Instant::now();
        self.list.iter().enumerate().any(|(at, endpoint)| !tried.has(at) && endpoint.breaker.would_admit(now))
    }

    /// Closed if calls flow to any address, else half-open if any may be tried.
    pub(super) fn breaker(&self) -> State {
        let now = Instant::now();
        let states = self.list.iter().map(|endpoint| endpoint.breaker.state(now));
        states
            .min_by_key(|state| match state {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            })
            .unwrap_or_default()
    }

    /// Calls being answered.
    pub(super) fn busy(&self) -> u32 {
        self.list.iter().map(|endpoint| endpoint.busy.load(Ordering::Relaxed)).sum()
    }
}

/// Which addresses one call has tried.
#[derive(Debug, Default)]
pub(super) struct Tried(u64);

impl Tried {
    fn add(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    fn has(&self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }
}

/// One try at one address, until its answer has ended or is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) endpoint: Arc<Endpoint>,
    trial: bool,
}

impl Visit {
    fn new(endpoint: Arc<Endpoint>, trial: bool) -> Self {
        endpoint.busy.fetch_add(1, Ordering::Relaxed);
        Visit { endpoint, trial }
    }

    /// The endpoint works.
    pub(super) fn succeed(&mut self) {
        self.endpoint.breaker.succeed(std::mem::take(&mut self.trial));
    }

    /// The endpoint does not work.
    pub(super) fn fail(&mut self) {
        self.endpoint.breaker.fail(std::mem::take(&mut self.trial), Instant::now());
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.endpoint.breaker.abandon(self.trial);
        self.endpoint.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
