//! Sockets in: two ports, connections, signals, graceful drain.
//!
//! pingora's `Server` owns the sockets, threads and signals; hyper speaks HTTP/1.1 and h2 on what
//! it accepts; tower's layers stand around the gateway. SIGTERM and SIGINT drain: readiness fails,
//! nothing more is accepted, answers in flight finish up to a limit. SIGHUP reloads.
//! Called by `main`; tests drive [`connection`] from a listener of their own.

mod admin;
mod layers;
mod state;

use std::future::Future;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::{BackgroundService, background_service};
use pingora_core::services::listening::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::observe::Reload;
pub use layers::Front;
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

/// A client must send a request's head, or its next one, within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves until a signal ends the process. Both ports are tried first: a taken one is an error
/// that names it. The data port opens when `boot` is done, the admin port at once.
pub fn serve(config: &Config, boot: Boot) -> Result<ExitCode, String> {
    let listen = free_address(&config.listen)?;
    let admin = free_address(&config.admin)?;
    let state = Arc::new(State::default());
    let connections = TaskTracker::new();
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();

    let boot = server.add_service(background_service(
        "boot",
        BootService {
            boot: Mutex::new(Some(boot)),
            state: Arc::clone(&state),
            listen,
            drain: config.drain,
            connections: connections.clone(),
        },
    ));
    let mut data = Service::new("data".to_owned(), DataPort { state: Arc::clone(&state), connections });
    data.add_tcp(&listen.to_string());
    data.threads = Some(config.workers);
    server.add_service(data).add_dependency(boot);
    let mut probes = Service::new("admin".to_owned(), AdminPort { state });
    probes.add_tcp(&admin.to_string());
    probes.threads = Some(1);
    server.add_service(probes);

    server.run(RunArgs { shutdown_signal: Box::new(StopSignal) });
    Ok(ExitCode::SUCCESS)
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: 1,
        // The drain watcher ends the process as soon as the last answer is out; this is only the limit.
        grace_period_seconds: Some(config.drain.as_secs() + 1),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn free_address(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("cannot listen on \"{text}\": want HOST:PORT such as 127.0.0.1:8080"))?;
    match TcpListener::bind(address) {
        Ok(listener) => listener.local_addr().map_err(|error| format!("cannot listen on {address}: {error}")),
        Err(error) => Err(format!("cannot listen on {address}: {error}; choose another with --listen or --admin")),
    }
}

/// SIGTERM and SIGINT both end the process gracefully.
struct StopSignal;

#[async_trait]
impl ShutdownSignalWatch for StopSignal {
    async fn recv(&self) -> ShutdownSignal {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            _ => tracing::error!("cannot watch signals; stopping"),
        }
        ShutdownSignal::GracefulTerminate
    }
}

/// Boots, reloads on SIGHUP, and watches the drain.
struct BootService {
    boot: Mutex<Option<Boot>>,
    state: Arc<State>,
    listen: SocketAddr,
    drain: Duration,
    connections: TaskTracker,
}

#[async_trait]
impl BackgroundService for BootService {
    async fn start_with_ready_notifier(&self, mut stop: ShutdownWatch, ready: ServiceReadyNotifier) {
        let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(boot) = boot else { return };
        let running = tokio::select! {
            running = boot => running,
            () = stopping(&mut stop) => exit(0),
        };
        match running {
            Ok(running) => self.state.started(running),
            Err(message) => {
                tracing::error!("{message}");
                eprintln!("weir: {message}");
                exit(1);
            }
        }
        ready.notify_ready();
        wait_for_port(self.listen).await;
        self.state.bound();
        tracing::info!(listen = %self.listen, "serving");
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = stopping(&mut stop) => break,
                () = next(&mut hangup) => self.reload().await,
            }
        }
        self.finish().await;
    }
}

impl BootService {
    async fn reload(&self) {
        let Some(running) = self.state.running() else { return };
        match running.control.reload().await {
            Ok(generation) => {
                running.metrics.reloaded(Reload::Applied);
                running.adopt();
                tracing::info!(generation, "configuration reloaded");
            }
            Err(problems) => {
                running.metrics.reloaded(Reload::Refused);
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                tracing::error!(problems = problems.len(), "reload refused; the running configuration stays");
            }
        }
    }

    /// Waits for the answers in flight and ends the process: 0 when all were finished, 1 when the
    /// limit cut some off.
    async fn finish(&self) {
        self.state.drain();
        self.connections.close();
        let cut_off = tokio::time::timeout(self.drain, self.connections.wait()).await.is_err();
        if cut_off {
            tracing::warn!(connections = self.connections.len(), "drain limit reached; cutting off what is left");
        }
        exit(i32::from(cut_off));
    }
}

/// Waits for pingora to stop; its watch also changes once without meaning it.
async fn stopping(stop: &mut ShutdownWatch) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

#[expect(clippy::disallowed_methods, reason = "the drain watcher: every answer is out, or may not be waited for longer")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

async fn next(hangup: &mut Option<tokio::signal::unix::Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// pingora does not tell when a port is open, so readiness tries it.
async fn wait_for_port(mut address: SocketAddr) {
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The data port: hyper and the gateway on every connection that pingora accepts.
struct DataPort {
    state: Arc<State>,
    connections: TaskTracker,
}

#[async_trait]
impl ServerApp for DataPort {
    async fn process_new(self: &Arc<Self>, stream: Stream, stop: &ShutdownWatch) -> Option<Stream> {
        let front = self.state.front()?;
        let mut stop = stop.clone();
        let stopped = async move { stopping(&mut stop).await };
        self.connections.track_future(connection(stream, front, stopped)).await;
        None
    }
}

/// The admin port.
struct AdminPort {
    state: Arc<State>,
}

#[async_trait]
impl ServerApp for AdminPort {
    async fn process_new(self: &Arc<Self>, stream: Stream, _stop: &ShutdownWatch) -> Option<Stream> {
        let state = &self.state;
        let service = service_fn(|request| std::future::ready(admin::answer(state, &request)));
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, "admin connection ended early");
        }
        None
    }
}

/// Serves one connection, HTTP/1.1 or h2, until the client closes it; after `stopped` the answer
/// in flight is finished and the connection closed. A client that goes away drops the gateway's
/// future or the answer's body, which cancels the work.
pub async fn connection<S>(stream: S, front: &Front, stopped: impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(front.service());
    let mut builder = auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopped = pin!(stopped);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped.as_mut() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
