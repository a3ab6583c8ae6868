//! Tells when files that a configuration was read from have changed, and been left alone for a while.
//!
//! An event only says where to look: what counts is what the files hold, so that renames over a file,
//! swaps of a linked folder and files deleted and made anew are all the same, and a touched file is
//! none. Where the file system tells nothing, files are looked at every few seconds. Promises: what the
//! disk held when it was last read never counts as changed, whatever runs; between two changes told there
//! is a pause, whatever came of the first. Used by `listen`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Control;
use super::sources::Sources;

/// How long files must be left alone, how long that is waited for at most, how often they are looked at
/// where nothing is told, and how long nothing is told after a change.
#[derive(Debug, Clone, Copy)]
struct Pace {
    quiet: Duration,
    most: Duration,
    poll: Duration,
    apart: Duration,
}

const PACE: Pace = Pace {
    quiet: Duration::from_millis(300),
    most: Duration::from_secs(2),
    poll: Duration::from_secs(5),
    apart: Duration::from_secs(1),
};

/// Watches the files of a [`Control`], those that a refused reload named among them.
#[derive(Debug)]
pub struct Watch {
    control: Arc<Control>,
    disk: watch::Receiver<Arc<Sources>>,
    events: Arc<Notify>,
    /// `None`: not yet.
    armed: Option<Armed>,
    /// Whether the last call told of a change; what came of it is over at the next call.
    told: bool,
    /// Before that nothing is told.
    earliest: Instant,
    pace: Pace,
}

/// What is watched, and what was seen then.
#[derive(Debug)]
struct Armed {
    sources: Arc<Sources>,
    seen: Vec<Option<Stamp>>,
    /// Told by it; `None`: only looked at.
    _watcher: Option<RecommendedWatcher>,
}

/// Size, inode, and the times of change of a file and of its inode.
type Stamp = (u64, u64, (i64, i64), (i64, i64));

impl Watch {
    /// Watches from the first [`Watch::changed`] on.
    pub fn open(control: &Arc<Control>) -> Watch {
        let (control, disk) = (Arc::clone(control), control.disk.subscribe());
        let (armed, told, earliest) = (None, false, Instant::now());
        Watch { control, disk, events: Arc::default(), armed, told, earliest, pace: PACE }
    }

    /// Waits until a file holds something else than when the disk was last read; for ever while the
    /// configuration says `watch = false`. A call that follows one that told waits a second first. Dropping
    /// the future loses no change.
    pub async fn changed(&mut self) {
        if std::mem::take(&mut self.told) {
            self.earliest = Instant::now() + self.pace.apart;
        }
        sleep_until(self.earliest).await;
        loop {
            let fresh = self.arm().await;
            if !fresh {
                tokio::select! {
                    () = self.events.notified() => self.quiet().await,
                    () = sleep(self.pace.poll) => {}
                    _ = self.disk.changed() => {
                        self.armed = None;
                        continue;
                    }
                }
            }
            if self.control.current().watches() && (fresh || self.touched()) && !self.stands().await {
                self.told = true;
                return;
            }
        }
    }

    /// Whether the files are watched anew, for something may have happened before.
    async fn arm(&mut self) -> bool {
        if self.armed.is_some() && !self.disk.has_changed().unwrap_or(false) {
            return false;
        }
        let (sources, events) = (self.disk.borrow_and_update().clone(), Arc::clone(&self.events));
        self.armed = tokio::task::spawn_blocking(move || Armed::new(sources, events)).await.ok();
        true
    }

    /// Whether a file may hold something else. Where one was replaced by the same, its folder may be
    /// another one too, and is watched anew.
    fn touched(&mut self) -> bool {
        let touched = self.armed.as_ref().is_none_or(|armed| stamps(&armed.sources) != armed.seen);
        if touched {
            self.armed = None;
        }
        touched
    }

    async fn stands(&self) -> bool {
        let sources = self.disk.borrow().clone();
        tokio::task::spawn_blocking(move || sources.stands()).await.unwrap_or(true)
    }

    async fn quiet(&self) {
        let last = Instant::now() + self.pace.most;
        loop {
            let until = last.min(Instant::now() + self.pace.quiet);
            if timeout_at(until, self.events.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl Armed {
    fn new(sources: Arc<Sources>, events: Arc<Notify>) -> Armed {
        let seen = stamps(&sources);
        let watcher = watcher(&sources, events).inspect_err(|error| {
            tracing::warn!(%error, "the file system tells of no changes; files are looked at every few seconds");
        });
        Armed { sources, seen, _watcher: watcher.ok() }
    }
}

/// Watches every folder that a change would show in.
fn watcher(sources: &Sources, events: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let tell = move |event: notify::Result<Event>| {
        // Files are read to see what they hold; that is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            events.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(tell)?;
    let folders: BTreeSet<PathBuf> = sources.files().flat_map(|file| folders(file)).collect();
    folders.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
    Ok(watcher)
}

/// The folder that a file is named in and the one that it lies in; where it is missing, the nearest that
/// is there.
fn folders(file: &Path) -> Vec<PathBuf> {
    let named = file.ancestors().skip(1).map(|folder| if folder == Path::new("") { Path::new(".") } else { folder });
    let named = named.into_iter().find(|folder| folder.is_dir()).map(Path::to_owned);
    let real = fs::canonicalize(file).ok().and_then(|file| file.parent().map(Path::to_owned));
    named.into_iter().chain(real).collect()
}

fn stamps(sources: &Sources) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.len(), found.ino(), (found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())))
    };
    sources.files().map(stamp).collect()
}

#[cfg(test)]
mod tests;
