//! A generating model as a backend: checks a request, prepares it off the async threads, hands it
//! to the engine thread and gives its deltas as a stream.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};

use futures::future::BoxFuture;
use http::HeaderMap;
use llama_cpp_2::context::params::LlamaContextParams;

use super::aside::{Waiting, prepare_aside};
use super::engine::{Engine, Lease, Parts};
use super::gauges::Gauges;
use super::job::Job;
use super::model::{Model, Scaled, llama};
use super::outlet::{engine_ended, outlet};
use super::prepare::prepare;
use super::refuse;
use crate::backend::{Backend, Call, Completion, Status};
use crate::error::Result;
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
    pub(super) fn start(model: Arc<Model>, lease: Lease, queue: usize) -> std::result::Result<Self, String> {
        let Lease { rules, budget, adapter, tally, seat } = lease;
        let gauges = Gauges::new(rules.slots as u32, queue);
        let (requests, arrivals) = mpsc::sync_channel(queue + rules.slots);
        let (ready, started) = mpsc::channel();
        let vocabulary = model.vocabulary.clone();
        let parts = Parts { requests: arrivals, gauges: gauges.clone(), tally, budget, vocabulary, rules };
        let owned = model.clone();
        let thread = std::thread::Builder::new().name("weir-engine".into()).stack_size(STACK);
        let told = gauges.clone();
        // A panic ends this engine only: its requests fail.
        let run = move || {
            told.outlive(|| own_context(&owned, adapter.as_ref(), parts, &ready));
            drop(owned);
            drop(seat);
        };
        thread.spawn(run).map_err(|error| format!("no thread for the engine: {error}"))?;
        started.recv().unwrap_or_else(|_| Err("the engine ended while it started".into()))?;
        Ok(Generator { model, gauges, requests, context: rules.context as u32 })
    }

    async fn begin(&self, call: Call) -> Result<Completion> {
        self.check(&call.request)?;
        let (outlet, inlet) = outlet();
        let waiting = Waiting { outlet, place: self.gauges.enter()? };
        let (model, context, request) = (self.model.clone(), self.context, call.request);
        let (work, Waiting { outlet, place }) =
            prepare_aside(waiting, move || prepare(&model, context, &request)).await?;
        match self.requests.try_send(Job::new(work, outlet, place)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(engine_ended()),
        }
        let deltas = inlet.begin().await?;
        Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas })
    }
}

/// The life of an engine thread.
fn own_context(
    model: &Model,
    adapter: Option<&Scaled>,
    parts: Parts,
    ready: &mpsc::Sender<std::result::Result<(), String>>,
) {
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
        let mut context = context.map_err(|_| {
            "llama.cpp could not make its context: too little memory; lower `slots` or `context`".to_owned()
        })?;
        model.apply(adapter, &mut context)?;
        Ok(context)
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
            Ask::Embed(_) => Err(refuse::no_vectors()),
        }
    }
}
