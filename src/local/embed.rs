//! An embedding model as a backend, and the thread that owns its context.
//!
//! Texts of all waiting requests are packed into one batch, a sequence each, as many as about
//! 100 ms allow; the pooled vector of each is normalised to length 1. A text is never cut: one
//! that is too long for the model is a 400. Vectors come in the order of the inputs.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use futures::future::BoxFuture;
use http::HeaderMap;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::time::Instant;

use super::aside::{Waiting, fault, prepare_aside};
use super::engine::{Lease, Rules};
use super::gauges::{Gauges, Place};
use super::model::{Model, Scaled, llama};
use super::outlet::{Flow, Outlet, engine_ended, outlet, read_too_slowly};
use super::prepare::{check_bytes, check_tokens};
use super::refuse;
use super::schedule::Speed;
use super::tally::Tally;
use super::threads::ThreadBudget;
use crate::backend::{Backend, Call, Completion, Status};
use crate::error::Result;
use crate::request::{Ask, Delta, Embed, Part, Prompt, Request, Usage};

/// How long the loop rests when no client reads.
const REST: Duration = Duration::from_millis(5);

/// An embedding model with its thread.
pub(super) struct Embedder {
    model: Arc<Model>,
    gauges: Arc<Gauges>,
    requests: SyncSender<Order>,
    context: u32,
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder").field("status", &self.gauges.status()).finish_non_exhaustive()
    }
}

/// One request inside the thread.
struct Order {
    inputs: Vec<Vec<u32>>,
    done: usize,
    outlet: Outlet,
    place: Option<Place>,
}

impl Embedder {
    /// Starts the thread; an error is one sentence.
    pub(super) fn start(model: Arc<Model>, lease: Lease, queue: usize) -> std::result::Result<Self, String> {
        let Lease { rules, budget, adapter, tally, seat } = lease;
        let gauges = Gauges::new(rules.slots as u32, queue);
        let (requests, arrivals) = mpsc::sync_channel(queue + rules.slots);
        let (ready, started) = mpsc::channel();
        let (owned, told) = (model.clone(), gauges.clone());
        let desk = Desk { rules, budget, requests: arrivals, gauges: gauges.clone(), tally };
        let run = move || {
            told.outlive(|| own_context(&owned, adapter.as_ref(), desk, &ready));
            drop(owned);
            drop(seat);
        };
        let thread = std::thread::Builder::new().name("weir-embed".into());
        thread.spawn(run).map_err(|error| format!("no thread for the engine: {error}"))?;
        started.recv().unwrap_or_else(|_| Err("the engine ended while it started".into()))?;
        Ok(Embedder { model, gauges, requests, context: rules.context as u32 })
    }

    async fn begin(&self, call: Call) -> Result<Completion> {
        self.check(&call.request)?;
        let (outlet, inlet) = outlet();
        let waiting = Waiting { outlet, place: self.gauges.enter()? };
        let (model, context, request) = (self.model.clone(), self.context, call.request);
        let (inputs, Waiting { outlet, place }) =
            prepare_aside(waiting, move || read_inputs(&model, context, &request)).await?;
        let order = Order { inputs, done: 0, outlet, place: Some(place) };
        self.requests.try_send(order).map_err(|_| engine_ended())?;
        let deltas = inlet.begin().await?;
        Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas })
    }
}

impl Backend for Embedder {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        Box::pin(self.begin(call))
    }

    fn status(&self) -> Status {
        self.gauges.status()
    }

    fn check(&self, request: &Request) -> Result<()> {
        let Ask::Embed(embed) = &request.ask else { return Err(refuse::no_text()) };
        refuse::dimensions(embed, self.model.llama.n_embd_out().unsigned_abs().into())
    }
}

fn read_inputs(model: &Model, context: u32, request: &Request) -> Result<Vec<Vec<u32>>> {
    let Ask::Embed(Embed { inputs, .. }) = &request.ask else {
        return Err(refuse::local("model", "this model makes embeddings only"));
    };
    let read = |(number, input): (usize, &Prompt)| {
        let param = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{number}]") };
        let tokens = match input {
            Prompt::Text(text) => {
                check_bytes(model, context, text.len(), &param)?;
                model.tokenise(text, false)?
            }
            Prompt::Tokens(tokens) => {
                check_tokens(model, tokens, &param)?;
                tokens.clone()
            }
        };
        match tokens.len() {
            0 => Err(refuse::local(&param, "the input is empty")),
            length if length > context as usize => Err(refuse::too_long(&param, length, context)),
            _ => Ok(tokens),
        }
    };
    inputs.iter().enumerate().map(read).collect()
}

/// What the thread is given.
struct Desk {
    rules: Rules,
    budget: ThreadBudget,
    requests: Receiver<Order>,
    gauges: Arc<Gauges>,
    tally: Arc<Tally>,
}

