//! What systemd is told (`Type=notify`), and how often it wants to hear from the process.
//!
//! Promises: without systemd (`NOTIFY_SOCKET`) nothing is sent; what cannot be sent is logged and
//! changes nothing else. Told by `boot`.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// Models are warm and both ports open.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd cannot be told of the reload"),
    }
}

/// The process ends.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// What the process is doing.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Another process is the service from now on.
pub(super) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid), NotifyState::Status("another process serves; finishing what is in flight")]);
}

/// Says that the process lives, twice as often as it is asked to, for ever.
pub(super) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "systemd cannot be told how the process is");
    }
}
