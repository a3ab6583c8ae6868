//! What the process is doing: starting, serving, draining, closing. Read by the admin port's probes.
//!
//! A phase only ever gives way to a later one. Set by `boot`, awaited by the ports and connections.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Front;
use crate::control::{Action, Cause, Control, Denied, Operation, Reloaded};
use crate::error::Problem;
use crate::gateway::Gateway;
use crate::observe::{Metrics, Names, Reload};

/// The data port and the admin port.
const PORTS: usize = 2;

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
        self.metrics.follow(snapshot.pacers());
        self.metrics.watch(snapshot.virtuals().into_iter().flat_map(|(_, policy)| policy.gates()).collect());
        self.metrics.adopt(Names::of(&snapshot));
    }

    /// Reads the configuration again, and tells of it in metrics and log; `Control` notes it in the trail.
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

    /// Does something to a model, as a new generation.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn operate(&self, operation: &Operation, cause: Cause) -> Result<Reloaded, Denied> {
        let done = self.control.operate(operation, cause).await;
        match &done {
            Ok(reloaded) => self.took(reloaded),
            Err(Denied::Problems(problems)) => self.refused(problems),
            Err(_) => {}
        }
        done
    }

    /// Resolves when a candidate has lost its trial: no request is drawn for it any more, and
    /// [`Running::give_up_lost`] is to be called.
    pub async fn trial_lost(&self) {
        self.control.trial_lost().await;
    }

    /// Gives up every candidate that has lost its trial.
    pub async fn give_up_lost(&self) {
        for lost in self.control.current().lost_trials() {
            let operation = Operation { model: lost.model, action: Action::GiveUp };
            if let Err(denied) = self.operate(&operation, Cause::Canary).await {
                let model = &operation.model;
                tracing::warn!(model, ?denied, "a canary that has lost its trial stays loaded; it answers nothing");
            }
        }
    }

    fn told(&self, done: Result<Reloaded, Vec<Problem>>) -> Result<Reloaded, Vec<Problem>> {
        match &done {
            Ok(reloaded) => self.took(reloaded),
            Err(problems) => self.refused(problems),
        }
        done
    }

    fn took(&self, reloaded: &Reloaded) {
        self.metrics.reloaded(if reloaded.is_new { Reload::Applied } else { Reload::Unchanged });
        self.adopt();
    }

    fn refused(&self, problems: &[Problem]) {
        self.metrics.reloaded(Reload::Refused);
        for problem in problems {
            tracing::error!("{problem}");
        }
        tracing::error!(problems = problems.len(), "reload refused; the running configuration stays");
    }
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Models are loaded, or requests answered.
    #[default]
    Up,
    /// New requests should go elsewhere; they are answered all the same.
    Draining,
    /// The data port accepts nothing more; answers in flight are finished.
    Closing,
}

/// The process's state; set by `listen`, read by probes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Connections of the data port.
    pub(super) data: TaskTracker,
    /// Connections of the admin port.
    pub(super) admin: TaskTracker,
    running: OnceLock<(Running, Front)>,
    bound: AtomicBool,
    ports: Notify,
    tasks: TaskTracker,
    phase: watch::Sender<Phase>,
    /// Cancelled once another process accepts on these sockets.
    handed_over: CancellationToken,
    /// Listening sockets by port, for the process that takes over; empty once this one closes.
    sockets: Mutex<BTreeMap<&'static str, OwnedFd>>,
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

    /// The data port is open.
    pub(super) fn bound(&self) {
        self.bound.store(true, Ordering::Release);
        self.ports.notify_one();
    }

    pub(super) fn is_bound(&self) -> bool {
        self.bound.load(Ordering::Acquire)
    }

    /// Resolves when both ports are open.
    pub(super) async fn open(&self) {
        while !(self.is_bound() && self.sockets.lock().unwrap_or_else(PoisonError::into_inner).len() == PORTS) {
            self.ports.notified().await;
        }
    }

    /// What runs beside the requests; given up when the process ends.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Readiness fails from now on, and kept connections are asked to be closed by their next answer.
    pub(super) fn drain(&self) {
        self.reach(Phase::Draining);
        self.front().into_iter().for_each(Front::leave);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// The data port accepts nothing more from now on.
    pub(super) fn close(&self) {
        self.drain();
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.reach(Phase::Closing);
    }

    /// Another process accepts from now on, on both ports.
    pub(super) fn hand_over(&self) {
        self.handed_over.cancel();
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn reach(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Resolves when the data port is to accept nothing more.
    pub(super) async fn closing(&self) {
        // The sender is our own and cannot be gone.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Closing).await;
    }

    /// Resolves when another process accepts on both ports.
    pub(super) async fn handing_over(&self) {
        self.handed_over.cancelled().await;
    }

    /// Keeps a port's socket for a process that takes over.
    pub(super) fn keep_socket(&self, port: &'static str, socket: OwnedFd) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).insert(port, socket);
        self.ports.notify_one();
    }

    /// Copies of the listening sockets by port.
    pub(super) fn sockets(&self) -> Vec<(&'static str, OwnedFd)> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().filter_map(|(port, socket)| Some((*port, socket.try_clone().ok()?))).collect()
    }
}
