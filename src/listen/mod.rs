//! Sockets in: two ports, connections, the life of the process.
//!
//! pingora's `Server` owns threads and the order of start and stop; `sockets` says where the ports'
//! sockets come from, the ports accept (`port`); hyper speaks HTTP/1.1 and h2 on what they accept;
//! `front` sheds what is too much for the gateway; `boot` starts, reloads, drains, and hands the
//! sockets over to the next process (`handover`). Called by `main`; tests drive [`connection`] from
//! a listener of their own.

mod admin;
mod boot;
mod front;
mod handover;
mod idle;
mod port;
mod probes;
mod sockets;
mod state;
mod succession;
mod supervisor;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub use admin::AdminPort;
use boot::{AUDITS, BootService, LAST_WORDS, Limits, StopSignal};
pub use front::Front;
use idle::Traffic;
use port::{MOST_CONNECTIONS, Port, Serve};
use sockets::Sockets;
pub use state::Running;
use state::State;

/// Where to listen, with how many threads, and how to end.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data port, `HOST:PORT`.
    pub listen: String,
    /// The admin port, `HOST:PORT`.
    pub admin: String,
    /// Threads of the data port.
    pub workers: usize,
    /// How long the data port accepts after a request to stop, while readiness already fails.
    pub grace: Duration,
    /// How long answers in flight may take once it accepts nothing more.
    pub drain: Duration,
    /// The Unix socket over which the listening sockets go to the next process.
    pub handover: Option<PathBuf>,
    /// The names that systemd gives to the sockets it passes, in order.
    pub socket_names: Option<String>,
}

/// Loads models and builds pools; runs on a runtime that lives as long as the process. Is told whether
/// another process serves now, whose state may not be touched yet. Its error is what the operator reads.
pub type Boot = Box<dyn FnOnce(bool) -> BoxFuture<'static, Result<Running, String>> + Send>;

/// An operator's client must send a request's head, or its next one, within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// A connection on which no request was in flight for as long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long after its last request a connection that is being closed waits for one that was on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long the last files may take to be written.
const ENDING: Duration = Duration::from_secs(60);

/// Serves until a signal ends the process, or another process has taken over. The ports' sockets are
/// found first: a taken address is an error that names it. The data port opens when `boot` is done,
/// the admin port at once, or, where another process serves now, both when it hands them over.
pub fn serve(config: &Config, boot: Boot) -> Result<ExitCode, String> {
    let Sockets { data, admin, predecessor } = sockets::find(config)?;
    let state = Arc::new(State::default());
    let room = || Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();

    let boot = BootService {
        boot: Mutex::new(Some(boot)),
        predecessor: Mutex::new(predecessor),
        handover: config.handover.clone(),
        state: Arc::clone(&state),
        limits: Limits { grace: config.grace, drain: config.drain },
        connections: state.data.clone(),
    };
    let boot = server.add_service(background_service("boot", boot));
    let (opened, closing) = (Arc::clone(&state), Arc::clone(&state));
    let data_port = Port {
        name: sockets::DATA,
        threads: config.workers,
        source: Some(data),
        serve: serve_client(&state),
        opened: Box::new(move |socket, listen| {
            opened.keep_socket(sockets::DATA, socket);
            opened.bound();
            tracing::info!(%listen, "serving");
        }),
        connections: state.data.clone(),
        room: room(),
        until: Box::new(move || {
            let state = Arc::clone(&closing);
            Box::pin(async move { state.closing().await })
        }),
    };
    server.add_service(data_port).add_dependency(boot);
    let (opened, given) = (Arc::clone(&state), Arc::clone(&state));
    server.add_service(Port {
        name: sockets::ADMIN,
        threads: 1,
        source: Some(admin),
        serve: serve_operator(&state),
        opened: Box::new(move |socket, _| opened.keep_socket(sockets::ADMIN, socket)),
        connections: state.admin.clone(),
        room: room(),
        until: Box::new(move || {
            let state = Arc::clone(&given);
            Box::pin(async move { state.handing_over().await })
        }),
    });

    server.run(RunArgs { shutdown_signal: Box::new(StopSignal(state)) });
    Ok(ExitCode::SUCCESS)
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: 1,
        // A thread keeps its connections: waking another one for each request costs more than it gains.
        work_stealing: false,
        // The drain watcher ends the process as soon as the last answer is out; this is only the limit.
        grace_period_seconds: Some((config.drain + LAST_WORDS + AUDITS + ENDING).as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// A connection of the data port.
fn serve_client(state: &Arc<State>) -> Serve {
    let state = Arc::clone(state);
    Arc::new(move |stream: TcpStream| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            if let Some(front) = state.front() {
                connection(stream, front, state.closing()).await;
            }
        })
    })
}

/// A connection of the admin port.
fn serve_operator(state: &Arc<State>) -> Serve {
    let state = Arc::clone(state);
    Arc::new(move |stream: TcpStream| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            match stream.peer_addr() {
                Ok(peer) => admin::connection(stream, peer, &state).await,
                Err(error) => tracing::debug!(%error, "admin connection ended early"),
            }
        })
    })
}

/// Serves one connection, HTTP/1.1 or h2, until the client closes it or asks nothing for long. After
/// `stopped` the answer in flight is finished and the connection closed: h2 by GOAWAY at once,
/// HTTP/1.1 with the next answer, or when nothing was asked for a second. A client that goes away
/// drops the gateway's future or the answer's body, which cancels the work.
pub async fn connection<S>(stream: S, front: &Front, stopped: impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let traffic = Traffic::open();
    let (requests, shared) = (Arc::clone(&traffic), Arc::new(front.clone()));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (open, front) = (requests.begin(request.version(), shared.count()), Arc::clone(&shared));
        async move { Ok::<_, Infallible>(front.answer(request).await.map(|body| open.until_end_of(body))) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A timer for each head is dear, and `idle` sees a head that never ends.
    builder.http1().header_read_timeout(None).writev(false);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped => None,
        () = traffic.idle(IDLE_TIMEOUT) => None,
    };
    // A client that uses the connection just now must not find it closed.
    let ended = match ended {
        None if !traffic.is_h2() => tokio::select! {
            ended = served.as_mut() => Some(ended),
            () = traffic.quiet(LAST_CALL) => None,
            () = front.ended() => None,
        },
        other => other,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            tokio::select! { ended = served => ended, () = traffic.idle(LAST_CALL) => Ok(()) }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
