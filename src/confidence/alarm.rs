//! The alarm of a set of labels: what they certify is not believed any more.
//!
//! Audits that find a promise broken have found that the labels do not speak for the traffic. So the alarm
//! is that of the labels: every certificate made of them goes by it, whichever rule names it, audited
//! or not. Promises: once raised it stays; reading it is one atomic load. Raised by a slice's ledger, handed
//! to grants by `control`, kept over restarts in the ledgers' files.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Not raised.
const SILENT: u64 = 0;

/// Whether labels were found not to speak for the traffic.
#[derive(Debug, Default)]
pub struct Alarm(AtomicU64);

impl Alarm {
    /// Raises it at this moment (seconds since 1970), unless it was raised before; whether it was not.
    pub fn raise(&self, now: u64) -> bool {
        self.0.compare_exchange(SILENT, now.max(SILENT + 1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Since when it is raised.
    pub fn since(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|since| *since != SILENT)
    }
}

/// Where a certificate in force hears the alarm of its labels.
#[derive(Debug, Clone, Default)]
pub struct Bell(OnceLock<Arc<Alarm>>);

impl Bell {
    /// Gives it its alarm; the first one stays. Without one it is silent.
    pub fn bind(&self, alarm: Arc<Alarm>) {
        // A second one would be that of the same labels.
        let _ = self.0.set(alarm);
    }

    /// Whether the alarm is raised.
    pub fn rings(&self) -> bool {
        self.0.get().is_some_and(|alarm| alarm.since().is_some())
    }
}

/// What is heard is no part of what a certificate is.
impl PartialEq for Bell {
    fn eq(&self, _: &Bell) -> bool {
        true
    }
}
