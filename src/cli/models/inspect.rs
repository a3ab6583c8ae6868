//! What a model is, what it needs, and how fast it is here.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use tokio::time::Instant;

use super::bar::size;
use crate::backend::{Backend, Call};
use crate::control::Hashes;
use crate::local::{Header, Host, ModelConfig, Terms, need};
use crate::request::{Ask, ClientBody, ModelId, Part, Prompt, Request, Sampling, TenantId, Text};

/// Tokens of the measured prompt, roughly: a word each.
const PROMPT_WORDS: usize = 256;
/// Tokens of the measured answer.
const ANSWER: u32 = 64;

/// Prints what is known of the file, and with `bench` what is measured.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn run(file: &Path, (slots, context): (u32, Option<u32>), bench: bool) -> Result<(), String> {
    let told = |error: String| format!("{}: {error}", file.display());
    let header = Header::read(file).map_err(told)?;
    let sha256 = Hashes::default().sha256(file).map_err(|error| told(error.to_string()))?;
    let config = ModelConfig { slots, context, ..ModelConfig::new(ModelId::new("local/inspected"), file) };
    for (name, value) in facts(&header).into_iter().chain([("sha256", sha256)]) {
        println!("{name:<14}{value}");
    }
    match need(&config) {
        Ok(need) => println!("{:<14}{need} at {slots} slots", "memory"),
        Err(why) => println!("{:<14}{why}", "cannot run"),
    }
    if bench {
        println!("{:<14}{}", "speed", measure(config)?);
    }
    Ok(())
}

fn facts(header: &Header) -> Vec<(&'static str, String)> {
    let number = |key: &str| header.of_architecture(key).map_or("unknown".to_owned(), |number| number.to_string());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    vec![
        ("name", header.text("general.name").unwrap_or("unnamed").to_owned()),
        ("architecture", header.architecture().to_owned()),
        ("parameters", format!("{:.0} million", header.parameters() as f64 / 1e6)),
        ("stored as", format!("mostly {}", header.quantisation())),
        ("size", size(header.bytes)),
        ("context", format!("{} tokens trained", number("context_length"))),
        ("layers", number("block_count")),
        ("vocabulary", header.length("tokenizer.ggml.tokens").map_or("none".to_owned(), |length| length.to_string())),
        ("chat template", yes(header.text("tokenizer.chat_template").is_some())),
        ("licence", header.text("general.license").unwrap_or("unnamed").to_owned()),
    ]
}

/// Loads the model and asks it once, alone.
fn measure(config: ModelConfig) -> Result<String, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| format!("no runtime: {error}"))?.block_on(async {
        let (id, begun) = (config.id.clone(), Instant::now());
        let host = Host::open(vec![config], Terms::new(threads), None).await;
        let host = host.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let loaded = begun.elapsed().as_secs_f64();
        let engine = host.backend(&id).ok_or("the model is gone")?;
        if host.capabilities(&id).is_some_and(|can| can.embeddings) {
            return Ok(format!("loaded in {loaded:.1} s; an embedder generates nothing"));
        }
        let (prefill, decode) = ask(&engine).await?;
        Ok(format!("{prefill:.0} tokens/s of prompt, {decode:.0} tokens/s of answer ({threads} threads, loaded in {loaded:.1} s)"))
    })
}

/// Tokens a second of a prompt and of an answer.
async fn ask(engine: &Arc<dyn Backend>) -> Result<(f64, f64), String> {
    let call = Call { request: Arc::new(question()), model: ModelId::new("local/inspected"), trace: None };
    let begun = Instant::now();
    let mut deltas = engine.start(call).await.map_err(|error| error.to_string())?.deltas;
    let first = begun.elapsed().as_secs_f64();
    let mut usage = None;
    while let Some(delta) = deltas.next().await {
        if let Part::End(told) = delta.map_err(|error| error.to_string())?.part {
            usage = told;
        }
    }
    let usage = usage.ok_or("the answer has no end")?;
    let rest = (begun.elapsed().as_secs_f64() - first).max(1e-6);
    let decoded = usage.completion_tokens.saturating_sub(1) as f64;
    Ok((usage.prompt_tokens as f64 / first.max(1e-6), decoded / rest))
}

fn question() -> Request {
    let prompt = Prompt::Text("the river runs past the old mill and ".repeat(PROMPT_WORDS / 8));
    let sampling = Sampling { max_tokens: Some(ANSWER), n: 1, ..Sampling::default() };
    Request {
        id: "inspect".into(),
        tenant: TenantId::anonymous(),
        model: "local/inspected".into(),
        stream: true,
        ask: Ask::Text(Text { prompts: vec![prompt], sampling, ..Text::default() }),
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    }
}
