//! The ledgers of audited slices: one per subject for the life of the process, and a file each in the
//! state folder, so that neither a reload nor a restart forgets an alarm.
//!
//! A file is replaced by renaming, so that it is whole whenever the process ends. One that cannot be
//! read refuses the configuration: an alarm might stand in it. Bound by `build`, written off the
//! request path (`execute` says when) and by `Control::close`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::confidence::{Auditing, Ledger, Subject};
use crate::error::Problem;
use crate::execute::{Auditor, Store};
use crate::policy::Policy;

/// The ledgers of this process.
#[derive(Debug)]
pub(super) struct Audits {
    /// Where their files lie; `None`: nowhere.
    folder: Option<PathBuf>,
    tasks: TaskTracker,
    known: Mutex<Vec<Arc<Ledger>>>,
    /// One file at a time, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

/// What a rule says of a slice's audits, and the slice's ledger.
type Bound<'p> = (&'p Auditing, Arc<Ledger>);

impl Audits {
    /// Ledgers that are kept in this state folder; audits run in `tasks`.
    pub(super) fn open(state: Option<&Path>, tasks: TaskTracker) -> Arc<Audits> {
        let folder = state.map(|state| state.join("audits"));
        Arc::new(Audits { folder, tasks, known: Mutex::default(), writing: Mutex::default() })
    }

    /// Where work runs that outlives a request.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Who audits; one for the life of the process.
    pub(super) fn auditor(self: &Arc<Self>) -> Auditor {
        Auditor::new(self.tasks.clone(), Some(Arc::clone(self) as Arc<dyn Store>))
    }

    /// Gives every audited certificate of these policies its ledger: the one that is known, else the
    /// one of its file, else a new one. On a problem nothing is changed.
    pub(super) fn bind<'p>(
        &self,
        policies: impl Iterator<Item = &'p Arc<Policy>>,
    ) -> Result<Vec<Arc<Ledger>>, Vec<Problem>> {
        let (mut bound, mut problems): (Vec<Bound<'p>>, Vec<Problem>) = (Vec::new(), Vec::new());
        for policy in policies {
            for grant in policy.grants() {
                let Some(auditing) = &grant.audit else { continue };
                let found = Subject::of(grant).map_err(|message| problem(policy.name(), message));
                match found.and_then(|subject| self.find(&subject, (policy.name(), auditing), &bound)) {
                    Ok(ledger) => bound.push((auditing, ledger)),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut ledgers: Vec<Arc<Ledger>> = Vec::new();
        for (auditing, ledger) in bound {
            let subject = ledger.subject();
            let shared = ledgers.iter().find(|other| other.subject() == subject).cloned();
            let ledger = match shared {
                Some(ledger) => ledger,
                None => {
                    let ledger = ledger.adapted(auditing).map_err(|message| vec![problem(&subject.slice, message)])?;
                    ledgers.push(Arc::clone(&ledger));
                    ledger
                }
            };
            auditing.bind(ledger);
        }
        self.remember(&ledgers);
        Ok(ledgers)
    }

    /// The ledger of a subject; `bound` are those of this generation so far.
    fn find(
        &self,
        subject: &Subject,
        (policy, auditing): (&str, &Auditing),
        bound: &[Bound<'_>],
    ) -> Result<Arc<Ledger>, Problem> {
        if let Some((other, ledger)) = bound.iter().find(|(_, ledger)| ledger.subject() == *subject) {
            let message = format!(
                "slice \"{}\" is audited otherwise by another rule with the same certificate; say the same in both",
                subject.slice
            );
            return if *other == auditing { Ok(Arc::clone(ledger)) } else { Err(problem(policy, message)) };
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = known.iter().find(|ledger| ledger.subject() == *subject) {
            return Ok(Arc::clone(ledger));
        }
        let ledger = match self.read(subject)? {
            Some(ledger) => ledger,
            None => Ledger::open(subject.clone(), auditing, now()).map_err(|message| problem(policy, message))?,
        };
        Ok(Arc::new(ledger))
    }

    fn read(&self, subject: &Subject) -> Result<Option<Ledger>, Problem> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let file = folder.join(subject.file_name());
        let told = |message: String| problem(&file.display().to_string(), message);
        match fs::read_to_string(&file) {
            Ok(text) => Ledger::parse(&text, subject).map(Some).map_err(|why| {
                told(format!("is no ledger of audits: {why}; an alarm may stand in it: mend it, or move it away"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map(|()| None).map_err(|error| {
                    told(format!("cannot make its folder: {error}; name another one with state = \"FOLDER\""))
                })
            }
            Err(error) => Err(told(format!("cannot read the ledger of audits: {error}"))),
        }
    }

    fn remember(&self, ledgers: &[Arc<Ledger>]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        for ledger in ledgers {
            let subject = ledger.subject();
            known.retain(|other| other.subject() != subject);
            known.push(Arc::clone(ledger));
        }
        if known.len() > before && self.folder.is_none() {
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
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.iter().for_each(|ledger| self.store(ledger));
    }

    fn write(&self, folder: &Path, ledger: &Ledger) -> Result<(), String> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
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
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One that was replaced must not come back.
        let counts = known.iter().any(|one| std::ptr::eq(&**one, ledger));
        if let Some(folder) = self.folder.as_ref().filter(|_| counts)
            && let Err(error) = self.write(folder, ledger)
        {
            tracing::error!(error, "a ledger of audits cannot be written; a restart would forget what stands in it");
        }
    }
}

fn problem(place: &str, message: String) -> Problem {
    Problem { place: place.to_owned(), message }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
