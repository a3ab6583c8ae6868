//! What the project ships and shows can be used as it is.

use std::path::PathBuf;

use weir::control::{self, Options};
use weir::policy::Names;
use weir::upstream;

use super::{environment, models, read};

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn every_shipped_configuration_is_right_and_so_are_its_policies_cases() {
    let models = models();
    let env = environment(models.path(), &[("OPENAI_API_KEY", "sk-1")]);
    let mut count = 0;
    for entry in std::fs::read_dir(shipped("config")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name == "prices.toml" || !name.ends_with(".toml") {
            continue;
        }
        count += 1;
        let checked = control::read(&Options { config: Some(file), env: env.clone(), ..Options::default() });
        let checked = checked.unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        assert_eq!(checked.warnings, Vec::<String>::new(), "{name}");
        assert_eq!(checked.check_cases(), [], "{name}");
    }
    assert!(count >= 3, "{count} configurations");
}

#[test]
fn the_reference_serves_what_its_comments_say() {
    let models = models();
    let env = environment(models.path(), &[("OPENAI_API_KEY", "sk-1")]);
    let checked =
        control::read(&Options { config: Some(shipped("config/weir.toml")), env, ..Options::default() }).unwrap();
    let names = checked.names();
    let known: Vec<&str> = names.models.iter().map(|model| model.as_str()).collect();
    assert_eq!(known, ["local/minilm", "local/qwen-0.5b", "openai/gpt-4.1-mini"]);
    assert_eq!(names.short["qwen-0.5b"].as_str(), "local/qwen-0.5b");
    assert!(names.wildcards.contains("openai") && names.headers.contains("x-team"));
}

/// Every key that the reader knows stands in the reference, be it in a comment.
#[test]
fn the_reference_tells_of_every_key() {
    let reference = include_str!("../../config/weir.toml");
    let refusal = read("nonsense = 1", &[], &[]).unwrap_err();
    let known = refusal[0].message.split("known: ").nth(1).unwrap();
    let tables = ["[[price]]", "[[model]]", "[[upstream]]", "[[virtual]]", "[[tenant]]", "[capture]", "[telemetry]"];
    for key in known.split(", ") {
        let told =
            reference.contains(&format!("{key} ")) || tables.iter().any(|table| table.trim_matches(['[', ']']) == key);
        assert!(told, "{key}");
    }
    assert!(tables.iter().all(|table| reference.contains(table)));
}

#[test]
fn the_reference_shows_the_defaults_of_an_upstream() {
    let reference: toml::Table = toml::from_str(include_str!("../../config/weir.toml")).unwrap();
    let shown = &reference["upstream"][0];
    let usual = upstream::Config::new("openai", Vec::new());
    let times = [
        ("connect_timeout", usual.connect_timeout),
        ("first_byte_timeout", usual.first_byte_timeout),
        ("idle_timeout", usual.idle_timeout),
    ];
    for (key, time) in times {
        assert_eq!(humantime::parse_duration(shown[key].as_str().unwrap()), Ok(time), "{key}");
    }
    assert_eq!(shown["retries"].as_integer(), Some(i64::from(usual.retries)));
}

#[test]
fn the_price_file_is_right() {
    assert_eq!(control::check_prices("prices.toml", include_str!("../../config/prices.toml")), []);
}

/// A block that is marked `toml` is a whole policy or a whole configuration.
#[test]
fn every_toml_block_of_the_documents_can_be_used() {
    let mut blocks = 0;
    let documents = [shipped("README.md"), shipped("docs")];
    let files = documents.iter().flat_map(|path| match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => vec![path.clone()],
    });
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            blocks += 1;
            let any = Names { any: true, ..Names::default() };
            let problems = if block.contains("[[rule]]") {
                control::check_policy(&file, block, &any).problems
            } else {
                let policy = include_str!("../../policies/cheap-first.toml");
                read(block, &[("cheap-first.toml", policy)], &[]).err().unwrap_or_default()
            };
            assert_eq!(problems, [], "{}:\n{block}", file.display());
        }
    }
    assert!(blocks >= 2, "{blocks} blocks");
}
