//! Connections to endpoints: TCP, TLS with HTTP/1.1 and h2 by ALPN, a pool, one time-out over
//! all of connecting. `endpoint` holds a client per address; nobody else sees these types.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower::Service;

/// A pooled client of one endpoint.
pub(super) type Http = Client<Dial, Full<Bytes>>;

const POOL_IDLE: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens connections, each within a time-out.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    connector: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Dial {
    /// A dialler that trusts the system's certificates or, where there are none, Mozilla's. The
    /// system's are read only where `tls` is wanted: that takes a while.
    pub(super) fn new(timeout: Duration, tls: bool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let of_system = tls.then(|| HttpsConnectorBuilder::new().with_native_roots().ok()).flatten();
        let tls = of_system.unwrap_or_else(|| HttpsConnectorBuilder::new().with_webpki_roots());
        let connector = tls.https_or_http().enable_all_versions().wrap_connector(tcp);
        Dial { connector, timeout }
    }

    /// A client with its own pool; `h2c`: HTTP/2 without asking first.
    pub(super) fn client(&self, h2c: bool) -> Http {
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_only(h2c)
            .build(self.clone())
    }
}

impl Service<Uri> for Dial {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.connector.call(address);
        let timeout = self.timeout;
        Box::pin(async move {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"));
            tokio::time::timeout(timeout, connecting).await.map_err(late)?
        })
    }
}
