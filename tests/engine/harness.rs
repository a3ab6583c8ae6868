//! Models on disk, one shared host, requests in one line, and answers folded from their deltas.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::Runtime;
use weir::backend::{Backend, Call, Completion, Status};
use weir::error::{Error, Result};
use weir::local::{Host, ModelConfig, Terms};
use weir::request::{
    Ask, Chat, ClientBody, Delta, Embed, Finish, Message, ModelId, Part, Prompt, Request, Role, Sampling, TenantId,
    Text, Token, ToolCall, Usage,
};

pub(crate) const SMOL: &str = "smollm2-135m-instruct-q4_1.gguf";
pub(crate) const MINILM: &str = "all-minilm-l6-v2-f16.gguf";
pub(crate) const QWEN: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";

/// Where a model of the catalogue lies; a missing one fails the test.
pub(crate) fn model_file(name: &str) -> PathBuf {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let folder = env("WEIR_MODELS").or_else(|| cache().map(|cache| cache.join("weir/models"))).unwrap_or_default();
    let file = folder.join(name);
    assert!(file.is_file(), "{} is missing: run `make models`", file.display());
    file
}

/// The configuration of a model of the catalogue.
pub(crate) fn config(name: &str) -> ModelConfig {
    ModelConfig::new(ModelId::new(format!("local/{name}")), model_file(name))
}

/// The runtime of all tests here; it outlives each of them, as the host does.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    })
}

/// A host of one model, opened for one test.
pub(crate) async fn open(config: ModelConfig) -> Arc<dyn Backend> {
    let id = config.id.clone();
    let host = Host::open(vec![config], Terms::new(1), None).await.expect("the model loads");
    host.backend(&id).expect("the model is there")
}

/// SmolLM2 with 4 slots, shared by all tests that do not need a host of their own.
pub(crate) async fn smol() -> Arc<dyn Backend> {
    static SHARED: tokio::sync::OnceCell<Arc<dyn Backend>> = tokio::sync::OnceCell::const_new();
    SHARED.get_or_init(|| open(ModelConfig { context: Some(2048), ..config(SMOL) })).await.clone()
}

/// Greedy, at most so many tokens.
pub(crate) fn greedy(max_tokens: u32) -> Sampling {
    Sampling { max_tokens: Some(max_tokens), n: 1, ..Sampling::default() }
}

pub(crate) fn message(role: Role, text: &str) -> Message {
    Message { role, text: text.into(), images: 0, other_parts: 0, name: None, tool_calls: None, tool_call_id: None }
}

/// A chat of one short system message and one question.
pub(crate) fn chat(question: &str, sampling: Sampling) -> Ask {
    let messages = vec![message(Role::System, "Be brief."), message(Role::User, question)];
    Ask::Chat(Chat { messages, sampling, ..Chat::default() })
}

/// A raw completion.
pub(crate) fn text(prompt: &str, sampling: Sampling) -> Ask {
    Ask::Text(Text { prompts: vec![Prompt::Text(prompt.into())], sampling, ..Text::default() })
}

pub(crate) fn embed(inputs: &[&str]) -> Ask {
    let inputs = inputs.iter().map(|&input| Prompt::Text(input.into())).collect();
    Ask::Embed(Embed { inputs, ..Embed::default() })
}

pub(crate) fn request(ask: Ask) -> Arc<Request> {
    Arc::new(Request {
        id: "test".into(),
        tenant: TenantId::anonymous(),
        model: "local/m".into(),
        stream: true,
        ask,
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    })
}

pub(crate) async fn start(backend: &Arc<dyn Backend>, ask: Ask) -> Result<Completion> {
    backend.start(Call { request: request(ask), model: ModelId::new("local/m"), trace: None }).await
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Usage,
}

/// One choice of it.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) vector: Vec<f32>,
    pub(crate) finish: Option<Finish>,
}

impl Answer {
    /// Adds a delta; answers whether it was the last.
    pub(crate) fn add(&mut self, delta: Delta) -> bool {
        let number = delta.choice as usize;
        if self.choices.len() <= number {
            self.choices.resize_with(number + 1, Choice::default);
        }
        let choice = &mut self.choices[number];
        assert!(choice.finish.is_none() || matches!(delta.part, Part::End(_)), "nothing follows a finish");
        match delta.part {
            Part::Text { text, tokens } => {
                choice.text += &text;
                choice.tokens.extend(tokens);
            }
            Part::ToolCall(call) => choice.calls.push(call),
            Part::Embedding(vector) => choice.vector = vector,
            Part::Finish(finish) => choice.finish = Some(finish),
            Part::Raw => panic!("a local model has no raw bytes"),
            Part::End(usage) => {
                self.usage = usage.expect("a local model knows its usage");
                return true;
            }
        }
        false
    }
}

/// Reads a completion to its end.
pub(crate) async fn fold(mut completion: Completion) -> Result<Answer> {
    let mut answer = Answer::default();
    while let Some(delta) = completion.deltas.next().await {
        if answer.add(delta?) {
            assert!(completion.deltas.next().await.is_none(), "nothing follows the end");
            return Ok(answer);
        }
    }
    panic!("the stream ended without an end");
}

pub(crate) async fn ask(backend: &Arc<dyn Backend>, ask: Ask) -> Result<Answer> {
    fold(start(backend, ask).await?).await
}

/// The only choice of an answer that must come.
pub(crate) async fn say(backend: &Arc<dyn Backend>, question: Ask) -> Choice {
    let mut answer = ask(backend, question).await.expect("an answer");
    assert_eq!(answer.choices.len(), 1);
    answer.choices.remove(0)
}

/// Waits, with a bound, until a backend's status is as wanted.
pub(crate) async fn until(backend: &Arc<dyn Backend>, wanted: impl Fn(Status) -> bool) {
    for _ in 0..3000 {
        if wanted(backend.status()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in 30 s: {:?}", backend.status());
}

/// The error of a request that must fail.
pub(crate) async fn refused(backend: &Arc<dyn Backend>, question: Ask) -> Error {
    match start(backend, question).await {
        Ok(_) => panic!("the request should have been refused"),
        Err(error) => error,
    }
}
