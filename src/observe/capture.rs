//! The capture log: requests, answers, decisions and what clients said of them, line by line.
//!
//! Hides the writer's thread, rotation and redaction (`docs/capture.md`). Promises: it is never waited
//! for: what the queue, bounded in lines and bytes, cannot take, or the disk will not, is dropped and counted; rendering
//! and redaction happen on the writer's thread; files are readable by their owner only. Opened by
//! [`super::Metrics`] where the configuration says so.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use prometheus::IntCounter;

use super::line::Lines;
use crate::account::{Captured, Receipt};
use crate::control::Capture;

/// When a request was over, and what is left of it.
type Over = (SystemTime, Box<Receipt>);

/// Receipts that may wait to be written.
const WAITING: usize = 1024;

/// Bytes of requests and answers that may wait to be written.
const WAITING_BYTES: usize = 64 << 20;

/// The log's sending end.
#[derive(Debug)]
pub(super) struct CaptureLog {
    share: f64,
    sender: RwLock<Option<SyncSender<Over>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl CaptureLog {
    /// Opens the file and starts the writer.
    pub(super) fn open(settings: &Capture, dropped: IntCounter) -> Result<CaptureLog, String> {
        let cannot = |error: io::Error| format!("capture: cannot write {}: {error}", settings.file.display());
        let lines = Lines::new(settings)?;
        let mut rotating = Rotating::open(settings).map_err(cannot)?;
        let (sender, receiver) = sync_channel(WAITING);
        let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), dropped.clone());
        let written = waiting.clone();
        let write = move || write_all(&receiver, &lines, &mut rotating, &written, &lost);
        let writer = std::thread::Builder::new().name("capture".to_owned()).spawn(write).map_err(cannot)?;
        Ok(CaptureLog {
            share: settings.share,
            sender: RwLock::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
            waiting,
            dropped,
        })
    }

    /// Whether this request is one of those that are captured: each with the same chance.
    pub(super) fn draws(&self) -> bool {
        self.share >= 1.0 || rand::random::<f64>() < self.share
    }

    /// Takes a receipt that has something to tell; never waits.
    pub(super) fn take(&self, receipt: Receipt) {
        let logged = receipt.captured.as_ref().is_some_and(|captured| captured.logged);
        if !logged && receipt.feedback.is_none() {
            return;
        }
        let size = bytes(&receipt);
        let fits = self.waiting.fetch_add(size, Ordering::Relaxed) + size <= WAITING_BYTES;
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        let send = |it: &SyncSender<Over>| it.try_send((SystemTime::now(), Box::new(receipt))).is_ok();
        if !(fits && sender.as_ref().is_some_and(send)) {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.dropped.inc();
        }
    }

    /// Takes nothing more, and waits until what was taken is written.
    pub(super) fn close(&self) {
        self.sender.write().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = writer.map(JoinHandle::join) {
            tracing::error!("the writer of the capture log has failed");
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
    receiver: &Receiver<Over>,
    lines: &Lines,
    rotating: &mut Rotating,
    waiting: &AtomicUsize,
    dropped: &IntCounter,
) {
    while let Ok((time, receipt)) = receiver.recv() {
        let line = lines.render(time, &receipt);
        if let Err(error) = rotating.write(line.as_bytes()) {
            dropped.inc();
            tracing::error!(%error, file = %rotating.file.display(), "a line of the capture log is lost");
        }
        waiting.fetch_sub(bytes(&receipt), Ordering::Relaxed);
    }
}

/// A file that begins anew when it is full; the full ones are `FILE.1` (the newest) to `FILE.KEEP`.
#[derive(Debug)]
struct Rotating {
    file: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: File,
    bytes: u64,
}

impl Rotating {
    fn open(settings: &Capture) -> io::Result<Rotating> {
        let open = append(&settings.file)?;
        let bytes = open.metadata()?.len();
        let (file, max_bytes, keep) = (settings.file.clone(), settings.max_bytes, settings.keep);
        Ok(Rotating { file, max_bytes, keep, open, bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let size = line.len() as u64;
        if size > self.max_bytes {
            return Err(io::Error::other(format!("{size} bytes are more than max_bytes")));
        }
        if !self.in_place()? {
            self.begin()?;
        }
        if self.bytes + size > self.max_bytes {
            self.rotate()?;
        }
        self.whole(|open| open.write_all(line))?;
        self.bytes += size;
        Ok(())
    }

    /// Whether the file that is written is still the one of that name.
    fn in_place(&self) -> io::Result<bool> {
        let open = self.open.metadata()?;
        match fs::metadata(&self.file) {
            Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let open = append(&self.file)?;
        self.bytes = open.metadata()?.len();
        self.open = open;
        Ok(())
    }

    /// Writes all of a line, or leaves none of it.
    fn whole(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let written = write(&mut self.open);
        if written.is_err() {
            self.open.set_len(self.bytes)?;
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        for place in (1..self.keep).rev() {
            ignore_missing(fs::rename(self.full(place), self.full(place + 1)))?;
        }
        if self.keep > 0 {
            ignore_missing(fs::rename(&self.file, self.full(1)))?;
        } else {
            ignore_missing(fs::remove_file(&self.file))?;
        }
        self.begin()
    }

    fn full(&self, place: u32) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(format!(".{place}"));
        PathBuf::from(name)
    }
}

fn append(file: &Path) -> io::Result<File> {
    let open = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    let found = open.metadata()?;
    if found.is_file() && found.mode() & 0o777 != 0o600 {
        open.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(open)
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let (sender, receiver) = sync_channel(WAITING);
        let log = CaptureLog {
            share: 1.0,
            sender: RwLock::new(Some(sender)),
            writer: Mutex::new(None),
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
        let settings = Capture { max_bytes: 1 << 20, ..settings(folder.path()) };
        let mut rotating = Rotating::open(&settings).unwrap();
        write_all(&receiver, &Lines::new(&settings).unwrap(), &mut rotating, &log.waiting, &log.dropped);
        assert_eq!((read(folder.path(), "capture.jsonl").lines().count(), log.waiting.load(Ordering::Relaxed)), (2, 0));
    }

    fn settings(folder: &Path) -> Capture {
        let file = folder.join("capture.jsonl");
        Capture { file, max_bytes: 20, keep: 2, redact_secrets: true, text: true, share: 1.0 }
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn a_full_file_makes_room_and_no_more_are_kept_than_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut rotating = Rotating::open(&settings(folder.path())).unwrap();
        for line in ["first line\n", "second line\n", "third line\n", "fourth line\n"] {
            rotating.write(line.as_bytes()).unwrap();
        }
        assert!(rotating.write(&[b'x'; 21]).is_err());
        let read = |name: &str| read(folder.path(), name);
        assert_eq!(read("capture.jsonl"), "fourth line\n");
        assert_eq!((read("capture.jsonl.1"), read("capture.jsonl.2")), ("third line\n".into(), "second line\n".into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_was_taken_away_begins_anew_and_the_full_ones_stay_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut rotating = Rotating::open(&settings).unwrap();
        rotating.write(b"first line\n").unwrap();
        rotating.write(b"second line\n").unwrap();
        fs::remove_file(&settings.file).unwrap();
        rotating.write(b"third line\n").unwrap();
        assert_eq!(read(folder.path(), "capture.jsonl"), "third line\n");
        fs::remove_file(&settings.file).unwrap();
        rotating.rotate().unwrap();
        rotating.write(b"fourth line\n").unwrap();
        assert_eq!(read(folder.path(), "capture.jsonl"), "fourth line\n");
        fs::rename(&settings.file, folder.path().join("moved")).unwrap();
        rotating.write(b"fifth line\n").unwrap();
        assert_eq!(
            (read(folder.path(), "capture.jsonl"), read(folder.path(), "moved")),
            ("fifth line\n".into(), "fourth line\n".into())
        );
        assert_eq!(read(folder.path(), "capture.jsonl.2"), "first line\n");
    }

    #[test]
    fn a_line_that_cannot_be_written_whole_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut rotating = Rotating::open(&settings(folder.path())).unwrap();
        rotating.write(b"a line\n").unwrap();
        let torn = rotating.whole(|open| open.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into())));
        assert_eq!(torn.unwrap_err().kind(), io::ErrorKind::StorageFull);
        rotating.write(b"another\n").unwrap();
        assert_eq!(read(folder.path(), "capture.jsonl"), "a line\nanother\n");
    }

    #[test]
    fn a_file_that_was_there_becomes_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        fs::write(&settings.file, "a line\n").unwrap();
        fs::set_permissions(&settings.file, Permissions::from_mode(0o644)).unwrap();
        Rotating::open(&settings).unwrap();
        assert_eq!(fs::metadata(&settings.file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(folder.path(), "capture.jsonl"), "a line\n");
    }
}
