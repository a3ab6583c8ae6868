//! The SHA-256 of model files: by what a calibration knows the model that it was made for.
//!
//! Only files that a calibration speaks of are read, each once in a process: a file of the same size
//! and time of change is taken for unchanged. The catalogue's checksums are not used: they tell what
//! a file should be, not what it is. Reading takes about a second per gigabyte, so that this is
//! called where files are read anyway: by `check`, off the async threads.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ring::digest::{Context, SHA256, digest};

use crate::local::ModelConfig;

const PIECE: usize = 1 << 20;

/// The files hashed so far; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Hashes(Arc<Mutex<HashMap<PathBuf, Known>>>);

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    bytes: u64,
    modified: SystemTime,
    sha256: String,
}

impl Hashes {
    /// What a calibration knows a model by: the SHA-256 of its file; with an adapter, of the text
    /// `FILE ADAPTER SCALE`, the first two as SHA-256, since each of the three changes its answers.
    pub(super) fn of_model(&self, model: &ModelConfig) -> io::Result<String> {
        let file = self.sha256(&model.file)?;
        let Some(adapter) = &model.adapter else { return Ok(file) };
        let text = format!("{file} {} {}", self.sha256(&adapter.file)?, adapter.scale);
        Ok(hexadecimal(digest(&SHA256, text.as_bytes()).as_ref()))
    }

    /// The file's SHA-256 in 64 hexadecimal digits; blocks while the file is read.
    pub fn sha256(&self, file: &Path) -> io::Result<String> {
        let now = fs::metadata(file)?;
        let (bytes, modified) = (now.len(), now.modified()?);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
        if let Some(known) = known.filter(|known| (known.bytes, known.modified) == (bytes, modified)) {
            return Ok(known.sha256);
        }
        let sha256 = read(file)?;
        let known = Known { bytes, modified, sha256: sha256.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_owned(), known);
        Ok(sha256)
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut piece = vec![0; PIECE];
    let mut hash = Context::new(&SHA256);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    Ok(hexadecimal(hash.finish().as_ref()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Adapter;
    use crate::request::ModelId;

    /// The SHA-256 of nothing and of `abc` (FIPS 180-4's example).
    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_is_known_by_its_bytes_and_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        let hashes = Hashes::default();
        assert!(hashes.sha256(&file).is_err());
        fs::write(&file, b"").unwrap();
        assert_eq!(hashes.sha256(&file).unwrap(), NOTHING);
        fs::write(&file, b"abc").unwrap();
        assert_eq!(hashes.sha256(&file).unwrap(), ABC);
    }

    #[test]
    fn another_adapter_or_scale_is_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let of = ModelId::new("local/m");
        let plain = ModelConfig::new(of.clone(), file("m.gguf", b"abc"));
        let adapted = |name: &str, scale: f32| {
            let adapter = Adapter { of: of.clone(), file: file(name, name.as_bytes()), modified: None, scale };
            ModelConfig { adapter: Some(adapter), ..plain.clone() }
        };
        let hashes = Hashes::default();
        let hash = |model: &ModelConfig| hashes.of_model(model).unwrap();
        assert_eq!(hash(&plain), ABC);
        let different: std::collections::BTreeSet<String> =
            [&plain, &adapted("x", 1.0), &adapted("y", 1.0), &adapted("x", 0.5)].into_iter().map(hash).collect();
        assert_eq!(different.len(), 4);
        assert!(different.iter().all(|hash| hash.len() == 64));
    }

    #[test]
    fn an_unchanged_file_is_not_read_twice_by_any_clone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        fs::write(&file, b"abc").unwrap();
        let hashes = Hashes::default();
        hashes.sha256(&file).unwrap();
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, b"xyz").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
        assert_eq!(hashes.clone().sha256(&file).unwrap(), ABC);
    }
}
