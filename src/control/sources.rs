//! The files that a generation was made of: each read once, and what it held kept beside its path.
//!
//! Everything that `check` reads goes through a [`Reading`]: from the disk, or as an earlier generation
//! had it. Promises: a file that is named twice in one reading is the same both times; a key is kept
//! as a hash that is never shown, a model as its size and time; what is shown or compared as text has
//! had everything taken out that looks like a secret. Used by `check`, `history` and `watch`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use similar::TextDiff;

use crate::policy::Redactor;

/// A longer text is not compared line by line.
const MOST_COMPARED: usize = 256 << 10;

/// How long a comparison may take before it becomes coarse.
const COMPARING: Duration = Duration::from_millis(200);

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A configuration, a policy, prices, a calibration, a predictor.
    Text(Arc<str>),
    /// The SHA-256 of a key.
    Key(Vec<u8>),
    /// A model.
    Model { bytes: u64, modified: SystemTime },
    /// It was asked for and is not there.
    Absent,
    /// It was asked for and could not be read, a text or a key.
    Unreadable(io::ErrorKind),
}

impl Content {
    fn kind(&self) -> &'static str {
        match self {
            Content::Text(_) => "text",
            Content::Key(_) => "key",
            Content::Model { .. } => "model",
            Content::Absent => "absent",
            Content::Unreadable(_) => "unreadable",
        }
    }

    fn failed(error: &io::Error) -> Content {
        match error.kind() {
            io::ErrorKind::NotFound => Content::Absent,
            kind => Content::Unreadable(kind),
        }
    }

    /// What the file holds now, read in the same way.
    fn now(&self, file: &Path) -> Content {
        match self {
            Content::Key(_) => key(&fs::read_to_string(file)),
            Content::Model { .. } => model(file),
            Content::Text(_) | Content::Unreadable(_) => text_of(&read_text(file)),
            // Whatever it is by now, it is not what it was.
            Content::Absent if file.is_file() => Content::Text("".into()),
            Content::Absent => Content::Absent,
        }
    }
}

fn text_of(read: &io::Result<Arc<str>>) -> Content {
    read.as_ref().map_or_else(Content::failed, |text| Content::Text(Arc::clone(text)))
}

fn key(read: &io::Result<String>) -> Content {
    let hash = |text: &String| digest(&SHA256, text.as_bytes()).as_ref().to_vec();
    read.as_ref().map_or_else(Content::failed, |text| Content::Key(hash(text)))
}

fn read_text(file: &Path) -> io::Result<Arc<str>> {
    fs::read_to_string(file).map(Arc::from)
}

fn model(file: &Path) -> Content {
    let found = fs::metadata(file).ok().filter(fs::Metadata::is_file);
    let known = found.and_then(|found| Some(Content::Model { bytes: found.len(), modified: found.modified().ok()? }));
    known.unwrap_or(Content::Absent)
}

/// The files of one reading, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sources(BTreeMap<PathBuf, Content>);

/// A file of a generation, as it may be shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// Its path, as the configuration leads to it.
    pub file: String,
    /// `text`, `key`, `model`; `absent`: it was asked for and is not there; `unreadable`: it could not
    /// be read.
    pub kind: &'static str,
    /// A text, without what looks like a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A model's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Its path.
    pub file: String,
    /// `added`, `removed` or `changed`.
    pub how: &'static str,
}

impl Sources {
    /// The paths, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Puts a text in the place of what a file held.
    pub(super) fn put(&mut self, file: PathBuf, text: &str) {
        self.0.insert(file, Content::Text(text.into()));
    }

    /// Takes over the texts that are the same, so that they are kept once.
    pub(super) fn share(&mut self, known: &Sources) {
        for (file, content) in &mut self.0 {
            if let Some(same) = known.0.get(file).filter(|then| *then == content) {
                content.clone_from(same);
            }
        }
    }

    /// Whether every file still holds what it held.
    pub(super) fn stands(&self) -> bool {
        self.0.iter().all(|(file, content)| content.now(file) == *content)
    }

    /// The models that are not those of `then`.
    pub(super) fn other_models<'s>(&'s self, then: &'s Sources) -> impl Iterator<Item = &'s PathBuf> {
        let is_model = |content: &Content| matches!(content, Content::Model { .. });
        let models = then.0.iter().filter(move |(_, content)| is_model(content));
        models.filter(|(file, content)| self.0.get(*file) != Some(content)).map(|(file, _)| file)
    }

