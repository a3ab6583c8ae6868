//! Calibrations that policies name: where they are looked for, which model file they must be for,
//! and what a reload does with them.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use weir::control::{self, Cause, Control, Options};
use weir::policy::Names;

/// Made for a model file that holds `abc`.
const CALIBRATION: &str = include_str!("../fixtures/calibration.json");
const UPSTREAM: &str = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
const GATED: &str = "[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n\
                     [[virtual]]\nname = \"auto\"\npolicy = \"policies/p.toml\"\n";
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = { cascade = [\"local/small\", \"up/m\"], \
                      accept = { max_error = 0.1, calibration = \"../calibrations/c.json\" } }\n";

/// A folder with a model file of these bytes, the policy, and this calibration.
fn folder(model: &str, calibration: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["policies", "calibrations"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    write(&folder, "weir.toml", &format!("{UPSTREAM}{GATED}"));
    write(&folder, "m.gguf", model);
    write(&folder, "policies/p.toml", POLICY);
    write(&folder, "calibrations/c.json", calibration);
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).unwrap();
}

fn options(folder: &TempDir) -> Options {
    Options { config: Some(folder.path().join("weir.toml")), ..Options::default() }
}

/// The same calibration without a certificate.
fn certifying_nothing() -> String {
    let mut file: serde_json::Value = serde_json::from_str(CALIBRATION).unwrap();
    file["certificates"] = serde_json::json!([]);
    file.to_string()
}

#[test]
fn a_calibration_stands_beside_its_policy_and_is_read_anew_with_it() {
    let folder = folder("abc", CALIBRATION);
    let options = options(&folder);
    let notes = || control::read(&options).unwrap().notes().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(notes(), [""; 0]);
    write(&folder, "calibrations/c.json", &certifying_nothing());
    let [note] = &notes()[..] else { panic!("{:?}", notes()) };
    assert!(note.contains("policies/p.toml:4: rule \"r\": ") && note.contains("certifies nothing"), "{note}");
    write(&folder, "calibrations/c.json", CALIBRATION);
    assert_eq!(notes(), [""; 0]);
}

#[tokio::test]
async fn a_calibration_for_another_model_file_is_refused_and_what_runs_stays() {
    let folder = folder("abcd", CALIBRATION);
    write(&folder, "weir.toml", UPSTREAM);
    let options = options(&folder);
    let control = Control::open(options.clone(), control::read(&options).unwrap()).await.unwrap();
    write(&folder, "weir.toml", &format!("{UPSTREAM}{GATED}"));
    let problems = control.reload(Cause::Signal).await.unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].place.ends_with("policies/p.toml:4"), "{problems:#?}");
    // The SHA-256 of `abc` and of `abcd`.
    for wanted in ["was made for another model file", "ba7816bf8f01…", "local/small runs 88d4266fd4e6…"] {
        assert!(problems[0].message.contains(wanted), "{problems:#?}");
    }
    assert_eq!(control.current().generation(), 1);
    assert!(control.current().route("local/small").is_err(), "nothing of the refused file is in force");
}

#[test]
fn a_model_file_that_is_replaced_is_hashed_anew() {
    let folder = folder("abc", CALIBRATION);
    let options = options(&folder);
    assert!(control::read(&options).is_ok());
    write(&folder, "m.gguf", "abcd");
    assert!(control::read(&options).unwrap_err()[0].message.contains("88d4266fd4e6…"));
}

#[test]
fn a_calibration_that_cannot_be_used_is_told_on_the_line_that_names_it() {
    for (calibration, wanted) in [
        (Some("{"), "c.json is no calibration: "),
        (Some("{\"version\": 2}"), "c.json is no calibration: missing field"),
        (None, "cannot read"),
    ] {
        let folder = folder("abc", calibration.unwrap_or_default());
        if calibration.is_none() {
            fs::remove_file(folder.path().join("calibrations/c.json")).unwrap();
        }
        let file = folder.path().join("policies/p.toml");
        let with_configuration = control::read(&options(&folder)).unwrap_err();
        let by_itself = control::check_policy(&file, POLICY, &Names { any: true, ..Names::default() }).problems;
        for problems in [with_configuration, by_itself] {
            assert_eq!(problems.len(), 1, "{problems:#?}");
            assert_eq!(problems[0].place, format!("{}:4", file.display()));
            let named = "rule \"r\": then: accept: calibration \"../calibrations/c.json\": ";
            assert!(problems[0].message.starts_with(named) && problems[0].message.contains(wanted), "{problems:#?}");
        }
    }
}

#[test]
fn a_policy_by_itself_is_checked_with_its_calibration_and_its_notes_are_told() {
    let folder = folder("abc", &certifying_nothing());
    let file: &Path = &folder.path().join("policies/p.toml");
    let findings = control::check_policy(file, POLICY, &Names { any: true, ..Names::default() });
    assert_eq!(findings.problems, []);
    assert_eq!(findings.notes.len(), 1, "{findings:#?}");
}
