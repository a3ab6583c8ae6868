//! One model of the configuration as a backend, whether or not it is in memory.
//!
//! Promises: however many requests find it unloaded, it is loaded once; each waits at most
//! `load_wait` and then gets a 503 with `Retry-After`, while the load goes on; a load that failed is not
//! tried again for half a minute; an answer in flight keeps its engine. An unloaded model is ready, as
//! is one on demand whose engine has ended: it can be loaded. Called by `host`, and by requests as a [`Backend`].

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::host::{Capabilities, ModelConfig};
use super::memory::Need;
use super::refuse;
use super::shelf::{NoRoom, Seat, Shelf, Terms, Usage, Using};
use super::survey::{Purpose, Survey};
use super::tally::Tally;
use crate::backend::{Backend, Call, Completion, Figures, State, Status};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::request::{Ask, ModelId, Request};

/// How long a load that failed is not tried again.
const PAUSE: Duration = Duration::from_secs(30);
/// When a client whose wait for a load was too short should come again.
const COME_AGAIN: Duration = Duration::from_secs(5);

/// What is told of a load that neither succeeded nor failed.
const UNEXPECTED: &str = "loading it ended unexpectedly";

/// What a load is asked for; the seat lives as long as what was loaded.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) config: ModelConfig,
    pub(super) survey: Arc<Survey>,
    pub(super) seat: Seat,
    pub(super) tally: Arc<Tally>,
}

/// What loads models.
pub(super) trait Loader: fmt::Debug + Send + Sync {
    /// Loads a model and lets it pass its test prompt; an error is one sentence, and nothing of it is left.
    fn load(&self, order: Order) -> BoxFuture<'static, std::result::Result<Arc<dyn Backend>, String>>;
}

/// What models live in, shared by all of a host.
#[derive(Debug, Clone)]
pub(super) struct House {
    pub(super) shelf: Arc<Shelf>,
    pub(super) loader: Arc<dyn Loader>,
    /// Where loads on demand run.
    pub(super) tasks: TaskTracker,
}

/// One model.
#[derive(Debug)]
pub(super) struct Resident {
    me: Weak<Resident>,
    config: ModelConfig,
    survey: Arc<Survey>,
    house: House,
    usage: Arc<Usage>,
    tally: Arc<Tally>,
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    Unloaded,
    /// The receiver's value is `true` when the load has ended.
    Loading(watch::Receiver<bool>),
    Loaded {
        engine: Arc<dyn Backend>,
        seat: u64,
    },
    Failed {
        until: Instant,
        why: String,
    },
}

impl Place {
    fn failed(why: String) -> Place {
        Place::Failed { until: Instant::now() + PAUSE, why }
    }
}

/// A load under way: its end is in its place, and told to those who wait, even if it is dropped.
#[derive(Debug)]
struct Underway {
    resident: Weak<Resident>,
    /// What the model's place is then; `None`: it ended unexpectedly.
    end: Option<Place>,
    done: watch::Sender<bool>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| Place::failed(UNEXPECTED.to_owned()));
        if let Some(resident) = self.resident.upgrade() {
            *resident.place() = end;
        }
        // Nobody may wait any more.
        let _ = self.done.send(true);
    }
}

/// Why a model was not loaded; one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotLoaded {
    /// Others held the room all the time; the next request may try.
    NoRoom(String),
    /// It cannot be, or not now.
    Failed(String),
}

impl NotLoaded {
    /// The sentence.
    pub(super) fn why(self) -> String {
        let (NotLoaded::NoRoom(why) | NotLoaded::Failed(why)) = self;
        why
    }
}

/// What a request found.
enum Found {
    Engine(Arc<dyn Backend>, Using),
    Loading(watch::Receiver<bool>),
    Failed(String),
}

impl Resident {
    /// An unloaded model.
    pub(super) fn new(config: ModelConfig, survey: Survey, house: House, tally: Arc<Tally>) -> Arc<Resident> {
        let usage = Arc::new(Usage::default());
        usage.pinned.store(config.residency.is_pinned(), Ordering::Relaxed);
        Arc::new_cyclic(|me| Resident {
            me: me.clone(),
            config,
            survey: Arc::new(survey),
            house,
            usage,
            tally,
            place: Mutex::new(Place::Unloaded),
        })
    }

