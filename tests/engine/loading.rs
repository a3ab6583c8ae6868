//! Loading: what is wrong with a file is told; unchanged engines are carried over.

use std::path::Path;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use weir::local::{Capabilities, Host, ModelConfig, Terms, need};
use weir::request::ModelId;

use super::harness::*;

async fn refusal(config: ModelConfig) -> String {
    let errors = Host::open(vec![config], Terms::new(1), None).await.expect_err("it cannot be loaded");
    assert_eq!(errors.len(), 1);
    errors[0].to_string()
}

fn broken(folder: &Path, name: &str, bytes: &[u8]) -> ModelConfig {
    let file = folder.join(name);
    std::fs::write(&file, bytes).expect("a temporary file");
    ModelConfig::new(ModelId::new("local/broken"), file)
}

/// A GGUF header of one key: the architecture.
fn header(architecture: &str) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    for text in ["general.architecture", architecture] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
        if text.starts_with("general") {
            bytes.extend(8u32.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let whole = std::fs::read(model_file(SMOL)).expect("the model");
        let folder = folder.path();
        let missing = ModelConfig::new(ModelId::new("local/missing"), folder.join("missing.gguf"));
        let table = [
            (missing, "missing.gguf: no such file"),
            (broken(folder, "empty.gguf", b""), "not a GGUF file"),
            (broken(folder, "text.gguf", b"hello, world"), "not a GGUF file"),
            (broken(folder, "magic.gguf", b"GGUF"), "damaged or cut off"),
            (broken(folder, "head.gguf", &whole[..100_000]), "damaged or cut off"),
            (broken(folder, "cut.gguf", &whole[..whole.len() / 2]), "cannot load it"),
            (broken(folder, "odd.gguf", &header("nonsense")), "\"nonsense\""),
            (ModelConfig { slots: 0, ..config(SMOL) }, "slots = 0"),
            (ModelConfig { slots: 257, ..config(SMOL) }, "slots = 257"),
            (ModelConfig { context: Some(9000), ..config(SMOL) }, "context = 9000"),
            (ModelConfig { context: Some(0), ..config(SMOL) }, "context = 0"),
            (ModelConfig { context: Some(32768), slots: 256, ..config(QWEN) }, "lower `slots` or `context`"),
        ];
        for (config, expected) in table {
            let message = refusal(config).await;
            assert!(message.contains(expected), "{message:?} should say {expected:?}");
        }
    });
}

#[test]
fn a_model_whose_weights_are_damaged_fails_its_test_prompt() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bytes = std::fs::read(model_file(SMOL)).expect("the model");
        let end = bytes.len();
        // Scales of all ones are no numbers.
        bytes[end - (1 << 20)..].fill(0xff);
        let message =
            refusal(ModelConfig { slots: 1, context: Some(512), ..broken(folder.path(), "nan.gguf", &bytes) }).await;
        assert!(message.contains("fails its test prompt"), "{message}");
    });
}

#[test]
fn what_does_not_fit_the_budget_is_refused_with_figures_before_it_is_loaded() {
    runtime().block_on(async {
        let config = ModelConfig { slots: 2, context: Some(1024), ..config(SMOL) };
        let need = need(&config).expect("a need");
        assert_eq!(need.kv, 2 * 1024 * 30 * 3 * (64 + 64) * 2);
        let terms = Terms { memory: Some(64 << 20), ..Terms::new(1) };
        let errors = Host::open(vec![config], terms, None).await.expect_err("it does not fit");
        let told = errors[0].to_string();
        assert!(told.contains("(weights 94 MiB, KV cache 45 MiB, buffers "), "{told}");
        assert!(told.contains("64 MiB of memory = 64 MiB left; lower `slots` or `context`"), "{told}");
    });
}

#[test]
fn every_problem_is_told_at_once() {
    runtime().block_on(async {
        let nowhere = |name: &str| ModelConfig::new(ModelId::new(name), "nowhere.gguf");
        let errors = Host::open(vec![nowhere("local/a"), nowhere("local/b")], Terms::new(1), None)
            .await
            .expect_err("both are missing");
        assert_eq!(errors.iter().map(|error| error.model.as_str()).collect::<Vec<_>>(), ["local/a", "local/b"]);
    });
}

#[test]
fn an_unchanged_model_keeps_its_engine_over_a_reload() {
    runtime().block_on(async {
        let kept = ModelConfig { slots: 1, context: Some(256), ..config(SMOL) };
        let changed = ModelConfig { id: ModelId::new("local/other"), ..kept.clone() };
        let first = Host::open(vec![kept.clone(), changed.clone()], Terms::new(1), None).await.expect("both load");
        let changed = ModelConfig { slots: 2, ..changed };
        // Another number of threads changes nothing while the process lives.
        let second =
            Host::open(vec![kept.clone(), changed.clone()], Terms::new(2), Some(&first)).await.expect("both load");
        let same = |id| Arc::ptr_eq(&first.backend(id).expect("first"), &second.backend(id).expect("second"));
        assert!(same(&kept.id) && !same(&changed.id));
        assert!(second.backend(&ModelId::new("local/none")).is_none());
    });
}

#[test]
fn capabilities_are_read_off_the_file() {
    runtime().block_on(async {
        let small = |name| ModelConfig { slots: 1, context: Some(256), ..config(name) };
        let configs = vec![small(SMOL), small(QWEN), small(MINILM)];
        let ids: Vec<ModelId> = configs.iter().map(|config| config.id.clone()).collect();
        let host = Host::open(configs, Terms::new(1), None).await.expect("all load");
        let of = |id| host.capabilities(id).expect("it is loaded");
        assert_eq!(of(&ids[0]), Capabilities { chat: true, tools: false, embeddings: false, context: 256 });
        assert_eq!(of(&ids[1]), Capabilities { chat: true, tools: true, embeddings: false, context: 256 });
        assert_eq!(of(&ids[2]), Capabilities { chat: false, tools: false, embeddings: true, context: 256 });
    });
}

#[test]
fn a_halted_host_computes_no_more() {
    runtime().block_on(async {
        let config = ModelConfig { slots: 1, context: Some(1024), ..config(SMOL) };
        let host = Host::open(vec![config.clone()], Terms::new(1), None).await.expect("it loads");
        let backend = host.backend(&config.id).expect("it is there");
        let mut deltas = start(&backend, text("A story without end:", greedy(900))).await.expect("an answer").deltas;
        let halted = tokio::task::spawn_blocking(move || host.halt()).await;
        halted.expect("no panic");
        // What was sent before is all there is: far from the whole answer, and no end.
        let mut read = 0;
        while let Some(Some(delta)) = deltas.next().now_or_never() {
            assert!(delta.is_ok());
            read += 1;
        }
        assert!(read < 800, "{read}");
    });
}