    /// What is not as it was before, by path.
    pub(super) fn changed(&self, before: &Sources) -> Vec<Changed> {
        let known = |content: Option<&Content>| content.is_some_and(|content| *content != Content::Absent);
        let mut files: Vec<&PathBuf> = self.files().chain(before.files()).collect();
        files.sort();
        files.dedup();
        let how = |file: &PathBuf| match (before.0.get(file), self.0.get(file)) {
            (then, now) if then == now => None,
            (then, now) if !known(then) => known(now).then_some("added"),
            (_, now) if !known(now) => Some("removed"),
            _ => Some("changed"),
        };
        files.into_iter().filter_map(|it| Some(Changed { file: it.display().to_string(), how: how(it)? })).collect()
    }

    /// Every file as it may be shown.
    pub(super) fn shown(&self, redactor: &Redactor) -> Vec<Source> {
        let one = |(file, content): (&PathBuf, &Content)| Source {
            file: file.display().to_string(),
            kind: content.kind(),
            text: match content {
                Content::Text(text) => Some(redactor.redact(text)),
                _ => None,
            },
            bytes: match content {
                Content::Model { bytes, .. } => Some(*bytes),
                _ => None,
            },
        };
        self.0.iter().map(one).collect()
    }

    /// A unified diff of all that is not as it was before.
    pub(super) fn diff(&self, before: &Sources, redactor: &Redactor) -> String {
        let mut out = String::new();
        for Changed { file, how } in self.changed(before) {
            let (then, now) = (before.0.get(Path::new(&file)), self.0.get(Path::new(&file)));
            out.push_str(&match (text(then), text(now)) {
                (Some(then), Some(now)) if then.len().max(now.len()) <= MOST_COMPARED => {
                    unified(&file, &redactor.redact(then), &redactor.redact(now))
                }
                _ => {
                    let kind = now.or(then).map_or("file", Content::kind);
                    format!("--- {file}\n+++ {file}\n@@ {kind}: {how} @@\n")
                }
            });
        }
        out
    }
}

/// The text that is compared; none of what is not there, nothing of what is no text.
fn text(content: Option<&Content>) -> Option<&str> {
    match content {
        Some(Content::Text(text)) => Some(text),
        None | Some(Content::Absent) => Some(""),
        Some(Content::Key(_) | Content::Model { .. } | Content::Unreadable(_)) => None,
    }
}

fn unified(file: &str, then: &str, now: &str) -> String {
    let diff = TextDiff::configure().timeout(COMPARING).diff_lines(then, now);
    let shown = diff.unified_diff().context_radius(2).header(file, file).to_string();
    // Only what may not be shown is not the same.
    if shown.is_empty() {
        format!("--- {file}\n+++ {file}\n@@ changed in what looks like a secret @@\n")
    } else {
        shown
    }
}

/// One reading of a configuration.
#[derive(Debug, Default)]
pub(super) struct Reading {
    given: Arc<Sources>,
    seen: RefCell<Sources>,
}

impl Reading {
    /// Texts as these sources have them, all else from the disk.
    pub(super) fn of(given: Arc<Sources>) -> Reading {
        Reading { given, seen: RefCell::default() }
    }

    /// A file's text.
    pub(super) fn text(&self, file: &Path) -> io::Result<Arc<str>> {
        let known = self.seen.borrow().0.get(file).cloned().or_else(|| self.given.0.get(file).cloned());
        let read = match known {
            Some(Content::Text(text)) => Ok(text),
            Some(Content::Absent) => Err(io::ErrorKind::NotFound.into()),
            Some(Content::Unreadable(kind)) => Err(kind.into()),
            Some(Content::Key(_) | Content::Model { .. }) | None => read_text(file),
        };
        self.see(file, text_of(&read));
        read
    }

    /// The text of a file that holds a key: always that of the disk.
    pub(super) fn key(&self, file: &Path) -> io::Result<String> {
        let read = fs::read_to_string(file);
        self.see(file, key(&read));
        read
    }

    /// When a model's file was last changed: always that of the disk; `None`: there is no such file.
    pub(super) fn model(&self, file: &Path) -> Option<SystemTime> {
        let content = model(file);
        let modified = match content {
            Content::Model { modified, .. } => Some(modified),
            _ => None,
        };
        self.see(file, content);
        modified
    }

    fn see(&self, file: &Path, content: Content) {
        self.seen.borrow_mut().0.insert(file.to_owned(), content);
    }

    /// What was read.
    pub(super) fn sources(&self) -> Sources {
        self.seen.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::build().unwrap()
    }

    fn texts(files: &[(&str, &str)]) -> Sources {
        let mut sources = Sources::default();
        files.iter().for_each(|(file, text)| sources.put(PathBuf::from(file), text));
        sources
    }