    pub(super) fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub(super) fn need(&self) -> &Need {
        &self.survey.need
    }

    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.survey.capabilities
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was loaded and its engine has ended since.
    pub(super) fn is_over(&self) -> bool {
        matches!(&*self.place(), Place::Loaded { engine, .. } if !engine.status().ready)
    }

    /// Loads it, unless it is loaded; a load that is under way is waited for first. Dropping the future
    /// counts as a load that failed.
    pub(super) async fn load(self: Arc<Self>, terms: Terms) -> std::result::Result<(), NotLoaded> {
        let underway = loop {
            let mut loading = {
                let place = self.place();
                match &*place {
                    Place::Loaded { engine, .. } if engine.status().ready => return Ok(()),
                    Place::Loading(loading) => loading.clone(),
                    _ => break self.claim(place).0,
                }
            };
            // However it ended, the place tells it.
            let _ = loading.wait_for(|done| *done).await;
        };
        self.run(underway, terms).await
    }

    /// Notes that a load is under way.
    fn claim(&self, mut place: MutexGuard<'_, Place>) -> (Underway, watch::Receiver<bool>) {
        let (done, loading) = watch::channel(false);
        let before = std::mem::replace(&mut *place, Place::Loading(loading.clone()));
        drop(place);
        if let Place::Loaded { seat, .. } = &before {
            self.house.shelf.leave(*seat);
        }
        (Underway { resident: self.me.clone(), end: None, done }, loading)
    }

    async fn run(self: Arc<Self>, mut underway: Underway, terms: Terms) -> std::result::Result<(), NotLoaded> {
        let begun = Instant::now();
        let outcome = match self.house.shelf.seat(&self, terms).await {
            Ok(seat) => self.fill(seat).await.map_err(NotLoaded::Failed),
            Err(NoRoom::Busy(why)) => Err(NotLoaded::NoRoom(format!("{}: {why}", self.config.file.display()))),
            Err(NoRoom::Never(why)) => Err(NotLoaded::Failed(format!("{}: {why}", self.config.file.display()))),
        };
        self.tally.loaded(outcome.is_ok());
        let model = self.config.id.as_str();
        match &outcome {
            Ok(_) => tracing::info!(model, millis = begun.elapsed().as_millis() as u64, "loaded"),
            Err(NotLoaded::NoRoom(why) | NotLoaded::Failed(why)) => tracing::warn!(model, why, "could not be loaded"),
        }
        let (end, outcome) = match outcome {
            Ok(loaded) => (loaded, Ok(())),
            Err(NotLoaded::NoRoom(why)) => (Place::Unloaded, Err(NotLoaded::NoRoom(why))),
            Err(NotLoaded::Failed(why)) => (Place::failed(why.clone()), Err(NotLoaded::Failed(why))),
        };
        underway.end = Some(end);
        outcome
    }

    async fn fill(self: &Arc<Self>, seat: Seat) -> std::result::Result<Place, String> {
        let number = seat.number();
        tracing::info!(model = self.config.id.as_str(), needs = %self.survey.need, "loading");
        self.tally.progress(0.0);
        let (config, survey, tally) = (self.config.clone(), Arc::clone(&self.survey), Arc::clone(&self.tally));
        let engine = self.house.loader.load(Order { config, survey, seat, tally }).await?;
        self.house.shelf.settle(number);
        Ok(Place::Loaded { engine, seat: number })
    }

    /// Takes it out of memory, unless it is pinned or has requests in flight; says whether it did.
    pub(super) fn unload(&self) -> bool {
        let engine = {
            let mut place = self.place();
            let free = !self.usage.is_busy() && !self.usage.pinned.load(Ordering::Relaxed);
            let Place::Loaded { seat, .. } = &*place else { return false };
            if !free {
                return false;
            }
            self.house.shelf.leave(*seat);
            std::mem::replace(&mut *place, Place::Unloaded)
        };
        tracing::info!(model = self.config.id.as_str(), "unloaded: its room is needed");
        drop(engine);
        true
    }

