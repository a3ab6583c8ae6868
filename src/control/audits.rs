//! The ledgers of audited slices: one per subject for the life of the process, and a file each in the
//! state folder, so that neither a reload nor a restart forgets an alarm.
//!
//! A file is replaced by renaming, so that it is whole whenever the process ends. One that cannot be
//! read refuses the configuration: an alarm might stand in it. Files are looked for by the labels of every
//! certificate in force, audited or not, so that no alarm is silenced by what a policy leaves out. Bound by `build`, written off the
//! request path (`execute` says when) and by `Control::close`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::confidence::{Alarm, Auditing, Grant, Ledger, Subject};
use crate::error::Problem;
use crate::execute::{Auditor, Store};
use crate::policy::Policy;

/// The ledgers of this process.
#[derive(Debug)]
pub(super) struct Audits {
    /// Where their files lie; `None`: nowhere.
    folder: Option<PathBuf>,
    tasks: TaskTracker,
    known: Mutex<Known>,
    /// One file at a time, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    /// Whether another process writes the files now.
    released: AtomicBool,
}

/// What was read or made since the process began.
#[derive(Debug, Default)]
struct Known {
    ledgers: Vec<Arc<Ledger>>,
    /// By labels ([`Subject::labels`]); those whose files were read.
    alarms: BTreeMap<String, Arc<Alarm>>,
}

/// What a rule says of a slice's audits, and the slice's ledger.
struct Bound<'p> {
    slice: &'p str,
    auditing: &'p Auditing,
    ledger: Arc<Ledger>,
}

/// A certificate in force, and whose it is.
#[derive(Clone, Copy)]
struct Certified<'p> {
    policy: &'p str,
    grant: &'p Grant,
}

impl Audits {
    /// Ledgers that are kept in this state folder; audits run in `tasks`.
    pub(super) fn open(state: Option<&Path>, tasks: TaskTracker) -> Arc<Audits> {
        let folder = state.map(|state| state.join("audits"));
        Arc::new(Audits {
            folder,
            tasks,
            known: Mutex::default(),
            writing: Mutex::default(),
            released: AtomicBool::new(false),
        })
    }

    /// Where work runs that outlives a request.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Who audits; one for the life of the process.
    pub(super) fn auditor(self: &Arc<Self>) -> Auditor {
        Auditor::new(self.tasks.clone(), Some(Arc::clone(self) as Arc<dyn Store>))
    }

