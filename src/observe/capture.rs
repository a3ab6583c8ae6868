//! The capture log: requests, answers, decisions and what clients said of them, line by line.
//!
//! Hides the writer's thread and what waits for it (`docs/capture.md`). Promises: rendering and
//! redaction happen on the writer's thread; what waits is bounded. Where `acknowledged` is set, an
//! answer's last bytes wait for its line; else the log is never waited for: what the queue, bounded
//! in lines and bytes, cannot take is dropped and counted. So is what the disk will not take. Opened
//! by [`super::Metrics`] where the configuration says so.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use prometheus::IntCounter;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::line::Lines;
use super::rotating::Rotating;
use crate::account::{Captured, Receipt};
use crate::control::Capture;

/// Receipts that may wait to be written.
const WAITING: usize = 1024;

/// Bytes of requests and answers that may wait to be written.
const WAITING_BYTES: usize = 64 << 20;

/// How long the last lines may take to be written.
const ENDING: Duration = Duration::from_secs(10);

/// A request that is over.
#[derive(Debug)]
struct Over {
    when: SystemTime,
    receipt: Box<Receipt>,
    /// Told once its line is written, or is lost.
    written: Option<oneshot::Sender<()>>,
}

impl Over {
    fn now(receipt: Receipt) -> Over {
        Over { when: SystemTime::now(), receipt: Box::new(receipt), written: None }
    }
}

/// The log's sending end.
#[derive(Debug)]
pub(super) struct CaptureLog {
    share: f64,
    acknowledged: bool,
    sender: RwLock<Option<Sender<Over>>>,
    /// Gone once the writer has ended.
    writer: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
    /// Whether full files are moved away here, and not by another process.
    owned: Arc<AtomicBool>,
}

/// Whether the receipt is one for the log: a request that was drawn, or feedback.
fn is_taken(receipt: &Receipt) -> bool {
    receipt.captured.as_ref().is_some_and(|captured| captured.logged) || receipt.feedback.is_some()
}

/// A line that has not come into the queue; dropped so, it is lost, and counted.
struct Unsent {
    /// 0: it came in.
    size: usize,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.size > 0 {
            self.waiting.fetch_sub(self.size, Ordering::Relaxed);
            self.dropped.inc();
        }
    }
}

impl CaptureLog {
    /// Opens the file and starts the writer. `owned`: no other process writes the file, so that a line
    /// which a crash has torn is taken away.
    pub(super) fn open(settings: &Capture, owned: bool, dropped: IntCounter) -> Result<CaptureLog, String> {
        let cannot = |error: io::Error| format!("capture: cannot write {}: {error}", settings.file.display());
        let lines = Lines::new(settings)?;
        let owned_now = Arc::new(AtomicBool::new(owned));
        let mut rotating = Rotating::open(settings, Arc::clone(&owned_now)).map_err(cannot)?;
        if owned {
            rotating.mend().map_err(cannot)?;
        }
        let (sender, mut receiver) = channel(WAITING);
        let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), dropped.clone());
        let written = waiting.clone();
        let (ended, writer) = std::sync::mpsc::channel();
        let write = move || {
            write_all(&mut receiver, &lines, &mut rotating, (&written, &lost));
            drop(ended);
        };
        std::thread::Builder::new().name("capture".to_owned()).spawn(write).map_err(cannot)?;
        Ok(CaptureLog {
            share: settings.share,
            acknowledged: settings.acknowledged,
            sender: RwLock::new(Some(sender)),
            writer: std::sync::Mutex::new(writer),
            waiting,
            dropped,
            owned: owned_now,
        })
    }

    /// Whether this request is one of those that are captured: each with the same chance.
    pub(super) fn draws(&self) -> bool {
        self.share >= 1.0 || rand::random::<f64>() < self.share
    }

    /// Whether answers wait for their lines.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Whether full files are moved away here from now on, or by another process.
    pub(super) fn own(&self, owned: bool) {
        self.owned.store(owned, Ordering::Release);
    }

    fn sender(&self) -> Option<Sender<Over>> {
        self.sender.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a receipt that has something to tell; never waits.
    pub(super) fn take(&self, receipt: Receipt) {
        if !is_taken(&receipt) {
            return;
        }
        let size = bytes(&receipt);
        let fits = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= WAITING_BYTES;
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        let send = |it: &Sender<Over>| it.try_send(Over::now(receipt)).is_ok();
        if !(fits && sender.as_ref().is_some_and(send)) {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// Takes a receipt whose answer waits: what comes back resolves when the line is written, or is
    /// lost to the disk. The request holds its bytes anyway, so that only lines are bounded.
    pub(super) fn take_acknowledged(&self, receipt: Receipt) -> Option<BoxFuture<'static, ()>> {
        if !is_taken(&receipt) {
            return None;
        }
        let size = bytes(&receipt);
        let (tell, told) = oneshot::channel();
        let over = Over { written: Some(tell), ..Over::now(receipt) };
        self.waiting.fetch_add(size, Ordering::Relaxed);
        let mut unsent = Unsent { size, waiting: Arc::clone(&self.waiting), dropped: self.dropped.clone() };
        let sender = self.sender()?;
        let full = match sender.try_send(over) {
            Ok(()) => {
                unsent.size = 0;
                None
            }
            Err(TrySendError::Full(over) | TrySendError::Closed(over)) => Some(over),
        };
        Some(Box::pin(async move {
            if let Some(over) = full
                && sender.send(over).await.is_ok()
            {
                unsent.size = 0;
            }
            drop(unsent);
            // An error means that there is no writer any more to wait for.
            let _ = told.await;
        }))
    }

    /// Takes nothing more, and waits until what was taken is written; blocks.
    pub(super) fn close(&self) {
        self.sender.write().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.recv_timeout(ENDING) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the capture log is not written to its end");
        }
    }
}

