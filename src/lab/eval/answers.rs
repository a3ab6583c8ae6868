//! Recorded answers: a JSONL file that is only appended to, so that an interrupted run goes on.
//!
//! One answer per (model, id, form, file); the last one counts. Promises: an answer is in the file
//! when [`Answers::add`] returns; a line cut off by an interruption is removed when the file is
//! opened, other lines that are no answers are left alone and counted. [`super::super::records`]
//! reads the same file.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How a row was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// As it stands.
    Free,
    /// With a JSON schema of its answer.
    Constrained,
}

/// What makes an answer the same as another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The model asked for; `auto` for a policy.
    pub model: String,
    /// The row.
    pub id: String,
    /// How it was asked.
    pub form: Asked,
    /// The SHA-256 of what answers: the model's file, or the policy's; empty where unknown.
    pub file: String,
}

/// A model's answer to a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The model asked for; `auto` for a policy.
    pub model: String,
    /// The row.
    pub id: String,
    /// How it was asked.
    pub form: Asked,
    /// The SHA-256 of what answers.
    pub file: String,
    /// Whether it is right.
    pub right: bool,
    /// Who says so, where it is not the row's own answer: the judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// Log-probability per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f64>>,
    /// Per token those of the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<Vec<f64>>>,
    /// What was said.
    pub text: String,
    /// Why it ended.
    pub finish: Option<String>,
    /// From the question to the whole answer.
    pub ms: f64,
    /// What it cost in dollars, where that is known.
    pub usd: Option<f64>,
    /// Who answered.
    pub served_by: Option<String>,
    /// By which rule of which policy.
    pub policy: Option<String>,
    /// What stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The scores told with it.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens generated.
    pub completion_tokens: Option<u64>,
}

impl Answer {
    /// What makes it the same as another.
    pub fn key(&self) -> Key {
        Key { model: self.model.clone(), id: self.id.clone(), form: self.form, file: self.file.clone() }
    }

    /// Whether a model on the box answered.
    pub fn is_local(&self) -> bool {
        self.served_by.as_deref().is_some_and(|model| model.starts_with("local/"))
    }

    /// Whether a certificate stands behind it.
    pub fn is_certified(&self) -> bool {
        self.certificate.as_deref().is_some_and(|told| told.starts_with("max_"))
    }
}

/// The answers so far, and the file that keeps them.
#[derive(Debug)]
pub struct Answers {
    kept: Mutex<Kept>,
    /// Lines that are no answers.
    pub left_out: usize,
}

#[derive(Debug)]
struct Kept {
    known: HashMap<Key, Answer>,
    file: File,
}

impl Answers {
    /// Opens the file, and makes it where it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(path: &Path) -> Result<Answers, String> {
        let cannot = |what: &str, error: std::io::Error| format!("{}: cannot {what}: {error}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| cannot("make its folder", error))?;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(cannot("read", error)),
        };
        let (mut known, mut left_out) = (HashMap::new(), 0);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str::<Answer>(line) {
                Ok(answer) => drop(known.insert(answer.key(), answer)),
                Err(_) => left_out += 1,
            }
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).map_err(|error| cannot("write", error))?;
        mend(&mut file, &text).map_err(|error| cannot("write", error))?;
        Ok(Answers { kept: Mutex::new(Kept { known, file }), left_out })
    }

    /// The answer of this key.
    pub fn get(&self, key: &Key) -> Option<Answer> {
        self.kept().known.get(key).cloned()
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&self, answer: Answer) -> Result<(), String> {
        let mut line = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let mut kept = self.kept();
        kept.file.write_all(&line).map_err(|error| format!("cannot keep the answer: {error}"))?;
        kept.known.insert(answer.key(), answer);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the file end with a whole line.
fn mend(file: &mut File, text: &str) -> std::io::Result<()> {
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let rest = &text[whole..];
    if rest.is_empty() {
        Ok(())
    } else if serde_json::from_str::<Answer>(rest).is_ok() {
        file.write_all(b"\n")
    } else {
        file.set_len(whole as u64)
    }
}
