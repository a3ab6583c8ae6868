//! A file of the hub on this machine: resumable, checked, and there whole or not at all.
//!
//! Promises: nothing is downloaded that the disk cannot hold; what an interruption left in
//! `FILE.CHECKSUM.part` is gone on from, in this run or a later one; the file bears its name only once
//! its SHA-256 is right, and then beside it lies `FILE.ok` with the checksum, as `make models` has it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::bar::size;
use super::hub::{Hub, Offer};
use crate::control::Hashes;

/// Tries in a row that brought nothing.
const FRUITLESS: usize = 4;
/// What a disk must have left beyond the file.
const SPARE: u64 = 64 << 20;
const PIECE: usize = 1 << 18;

/// A file that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// `ORG/REPO`.
    pub(super) repo: &'a str,
    pub(super) file: &'a str,
    /// Wins over what the hub says.
    pub(super) sha256: Option<&'a str>,
    pub(super) target: &'a Path,
}

/// Where from, and what the disk can take.
pub(super) struct Download<'a> {
    pub(super) hub: &'a Hub,
    pub(super) free: &'a dyn Fn(&Path) -> Option<u64>,
}

impl Download<'_> {
    /// Downloads; `tell` hears how much of it is there, of how much.
    pub(super) fn run(&self, wanted: &Wanted<'_>, tell: &mut dyn FnMut(u64, u64)) -> Result<(), String> {
        let offer = self.hub.look(wanted.repo, wanted.file)?;
        let sha256 = wanted.sha256.map(str::to_owned).or_else(|| offer.sha256.clone());
        let part = part_of(wanted.target, sha256.as_deref());
        self.check_room(&part, &offer)?;
        let mut fruitless = 0;
        loop {
            let before = length(&part);
            tell(before.min(offer.bytes), offer.bytes);
            if before == offer.bytes {
                break;
            }
            let why = match self.go_on(wanted, (&part, before), &offer, tell) {
                Ok(()) => continue,
                Err(Stop::Refused(why)) => return Err(why),
                Err(Stop::Broken(why)) => why,
            };
            fruitless = if length(&part) > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS {
                let (have, of) = (size(length(&part)), size(offer.bytes));
                return Err(format!("{}: {why}; {have} of {of} are kept, run it again to go on", wanted.file));
            }
        }
        finish(wanted, &part, sha256.as_deref())
    }

    fn check_room(&self, part: &Path, offer: &Offer) -> Result<(), String> {
        let missing = offer.bytes.saturating_sub(length(part));
        let folder = part.parent().unwrap_or(Path::new(""));
        match (self.free)(folder) {
            Some(free) if free < missing.saturating_add(SPARE) => {
                let (missing, free) = (size(missing), size(free));
                Err(format!(
                    "{missing} are to be downloaded, {free} are free in {}; make room, or set WEIR_MODELS",
                    folder.display()
                ))
            }
            _ => Ok(()),
        }
    }

    /// One connection: writes what it brings behind what is there.
    fn go_on(
        &self,
        wanted: &Wanted<'_>,
        (part, have): (&Path, u64),
        offer: &Offer,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Stop> {
        let from = if have > offer.bytes { 0 } else { have };
        let (from, mut body) = self.hub.read(wanted.repo, wanted.file, from).map_err(Stop::Broken)?;
        let told = |error: io::Error| Stop::Refused(format!("cannot write {}: {error}", part.display()));
        let mut file = open(part, from).map_err(told)?;
        let mut source = body.as_reader();
        let (mut piece, mut have) = (vec![0; PIECE], from);
        loop {
            let read = source.read(&mut piece).map_err(|error| Stop::Broken(error.to_string()))?;
            have += read as u64;
            match read {
                0 if have < offer.bytes => return Err(Stop::Broken("the connection ended early".to_owned())),
                0 => return file.sync_all().map_err(told),
                _ if have > offer.bytes => return Err(Stop::Refused("the hub sends more than it said".to_owned())),
                _ => file.write_all(&piece[..read]).map_err(told)?,
            }
            tell(have, offer.bytes);
        }
    }
}

/// Why a connection brought no more.
enum Stop {
    /// Another one may.
    Broken(String),
    /// No other will.
    Refused(String),
}

/// The file to write to, with what it has up to `from`.
fn open(part: &Path, from: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(part)?;
    file.set_len(from)?;
    Ok(file)
}

fn length(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |found| found.len())
}

/// Where the beginning of a file is kept: another version of it has another name.
pub(super) fn part_of(target: &Path, sha256: Option<&str>) -> PathBuf {
    let version = sha256.and_then(|sha256| sha256.get(..12)).unwrap_or("unchecked");
    beside(target, &format!(".{version}.part"))
}

/// `FILE` and an ending.
pub(super) fn beside(target: &Path, ending: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    target.with_file_name(name)
}

fn finish(wanted: &Wanted<'_>, part: &Path, sha256: Option<&str>) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", part.display());
    let found = Hashes::default().sha256(part).map_err(told)?;
    if let Some(sha256) = sha256.filter(|sha256| !sha256.eq_ignore_ascii_case(&found)) {
        fs::remove_file(part).map_err(told)?;
        let what = format!("{}: its SHA-256 is {found}, not {sha256}", wanted.file);
        return Err(format!("{what}: damaged on the way, or not what it should be; nothing of it is kept"));
    }
    fs::rename(part, wanted.target).map_err(told)?;
    fs::write(beside(wanted.target, ".ok"), format!("{found}\n")).map_err(told)
}
