//! The file of the capture log: it begins anew when it is full, and holds whole lines only.
//!
//! Promises: each line is appended in one piece; of one that the disk takes half of nothing stays;
//! at most `keep` full files stay; a file that is moved away begins anew; files are readable by their
//! owner only. Two processes may append while one replaces the other: only the owner moves full
//! files. Used by [`super::capture`].

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::Capture;

/// A file that begins anew when it is full; the full ones are `FILE.1` (the newest) to `FILE.KEEP`.
#[derive(Debug)]
pub(super) struct Rotating {
    file: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: File,
    /// Whether this process moves full files away; else another one does.
    owned: Arc<AtomicBool>,
}

impl Rotating {
    pub(super) fn open(settings: &Capture, owned: Arc<AtomicBool>) -> io::Result<Rotating> {
        let open = append(&settings.file)?;
        let (file, max_bytes, keep) = (settings.file.clone(), settings.max_bytes, settings.keep);
        Ok(Rotating { file, max_bytes, keep, open, owned })
    }

    /// Its name.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Takes away the beginning of a line that a crash has left without its end. Nobody else may be
    /// writing.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        let found = self.open.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        let read = File::open(&self.file)?;
        let end = end_of_last_line(&read, found.len())?;
        if end < found.len() {
            let torn = found.len() - end;
            tracing::warn!(file = %self.file.display(), bytes = torn, "a line that a crash has torn is taken away");
            self.open.set_len(end)?;
        }
        Ok(())
    }

    /// Appends a line in one piece, so that several processes may write at once.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let size = line.len() as u64;
        if size > self.max_bytes {
            return Err(io::Error::other(format!("{size} bytes are more than max_bytes")));
        }
        let before = self.in_place()?;
        if before + size > self.max_bytes && self.owned.load(Ordering::Acquire) {
            self.rotate()?;
            return self.whole(0, |open| open.write_all(line));
        }
        self.whole(before, |open| open.write_all(line))
    }

    /// The bytes of the file, which is begun anew if what was written is no longer the one of that name.
    fn in_place(&mut self) -> io::Result<u64> {
        let open = self.open.metadata()?;
        match fs::metadata(&self.file) {
            Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => return Ok(open.len()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.begin()?;
        self.open.metadata().map(|new| new.len())
    }

    fn begin(&mut self) -> io::Result<()> {
        self.open = append(&self.file)?;
        Ok(())
    }

    /// Writes all of a line, or leaves none of it.
    fn whole(&mut self, before: u64, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let written = write(&mut self.open);
        // While another process writes too, what follows may be its line.
        if written.is_err() && self.owned.load(Ordering::Acquire) {
            self.open.set_len(before)?;
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

/// Where the last whole line of so many bytes ends.
fn end_of_last_line(file: &File, bytes: u64) -> io::Result<u64> {
    let mut piece = [0; 1 << 16];
    let mut end = bytes;
    while end > 0 {
        let begin = end.saturating_sub(piece.len() as u64);
        let piece = &mut piece[..(end - begin) as usize];
        file.read_exact_at(piece, begin)?;
        if let Some(place) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + place as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> Capture {
        let file = folder.join("capture.jsonl");
        let (max_bytes, keep, share) = (20, 2, 1.0);
        Capture { file, max_bytes, keep, redact_secrets: true, text: true, share, acknowledged: true }
    }

    fn owning(settings: &Capture) -> io::Result<Rotating> {
        Rotating::open(settings, Arc::new(AtomicBool::new(true)))
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn a_full_file_makes_room_and_no_more_are_kept_than_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut rotating = owning(&settings(folder.path())).unwrap();
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
        let mut rotating = owning(&settings).unwrap();
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
        let mut rotating = owning(&settings(folder.path())).unwrap();
        rotating.write(b"a line\n").unwrap();
        let torn = rotating.whole(7, |open| open.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into())));
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
        owning(&settings).unwrap();
        assert_eq!(fs::metadata(&settings.file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(folder.path(), "capture.jsonl"), "a line\n");
    }

    #[test]
    fn a_torn_last_line_is_taken_away_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Capture { max_bytes: 1 << 20, ..settings(folder.path()) };
        let long = "x".repeat(100_000);
        for (before, after) in [
            ("a\nb\n".to_owned(), "a\nb\n"),
            ("a\nb".to_owned(), "a\n"),
            ("b".to_owned(), ""),
            (String::new(), ""),
            (format!("a\n{long}"), "a\n"),
            (long, ""),
        ] {
            fs::write(&settings.file, &before).unwrap();
            let mut rotating = owning(&settings).unwrap();
            rotating.mend().unwrap();
            assert_eq!(read(folder.path(), "capture.jsonl"), after);
            rotating.write(b"c\n").unwrap();
            assert_eq!(read(folder.path(), "capture.jsonl"), format!("{after}c\n"));
        }
    }

    #[test]
    fn two_processes_lose_no_line_while_one_moves_full_files() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut old = Rotating::open(&settings, Arc::default()).unwrap();
        let mut new = owning(&settings).unwrap();
        old.write(b"old 1 old 1\n").unwrap();
        old.write(b"old 2 old 2\n").unwrap();
        new.write(b"new 1\n").unwrap();
        old.write(b"old 3\n").unwrap();
        assert_eq!(read(folder.path(), "capture.jsonl.1"), "old 1 old 1\nold 2 old 2\n");
        assert_eq!(read(folder.path(), "capture.jsonl"), "new 1\nold 3\n");
        let torn = old.whole(12, |open| open.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into())));
        assert!(torn.is_err());
        assert_eq!(read(folder.path(), "capture.jsonl"), "new 1\nold 3\nhalf", "who is not alone cuts nothing off");
    }
}