    /// The engine, kept from being unloaded; or the load that will bring it, begun if need be.
    fn find(&self) -> Found {
        let place = self.place();
        match &*place {
            Place::Loaded { engine, .. } if engine.status().ready || self.usage.pinned.load(Ordering::Relaxed) => {
                return Found::Engine(Arc::clone(engine), self.house.shelf.begin(&self.usage));
            }
            Place::Loading(loading) => return Found::Loading(loading.clone()),
            Place::Failed { until, why } if Instant::now() < *until => return Found::Failed(why.clone()),
            Place::Loaded { .. } | Place::Unloaded | Place::Failed { .. } => {}
        }
        let (underway, loading) = self.claim(place);
        if let Some(me) = self.me.upgrade() {
            self.house.tasks.spawn(me.load_on_demand(underway));
        }
        Found::Loading(loading)
    }

    async fn load_on_demand(self: Arc<Self>, underway: Underway) {
        let terms = self.house.shelf.terms();
        // The place tells those who wait.
        let _ = self.run(underway, terms).await;
    }

    async fn begin(&self, call: Call) -> Result<Completion> {
        let wait = self.house.shelf.terms().load_wait;
        let deadline = Instant::now() + wait;
        loop {
            match self.find() {
                Found::Engine(engine, using) => return answer(&engine, using, call).await,
                Found::Failed(why) => return Err(not_loaded(&call.model, &why)),
                Found::Loading(mut loading) => match timeout_at(deadline, loading.wait_for(|done| *done)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return Err(not_loaded(&call.model, UNEXPECTED)),
                    Err(_) => {
                        let message =
                            format!("{} is still being loaded after {} s; try again", call.model, wait.as_secs());
                        return Err(unavailable(message).code("model_loading").retry(Retry::After(COME_AGAIN)));
                    }
                },
            }
        }
    }

    /// What it takes and has done.
    pub(super) fn figures(&self) -> Figures {
        let state = self.status().state;
        let here = state == State::Warm;
        let progress = if here { 1.0 } else { self.tally.figures().progress };
        Figures {
            state,
            progress,
            weights_bytes: if here { self.survey.need.weights } else { 0 },
            kv_bytes: if here { self.survey.need.kv } else { 0 },
            ..self.tally.figures()
        }
    }
}

/// Begins an answer that keeps the model in memory to its end.
async fn answer(engine: &Arc<dyn Backend>, using: Using, call: Call) -> Result<Completion> {
    let completion = engine.start(call).await?;
    let deltas = completion.deltas.map(move |delta| {
        let _kept = &using;
        delta
    });
    Ok(Completion { deltas: deltas.boxed(), ..completion })
}

fn not_loaded(model: &ModelId, why: &str) -> Error {
    let message = format!("{model} could not be loaded: {why}");
    unavailable(message).code("model_not_loaded").retry(Retry::After(PAUSE))
}

fn unavailable(message: String) -> Error {
    Error::new(Kind::Unavailable, Origin::Local, message)
}

impl Backend for Resident {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        Box::pin(self.begin(call))
    }

    fn status(&self) -> Status {
        let state = match &*self.place() {
            Place::Loaded { engine, .. } => {
                let status = engine.status();
                if status.ready || self.usage.pinned.load(Ordering::Relaxed) {
                    return status;
                }
                // Its engine has ended: the next request loads it anew.
                State::Unloaded
            }
            Place::Loading(_) => State::Loading,
            Place::Unloaded | Place::Failed { .. } => State::Unloaded,
        };
        let queue_limit = u32::try_from(self.config.queue).unwrap_or(u32::MAX);
        Status { ready: true, queue_limit, slots: self.config.slots, state, ..Status::default() }
    }

    fn check(&self, request: &Request) -> Result<()> {
        if let Place::Loaded { engine, .. } = &*self.place() {
            return engine.check(request);
        }
        match (&request.ask, self.survey.purpose) {
            (Ask::Embed(embed), Purpose::Embed) => refuse::dimensions(embed, self.survey.width),
            (_, Purpose::Embed) => Err(refuse::no_text()),
            (Ask::Embed(_), Purpose::Generate) => Err(refuse::no_vectors()),
            (Ask::Chat(chat), Purpose::Generate) => refuse::chat(chat, self.survey.template.as_ref()),
            (Ask::Text(text), Purpose::Generate) => refuse::text(text),
        }
    }
}

#[cfg(test)]
mod tests;
