//! The engine against the bare decode loop of llama.cpp: `make bench-local`.
//!
//! Both answer the same prompts with the same model file on one thread, as many sequences at once,
//! each greedily, each in a context of the same size. They take turns in one process, so that a
//! busy moment of the machine meets both. Tokens per second count steps in which every sequence
//! decodes; reading prompts shows in the time to first token. The engine keeps idle prefixes, which
//! widen attention, so the loop is measured twice: with its cache as full as the engine's, and with
//! nothing in it but its own sequences, as long as the engine's. CPU time is told beside wall time:
//! it bears a busy machine.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot run fails, and prints what it found"
)]

#[path = "local/bare.rs"]
mod bare;
#[path = "local/pass.rs"]
mod pass;
#[path = "local/served.rs"]
mod served;
#[path = "local/table.rs"]
mod table;

use std::path::PathBuf;

use clap::Parser;

use bare::Bare;
use pass::Shape;
use served::Served;
use table::Row;

/// Sequences at once, and steps measured.
const SHAPES: [Shape; 3] =
    [Shape { sequences: 1, steps: 64 }, Shape { sequences: 4, steps: 32 }, Shape { sequences: 16, steps: 16 }];

/// The models, by file.
const MODELS: [&str; 2] = ["smollm2-135m-instruct-q4_1.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"];

/// Tokens per slot, and slots; the loop's context has as many cells.
const CONTEXT: u32 = 512;
const SLOTS: u32 = 16;

/// What `cargo bench --bench local -- …` takes.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds that count; one more goes before them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only models whose file name contains this.
    #[arg(long, default_value = "")]
    model: String,
    /// Where to write every pass as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = threads.expect("a runtime");
    let mut rows = Vec::new();
    for model in MODELS.into_iter().filter(|model| model.contains(&options.model)) {
        rows.extend(runtime.block_on(measure(model, options.rounds)));
    }
    println!("{}", table::render(&rows));
    if let Some(file) = options.json {
        let text = serde_json::to_string_pretty(&table::numbers(&rows)).expect("numbers are JSON");
        std::fs::write(&file, text + "\n").expect("the JSON file can be written");
    }
}

/// All passes of one model, in rounds: per shape the engine, the loop with a cache as full, and
/// the loop with an empty one.
async fn measure(model: &str, rounds: usize) -> Vec<Row> {
    let file = model_file(model);
    let served = Served::open(&file).await;
    let weights = bare::load(&file);
    let mut full: Vec<Bare<'_>> = SHAPES.iter().map(|_| Bare::new(&weights)).collect();
    let mut empty = Bare::new(&weights);
    let mut rows: Vec<Row> = SHAPES.iter().map(|shape| Row::new(model, *shape)).collect();
    for round in 0..=rounds {
        for (number, shape) in SHAPES.iter().enumerate() {
            eprintln!("local: {model}, {} at once, round {round} of {rounds}", shape.sequences);
            let prompts = weights.prompts(round, shape.sequences);
            let (engine, fill) = served.pass(&prompts, shape.steps).await;
            full[number].hold(fill.idle);
            let looped = [&mut full[number], &mut empty].map(|bare| bare.pass(&prompts, &fill.grown, shape.steps));
            let [as_full, alone] = looped;
            if round > 0 {
                rows[number].add([engine, as_full, alone], fill.idle);
            }
        }
    }
    rows
}

/// Where a model of the catalogue lies.
fn model_file(name: &str) -> PathBuf {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || env("XDG_CACHE_HOME").or_else(|| env("HOME").map(|home| home.join(".cache")));
    let weir = env("WEIR_CACHE").or_else(|| cache().map(|cache| cache.join("weir"))).unwrap_or_default();
    env("WEIR_MODELS").unwrap_or_else(|| weir.join("models")).join(name)
}
