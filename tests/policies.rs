//! Every shipped policy compiles and decides its own examples as they say.

use std::collections::BTreeSet;
use std::path::PathBuf;

use weir::policy::{Names, Policy};
use weir::request::ModelId;

/// The models and headers that the shipped policies name.
fn names() -> Names {
    let models = [
        "local/qwen-0.5b",
        "local/qwen2.5-coder-0.5b-instruct",
        "large/qwen2.5-coder-1.5b-instruct",
        "openai/gpt-4.1-mini",
    ];
    Names { models: models.map(ModelId::new).into(), headers: ["x-confidential".to_owned()].into(), ..Names::default() }
}

fn policy_files() -> std::io::Result<Vec<PathBuf>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    assert!(files.len() >= 4, "the shipped policies are missing: {files:?}");
    Ok(files)
}

#[test]
fn every_shipped_policy_decides_its_cases_as_they_say() {
    for file in policy_files().unwrap() {
        let place = file.file_name().unwrap().to_string_lossy().into_owned();
        let policy = Policy::compile(&place, &std::fs::read_to_string(&file).unwrap(), &names()).unwrap();
        assert_eq!(format!("{}.toml", policy.name()), place, "a policy is named as its file");
        let cases = file.with_extension("cases.jsonl");
        let problems = policy.check_cases(&cases.to_string_lossy(), &std::fs::read_to_string(&cases).unwrap());
        assert_eq!(problems, [], "{problems:#?}");
    }
}

#[test]
fn every_shipped_policy_has_six_cases_or_more() {
    for file in policy_files().unwrap() {
        let cases = std::fs::read_to_string(file.with_extension("cases.jsonl")).unwrap();
        let cases: Vec<serde_json::Value> = cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let named: BTreeSet<&str> = cases.iter().filter_map(|case| case["name"].as_str()).collect();
        assert!(named.len() >= 6, "{}: {} cases of different names", file.display(), named.len());
        assert_eq!(named.len(), cases.len(), "{}: a name stands twice", file.display());
    }
}

/// The blocks of the reference that are marked `toml` are whole policy files.
#[test]
fn every_policy_shown_in_the_reference_compiles() {
    let reference = include_str!("../docs/policy.md");
    let blocks: Vec<&str> = reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        if let Err(problems) = Policy::compile("docs/policy.md", block, &names()) {
            panic!("{problems:#?}\n{block}");
        }
    }
}
