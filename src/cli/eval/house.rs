//! A gateway inside this process, on a port of loopback that nobody chose.
//!
//! Promises: it answers when [`House::open`] returns, and ends with the value. What `weir eval` asks
//! where no running gateway is named.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::account::Record;
use crate::control::{Checked, Control, Options};
use crate::gateway::Gateway;
use crate::listen::{self, Front};
use crate::observe::Metrics;

/// The gateway; ends when dropped.
#[derive(Debug)]
pub(super) struct House {
    /// Where it listens.
    pub(super) url: String,
    /// Its configuration.
    pub(super) control: Arc<Control>,
    _running: JoinSet<()>,
}

impl House {
    /// Loads models, opens pools, listens.
    pub(super) async fn open(options: Options, checked: Checked) -> Result<House, String> {
        let control = Control::open(options, checked).await.map_err(|problems| super::lines(&problems))?;
        let control = Arc::new(control);
        let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
        let front = Front::new(Arc::new(Gateway::new(Arc::clone(&control), metrics as Arc<dyn Record>)));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| format!("cannot listen: {error}"))?;
        let address = listener.local_addr().map_err(|error| format!("cannot listen: {error}"))?;
        let mut running = JoinSet::new();
        running.spawn(accept(listener, front));
        Ok(House { url: format!("http://{address}"), control, _running: running })
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.control.halt();
    }
}

async fn accept(listener: TcpListener, front: Front) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let front = front.clone();
        connections.spawn(async move { listen::connection(stream, &front, std::future::pending()).await });
        while connections.try_join_next().is_some() {}
    }
}
