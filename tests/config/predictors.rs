//! Predictors of gaps that policies name: where they are looked for, what is wrong with them is told
//! on the line that names them, and what was spent outlives a reload.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use weir::confidence::gap::{About, Example, Predictor};
use weir::confidence::{Feature, Features};
use weir::control::{self, Cause, Control, Options};

const UPSTREAM: &str = "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
const PRICE: &str = "[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 2\n";
const GATED: &str =
    "[[model]]\nname = \"small\"\nfile = \"m.gguf\"\n[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"r\"\nthen = { cascade = [\"local/small\", \"up/m\"], \
                      accept = { value = \"gap.json\", usd_per_hour = 0.5 } }\n";
/// The SHA-256 of `abc`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn predictor(sha256: &str) -> String {
    let about = About {
        local: "local/small".into(),
        local_sha256: Some(sha256.into()),
        upstream: "up/m".into(),
        rows: 1,
        date: "2026-11-24".into(),
    };
    let example = Example { prompt: "x".into(), features: Features::of(|_| 0.0), gap: 1.0 };
    Predictor::of_answers(about, &[example], &[Feature::SumLogprob]).render().unwrap()
}

/// A folder with a model file that holds `abc`, the policy, and this predictor.
fn folder(config: &str, predictor: &str) -> (TempDir, Options) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("weir.toml", config), ("m.gguf", "abc"), ("p.toml", POLICY), ("gap.json", predictor)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let options = Options { config: Some(folder.path().join("weir.toml")), ..Options::default() };
    (folder, options)
}

#[test]
fn a_predictor_stands_beside_its_policy_and_the_next_model_has_a_price() {
    let (_folder, options) = folder(&format!("{UPSTREAM}{GATED}{PRICE}"), &predictor(ABC));
    assert!(control::read(&options).is_ok());
}

#[test]
fn what_cannot_be_used_is_told_on_the_line_that_names_it() {
    let other = "0".repeat(64);
    for (price, predictor, wanted) in [
        ("", predictor(ABC), "\"value\" weighs the price of up/m, which has none"),
        (PRICE, predictor(&other), "was made for another model file, that of local/small"),
        (PRICE, "{\"version\": 1}".to_owned(), "is no predictor of gaps: version 1 is not known; known: 2"),
        (PRICE, "{".to_owned(), "is no predictor of gaps: "),
    ] {
        let (folder, options) = folder(&format!("{UPSTREAM}{GATED}{price}"), &predictor);
        let problems = control::read(&options).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert_eq!(problems[0].place, format!("{}:4", folder.path().join("p.toml").display()));
        assert!(problems[0].message.contains(wanted), "{problems:#?}");
    }
}

#[tokio::test]
async fn what_was_spent_outlives_a_reload() {
    let (folder, options) = folder(UPSTREAM, &predictor(ABC));
    let control = Control::open(options.clone(), control::read(&options).unwrap()).await.unwrap();
    let before = Arc::clone(control.current().pacers());
    fs::write(folder.path().join("weir.toml"), format!("max_body = \"1MiB\"\n{UPSTREAM}")).unwrap();
    assert_eq!(control.reload(Cause::Signal).await.map(|reloaded| reloaded.generation), Ok(2));
    assert!(Arc::ptr_eq(&before, control.current().pacers()));
}
