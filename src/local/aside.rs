//! Work on a request beside the async threads and the engine's: off the first, ahead of the second.
//!
//! A request keeps its place in the queue while it is prepared, so that the queue bounds this work
//! too, and what a client no longer waits for is not begun. Called by `generate`, `embed` and
//! `model`.

use super::gauges::Place;
use super::outlet::Outlet;
use crate::error::{Error, Kind, Origin, Result, Retry};

/// The error of a fault of this model or machine: another target may answer.
pub(super) fn fault(message: impl Into<String>) -> Error {
    Error::new(Kind::Internal, Origin::Local, message).retry(Retry::Elsewhere)
}

/// What a request has while it is prepared.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The way to its client.
    pub(super) outlet: Outlet,
    /// Its place in the queue.
    pub(super) place: Place,
}

/// Runs `work` on a blocking thread and gives back what the request has. Where the client has left
/// before a thread was free, the work is skipped; the place is free when the work is over, and not
/// before.
pub(super) async fn prepare_aside<T: Send + 'static>(
    waiting: Waiting,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<(T, Waiting)> {
    let run = move || {
        if waiting.outlet.is_closed() {
            return Err(Error::new(Kind::Canceled, Origin::Client, "the client left"));
        }
        Ok((work()?, waiting))
    };
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|_| Err(fault("preparing the request failed")))
}

/// Runs `work` on a thread with a stack of so many bytes, which are only touched where needed.
pub(super) fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes);
        let running = thread.spawn_scoped(scope, work).map_err(|error| {
            let message = format!("no thread with a stack of {} MiB for the request: {error}", bytes >> 20);
            Error::new(Kind::Unavailable, Origin::Local, message).retry(Retry::Elsewhere)
        })?;
        running.join().map_err(|_| fault("reading the text failed"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::super::gauges::Gauges;
    use super::super::outlet::outlet;
    use super::*;

    /// A runtime whose only blocking thread is busy until the sender is dropped.
    fn busy_runtime() -> (tokio::runtime::Runtime, mpsc::Sender<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || released.recv());
        (runtime, release)
    }

    #[test]
    fn who_leaves_before_the_work_begins_keeps_the_place_until_it_is_skipped() {
        let (runtime, release) = busy_runtime();
        let gauges = Gauges::new(1, 4);
        let (outlet, inlet) = outlet();
        let waiting = Waiting { outlet, place: gauges.enter().unwrap() };
        let begun = Arc::new(AtomicBool::new(false));
        let work = {
            let begun = begun.clone();
            move || {
                begun.store(true, Ordering::Relaxed);
                Ok(())
            }
        };
        runtime.block_on(async {
            let mut preparing = Box::pin(prepare_aside(waiting, work));
            assert!(futures::poll!(&mut preparing).is_pending());
            drop((preparing, inlet));
            assert_eq!(gauges.status().queue_depth, 1, "the work is still queued");
            drop(release);
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
        assert!(!begun.load(Ordering::Relaxed));
        assert_eq!(gauges.status().queue_depth, 0);
    }

    #[tokio::test]
    async fn prepared_work_comes_with_its_place_and_a_fault_may_go_elsewhere() {
        let gauges = Gauges::new(1, 4);
        let enter = || {
            let (outlet, inlet) = outlet();
            (Waiting { outlet, place: gauges.enter().unwrap() }, inlet)
        };
        let (waiting, _inlet) = enter();
        let (answer, Waiting { place, .. }) = prepare_aside(waiting, || Ok(42)).await.unwrap();
        assert_eq!((answer, gauges.status().queue_depth), (42, 1));
        drop(place);
        let (waiting, _inlet) = enter();
        let broken = prepare_aside::<()>(waiting, || panic!("a fault")).await.unwrap_err();
        let detail = broken.detail();
        assert_eq!((detail.kind, detail.origin, detail.retry), (Kind::Internal, Origin::Local, Retry::Elsewhere));
        assert_eq!(gauges.status().queue_depth, 0);
    }

    #[test]
    fn a_stack_that_cannot_be_had_is_told_as_what_it_is() {
        assert_eq!(with_stack(1 << 20, || 7).unwrap(), 7);
        let error = with_stack(1 << 60, || 7).unwrap_err();
        assert_eq!((error.kind(), error.detail().retry), (Kind::Unavailable, Retry::Elsewhere));
        assert!(error.to_string().contains("no thread"), "{error}");
        assert_eq!(with_stack(1 << 20, || panic!("a fault")).map(|()| 0).unwrap_err().kind(), Kind::Internal);
    }
}
