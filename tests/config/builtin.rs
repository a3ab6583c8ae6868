//! What `weir serve` does without a configuration, and with flags.

use std::path::Path;
use std::sync::Arc;

use weir::control::{self, Checked, Control, Environment, Options};
use weir::error::Problem;
use weir::request::ModelId;

use super::{environment, models};
use crate::fake_upstream::{Answer, FakeUpstream};

fn names(checked: &Checked) -> Vec<String> {
    checked.names().models.iter().map(ToString::to_string).collect()
}

fn builtin(env: Environment) -> Result<Checked, Vec<Problem>> {
    control::read(&Options { env, ..Options::default() })
}

#[test]
fn the_best_model_on_disk_is_served() {
    let models = models();
    let ranked = [
        ("local/qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        ("local/qwen2.5-coder-1.5b-instruct", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        ("local/smollm2-135m-instruct", "smollm2-135m-instruct-q4_1.gguf"),
    ];
    for (name, file) in ranked {
        assert_eq!(names(&builtin(environment(models.path(), &[])).unwrap()), [name]);
        std::fs::remove_file(models.path().join(file)).unwrap();
    }
}

#[test]
fn with_nothing_to_serve_one_sentence_says_how_to_get_a_model() {
    let empty = tempfile::tempdir().unwrap();
    let problems = builtin(environment(empty.path(), &[])).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:#?}") };
    for part in [empty.path().to_str().unwrap(), "make models", "--model FILE", "OPENAI_API_KEY"] {
        assert!(problem.message.contains(part), "{problem}");
    }
}

#[test]
fn a_key_adds_the_upstream_and_a_name_its_model() {
    let models = models();
    let env = environment(models.path(), &[("OPENAI_API_KEY", "sk-1"), ("OPENAI_MODEL", "gpt-x")]);
    let checked = builtin(env).unwrap();
    assert_eq!(names(&checked), ["local/qwen2.5-coder-0.5b-instruct", "openai/gpt-x"]);
    assert!(checked.names().wildcards.contains("openai"));
}

#[test]
fn a_base_url_that_is_none_is_refused_by_name() {
    let empty = tempfile::tempdir().unwrap();
    for url in ["localhost:1234", "ftp://host/v1", "nonsense"] {
        let env = environment(empty.path(), &[("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", url)]);
        let problems = builtin(env).unwrap_err();
        assert!(problems[0].place == "OPENAI_BASE_URL" && problems[0].message.contains(url), "{problems:#?}");
    }
}

/// The names that clients see with this upstream and no model on disk.
async fn entries(upstream: &FakeUpstream, more: &[(&str, &str)]) -> (Vec<String>, Arc<Control>) {
    let empty = tempfile::tempdir().unwrap();
    let url = upstream.url();
    let mut variables = vec![("OPENAI_API_KEY", "sk-builtin"), ("OPENAI_BASE_URL", url.as_str())];
    variables.extend(more);
    let options = Options { env: environment(empty.path(), &variables), ..Options::default() };
    let checked = control::read(&options).unwrap();
    let control = Arc::new(Control::open(options, checked).await.unwrap());
    (control.current().entries().into_iter().map(|entry| entry.id).collect(), control)
}

#[tokio::test]
async fn without_a_name_the_only_model_that_the_upstream_lists_is_taken() {
    let one = FakeUpstream::saying(Answer::json(r#"{"object":"list","data":[{"id":"org/only"}]}"#)).await;
    assert_eq!(entries(&one, &[]).await.0, ["auto", "openai/org/only"]);
    let asked = one.asked();
    assert_eq!((asked.len(), asked[0].path.as_str()), (1, "/v1/models"));
    assert_eq!(asked[0].headers["authorization"], "Bearer sk-builtin");
}

#[tokio::test]
async fn where_the_upstream_lists_several_or_nothing_the_usual_model_is_taken() {
    let several = r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#;
    for answer in [Answer::json(several), Answer::json("{}").status(404), Answer::json("<html>")] {
        let upstream = FakeUpstream::saying(answer).await;
        assert_eq!(entries(&upstream, &[]).await.0, ["auto", "openai/gpt-4.1-mini"]);
    }
}

#[tokio::test]
async fn a_named_model_is_not_asked_for() {
    let upstream = FakeUpstream::saying(Answer::json("{}")).await;
    assert_eq!(entries(&upstream, &[("OPENAI_MODEL", "named")]).await.0, ["auto", "openai/named"]);
    assert!(upstream.asked().is_empty());
}

#[tokio::test]
async fn the_usual_models_of_the_upstream_have_a_price_and_no_other_has() {
    let upstream = FakeUpstream::saying(Answer::json("{}")).await;
    let (_, control) = entries(&upstream, &[("OPENAI_MODEL", "gpt-4.1")]).await;
    let prices = Arc::clone(control.current().prices());
    let input = |model: &str| prices.of(&ModelId::new(model)).map(|price| price.input);
    assert_eq!(input("openai/gpt-4.1"), Some(2.0));
    assert_eq!(input("openai/gpt-4.1-mini"), Some(0.4));
    assert_eq!(input("openai/unheard-of"), None);
}

fn with_flags(models: &[(Option<&str>, &Path)], config: Option<&str>) -> Result<Checked, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    config.iter().for_each(|text| std::fs::write(&file, text).unwrap());
    let models = models.iter().map(|(name, file)| (name.map(str::to_owned), file.display().to_string()));
    control::read(&Options {
        config: config.map(|_| file.clone()),
        models: models.collect(),
        listen: Some("127.0.0.1:1".to_owned()),
        env: Environment::fixed([("WEIR_MODELS", "nowhere")]),
        ..Options::default()
    })
}

#[test]
fn a_flag_serves_a_file_under_its_own_or_a_given_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::write(&file, b"").unwrap();
    let both: &[(Option<&str>, &Path)] = &[(None, &file), (Some("other"), &file), (Some("local/third"), &file)];
    let checked = with_flags(both, None).unwrap();
    assert_eq!(names(&checked), ["local/other", "local/third", "local/tiny"]);
    assert_eq!(checked.listen, "127.0.0.1:1");
}

#[test]
fn a_flag_serves_a_model_of_the_catalogue_under_its_name_there() {
    let models = models();
    let named = |name: Option<&str>| {
        let model = (name.map(str::to_owned), "smollm2-135m-instruct".to_owned());
        let env = environment(models.path(), &[]);
        names(&control::read(&Options { models: vec![model], env, ..Options::default() }).unwrap())
    };
    assert_eq!(named(None), ["local/smollm2-135m-instruct"]);
    assert_eq!(named(Some("small")), ["local/small"]);
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::write(&file, b"").unwrap();
    let text = "listen = \"127.0.0.1:5\"\n[[model]]\nname = \"local/gone\"\nfile = \"missing.gguf\"\n";
    let checked = with_flags(&[(None, &file)], Some(text)).unwrap();
    assert_eq!((names(&checked), checked.listen.as_str()), (vec!["local/tiny".to_owned()], "127.0.0.1:1"));
}

#[test]
fn a_flag_that_names_no_file_or_an_odd_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::write(&file, b"").unwrap();
    let cases: [(Option<&str>, &Path, &str); 4] = [
        (None, Path::new("missing.gguf"), "no file missing.gguf"),
        (Some(""), &file, "model name \"\""),
        (Some("up/x"), &file, "model name \"up/x\""),
        (Some("a b"), &file, "no spaces"),
    ];
    for (name, file, says) in cases {
        let problems = with_flags(&[(name, file)], None).unwrap_err();
        assert!(problems[0].place == "--model" && problems[0].message.contains(says), "{says}: {problems:#?}");
    }
}
