//! A whole Weir whose local models only pretend: `weir serve` with `--stand-in NAME` for each model of
//! the configuration that is not to be loaded. For the test of the console, which needs local
//! answers with their log-probabilities, and no llama.cpp.
//!
//! How sure an answer is follows from the prompt's text, so that the same load looks the same each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use weir::account::Record;
use weir::backend::{Backend, Breaker, Call, Completion, State, Status};
use weir::cli::Serve;
use weir::control::{self, Checked, Control, Options};
use weir::error::{Error, Problem, Result};
use weir::gateway::Gateway;
use weir::listen::{self, Running};
use weir::observe::Metrics;
use weir::request::{Ask, Delta, Finish, ModelId, Part, Request, Token, Usage};

const SLOTS: u32 = 4;
const QUEUE: u32 = 64;
const PREFILL: Duration = Duration::from_millis(18);
const DECODE: Duration = Duration::from_millis(4);
const WORDS: [&str; 12] =
    ["The ", "answer ", "is ", "what ", "a ", "small ", "model ", "says ", "when ", "it ", "is ", "asked."];

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    serve: Serve,
    /// A local model that only pretends; repeatable.
    #[arg(long)]
    stand_in: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    serve(&flags).unwrap_or_else(|message| {
        eprintln!("stand-in: {message}");
        ExitCode::FAILURE
    })
}

fn serve(flags: &Flags) -> std::result::Result<ExitCode, String> {
    let stand_in = |name: &String| (ModelId::new(name.as_str()), Arc::new(StandIn::new()) as Arc<dyn Backend>);
    let options = Options { stand_ins: flags.stand_in.iter().map(stand_in).collect(), ..flags.serve.options() };
    let checked = control::read(&options).map_err(|problems| lines(&problems))?;
    let config = listen::Config {
        listen: checked.listen.clone(),
        admin: checked.admin.clone(),
        workers: 1,
        grace: flags.serve.grace(),
        drain: flags.serve.drain(),
        handover: None,
        socket_names: None,
    };
    let boot = move |beside| Box::pin(boot(Options { beside, ..options }, checked)) as BoxFuture<'static, _>;
    listen::serve(&config, Box::new(boot))
}

async fn boot(options: Options, checked: Checked) -> std::result::Result<Running, String> {
    let metrics = Arc::new(Metrics::open(checked.capture.as_ref())?);
    let control = Arc::new(Control::open(options, checked).await.map_err(|problems| lines(&problems))?);
    let gateway = Arc::new(Gateway::new(Arc::clone(&control), Arc::clone(&metrics) as Arc<dyn Record>));
    Ok(Running { gateway, control, metrics })
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A model that answers with twelve words at most.
#[derive(Debug)]
struct StandIn {
    slots: Arc<Semaphore>,
    waiting: AtomicU32,
}

impl StandIn {
    fn new() -> StandIn {
        StandIn { slots: Arc::new(Semaphore::new(SLOTS as usize)), waiting: AtomicU32::new(0) }
    }

    async fn answer(&self, call: Call) -> Result<Completion> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let slot = slot.map_err(|closed| Error::internal(closed.to_string()))?;
        sleep(PREFILL).await;
        let steps = script(&call.request).into_iter();
        let deltas = stream::unfold((steps, slot), next).boxed();
        Ok(Completion { model: call.model, headers: http::HeaderMap::new(), deltas })
    }
}

type Answering = (std::vec::IntoIter<Delta>, OwnedSemaphorePermit);

async fn next((mut steps, slot): Answering) -> Option<(Result<Delta>, Answering)> {
    sleep(DECODE).await;
    Some((Ok(steps.next()?), (steps, slot)))
}

/// The deltas of the answer to this request.
fn script(request: &Request) -> Vec<Delta> {
    let prompt = match &request.ask {
        Ask::Chat(chat) => chat.messages.iter().map(|message| message.text.as_str()).collect::<String>(),
        Ask::Text(_) | Ask::Embed(_) => String::new(),
    };
    let share = |salt: usize| {
        let mut hasher = DefaultHasher::new();
        (&prompt, salt).hash(&mut hasher);
        (hasher.finish() >> 40) as f32 / (1_u32 << 24) as f32
    };
    let count = 2 + (share(0) * 10.0) as usize;
    let worst = -2.6 * share(1).powf(1.8);
    let doubtful = (share(2) * count as f32) as usize;
    let word = |place: usize| {
        let logprob = if place == doubtful { worst } else { worst * 0.3 * share(10 + place) };
        let token = Token {
            bytes: Bytes::from_static(WORDS[place % WORDS.len()].as_bytes()),
            logprob,
            margin: 4.0 + logprob,
            entropy: -logprob,
            top: Vec::new(),
            end: place + 1 == count,
        };
        Delta::new(0, Part::Text { text: WORDS[place % WORDS.len()].to_owned(), tokens: vec![token] })
    };
    let usage = Usage { prompt_tokens: 8 + prompt.len() as u64 / 4, cached_tokens: 0, completion_tokens: count as u64 };
    let mut deltas: Vec<Delta> = (0..count).map(word).collect();
    deltas.push(Delta::new(0, Part::Finish(Finish::Stop)));
    deltas.push(Delta::new(0, Part::End(Some(usage))));
    deltas
}

impl Backend for StandIn {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        Box::pin(self.answer(call))
    }

    fn status(&self) -> Status {
        let busy = SLOTS.saturating_sub(self.slots.available_permits() as u32);
        Status {
            state: State::Warm,
            ready: true,
            queue_depth: self.waiting.load(Ordering::Relaxed),
            queue_limit: QUEUE,
            slots_busy: busy,
            slots: SLOTS,
            kv_used_ratio: 0.06 + 0.11 * busy as f32,
            breaker: Breaker::Closed,
        }
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}