impl Drop for CaptureLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// The bytes of the request and of its answer that a receipt holds.
pub(super) fn bytes(receipt: &Receipt) -> usize {
    let held = |it: &Captured| it.body.len() + it.said.text.len() + it.said.raw.iter().map(Bytes::len).sum::<usize>();
    receipt.captured.as_deref().map_or(0, held)
}

fn write_all(
    receiver: &mut Receiver<Over>,
    lines: &Lines,
    rotating: &mut Rotating,
    (waiting, dropped): (&AtomicUsize, &IntCounter),
) {
    while let Some(Over { when, receipt, written }) = receiver.blocking_recv() {
        let line = lines.render(when, &receipt);
        if let Err(error) = rotating.write(line.as_bytes()) {
            dropped.inc();
            tracing::error!(%error, file = %rotating.file().display(), "a line of the capture log is lost");
        }
        waiting.fetch_sub(bytes(&receipt), Ordering::Relaxed);
        // Who does not wait any more need not know.
        let _ = written.map(|written| written.send(()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::account::{Outcome, Said};
    use crate::request::TenantId;

    fn receipt(body: Bytes, said: Said) -> Receipt {
        Receipt {
            id: "r".into(),
            tenant: TenantId::anonymous(),
            asked: "auto".into(),
            served_by: None,
            decided: None,
            outcome: Outcome::Canceled,
            stream: false,
            attempts: Vec::new(),
            cost_usd: None,
            avoided_usd: None,
            wasted_usd: None,
            ttft: None,
            itl: Vec::new(),
            e2e: Duration::ZERO,
            overhead: None,
            standing: None,
            pinned: false,
            degraded: None,
            audit: None,
            error: None,
            feedback: None,
            captured: Some(Box::new(Captured { kind: "chat", body, said, logged: true })),
            traced: None,
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, mut receiver) = channel(WAITING);
        let log = CaptureLog {
            share: 1.0,
            acknowledged: true,
            sender: RwLock::new(Some(sender)),
            writer: std::sync::Mutex::new(std::sync::mpsc::channel().1),
            owned: Arc::default(),
            waiting: Arc::default(),
            dropped: IntCounter::new("dropped", "dropped").unwrap(),
        };
        let body = Bytes::from(vec![b' '; WAITING_BYTES / 2]);
        let mut said = Said::default();
        said.raw.push(Bytes::from_static(b"{}"));
        log.take(receipt(body.clone(), said.clone()));
        log.take(receipt(body.clone(), said.clone()));
        assert_eq!((log.dropped.get(), log.waiting.load(Ordering::Relaxed)), (1, WAITING_BYTES / 2 + 2));
        log.take(receipt(body, Said::default()));
        assert_eq!(log.dropped.get(), 2);
        log.take(receipt(Bytes::from_static(b"{}"), said));
        assert_eq!(log.dropped.get(), 2);
        log.close();
        let settings = settings(folder.path());
        let mut rotating = Rotating::open(&settings, Arc::default()).unwrap();
        let lines = Lines::new(&settings).unwrap();
        write_all(&mut receiver, &lines, &mut rotating, (&log.waiting, &log.dropped));
        assert_eq!((read(&settings).lines().count(), log.waiting.load(Ordering::Relaxed)), (2, 0));
    }

    fn settings(folder: &std::path::Path) -> Capture {
        let file = folder.join("capture.jsonl");
        let (max_bytes, keep, share) = (1 << 20, 2, 1.0);
        Capture { file, max_bytes, keep, redact_secrets: true, text: true, share, acknowledged: true }
    }

    fn read(settings: &Capture) -> String {
        fs::read_to_string(&settings.file).unwrap()
    }

    #[tokio::test]
    async fn what_is_acknowledged_stands_in_the_log_and_is_never_dropped_for_want_of_room() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let log = CaptureLog::open(&settings, true, IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        let many = 3 * WAITING;
        let body = Bytes::from_static(b"{}");
        let writing: Vec<_> =
            (0..many).map(|_| log.take_acknowledged(receipt(body.clone(), Said::default())).unwrap()).collect();
        for written in writing {
            written.await;
        }
        assert_eq!((read(&settings).lines().count(), log.dropped.get()), (many, 0));
        log.close();
        assert!(log.take_acknowledged(receipt(body, Said::default())).is_none());
        assert_eq!((log.dropped.get(), log.waiting.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test]
    async fn a_line_that_the_disk_refuses_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Capture { max_bytes: 10, ..settings(folder.path()) };
        let log = CaptureLog::open(&settings, true, IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        log.take_acknowledged(receipt(Bytes::from_static(b"{}"), Said::default())).unwrap().await;
        assert_eq!((read(&settings).as_str(), log.dropped.get()), ("", 1));
    }
}