    #[test]
    fn a_difference_is_told_by_file_and_line() {
        let before = texts(&[("a.toml", "one\ntwo\n"), ("b.toml", "b\n"), ("same", "s")]);
        let after = texts(&[("a.toml", "one\n2\n"), ("c.toml", "c\n"), ("same", "s")]);
        let told: Vec<(String, &str)> = after.changed(&before).into_iter().map(|it| (it.file, it.how)).collect();
        let want = [("a.toml", "changed"), ("b.toml", "removed"), ("c.toml", "added")];
        assert_eq!(told, want.map(|(file, how)| (file.to_owned(), how)));
        let diff = after.diff(&before, &redactor());
        for line in ["--- a.toml", "-two", "+2", "-b", "+c"] {
            assert!(diff.lines().any(|own| own == line), "{line}\n{diff}");
        }
        assert_eq!(after.changed(&after), []);
    }

    #[test]
    fn no_secret_is_in_a_difference_or_in_what_is_shown() {
        let key = |end: char| format!("# sk-{}{end}\n", "a".repeat(30));
        let (before, after) = (texts(&[("a", &key('b'))]), texts(&[("a", &key('c'))]));
        let diff = after.diff(&before, &redactor());
        assert!(diff.contains("looks like a secret") && !diff.contains("aaaa"), "{diff}");
        let shown = format!("{:?}", after.shown(&redactor()));
        assert!(shown.contains("[api-key]") && !shown.contains("aaaa"), "{shown}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "hush").unwrap();
        let reading = Reading::default();
        assert_eq!(reading.key(&file).unwrap(), "hush");
        let sources = reading.sources();
        let diff = sources.diff(&Sources::default(), &redactor());
        assert!(diff.contains("key: added") && !diff.contains("hush"), "{diff}");
        assert!(!format!("{:?}", sources.shown(&redactor())).contains("hush"));
    }

    #[test]
    fn a_file_is_the_same_however_often_one_reading_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        fs::write(&file, "one").unwrap();
        let reading = Reading::default();
        assert_eq!(&*reading.text(&file).unwrap(), "one");
        fs::write(&file, "two").unwrap();
        assert_eq!(&*reading.text(&file).unwrap(), "one");
        let again = Reading::of(Arc::new(reading.sources()));
        assert_eq!(&*again.text(&file).unwrap(), "one");
        assert_eq!(again.sources(), reading.sources());
        assert!(!again.sources().stands());
    }

    #[test]
    fn what_was_missing_and_comes_is_seen_and_so_is_a_key_or_a_model_that_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let reading = Reading::default();
        fs::write(path("key"), "k").unwrap();
        fs::write(path("m.gguf"), "m").unwrap();
        assert!(reading.text(&path("gone")).is_err() && reading.model(&path("no.gguf")).is_none());
        reading.key(&path("key")).unwrap();
        assert!(reading.model(&path("m.gguf")).is_some());
        let sources = reading.sources();
        assert!(sources.stands());
        for (name, text, back) in [("gone", "x", None), ("no.gguf", "x", None), ("key", "l", Some("k"))] {
            fs::write(path(name), text).unwrap();
            assert!(!sources.stands(), "{name}");
            match back {
                Some(back) => fs::write(path(name), back).unwrap(),
                None => fs::remove_file(path(name)).unwrap(),
            }
            assert!(sources.stands(), "{name}");
        }
        fs::write(path("m.gguf"), "longer").unwrap();
        assert!(!sources.stands());
    }

    #[test]
    fn what_cannot_be_read_stands_until_it_can_be_or_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["text", "key"] {
            fs::write(path(name), [0xff]).unwrap();
        }
        fs::create_dir(path("folder")).unwrap();
        let reading = Reading::default();
        let text = |name: &str| reading.text(&path(name)).unwrap_err().kind();
        assert_eq!(
            [text("text"), text("text"), text("gone")],
            [io::ErrorKind::InvalidData, io::ErrorKind::InvalidData, io::ErrorKind::NotFound]
        );
        assert_eq!(text("folder"), io::ErrorKind::IsADirectory);
        reading.key(&path("key")).unwrap_err();
        let sources = reading.sources();
        let kinds: Vec<&str> = sources.shown(&redactor()).iter().map(|it| it.kind).collect();
        assert_eq!(kinds, ["unreadable", "absent", "unreadable", "unreadable"], "by path");
        assert!(sources.stands());
        for name in ["text", "key"] {
            fs::write(path(name), "now").unwrap();
            assert!(!sources.stands(), "{name} can be read");
            fs::remove_file(path(name)).unwrap();
            assert!(!sources.stands(), "{name} is gone");
            fs::write(path(name), [0xff]).unwrap();
            assert!(sources.stands(), "{name}");
        }
    }
}
