//! The life of the process: boot, reload on SIGHUP and when files change, drain on SIGTERM or SIGINT, give
//! way to the next.
//!
//! Runs as pingora's background service, on a runtime that lives as long as the process; the data
//! port depends on it. The process ends with the last answer: 0 where every answer was handed to its
//! connection whole, 1 where one was cut off, because the limit was reached or a second signal came.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::handover::Peer;
use super::sockets::Succession;
use super::state::State;
use super::succession::{self, Heirs};
use super::{Boot, supervisor};
use crate::control::{Cause, Watch};

/// How long the audits of answers served last may take after them.
pub(super) const AUDITS: Duration = Duration::from_secs(5);

/// How long the last traces may take to be sent.
const TRACES: Duration = Duration::from_secs(5);

/// How long clients may take to read that their answers are cut off.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// pingora stops when the data port does; signals are `boot`'s to hear, the second one too.
pub(super) struct StopSignal(pub(super) Arc<State>);

#[async_trait]
impl ShutdownSignalWatch for StopSignal {
    async fn recv(&self) -> ShutdownSignal {
        self.0.closing().await;
        ShutdownSignal::GracefulTerminate
    }
}

/// How long the process takes to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How long the data port still accepts.
    pub(super) grace: Duration,
    /// How long answers in flight are waited for after that.
    pub(super) drain: Duration,
}

/// Boots, reloads on SIGHUP, and ends the process.
pub(super) struct BootService {
    pub(super) boot: Mutex<Option<Boot>>,
    /// The process that serves now, if there is one.
    pub(super) predecessor: Mutex<Option<Succession>>,
    /// Where the next process connects.
    pub(super) handover: Option<PathBuf>,
    pub(super) state: Arc<State>,
    pub(super) limits: Limits,
    pub(super) connections: TaskTracker,
}

/// The signals that the process hears; `None`: it cannot be heard.
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    fn watch() -> Signals {
        let watch = |kind| signal(kind).inspect_err(|error| tracing::error!(%error, "cannot watch signals")).ok();
        let (terminate, interrupt) = (watch(SignalKind::terminate()), watch(SignalKind::interrupt()));
        Signals { terminate, interrupt, hangup: watch(SignalKind::hangup()) }
    }
}

/// The next request to stop.
async fn stop(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) {
    tokio::select! { () = next(terminate) => {}, () = next(interrupt) => {} }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

#[async_trait]
impl BackgroundService for BootService {
    async fn start_with_ready_notifier(&self, _stop: ShutdownWatch, ready: ServiceReadyNotifier) {
        let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let predecessor = self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(boot) = boot else { return };
        // From here on a hang-up does not end the process; one during boot reloads after it.
        let Signals { mut terminate, mut interrupt, mut hangup } = Signals::watch();
        supervisor::status("starting: models and upstreams are being prepared");
        let starting = self.start(boot, predecessor, ready);
        let heirs = tokio::select! {
            heirs = Box::pin(starting) => heirs.unwrap_or_else(|message| {
                eprintln!("weir: {message}");
                exit(1)
            }),
            () = stop(&mut terminate, &mut interrupt) => exit(0),
        };
        let heir = tokio::select! {
            () = stop(&mut terminate, &mut interrupt) => None,
            heir = heirs.await_heir(&self.state) => Some(heir),
            () = self.reload_on(&mut hangup) => None,
            () = supervisor::watchdog() => None,
        };
        self.finish(heir, stop(&mut terminate, &mut interrupt)).await;
    }
}

impl BootService {
    /// Builds everything, takes over from the process that serves now, and opens the ports.
    async fn start(
        &self,
        boot: Boot,
        predecessor: Option<Succession>,
        ready: ServiceReadyNotifier,
    ) -> Result<Heirs, String> {
        let running = boot(predecessor.is_some()).await?;
        let taken = match predecessor {
            Some(predecessor) => Some(succession::take(predecessor, &running).await?),
            None => None,
        };
        self.state.started(running);
        ready.notify_ready();
        self.state.open().await;
        let took_over = taken.is_some();
        if let Some(taken) = taken {
            taken.accepting(&self.state).await;
        }
        supervisor::ready("serving");
        match Heirs::open(self.handover.as_deref()) {
            // Nobody else serves any more: the next binary has to wait for an end.
            Err(error) if took_over => {
                tracing::error!(error, "no process can take over from this one");
                Heirs::open(None)
            }
            opened => opened,
        }
    }

    /// Reloads at each hang-up and whenever files have changed, and gives up candidates that lost their
    /// trial, for ever. Dropping it gives up a reload
    /// under way: the running configuration stays.
    async fn reload_on(&self, hangup: &mut Option<Signal>) {
        let Some(running) = self.state.running() else { return };
        let mut watch = Watch::open(&running.control);
        loop {
            let cause = tokio::select! {
                () = next(hangup) => Some(Cause::Signal),
                () = watch.changed() => Some(Cause::Files),
                () = running.trial_lost() => None,
            };
            supervisor::reloading();
            if let Some(cause) = cause {
                // What comes of it is told in metrics and log.
                let _ = running.reload(cause).await;
            }
            // One that could not be given up before may be now.
            running.give_up_lost().await;
            supervisor::ready("serving");
        }
    }

    /// Waits for the answers in flight and ends the process. `again` resolves when it is to end at once.
    async fn finish(&self, heir: Option<Peer>, again: impl Future<Output = ()>) {
        let Limits { grace, drain } = self.limits;
        let mut again = std::pin::pin!(again);
        let mut hurried = false;
        if heir.is_none() {
            self.state.drain();
            supervisor::stopping("finishing answers in flight");
            hurried = tokio::select! { () = sleep(grace) => false, () = &mut again => true };
        }
        self.state.close();
        self.connections.close();
        if !hurried {
            hurried = tokio::select! {
                _ = timeout(drain, self.connections.wait()) => false,
                () = &mut again => true,
            };
        }
        let cut_off = self.cut_off().await;
        if let Some(running) = self.state.running() {
            running.control.close(if hurried { Duration::ZERO } else { AUDITS }).await;
            running.metrics.flush(if hurried { Duration::ZERO } else { TRACES }).await;
            if let Some(heir) = heir {
                succession::settle(heir, running).await;
            }
            running.control.halt();
            running.metrics.close();
        }
        exit(i32::from(cut_off));
    }

    /// Ends the answers that are not complete, and gives their clients a moment to read so.
    async fn cut_off(&self) -> bool {
        let Some(front) = self.state.front() else { return false };
        let unfinished = front.unfinished();
        if unfinished == 0 {
            return false;
        }
        tracing::warn!(
            requests = unfinished,
            "answers are cut off: the drain limit is reached, or another signal came"
        );
        front.end();
        // Who does not read is not waited for.
        let _ = timeout(LAST_WORDS, self.connections.wait()).await;
        true
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the drain watcher: every answer is out, or may not be waited for longer"
)]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}
