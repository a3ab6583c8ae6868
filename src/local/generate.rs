//! A generating model as a backend: checks a request, prepares it off the async threads, hands it
//! to the engine thread and gives its deltas as a stream.

use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};

use futures::future::BoxFuture;
use http::HeaderMap;
use llama_cpp_2::context::params::LlamaContextParams;

use super::engine::{Engine, Parts, Rules};
use super::gauges::Gauges;
use super::job::Job;
use super::model::{Model, llama};
use super::outlet::{engine_ended, outlet};
use super::prepare::prepare;
use super::refuse;
use super::threads::ThreadBudget;
use crate::backend::{Backend, Call, Completion, Status};
use crate::error::{Error, Result};
use crate::request::{Ask, Request};

/// The stack of an engine thread: masks of deep grammars recurse.
const STACK: usize = 16 * 1024 * 1024;

/// A generating model with its engine thread.
pub(super) struct Generator {
    model: Arc<Model>,
    gauges: Arc<Gauges>,
    requests: SyncSender<Job>,
    context: u32,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("status", &self.gauges.status()).finish_non_exhaustive()
    }
}

impl Generator {
    /// Starts the engine thread; an error is one sentence.
    pub(super) fn start(
        model: Arc<Model>,
        rules: Rules,
        budget: ThreadBudget,
        queue: usize,
    ) -> std::result::Result<Self, String> {
        let gauges = Gauges::new(rules.slots as u32, queue);
        let (requests, arrivals) = mpsc::sync_channel(queue + rules.slots);
        let (ready, started) = mpsc::channel();
        let parts =
            Parts { requests: arrivals, gauges: gauges.clone(), budget, vocabulary: model.vocabulary.clone(), rules };
        let owned = model.clone();
        let thread = std::thread::Builder::new().name("weir-engine".into()).stack_size(STACK);
        let run = move || {
            // A panic ends this engine only: its gauges close, its requests fail.
            if catch_unwind(AssertUnwindSafe(|| own_context(&owned, parts, &ready))).is_err() {
                tracing::error!("an engine thread failed and has ended");
            }
        };
        thread.spawn(run).map_err(|error| format!("no thread for the engine: {error}"))?;
        started.recv().unwrap_or_else(|_| Err("the engine ended while it started".into()))?;
        Ok(Generator { model, gauges, requests, context: rules.context as u32 })
    }

    async fn begin(&self, call: Call) -> Result<Completion> {
        self.check(&call.request)?;
        let place = self.gauges.enter()?;
        let (model, context, request) = (self.model.clone(), self.context, call.request);
        let work = tokio::task::spawn_blocking(move || prepare(&model, context, &request)).await;
        let work = work.map_err(|_| Error::internal("preparing the request failed"))??;
        let (outlet, inlet) = outlet();
        match self.requests.try_send(Job::new(work, outlet, place)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(engine_ended()),
        }
        let deltas = inlet.begin().await?;
        Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas })
    }
}

/// The life of an engine thread.
fn own_context(model: &Model, parts: Parts, ready: &mpsc::Sender<std::result::Result<(), String>>) {
    let rules = parts.rules;
    let cells = NonZeroU32::new((rules.context * rules.slots) as u32);
    let params = LlamaContextParams::default()
        .with_n_ctx(cells)
        .with_n_batch(rules.batch as u32)
        .with_n_ubatch(rules.batch as u32)
        .with_n_seq_max(rules.slots as u32)
        .with_kv_unified(true)
        .with_n_threads(rules.threads as i32)
        .with_n_threads_batch(rules.threads as i32)
        .with_no_perf(true);
    let context = llama().and_then(|llama| {
        let _making = llama.making.lock();
        let context = model.llama.new_context(&llama.backend, params);
        context
            .map_err(|_| "llama.cpp could not make its context: too little memory; lower `slots` or `context`".into())
    });
    match context {
        Ok(context) => {
            let engine = Engine::new(context, parts);
            // Nobody waits for it any more where the load was given up: then the loop ends at once.
            let _ = ready.send(Ok(()));
            engine.run();
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

impl Backend for Generator {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        Box::pin(self.begin(call))
    }

    fn status(&self) -> Status {
        self.gauges.status()
    }

    fn check(&self, request: &Request) -> Result<()> {
        match &request.ask {
            Ask::Chat(chat) => refuse::chat(chat, self.model.template.as_ref()),
            Ask::Text(text) => refuse::text(text),
            Ask::Embed(_) => Err(refuse::local("model", "this model generates text and makes no embeddings")),
        }
    }
}
