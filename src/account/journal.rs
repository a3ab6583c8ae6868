//! The file in which budgets outlive the process, however that ends: an upper bound of what was spent.
//!
//! A line with the checksum of the rest, then JSON. Promises: the file is whole whenever the process
//! ends (written beside, synced, renamed); one process at a time holds it, by a lock that the kernel
//! releases when the process dies; one that cannot be read is refused, not begun anew. [`super::Pacers`]
//! says what to write and when.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// How the first line begins.
const TITLE: &str = "weir budgets 1 sha256=";
/// The most budgets that a file can hold; many times what is written.
const MOST: usize = 100_000;

/// One budget as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) policy: Arc<str>,
    pub(super) tenant: Arc<str>,
    /// At least what was spent.
    pub(super) spent_usd: f64,
    /// At least what was spent ahead of the target, at `at`.
    pub(super) ahead_usd: f64,
    /// What escalations are usually worth per dollar, and of how many that is the mean.
    pub(super) worth: Option<f64>,
    pub(super) weighed: f64,
    /// When, in seconds since 1970.
    pub(super) at: f64,
}

/// The file, held by this process.
#[derive(Debug)]
pub(super) struct Journal {
    file: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Journal {
    /// Holds the journal of this state folder, and reads what is in it.
    ///
    /// # Errors
    /// A sentence with the way out: another process holds it, or it cannot be read.
    pub(super) fn open(folder: &Path) -> Result<(Journal, Vec<Kept>), String> {
        let file = folder.join("budgets.journal");
        let told = |error: io::Error| {
            format!("{}: cannot keep budgets: {error}; name another folder with state = \"FOLDER\"", file.display())
        };
        fs::create_dir_all(folder).map_err(told)?;
        let lock = private().create(true).truncate(false).open(folder.join("budgets.lock")).map_err(told)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => format!(
                "{}: another process keeps budgets there; stop it, take over from it with --handover, or name another \
                 folder with state = \"FOLDER\"",
                file.display()
            ),
            TryLockError::Error(error) => told(error),
        })?;
        let kept = match fs::read_to_string(&file) {
            Ok(text) => parse(&text).map_err(|why| {
                format!(
                    "{}: is no journal of budgets: {why}; what was spent may stand in it: mend it, or move it away to \
                     begin at nothing spent",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(told(error)),
        };
        Ok((Journal { file, _lock: lock }, kept))
    }

    /// Writes all budgets; when it returns they are on the disk.
    pub(super) fn write(&self, budgets: &[Kept]) -> io::Result<()> {
        let text = render(budgets)?;
        let new = self.file.with_extension("new");
        let mut written = private().create(true).truncate(true).open(&new)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        fs::rename(&new, &self.file)?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

fn render(budgets: &[Kept]) -> io::Result<String> {
    if let Some(odd) = budgets.iter().find(|one| !(one.spent_usd.is_finite() && one.ahead_usd.is_finite())) {
        return Err(io::Error::other(format!("the budget of {} and {} is not finite", odd.policy, odd.tenant)));
    }
    let body = serde_json::to_string_pretty(budgets)?;
    Ok(format!("{TITLE}{}\n{body}\n", checksum(body.as_bytes())))
}

fn parse(text: &str) -> Result<Vec<Kept>, String> {
    let (title, body) = text.split_once('\n').ok_or("it breaks off in its first line")?;
    let sum = title.strip_prefix(TITLE).ok_or_else(|| format!("its first line does not begin with \"{TITLE}\""))?;
    if checksum(body.trim_end().as_bytes()) != sum {
        return Err("its content has another checksum than its first line says".to_owned());
    }
    let kept: Vec<Kept> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    if kept.len() > MOST {
        return Err(format!("{} budgets are more than {MOST}", kept.len()));
    }
    Ok(kept)
}

fn checksum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970.
pub(super) fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(spent_usd: f64) -> Kept {
        let (policy, tenant) = ("p".into(), "a tenant\n".into());
        Kept { policy, tenant, spent_usd, ahead_usd: 0.1 + 0.2, worth: Some(0.1), weighed: 3.0, at: 1e9 }
    }

    #[test]
    fn what_is_written_is_read_again_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, nothing) = Journal::open(folder.path()).unwrap();
        assert_eq!(nothing, []);
        journal.write(&[kept(1.0)]).unwrap();
        journal.write(&[kept(0.1), kept(2.0)]).unwrap();
        drop(journal);
        assert_eq!(Journal::open(folder.path()).unwrap().1, [kept(0.1), kept(2.0)]);
    }

    #[test]
    fn one_process_keeps_budgets_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _journal = Journal::open(folder.path()).unwrap();
        let error = Journal::open(folder.path()).unwrap_err();
        assert!(error.contains("another process keeps budgets there; stop it"), "{error}");
    }

    #[test]
    fn a_journal_that_is_not_whole_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("budgets.journal");
        let whole = render(&[kept(1.0)]).unwrap();
        for (text, why) in [
            ("", "it breaks off in its first line"),
            (&whole[..whole.len() - 9], "another checksum"),
            (&whole.replace("1.0", "0.0"), "another checksum"),
            ("{}\n", "its first line does not begin"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Journal::open(folder.path()).unwrap_err();
            assert!(error.contains(why) && error.contains("move it away to begin at nothing spent"), "{error}");
        }
        fs::write(&file, whole).unwrap();
        assert!(Journal::open(folder.path()).is_ok());
    }

    #[test]
    fn no_amount_that_is_not_finite_is_written() {
        assert!(render(&[kept(f64::NAN)]).is_err() && render(&[kept(f64::INFINITY)]).is_err());
    }
}
