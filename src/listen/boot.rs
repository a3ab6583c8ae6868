//! The life of the process: boot, reload on SIGHUP and when files change, drain on SIGTERM or SIGINT.
//!
//! Runs as pingora's background service, on a runtime that lives as long as the process; the data
//! port depends on it. A drain ends with the last connection: a client whose upload has stalled, or
//! an idle h2 peer that no longer answers, holds it up to the limit and makes the exit code 1.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

use super::state::State;
use super::{Boot, stopping};
use crate::control::{Cause, Watch};

/// How long the audits of answers served last may take after them.
pub(super) const AUDITS: Duration = Duration::from_secs(5);

/// SIGTERM and SIGINT both end the process gracefully.
pub(super) struct StopSignal;

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
pub(super) struct BootService {
    pub(super) boot: Mutex<Option<Boot>>,
    pub(super) state: Arc<State>,
    pub(super) drain: Duration,
    pub(super) connections: TaskTracker,
}

#[async_trait]
impl BackgroundService for BootService {
    async fn start_with_ready_notifier(&self, mut stop: ShutdownWatch, ready: ServiceReadyNotifier) {
        let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(boot) = boot else { return };
        // From here on a hang-up does not end the process; one during boot reloads after it.
        let mut hangup = signal(SignalKind::hangup()).ok();
        let running = tokio::select! {
            running = boot => running,
            () = stopping(&mut stop) => exit(0),
        };
        match running {
            Ok(running) => self.state.started(running),
            Err(message) => {
                eprintln!("weir: {message}");
                exit(1);
            }
        }
        ready.notify_ready();
        tokio::select! {
            () = stopping(&mut stop) => {}
            () = self.reload_on(&mut hangup) => {}
        }
        self.finish().await;
    }
}

impl BootService {
    /// Reloads at each hang-up and whenever files have changed, for ever. Dropping it gives up a reload under way: the running
    /// configuration stays.
    async fn reload_on(&self, hangup: &mut Option<Signal>) {
        let Some(running) = self.state.running() else { return };
        let mut watch = Watch::open(&running.control);
        loop {
            let cause = tokio::select! {
                () = next(hangup) => Cause::Signal,
                () = watch.changed() => Cause::Files,
            };
            // What comes of it is told in metrics and log.
            let _ = running.reload(cause).await;
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
        if let Some(running) = self.state.running() {
            running.control.close(AUDITS).await;
            running.control.halt();
            running.metrics.close();
        }
        exit(i32::from(cut_off));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the drain watcher: every answer is out, or may not be waited for longer"
)]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

async fn next(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}
