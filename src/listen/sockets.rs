//! Where the two ports' sockets come from: from the process that serves now, from systemd, or bound here.
//!
//! Promises: an address that is taken, or a socket that systemd gave and nobody knows, is an error
//! that names it before anything is loaded. Asked once by `serve`.

use std::net::TcpListener;

use listenfd::ListenFd;
use tokio::sync::oneshot;

use super::Config;
use super::handover::Predecessor;
use super::port::{BACKLOG, Source, bind};

/// The data port's name, for systemd and for the process that takes over.
pub(super) const DATA: &str = "data";
/// The admin port's name.
pub(super) const ADMIN: &str = "admin";

/// What was found.
pub(super) struct Sockets {
    pub(super) data: Source,
    pub(super) admin: Source,
    /// The process that serves now, and gives its sockets when it is asked to.
    pub(super) predecessor: Option<Succession>,
}

/// The process that serves now, and where its sockets are awaited.
#[derive(Debug)]
pub(super) struct Succession {
    pub(super) predecessor: Predecessor,
    pub(super) data: oneshot::Sender<TcpListener>,
    pub(super) admin: oneshot::Sender<TcpListener>,
    pub(super) addresses: Addresses,
}

/// Where to bind if the process that serves now ends before it was asked.
#[derive(Debug)]
pub(super) struct Addresses {
    data: String,
    admin: String,
}

impl Addresses {
    /// Both sockets, open; needs a runtime.
    pub(super) fn bind(&self) -> Result<Vec<(String, TcpListener)>, String> {
        let open = |(port, address): (&str, &String)| {
            let (socket, bound) = bind(address)?;
            let open = socket.listen(BACKLOG).and_then(tokio::net::TcpListener::into_std);
            let open = open.map_err(|error| format!("cannot listen on {bound}: {error}"))?;
            Ok((port.to_owned(), open))
        };
        [(DATA, &self.data), (ADMIN, &self.admin)].into_iter().map(open).collect()
    }
}

/// Finds both sockets. A port that systemd gives no socket for is bound here.
pub(super) fn find(config: &Config) -> Result<Sockets, String> {
    if let Some(path) = &config.handover
        && let Some(predecessor) = Predecessor::find(path)?
    {
        let ((data, data_coming), (admin, admin_coming)) = (oneshot::channel(), oneshot::channel());
        return Ok(Sockets {
            data: Source::Coming(data_coming),
            admin: Source::Coming(admin_coming),
            predecessor: Some(Succession {
                predecessor,
                data,
                admin,
                addresses: Addresses { data: config.listen.clone(), admin: config.admin.clone() },
            }),
        });
    }
    let (mut data, mut admin) = (None, None);
    for (name, socket) in given(config.socket_names.as_deref())? {
        match name.as_str() {
            DATA => data = Some(Source::Open(socket)),
            ADMIN => admin = Some(Source::Open(socket)),
            _ => {
                return Err(format!(
                    "systemd gave a socket named \"{name}\"; want FileDescriptorName={DATA} or {ADMIN}"
                ));
            }
        }
    }
    let bound = |address: &str| bind(address).map(|(socket, _)| Source::Bound(socket));
    Ok(Sockets {
        data: data.map_or_else(|| bound(&config.listen), Ok)?,
        admin: admin.map_or_else(|| bound(&config.admin), Ok)?,
        predecessor: None,
    })
}

/// The sockets that were passed to this process, by name: a single one without a name is the data port's.
fn given(names: Option<&str>) -> Result<Vec<(String, TcpListener)>, String> {
    let mut passed = ListenFd::from_env();
    let names: Vec<&str> = names.map_or_else(Vec::new, |names| names.split(':').collect());
    let mut found = Vec::new();
    for place in 0..passed.len() {
        let name = names.get(place).copied().filter(|name| *name != "unknown");
        let name = name.unwrap_or(if place == 0 { DATA } else { "unknown" });
        let socket = passed.take_tcp_listener(place).map_err(|error| {
            format!("the socket \"{name}\" that systemd gave is no listening TCP socket: {error}; want ListenStream=")
        })?;
        found.extend(socket.map(|socket| (name.to_owned(), socket)));
    }
    Ok(found)
}
