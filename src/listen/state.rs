//! What the process is doing: starting, serving, draining. Read by the admin port's probes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::Front;
use crate::control::{Cause, Control, Reloaded};
use crate::error::Problem;
use crate::gateway::Gateway;
use crate::observe::{Metrics, Reload};

/// What `boot` hands over once models are warm and pools are built.
#[derive(Debug, Clone)]
pub struct Running {
    /// Answers requests.
    pub gateway: Arc<Gateway>,
    /// Holds the configuration.
    pub control: Arc<Control>,
    /// Holds the metrics.
    pub metrics: Arc<Metrics>,
}

impl Running {
    /// Tells the metrics which names the configuration in force knows.
    pub(super) fn adopt(&self) {
        let snapshot = self.control.current();
        let targets = snapshot.statuses().into_iter().map(|(model, _)| model);
        self.metrics.follow(snapshot.pacers());
        self.metrics.adopt(snapshot.generation(), snapshot.asked(), targets);
    }

    /// Reads the configuration again, and tells of it in metrics and log.
    ///
    /// # Errors
    /// Every problem; what ran goes on.
    pub async fn reload(&self, cause: Cause) -> Result<Reloaded, Vec<Problem>> {
        self.told(self.control.reload(cause).await)
    }

    /// Goes back to an earlier generation, and tells of it in the same way.
    ///
    /// # Errors
    /// Every problem; what ran goes on.
    pub async fn roll_back(&self, to: u64, who: String) -> Result<Reloaded, Vec<Problem>> {
        self.told(self.control.roll_back(to, who).await)
    }

    fn told(&self, done: Result<Reloaded, Vec<Problem>>) -> Result<Reloaded, Vec<Problem>> {
        match &done {
            Ok(reloaded) => {
                self.metrics.reloaded(if reloaded.is_new { Reload::Applied } else { Reload::Unchanged });
                self.adopt();
                tracing::info!(generation = reloaded.generation, new = reloaded.is_new, "configuration reloaded");
            }
            Err(problems) => {
                self.metrics.reloaded(Reload::Refused);
                for problem in problems {
                    tracing::error!("{problem}");
                }
                tracing::error!(problems = problems.len(), "reload refused; the running configuration stays");
            }
        }
        done
    }
}

/// The process's state; set by `listen`, read by probes.
#[derive(Debug, Default)]
pub(super) struct State {
    running: OnceLock<(Running, Front)>,
    bound: AtomicBool,
    draining: AtomicBool,
}

impl State {
    pub(super) fn started(&self, running: Running) {
        running.adopt();
        let front = Front::new(Arc::clone(&running.gateway));
        // A second start does not happen; were it to, the first would stand.
        let _ = self.running.set((running, front));
    }

    pub(super) fn running(&self) -> Option<&Running> {
        self.running.get().map(|(running, _)| running)
    }

    pub(super) fn front(&self) -> Option<&Front> {
        self.running.get().map(|(_, front)| front)
    }

    pub(super) fn bound(&self) {
        self.bound.store(true, Ordering::Release);
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Why new requests should go elsewhere; `None`: they are welcome.
    pub(super) fn unready(&self) -> Option<Cow<'static, str>> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining".into());
        }
        let Some(running) = self.running() else {
            return Some("starting: models and upstreams are being prepared".into());
        };
        if !self.bound.load(Ordering::Acquire) {
            return Some("starting: the data port is not open yet".into());
        }
        let stopped = running.control.current().stopped();
        let told = || format!("not running: {}; a reload (SIGHUP) starts what has ended", stopped.join(", "));
        (!stopped.is_empty()).then(|| told().into())
    }
}
