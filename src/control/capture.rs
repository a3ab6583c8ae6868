//! `[capture]` as it was written → where requests and answers are logged, and how much of them.
//!
//! Nothing is captured unless the table is there. Called by `check`; `observe` opens the log.

use std::path::{Path, PathBuf};

use super::read::{Placed, RawCapture};

const DEFAULT_MAX_BYTES: u64 = 100 << 20;
const LEAST_BYTES: u64 = 1 << 16;
const DEFAULT_KEEP: u32 = 5;
const MOST_KEPT: u32 = 1000;

/// What is captured, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// The log.
    pub file: PathBuf,
    /// Where it begins a new file.
    pub max_bytes: u64,
    /// How many full files stay.
    pub keep: u32,
    /// Whether secrets are taken out of texts.
    pub redact_secrets: bool,
    /// Whether texts are kept, or only their lengths and hashes.
    pub text: bool,
    /// The share of requests that is captured, above 0.
    pub share: f64,
    /// Whether an answer's last bytes wait until its line is written.
    pub acknowledged: bool,
}

/// Checks the table; every problem is told.
pub(super) fn check(raw: &Placed<RawCapture>, folder: &Path) -> Result<Capture, Vec<String>> {
    let RawCapture { file, max_bytes, keep, redact, text, share, acknowledged } = &raw.value;
    let mut problems = Vec::new();
    let file = folder.join(file);
    let home = file.parent().filter(|home| !home.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !home.is_dir() {
        problems.push(format!("file = \"{}\": there is no folder {}", file.display(), home.display()));
    }
    let max_bytes = max_bytes.map_or(DEFAULT_MAX_BYTES, |size| size.as_u64());
    if max_bytes < LEAST_BYTES {
        problems.push(format!("max_bytes = {max_bytes}; want \"64KiB\" or more"));
    }
    let keep = keep.unwrap_or(DEFAULT_KEEP);
    if keep > MOST_KEPT {
        problems.push(format!("keep = {keep}; want at most {MOST_KEPT}"));
    }
    let share = share.unwrap_or(1.0);
    if !(share > 0.0 && share <= 1.0) {
        problems.push(format!("share = {share}; want more than 0, at most 1"));
    }
    let redact = redact.clone().unwrap_or_else(|| vec!["secrets".to_owned()]);
    let unknown = redact.iter().filter(|what| *what != "secrets");
    problems.extend(unknown.map(|what| format!("redact: \"{what}\" is unknown; known: secrets")));
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = text.unwrap_or(true);
    let acknowledged = acknowledged.unwrap_or(true);
    Ok(Capture { file, max_bytes, keep, redact_secrets: !redact.is_empty(), text, share, acknowledged })
}