    /// Gives every certificate of these policies the alarm of its labels, and every audited one its ledger:
    /// the one that is known, else the one of its file, else a new one. All that stands in an alarm's way of
    /// being heard is a problem; on a problem nothing of the policies is changed. Returns the ledgers that
    /// are written to, and those of alarms that hold a certificate back which nobody audits any more.
    pub(super) fn bind<'p>(
        &self,
        policies: impl Iterator<Item = &'p Arc<Policy>>,
    ) -> Result<Vec<Arc<Ledger>>, Vec<Problem>> {
        let certified =
            policies.flat_map(|policy| policy.grants().map(|grant| Certified { policy: policy.name(), grant }));
        let (mut alarms, mut bound, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for one in certified {
            match self.hear(one).and_then(|(subject, alarm)| {
                let found = self.find(one, &subject, &alarm, &bound)?;
                Ok(((one, subject, alarm), found))
            }) {
                Ok((alarm, found)) => {
                    alarms.push(alarm);
                    bound.extend(found);
                }
                Err(problem) if problems.contains(&problem) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut ledgers = adapt(bound)?;
        self.remember(&ledgers);
        for (Certified { policy, grant }, subject, alarm) in alarms {
            if grant.audit.is_none() && alarm.since().is_some() {
                let slice = &grant.calibration.slice;
                tracing::warn!(policy, slice, "audits found the promise of these labels broken: it stays taken back");
                ledgers.extend(self.of_labels(&subject.labels, &ledgers));
            }
            grant.alarm.bind(alarm);
        }
        Ok(ledgers)
    }

    /// What is certified, and the alarm of its labels, raised if it stands in a file.
    fn hear(&self, Certified { policy, grant }: Certified<'_>) -> Result<(Subject, Arc<Alarm>), Problem> {
        let subject = Subject::of(grant).map_err(|message| problem(policy, message))?;
        let mut known = self.known();
        if let Some(alarm) = known.alarms.get(&subject.labels) {
            return Ok((subject, Arc::clone(alarm)));
        }
        let alarm = Arc::new(Alarm::default());
        let read = self.read(&subject.labels, &alarm)?;
        known.ledgers.extend(read.into_iter().map(Arc::new));
        known.alarms.insert(subject.labels.clone(), Arc::clone(&alarm));
        Ok((subject, alarm))
    }

    /// The ledger of an audited certificate; `bound` are those of this generation so far.
    fn find<'p>(
        &self,
        Certified { policy, grant }: Certified<'p>,
        subject: &Subject,
        alarm: &Arc<Alarm>,
        bound: &[Bound<'p>],
    ) -> Result<Option<Bound<'p>>, Problem> {
        let Some(auditing) = &grant.audit else { return Ok(None) };
        let slice = grant.calibration.slice.as_str();
        let ledger = if let Some(other) = bound.iter().find(|one| one.ledger.subject() == *subject) {
            if other.auditing != auditing {
                let message = format!(
                    "slice \"{slice}\" is audited otherwise by another rule with the same certificate; say the same in both"
                );
                return Err(problem(policy, message));
            }
            Arc::clone(&other.ledger)
        } else if let Some(ledger) = self.known().ledgers.iter().find(|ledger| ledger.subject() == *subject) {
            Arc::clone(ledger)
        } else {
            self.make_folder()?;
            let ledger = Ledger::open(grant, auditing, Arc::clone(alarm), now());
            Arc::new(ledger.map_err(|message| problem(policy, message))?)
        };
        Ok(Some(Bound { slice, auditing, ledger }))
    }

    /// The ledgers of these labels that stand in files.
    fn read(&self, labels: &str, alarm: &Arc<Alarm>) -> Result<Vec<Ledger>, Problem> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let unreadable = |path: &Path, error: &io::Error| {
            problem(&path.display().to_string(), format!("cannot read the ledger of audits: {error}"))
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(folder, &error)),
        };
        let beginning = Subject::files_of(labels);
        let is_theirs = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&beginning) && name.ends_with(".json"))
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths: Vec<PathBuf> = paths.collect::<io::Result<_>>().map_err(|error| unreadable(folder, &error))?;
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            Ledger::parse(&text, labels, Arc::clone(alarm)).map_err(|why| {
                let way_out = "an alarm may stand in it: mend it, or move it away";
                problem(&path.display().to_string(), format!("is no ledger of audits: {why}; {way_out}"))
            })
        };
        paths.iter().filter(|path| is_theirs(path)).map(read).collect()
    }

    fn make_folder(&self) -> Result<(), Problem> {
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::create_dir_all(folder).map_err(|error| {
            let message =
                format!("cannot make the folder of audits: {error}; name another one with state = \"FOLDER\"");
            problem(&folder.display().to_string(), message)
        })
    }

    /// The ledgers of these labels that are not among the others.
    fn of_labels(&self, labels: &str, others: &[Arc<Ledger>]) -> Vec<Arc<Ledger>> {
        let is_missing = |ledger: &&Arc<Ledger>| {
            let subject = ledger.subject();
            subject.labels == labels && others.iter().all(|other| other.subject() != subject)
        };
        self.known().ledgers.iter().filter(is_missing).cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, ledgers: &[Arc<Ledger>]) {
        let mut known = self.known();
        let before = known.ledgers.len();
        for ledger in ledgers {
            let subject = ledger.subject();
            known.ledgers.retain(|other| other.subject() != subject);
            known.ledgers.push(Arc::clone(ledger));
        }
        if known.ledgers.len() > before && self.folder.is_none() {
            tracing::warn!(
                "audits are not kept over a restart: there is no state folder; name one with state = \"FOLDER\""
            );
        }
    }

    /// Waits for the audits under way, at most so long, and writes every ledger. No audit may be
    /// begun any more.
    pub(super) async fn close(&self, limit: Duration) {
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(audits = self.tasks.len(), "audits under way are given up; they count as skipped");
        }
        let known = self.known().ledgers.clone();
        known.iter().for_each(|ledger| self.store(ledger));
    }

    /// Writes every ledger, and none from now on: another process does. What it reads as being graded it
    /// counts as skipped.
    pub(super) fn release(&self) {
        let known = self.known().ledgers.clone();
        known.iter().for_each(|ledger| self.store(ledger));
        self.released.store(true, Ordering::Release);
    }

    /// Writes ledgers again.
    pub(super) fn resume(&self) {
        self.released.store(false, Ordering::Release);
    }

    /// Has ledgers read from their files again when they are bound next.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    fn write(&self, folder: &Path, ledger: &Ledger) -> Result<(), String> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.released.load(Ordering::Acquire) {
            return Ok(());
        }
        let text = ledger.render()?;
        let file = folder.join(ledger.subject().file_name());
        let new = file.with_extension("new");
        let mut private = File::options();
        private.write(true).create(true).truncate(true).mode(0o600);
        let written = private.open(&new).and_then(|mut new| {
            new.write_all(text.as_bytes())?;
            new.sync_all()
        });
        written.and_then(|()| fs::rename(&new, &file)).map_err(|error| format!("{}: {error}", file.display()))
    }
}

impl Store for Audits {
    fn store(&self, ledger: &Ledger) {
        let known = self.known().ledgers.clone();
        // One that was replaced must not come back.
        let counts = known.iter().any(|one| std::ptr::eq(&**one, ledger));
        if let Some(folder) = self.folder.as_ref().filter(|_| counts)
            && let Err(error) = self.write(folder, ledger)
        {
            tracing::error!(error, "a ledger of audits cannot be written; a restart would forget what stands in it");
        }
    }
}

/// What rules say now, in force: one ledger per subject.
fn adapt(bound: Vec<Bound<'_>>) -> Result<Vec<Arc<Ledger>>, Vec<Problem>> {
    let mut ledgers: Vec<Arc<Ledger>> = Vec::new();
    for Bound { slice, auditing, ledger } in bound {
        let subject = ledger.subject();
        let shared = ledgers.iter().find(|other| other.subject() == subject).cloned();
        let ledger = match shared {
            Some(ledger) => ledger,
            None => {
                let adapted = ledger.adapted(slice, auditing).map_err(|message| vec![problem(slice, message)])?;
                ledgers.push(Arc::clone(&adapted));
                adapted
            }
        };
        auditing.bind(ledger);
    }
    Ok(ledgers)
}

fn problem(place: &str, message: String) -> Problem {
    Problem { place: place.to_owned(), message }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
