//! Sockets in: two ports, connections, signals, graceful drain.
//!
//! pingora's `Server` owns threads, signals and the order of start and stop; the ports accept
//! (`port`); hyper speaks HTTP/1.1 and h2 on what they accept; `front` sheds what is too much for
//! the gateway. SIGTERM and SIGINT drain: readiness fails, the data port accepts nothing more,
//! answers in flight finish up to a limit. SIGHUP reloads. Called by `main`; tests drive
//! [`connection`] from a listener of their own.

mod admin;
mod boot;
mod front;
mod idle;
mod port;
mod state;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::background_service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use admin::AdminPort;
use boot::{AUDITS, BootService, StopSignal};
pub use front::Front;
use idle::Traffic;
use port::{MOST_CONNECTIONS, Port, Serve, bind};
pub use state::Running;
use state::State;

/// Where to listen, and with how many threads.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data port, `HOST:PORT`.
    pub listen: String,
    /// The admin port, `HOST:PORT`.
    pub admin: String,
    /// Threads of the data port.
    pub workers: usize,
    /// How long answers in flight may take after a request to stop.
    pub drain: Duration,
}

/// Loads models and builds pools; runs on a runtime that lives as long as the process. Its error
/// is what the operator reads.
pub type Boot = BoxFuture<'static, Result<Running, String>>;

/// An operator's client must send a request's head, or its next one, within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// A connection on which no request was in flight for as long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long an idle connection that is being closed waits for a request that was on its way.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Serves until a signal ends the process. Both ports are bound first: a taken one is an error
/// that names it. The data port opens when `boot` is done, the admin port at once.
pub fn serve(config: &Config, boot: Boot) -> Result<ExitCode, String> {
    let (data_port, listen) = bind(&config.listen)?;
    let (admin_port, _) = bind(&config.admin)?;
    let state = Arc::new(State::default());
    let connections = TaskTracker::new();
    let room = || Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();

    let boot = BootService {
        boot: Mutex::new(Some(boot)),
        state: Arc::clone(&state),
        drain: config.drain,
        connections: connections.clone(),
    };
    let boot = server.add_service(background_service("boot", boot));
    let opened = Arc::clone(&state);
    let data_port = Port {
        name: "data",
        threads: config.workers,
        socket: Some(data_port),
        serve: serve_client(&state),
        opened: Box::new(move || {
            opened.bound();
            tracing::info!(%listen, "serving");
        }),
        connections,
        room: room(),
        while_draining: false,
    };
    server.add_service(data_port).add_dependency(boot);
    server.add_service(Port {
        name: "admin",
        threads: 1,
        socket: Some(admin_port),
        serve: serve_operator(&state),
        opened: Box::new(|| {}),
        connections: TaskTracker::new(),
        room: room(),
        while_draining: true,
    });

    server.run(RunArgs { shutdown_signal: Box::new(StopSignal) });
    Ok(ExitCode::SUCCESS)
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: 1,
        // A thread keeps its connections: waking another one for each request costs more than it gains.
        work_stealing: false,
        // The drain watcher ends the process as soon as the last answer is out; this is only the limit.
        grace_period_seconds: Some(config.drain.as_secs() + 1 + AUDITS.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// A connection of the data port.
fn serve_client(state: &Arc<State>) -> Serve {
    let state = Arc::clone(state);
    Arc::new(move |stream: TcpStream, mut stop: ShutdownWatch| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            if let Some(front) = state.front() {
                connection(stream, front, stopping(&mut stop)).await;
            }
        })
    })
}

/// A connection of the admin port.
fn serve_operator(state: &Arc<State>) -> Serve {
    let state = Arc::clone(state);
    Arc::new(move |stream: TcpStream, _stop: ShutdownWatch| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            match stream.peer_addr() {
                Ok(peer) => admin::connection(stream, peer, &state).await,
                Err(error) => tracing::debug!(%error, "admin connection ended early"),
            }
        })
    })
}

/// Waits for pingora to stop; its watch also changes once without meaning it.
async fn stopping(stop: &mut ShutdownWatch) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Serves one connection, HTTP/1.1 or h2, until the client closes it or asks nothing for long; after `stopped` the answer
/// in flight is finished and the connection closed. A client that goes away drops the gateway's
/// future or the answer's body, which cancels the work.
pub async fn connection<S>(stream: S, front: &Front, stopped: impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let traffic = Arc::new(Traffic::default());
    let (requests, front) = (Arc::clone(&traffic), Arc::new(front.clone()));
    let service = service_fn(move |request| {
        let (open, front) = (requests.begin(), Arc::clone(&front));
        async move { Ok::<_, Infallible>(front.answer(request).await.map(|body| open.until_end_of(body))) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A timer for each head is dear, and `idle` sees a head that never ends.
    builder.http1().header_read_timeout(None).writev(false);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = traffic.idle(IDLE_TIMEOUT) => {
            served.as_mut().graceful_shutdown();
            tokio::select! { ended = served => ended, () = traffic.idle(LAST_CALL) => Ok(()) }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
