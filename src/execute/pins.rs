//! Conversations that stay with the stage that answered them.
//!
//! A conversation is known by a header that the client sends, else by its beginning: the system's and
//! the user's first message, which a client without state sends again with every turn. What is kept
//! is a hash and the name of a model; the least recently used of 65 536 is forgotten. Promises: a
//! pin is of one tenant and one model asked for; it holds across a reload while the model is among
//! the stages; it is not followed while the model is not ready. Called by `cascade`.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use ring::digest::{Context, SHA256};
use tokio::time::Instant;

use super::Asking;
use crate::plan::{Pin, PinTo, Stage};
use crate::request::{Ask, Chat, ModelId, Request, Role};

const MOST_PINS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);
/// How much of a message tells a conversation from another.
const MOST_BYTES: usize = 4096;

/// SHA-256.
type Hash = [u8; 32];

/// Every pin of the process.
#[derive(Debug)]
pub(super) struct Pins(Mutex<LruCache<Hash, (ModelId, Instant)>>);

impl Default for Pins {
    fn default() -> Self {
        Pins(Mutex::new(LruCache::new(MOST_PINS)))
    }
}

impl Pins {
    /// The model that answered not longer ago than `time_to_live`.
    fn find(&self, hash: &Hash, time_to_live: Duration) -> Option<ModelId> {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pins.get(hash) {
            Some((model, answered)) if answered.elapsed() <= time_to_live => Some(model.clone()),
            Some(_) => pins.pop(hash).and(None),
            None => None,
        }
    }

    fn put(&self, hash: Hash, model: &ModelId) {
        let pin = (model.clone(), Instant::now());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(hash, pin);
    }
}

/// A turn of a conversation.
#[derive(Debug)]
pub(super) struct Session {
    pin: Pin,
    hash: Hash,
}

/// Where a cascade begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The first stage that is asked.
    pub(super) stage: usize,
    /// Whether that stage's answer is served whatever its gate says.
    bound: bool,
}

impl Place {
    /// Of a conversation that is bound to nothing.
    pub(super) const FIRST: Place = Place { stage: 0, bound: false };

    /// Whether the answer of this stage is served whatever its gate says.
    pub(super) fn is_bound(self, stage: usize) -> bool {
        self.bound && self.stage == stage
    }
}

impl Session {
    /// The conversation that a chat belongs to; other requests have none.
    pub(super) fn of(pin: Pin, asking: &Asking<'_>) -> Option<Session> {
        let hash = hash(&asking.request, &pin.header)?;
        Some(Session { pin, hash })
    }

    /// Where it stays, noted on the tab.
    pub(super) fn place(&self, stages: &[Stage], asking: &Asking<'_>) -> Place {
        let found = asking.backends.lasting.pins.find(&self.hash, self.pin.time_to_live);
        let stage = found.and_then(|model| stages.iter().position(|stage| stage.model == model));
        let bound = self.pin.to == PinTo::Tier;
        let is_ready =
            |stage: &usize| asking.backends.of(&stages[*stage].model).is_some_and(|backend| backend.status().ready);
        match stage.filter(|stage| bound || *stage > 0).filter(is_ready) {
            Some(stage) => {
                asking.meter.pinned();
                Place { stage, bound }
            }
            None => Place::FIRST,
        }
    }

    /// Notes who answered.
    pub(super) fn answered_by(&self, model: &ModelId, stage: usize, asking: &Asking<'_>) {
        if stage > 0 || self.pin.to == PinTo::Tier {
            asking.backends.lasting.pins.put(self.hash, model);
        }
    }
}

fn hash(request: &Request, header: &str) -> Option<Hash> {
    let Ask::Chat(chat) = &request.ask else { return None };
    let mut context = Context::new(&SHA256);
    let mut add = |text: &str| {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(&text.as_bytes()[..text.len().min(MOST_BYTES)]);
    };
    add(request.tenant.as_str());
    add(&request.model);
    match request.headers.get(header).filter(|name| !name.is_empty()) {
        Some(name) => add(name),
        None => beginning(chat).for_each(|text| {
            add("");
            add(text);
        }),
    }
    context.finish().as_ref().try_into().ok()
}

/// The messages before the user's first, and that.
fn beginning(chat: &Chat) -> impl Iterator<Item = &str> {
    let first = chat.messages.iter().position(|message| message.role == Role::User);
    let until = first.map_or(chat.messages.len(), |first| first + 1);
    chat.messages[..until].iter().map(|message| message.text.as_str())
}
