//! LoRA adapters: models of their own on shared weights.

use std::path::Path;

use weir::local::{Adapter, Host, ModelConfig, Terms, need};
use weir::request::{Ask, ModelId};

use super::harness::*;
use super::lora;

fn small(name: &str) -> ModelConfig {
    ModelConfig { id: ModelId::new(format!("local/{name}")), slots: 1, context: Some(256), ..config(SMOL) }
}

fn adapted(name: &str, file: &Path, scale: f32) -> ModelConfig {
    let adapter = Adapter { of: ModelId::new("local/plain"), file: file.to_owned(), modified: None, scale };
    ModelConfig { adapter: Some(adapter), ..small(name) }
}

fn question() -> Ask {
    text("The capital of France is", greedy(24))
}

#[test]
fn adapters_change_answers_and_do_not_influence_each_other_or_their_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (one, two) = (lora::write(folder.path(), 1, "llama"), lora::write(folder.path(), 2, "llama"));
    runtime().block_on(async {
        let plain = say(&open(small("plain")).await, question()).await.text;
        let configs =
            vec![small("plain"), adapted("one", &one, 1.0), adapted("two", &two, 1.0), adapted("none", &one, 0.0)];
        let host = Host::open(configs, Terms::new(1), None).await.expect("all load");
        let backend = |name: &str| host.backend(&ModelId::new(format!("local/{name}"))).expect("it is there");
        let all = [backend("plain"), backend("one"), backend("two"), backend("none")];
        let mut alone = Vec::new();
        for model in &all {
            alone.push(say(model, question()).await.text);
        }
        assert_eq!((&alone[0], &alone[3]), (&plain, &plain), "a scale of 0 changes nothing");
        assert!(alone[1] != plain && alone[2] != plain && alone[1] != alone[2], "{alone:?}");
        for _ in 0..2 {
            let together = futures::future::join_all(all.iter().map(|model| say(model, question()))).await;
            let together: Vec<String> = together.into_iter().map(|choice| choice.text).collect();
            assert_eq!(together, alone);
        }
    });
}

#[test]
fn weights_are_taken_once_for_a_model_and_its_adapters() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = lora::write(folder.path(), 3, "llama");
    runtime().block_on(async {
        let configs = || vec![small("plain"), adapted("one", &file, 1.0)];
        let needs: Vec<_> = configs().iter().map(|config| need(config).expect("a need")).collect();
        let all = needs[0].total() + needs[1].total() - needs[1].weights;
        let within = |memory| Terms { memory: Some(memory), ..Terms::new(1) };
        let errors = Host::open(configs(), within(all - 1), None).await.expect_err("a byte is missing");
        assert!(errors[0].to_string().contains("lower `slots` or `context`"), "{errors:?}");
        let host = Host::open(configs(), within(all), None).await.expect("they fit exactly");
        drop(host);
    });
}

#[test]
fn an_adapter_added_while_its_model_runs_is_loaded_beside_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = lora::write(folder.path(), 4, "llama");
    runtime().block_on(async {
        let first = Host::open(vec![small("plain")], Terms::new(1), None).await.expect("it loads");
        let configs = vec![small("plain"), adapted("later", &file, 1.0)];
        let second = Host::open(configs, Terms::new(1), Some(&first)).await.expect("it loads");
        let of = |name: &str| second.backend(&ModelId::new(format!("local/{name}"))).expect("it is there");
        let (plain, later) = (say(&of("plain"), question()).await.text, say(&of("later"), question()).await.text);
        assert_ne!(plain, later);
    });
}

#[test]
fn an_adapter_of_another_architecture_is_refused_and_told_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = lora::write(folder.path(), 1, "qwen2");
    runtime().block_on(async {
        let configs = vec![small("plain"), adapted("one", &file, 1.0)];
        let errors = Host::open(configs, Terms::new(1), None).await.expect_err("it does not fit");
        assert_eq!(errors.len(), 1);
        let told = errors[0].to_string();
        assert!(told.contains("made for the architecture \"qwen2\", the model's is \"llama\""), "{told}");
    });
}
