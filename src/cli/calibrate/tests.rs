//! What the flags refuse, and what is written when a file cannot be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use clap::Parser;
use serde_json::json;

use super::Calibrate;
use crate::confidence::Calibration;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    calibrate: Calibrate,
}

/// Calibrates the slices `sums` and `dates`, of 400 right answers each, into `folder`.
fn calibrate(folder: &Path, more: &[&str]) -> Result<(), String> {
    let line = |id: usize| {
        json!({
            "model": "local/small", "id": format!("row-{id}"), "file": "ab".repeat(32), "right": true,
            "task": if id.is_multiple_of(2) { "sums" } else { "dates" }, "finish": "stop",
            "logprobs": [-0.01 * (1 + id % 97) as f32], "margins": [1.0],
        })
    };
    let records = folder.join("records.jsonl");
    fs::write(&records, (0..800).map(|id| line(id).to_string() + "\n").collect::<String>()).unwrap();
    let [records, out] = [&records, folder].map(|path| path.to_str().unwrap());
    let flags = ["calibrate", "--records", records, "--out", out, "--model", "local/small", "--score", "sum_logprob"];
    let slices = ["--slice", "sums=sums", "--slice", "dates=dates", "--alpha", "0.1"];
    Line::parse_from(flags.iter().chain(&slices).chain(more)).calibrate.run()
}

#[test]
fn a_file_that_cannot_be_written_does_not_keep_the_others_from_it() {
    let folder = tempfile::tempdir().unwrap();
    symlink("not-there/sums.json", folder.path().join("sums.json")).unwrap();
    let error = calibrate(folder.path(), &["--mix", "sums=0.5,dates=0.5"]).unwrap_err();
    assert!(error.contains("sums.json: cannot write") && error.lines().count() == 1, "{error}");
    let dates = Calibration::parse(&fs::read(folder.path().join("dates.json")).unwrap()).unwrap();
    assert_eq!((dates.attempts, dates.certificates.len()), (1, 1));
    assert!(folder.path().join("union.json").exists());
}

#[test]
fn a_chance_given_away_that_is_none_is_refused_before_anything_is_spent() {
    let folder = tempfile::tempdir().unwrap();
    for early in ["0", "1", "NaN", "1.5"] {
        let error = calibrate(folder.path(), &["--early", early]).unwrap_err();
        assert_eq!(error, format!("--early {early} is not between 0 and 1"));
    }
    assert!(!folder.path().join("sums.json").exists());
    assert_eq!(calibrate(folder.path(), &["--early", "0.05"]), Ok(()));
}

#[test]
fn what_no_file_could_hold_is_refused_before_a_label_is_looked_at() {
    for (flags, why) in [
        (&["--date", " "][..], "--date is empty"),
        (&["--basis", "judge", "--grader", ""], "--grader is empty"),
        (&["--grader", "a judge"], "--grader belongs to --basis judge"),
        (&["--slice", "Sums=more"], "\"Sums\" goes to the same file as \"sums\""),
        (&["--slice", "a b=a", "--slice", "a/b=b"], "\"a/b\" goes to the same file as \"a b\""),
        (&["--slice", "union=more"], "\"union\" goes to the file of all slices together"),
        (&["--slice", "=more"], "\"=more\" has no name"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = calibrate(folder.path(), flags).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(!folder.path().join("sums.json").exists(), "no attempt is spent: {flags:?}");
    }
}
