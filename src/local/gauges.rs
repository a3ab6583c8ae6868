//! How an engine is now, in atomics: written by the engine thread and by arriving requests, read
//! by policies and metrics without waiting. The bound of the queue is kept here too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::backend::{Breaker, State, Status};
use crate::error::{Error, Kind, Origin, Result, Retry};

/// The numbers of one engine.
#[derive(Debug)]
pub(super) struct Gauges {
    queue: u32,
    slots: u32,
    ready: AtomicBool,
    waiting: AtomicU32,
    busy: AtomicU32,
    kv_permille: AtomicU32,
    mean_millis: AtomicU64,
}

/// A place in the queue, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Gauges>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gauges {
    /// An engine with so many slots that lets so many requests wait.
    pub(super) fn new(slots: u32, queue: usize) -> Arc<Self> {
        Arc::new(Gauges {
            queue: u32::try_from(queue).unwrap_or(u32::MAX),
            slots,
            ready: AtomicBool::new(true),
            waiting: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            kv_permille: AtomicU32::new(0),
            mean_millis: AtomicU64::new(0),
        })
    }

    /// Takes a place in the queue; a full one is `overloaded`, with an estimate of the wait.
    ///
    /// A request that finds a free slot waits for one step only, so free slots add to the room.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Place> {
        let free = self.slots.saturating_sub(self.busy.load(Ordering::Relaxed));
        let room = self.queue.saturating_add(free);
        let take = |waiting: u32| (waiting < room).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Place(self.clone())),
            Err(waiting) => Err(self.overloaded(waiting)),
        }
    }

    fn overloaded(&self, waiting: u32) -> Error {
        let millis = self.mean_millis.load(Ordering::Relaxed) * u64::from(waiting + 1) / u64::from(self.slots.max(1));
        let wait = Duration::from_secs(millis.div_ceil(1000).clamp(1, 60));
        let message = format!("the model's queue is full: {waiting} requests wait; try again in {} s", wait.as_secs());
        Error::new(Kind::Overloaded, Origin::Local, message).code("overloaded").retry(Retry::After(wait))
    }

    /// The engine thread says how its slots are.
    pub(super) fn report(&self, busy: usize, kv_used_ratio: f64) {
        self.busy.store(busy as u32, Ordering::Relaxed);
        self.kv_permille.store((kv_used_ratio.clamp(0.0, 1.0) * 1000.0) as u32, Ordering::Relaxed);
    }

    /// A request took so long from its first slot to its end.
    pub(super) fn took(&self, time: Duration) {
        let now = time.as_millis() as u64;
        let before = self.mean_millis.load(Ordering::Relaxed);
        let mean = if before == 0 { now } else { (7 * before + now) / 8 };
        self.mean_millis.store(mean, Ordering::Relaxed);
    }

    /// Runs the life of the engine; once it is over, by a panic too, which ends here, the engine is
    /// not ready any more.
    pub(super) fn outlive(&self, life: impl FnOnce()) {
        let ended = catch_unwind(AssertUnwindSafe(life));
        self.ready.store(false, Ordering::Relaxed);
        if ended.is_err() {
            tracing::error!("an engine thread failed and has ended");
        }
    }

    /// How the engine is now.
    pub(super) fn status(&self) -> Status {
        Status {
            ready: self.ready.load(Ordering::Relaxed),
            queue_depth: self.waiting.load(Ordering::Relaxed),
            queue_limit: self.queue,
            slots_busy: self.busy.load(Ordering::Relaxed),
            slots: self.slots,
            kv_used_ratio: self.kv_permille.load(Ordering::Relaxed) as f32 / 1000.0,
            breaker: Breaker::Closed,
            state: State::Warm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_a_place_given_back_is_free_again() {
        let gauges = Gauges::new(1, 2);
        gauges.report(1, 0.5);
        gauges.took(Duration::from_secs(4));
        let first = gauges.enter().unwrap();
        let _second = gauges.enter().unwrap();
        let error = gauges.enter().unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded);
        assert_eq!(error.detail().retry, Retry::After(Duration::from_secs(12)));
        drop(first);
        assert!(gauges.enter().is_ok());
        assert_eq!(gauges.status().queue_depth, 1);
    }

    #[test]
    fn a_dead_engine_is_not_ready() {
        let lives: [fn(); 2] = [|| (), || panic!("a fault")];
        for life in lives {
            let gauges = Gauges::new(1, 2);
            assert!(gauges.status().ready);
            gauges.outlive(life);
            assert!(!gauges.status().ready);
        }
    }

    #[test]
    fn without_a_queue_a_free_slot_still_takes_a_request() {
        let gauges = Gauges::new(2, 0);
        let _first = gauges.enter().unwrap();
        let _second = gauges.enter().unwrap();
        assert!(gauges.enter().is_err());
    }
}
