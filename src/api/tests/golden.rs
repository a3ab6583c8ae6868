//! Whole answers against files of `tests/golden/api`. To renew one, delete it and run the tests
//! twice: a missing file is written, and its test fails once.

use std::path::Path;

use super::super::answer::FINGERPRINT;
use super::super::shape::Endpoint;
use super::*;
use crate::request::ToolCall;

/// Compares with a file. A whole answer is laid out first, so that people can read the file.
fn check(name: &str, rendered: &str) {
    let mut text = rendered.to_owned();
    if name.ends_with(".json") {
        let value: serde_json::Value = serde_json::from_str(rendered).unwrap();
        text = serde_json::to_string_pretty(&value).unwrap() + "\n";
    }
    let text = text.replace(FINGERPRINT, "fp_weir_VERSION");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/api").join(name);
    match std::fs::read_to_string(&path) {
        Ok(golden) => assert_eq!(text, golden, "{name}"),
        Err(_) => {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            panic!("{name} was missing and has been written: look at it, and run again");
        }
    }
}

/// Checks the answer in one piece against `NAME.json` and the stream against `NAME.sse`, and that
/// both say the same.
async fn both(name: &str, shape: Shape, deltas: Vec<Result<Delta>>) {
    let whole = text_of(answer(Shape { stream: false, ..shape.clone() }, deltas.clone()).await.unwrap()).await;
    check(&format!("{name}.json"), &whole);
    let streamed = text_of(answer(Shape { stream: true, ..shape }, deltas).await.unwrap()).await;
    check(&format!("{name}.sse"), &streamed);
}

#[tokio::test]
async fn a_chat_answer() {
    let deltas = vec![
        said(0, "Hello", vec![]),
        said(0, "", vec![]),
        said(0, " \"you\"\n", vec![]),
        finish(0, Finish::Stop),
        end(),
    ];
    both("chat", shape(Endpoint::Chat, false), deltas).await;
}

#[tokio::test]
async fn two_choices_with_logprobs_and_usage() {
    let shape = Shape { include_usage: true, logprobs: Some(2), ..shape(Endpoint::Chat, false) };
    let deltas = vec![
        said(1, "No", vec![token(b"No", -0.5)]),
        said(0, "", vec![token(b"Y", -0.25), token(b"\xe2\x82", f32::NEG_INFINITY)]),
        said(0, "Y€", vec![token(b"\xac", -0.25)]),
        said(0, "", vec![end_of_turn()]),
        finish(0, Finish::Stop),
        finish(1, Finish::Length),
        end(),
    ];
    both("chat-n-logprobs", shape, deltas).await;
}

#[tokio::test]
async fn tool_calls() {
    let call = |index: u32, name: &str| {
        let id = format!("call_{index}");
        Ok(Delta::new(
            0,
            Part::ToolCall(ToolCall { index, id, name: name.to_owned(), arguments: r#"{"a":1}"#.to_owned() }),
        ))
    };
    let deltas = vec![call(0, "f"), call(1, "g"), finish(0, Finish::ToolCalls), end()];
    both("chat-tools", shape(Endpoint::Chat, false), deltas).await;
}

#[tokio::test]
async fn a_legacy_completion_with_echo_and_logprobs() {
    let shape = Shape { include_usage: true, logprobs: Some(3), ..shape(Endpoint::Text, false) };
    let deltas = vec![
        said(0, "é: ", vec![]),
        said(0, "", vec![token("ä".as_bytes(), -0.2)]),
        said(0, "äb", vec![token(b"b", -0.25)]),
        said(0, "!", vec![]),
        finish(0, Finish::Length),
        end(),
    ];
    both("text-echo-logprobs", shape, deltas).await;
}

#[tokio::test]
async fn embeddings_as_numbers_and_as_base64() {
    for (name, base64) in [("embeddings.json", false), ("embeddings-base64.json", true)] {
        let vector = |input: u32, numbers: &[f32]| Ok(Delta::new(input, Part::Embedding(numbers.to_vec())));
        let deltas = vec![vector(1, &[0.1, -2.0]), vector(0, &[1.0, 0.0]), end()];
        let response = answer(shape(Endpoint::Embed { base64 }, false), deltas).await.unwrap();
        check(name, &text_of(response).await);
    }
}

#[tokio::test]
async fn the_list_of_models_and_one_of_it() {
    use super::super::{ModelEntry, model, models};
    let entry = |id: &str, owner: &str| ModelEntry { id: id.to_owned(), owned_by: owner.to_owned(), created: 0 };
    let entries = [entry("auto", "weir"), entry("local/small", "local")];
    check("models.json", &text_of(models(&entries)).await);
    check("model.json", &text_of(model(&entries, "local/small").unwrap()).await);
    let missing = model(&entries, "gpt-9").unwrap_err();
    check("model-unknown.json", &text_of(super::super::reject(&missing)).await);
}
