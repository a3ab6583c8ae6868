//! The process-wide budget of compute threads.
//!
//! ggml's threads spin: more of them than cores slow each other down fifty-fold. Each decode step
//! takes its threads from this budget and gives them back, so that any number of engines never
//! compute beyond it at once. Strictly first come, first served: a step that wants many threads
//! is not overtaken by steps that want few. Called by the engines' own threads; it blocks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A number of threads that permits are taken from. A clone is the same budget.
#[derive(Debug, Clone)]
pub(crate) struct ThreadBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// The ticket that the next to come draws.
    next: u64,
    /// The ticket whose turn it is.
    turn: u64,
}

/// Threads that may compute until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    threads: usize,
}

impl ThreadBudget {
    /// A budget of `size` threads, at least one.
    pub(crate) fn new(size: usize) -> ThreadBudget {
        let size = size.max(1);
        let queue = Mutex::new(Queue { free: size, next: 0, turn: 0 });
        ThreadBudget { shared: Arc::new(Shared { size, queue, changed: Condvar::new() }) }
    }

    /// Waits until it is this caller's turn and `want` threads (at least one, at most the whole
    /// budget) are free, and takes them. Blocks the calling thread. Whoever asks for more while
    /// holding a permit may wait for itself.
    pub(crate) fn acquire(&self, want: usize) -> Permit {
        let threads = want.clamp(1, self.shared.size);
        let mut queue = self.shared.lock();
        let ticket = queue.next;
        queue.next += 1;
        while queue.turn != ticket || queue.free < threads {
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.free -= threads;
        queue.turn += 1;
        drop(queue);
        self.shared.changed.notify_all();
        Permit { shared: Arc::clone(&self.shared), threads }
    }
}

impl ThreadBudget {
    /// Waits for every permit that is out or was asked for before, and gives none any more.
    pub(crate) fn close(&self) {
        std::mem::forget(self.acquire(self.shared.size));
    }
}

impl Permit {
    /// How many threads it allows.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.lock().free += self.threads;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::ThreadBudget;

    /// Waits until so many tickets have been drawn.
    fn wait_for_tickets(budget: &ThreadBudget, drawn: u64) {
        while budget.shared.lock().next < drawn {
            thread::yield_now();
        }
    }

    #[test]
    fn never_more_than_the_budget_is_out_at_once() {
        let budget = ThreadBudget::new(3);
        let (out, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for want in 0..8_usize {
                let (budget, out, most) = (budget.clone(), &out, &most);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let permit = budget.acquire(want);
                        let now = out.fetch_add(permit.threads(), Ordering::SeqCst);
                        most.fetch_max(now + permit.threads(), Ordering::SeqCst);
                        thread::yield_now();
                        out.fetch_sub(permit.threads(), Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert_eq!(budget.shared.lock().free, 3, "all came back");
    }

    #[test]
    fn a_permit_has_at_least_one_thread_and_at_most_all() {
        let budget = ThreadBudget::new(2);
        for (want, got) in [(0, 1), (1, 1), (2, 2), (99, 2)] {
            assert_eq!(budget.acquire(want).threads(), got);
        }
        assert_eq!(ThreadBudget::new(0).acquire(4).threads(), 1);
    }

    #[test]
    fn what_fits_runs_side_by_side() {
        let budget = ThreadBudget::new(3);
        let first = budget.acquire(1);
        let second = budget.acquire(2);
        assert_eq!((first.threads(), second.threads()), (1, 2));
    }

    #[test]
    fn turns_come_in_the_order_of_asking_even_if_a_later_one_would_fit() {
        let budget = ThreadBudget::new(2);
        let order = Mutex::new(Vec::new());
        let held = budget.acquire(1);
        thread::scope(|scope| {
            // Number 0 waits for two threads; one is free for the later ones all the time.
            for (number, want) in [2, 1, 2, 1, 2].into_iter().enumerate() {
                let (budget, order) = (&budget, &order);
                scope.spawn(move || {
                    let permit = budget.acquire(want);
                    order.lock().unwrap().push(number);
                    drop(permit);
                });
                wait_for_tickets(budget, number as u64 + 2);
            }
            assert!(order.lock().unwrap().is_empty(), "somebody overtook");
            drop(held);
        });
        // Neighbours never fit together, so that the notes are in the order of the permits.
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_closed_budget_has_waited_for_permits_and_has_none_left() {
        let budget = ThreadBudget::new(3);
        let permit = budget.acquire(2);
        let closing = std::thread::spawn({
            let budget = budget.clone();
            move || budget.close()
        });
        drop(permit);
        closing.join().unwrap();
        assert_eq!(budget.shared.lock().free, 0);
    }

    #[test]
    fn a_panic_while_computing_gives_the_threads_back() {
        let budget = ThreadBudget::new(1);
        let other = budget.clone();
        let crashed = thread::spawn(move || {
            let _permit = other.acquire(1);
            panic!("a step fails");
        });
        assert!(crashed.join().is_err());
        assert_eq!(budget.acquire(1).threads(), 1);
    }
}
