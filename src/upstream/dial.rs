//! Opens connections to one endpoint: TCP, TLS with HTTP/1.1 and h2 by ALPN, one time-out over all
//! of connecting. `pool` asks; nobody else sees these types.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use tower::ServiceExt as _;

use super::link::Io;

const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// How all connections of an upstream are made.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls_or_plain: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl Connector {
    /// A connector that trusts the system's certificates or, where there are none, Mozilla's. The
    /// system's are read only where `tls` is wanted: that takes a while.
    pub(super) fn new(timeout: Duration, tls: bool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let of_system = tls.then(|| HttpsConnectorBuilder::new().with_native_roots().ok()).flatten();
        let tls = of_system.unwrap_or_else(|| HttpsConnectorBuilder::new().with_webpki_roots());
        Connector { tls_or_plain: tls.https_or_http().enable_all_versions().wrap_connector(tcp), timeout }
    }

    /// For one address; `h2c`: HTTP/2 without asking first.
    pub(super) fn to(&self, address: Uri, h2c: bool) -> Dial {
        Dial { connector: self.clone(), address, h2c }
    }
}

/// Opens connections to one address.
#[derive(Debug)]
pub(super) struct Dial {
    connector: Connector,
    address: Uri,
    h2c: bool,
}

impl Dial {
    /// A new connection, and whether it speaks h2.
    pub(super) async fn connect(&self) -> Result<(Io, bool), NoConnection> {
        let Connector { tls_or_plain, timeout } = &self.connector;
        let connecting = tls_or_plain.clone().oneshot(self.address.clone());
        let late = |_| NoConnection(format!("no connection within {timeout:?}").into());
        let io = tokio::time::timeout(*timeout, connecting).await.map_err(late)?.map_err(NoConnection)?;
        let h2 = self.h2c || io.connected().is_negotiated_h2();
        Ok((io, h2))
    }
}

/// There is no connection.
#[derive(Debug)]
pub(super) struct NoConnection(Box<dyn Error + Send + Sync>);

impl From<hyper::Error> for NoConnection {
    fn from(error: hyper::Error) -> Self {
        NoConnection(error.into())
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for NoConnection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