/// The life of the thread.
fn own_context(
    model: &Model,
    adapter: Option<&Scaled>,
    desk: Desk,
    ready: &mpsc::Sender<std::result::Result<(), String>>,
) {
    // An encoder reads a whole text at once, so the batch holds the longest.
    let tokens = desk.rules.context as u32;
    let pooling = match model.number("pooling_type") {
        Some(_) => LlamaPoolingType::Unspecified,
        None => LlamaPoolingType::Mean,
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(tokens))
        .with_n_batch(tokens)
        .with_n_ubatch(tokens)
        .with_n_seq_max(desk.rules.slots as u32)
        .with_kv_unified(true)
        .with_embeddings(true)
        .with_pooling_type(pooling)
        .with_n_threads(desk.rules.threads as i32)
        .with_n_threads_batch(desk.rules.threads as i32);
    let context = llama().and_then(|llama| {
        let _making = llama.making.lock();
        let context = model.llama.new_context(&llama.backend, params);
        let mut context = context
            .map_err(|_| "llama.cpp could not make its context: too little memory; lower `context`".to_owned())?;
        model.apply(adapter, &mut context)?;
        Ok(context)
    });
    match context {
        Ok(context) => {
            // Nobody waits for it any more where the load was given up: then the loop ends at once.
            let _ = ready.send(Ok(()));
            let batch = LlamaBatch::new(tokens as usize, 1);
            let speed = Speed::new(tokens as usize);
            Reader { context, batch, speed, desk, orders: VecDeque::new() }.run();
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

/// The loop and what it owns.
struct Reader<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    speed: Speed,
    desk: Desk,
    orders: VecDeque<Order>,
}

impl Reader<'_> {
    fn run(mut self) {
        let mut open = true;
        let mut busy = true;
        while open || !self.orders.is_empty() {
            open = self.receive(busy);
            self.tend(Instant::now());
            let owners = self.fill();
            busy = !owners.is_empty();
            if busy {
                self.read(&owners);
                self.tend(Instant::now());
            }
            self.desk.gauges.report(owners.len(), 0.0);
        }
    }

    /// Takes in new requests; waits for one where there is nothing to do.
    fn receive(&mut self, busy: bool) -> bool {
        let first = match (self.orders.is_empty(), busy) {
            (true, _) => {
                self.desk.gauges.report(0, 0.0);
                self.desk.requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            (false, false) => self.desk.requests.recv_timeout(REST),
            (false, true) => self.desk.requests.recv_timeout(Duration::ZERO),
        };
        let open = !matches!(first, Err(RecvTimeoutError::Disconnected));
        self.orders.extend(first);
        self.orders.extend(self.desk.requests.try_iter());
        open
    }

    /// Sends what clients take; lets go of requests that are done, left or stuck.
    fn tend(&mut self, now: Instant) {
        let limit = self.desk.rules.idle_timeout;
        for mut order in std::mem::take(&mut self.orders) {
            match order.outlet.flush(now) {
                Flow::Closed => {}
                Flow::Clear if order.done == order.inputs.len() => {}
                Flow::Stuck(time) if time >= limit => order.outlet.fail(read_too_slowly(limit)),
                Flow::Clear | Flow::Stuck(_) => self.orders.push_back(order),
            }
        }
    }

    /// Packs waiting texts into the batch; answers whose text each sequence is.
    fn fill(&mut self) -> Vec<usize> {
        self.batch.clear();
        let (room, chunk) = (self.desk.rules.context, self.speed.chunk(0));
        let (mut owners, mut tokens) = (Vec::new(), 0);
        for (number, order) in self.orders.iter_mut().enumerate() {
            if !order.outlet.is_clear() {
                continue;
            }
            for text in &order.inputs[order.done..] {
                let fits = tokens + text.len() <= if tokens == 0 { room } else { room.min(chunk) };
                if !fits || owners.len() == self.desk.rules.slots {
                    return owners;
                }
                add(&mut self.batch, text, owners.len() as i32);
                tokens += text.len();
                owners.push(number);
                order.place = None;
            }
        }
        owners
    }

    /// Runs the batch and gives each vector to its request.
    fn read(&mut self, owners: &[usize]) {
        let permit = self.desk.budget.acquire(self.desk.rules.threads);
        let begun = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        let took = begun.elapsed();
        drop(permit);
        let tokens = self.batch.n_tokens() as usize;
        self.speed.observe(tokens, took);
        self.desk.tally.batch(tokens, 0);
        self.desk.gauges.took(took);
        let mut failed = decoded.err().map(|error| error.to_string());
        for (sequence, &owner) in owners.iter().enumerate() {
            let order = &mut self.orders[owner];
            match self.context.embeddings_seq_ith(sequence as i32) {
                Ok(vector) if failed.is_none() => note(order, normalised(vector)),
                Ok(_) => {}
                Err(error) => failed = Some(error.to_string()),
            }
        }
        self.context.clear_kv_cache();
        if let Some(reason) = failed {
            self.give_up(owners, &reason);
        }
    }

    fn give_up(&mut self, owners: &[usize], reason: &str) {
        tracing::error!(reason, "a batch of texts failed; its requests are given up");
        for (number, order) in std::mem::take(&mut self.orders).into_iter().enumerate() {
            if owners.contains(&number) {
                let message = format!("the model could not read the input: {reason}");
                order.outlet.fail(fault(message));
            } else {
                self.orders.push_back(order);
            }
        }
    }
}

fn add(batch: &mut LlamaBatch<'_>, text: &[u32], sequence: i32) {
    for (position, &token) in (0..).zip(text) {
        // The batch has room: `fill` counted.
        let _ = batch.add(LlamaToken(token.cast_signed()), position, &[sequence], true);
    }
}

fn note(order: &mut Order, vector: Vec<f32>) {
    order.outlet.push(Delta::new(order.done as u32, Part::Embedding(vector)));
    order.done += 1;
    if order.done == order.inputs.len() {
        let tokens = order.inputs.iter().map(|text| text.len() as u64).sum();
        let usage = Usage { prompt_tokens: tokens, ..Usage::default() };
        order.outlet.push(Delta::new(0, Part::End(Some(usage))));
    }
}

/// The vector at length 1; one of length 0 stays.
fn normalised(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| (f64::from(*x) * scale) as f32).collect()
}
