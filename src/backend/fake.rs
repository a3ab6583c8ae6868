//! A scripted backend for tests: says what it is told, when it is told, and counts what happens.
//!
//! Promises: keeps the contract of [`Backend`] (`start` resolves with the first delta or fails;
//! dropping cancels), except where a script breaks it on purpose. Time is tokio's, so tests pause it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use http::HeaderMap;

use super::{Backend, Call, Completion, Status};
use crate::error::{Error, Result};
use crate::request::{Delta, Finish, Part, Raw, Request, Token, Usage};

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// Yields this delta.
    Give(Delta),
    /// Waits.
    Wait(Duration),
    /// Fails and is over; before the first delta it is `start` that fails.
    Fail(Error),
    /// Never goes on.
    Hang,
}

/// Says `text`, one token per log-probability, on the first choice; margins are 1.
pub fn say(text: &str, logprobs: &[f32]) -> Step {
    say_on(0, text, logprobs)
}

/// The same on another choice.
pub fn say_on(choice: u32, text: &str, logprobs: &[f32]) -> Step {
    let token = |logprob: &f32| Token {
        bytes: Bytes::new(),
        logprob: *logprob,
        margin: 1.0,
        entropy: 0.0,
        top: Vec::new(),
        end: false,
    };
    let tokens = logprobs.iter().map(token).collect();
    Step::Give(Delta::new(choice, Part::Text { text: text.into(), tokens }))
}

/// A chunk of an upstream that is passed on.
pub fn raw(bytes: &'static str) -> Step {
    Step::Give(Delta {
        choice: 0,
        part: Part::Raw,
        raw: Some(Raw { bytes: Bytes::from_static(bytes.as_bytes()), ..Raw::default() }),
    })
}

/// The first choice is complete.
pub fn finish(finish: Finish) -> Step {
    Step::Give(Delta::new(0, Part::Finish(finish)))
}

/// The answer is complete and took this many tokens, one quarter of the prompt's from a cache.
pub fn end(prompt_tokens: u64, completion_tokens: u64) -> Step {
    let usage = Usage { prompt_tokens, cached_tokens: prompt_tokens / 4, completion_tokens };
    Step::Give(Delta::new(0, Part::End(Some(usage))))
}

/// What has happened to a [`Fake`].
#[derive(Debug, Default)]
struct Counts {
    started: AtomicUsize,
    given: AtomicUsize,
    canceled: AtomicUsize,
}

/// The scripted backend; every call runs the same script, or the next one while there is a next.
#[derive(Debug)]
pub struct Fake {
    scripts: Vec<Vec<Step>>,
    calls: Mutex<Vec<Call>>,
    status: Mutex<Status>,
    refusal: Option<Error>,
    counts: Arc<Counts>,
}

impl Fake {
    /// A ready backend that serves everything with this script.
    pub fn new(script: impl IntoIterator<Item = Step>) -> Fake {
        Fake {
            scripts: vec![script.into_iter().collect()],
            calls: Mutex::default(),
            status: Mutex::new(Status { ready: true, ..Status::default() }),
            refusal: None,
            counts: Arc::default(),
        }
    }

    /// The same, but from the next call on with this script.
    #[must_use]
    pub fn then(mut self, script: impl IntoIterator<Item = Step>) -> Fake {
        self.scripts.push(script.into_iter().collect());
        self
    }

    /// The same, but `check` refuses with this error.
    #[must_use]
    pub fn refusing(mut self, error: Error) -> Fake {
        self.refusal = Some(error);
        self
    }

    /// Says from now on that it is like this.
    pub fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// How often `start` was called.
    pub fn started(&self) -> usize {
        self.counts.started.load(Ordering::Relaxed)
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many deltas were taken, over all calls.
    pub fn given(&self) -> usize {
        self.counts.given.load(Ordering::Relaxed)
    }

    /// How many calls were dropped before their script was over.
    pub fn canceled(&self) -> usize {
        self.counts.canceled.load(Ordering::Relaxed)
    }
}

impl Backend for Fake {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        let number = self.counts.started.fetch_add(1, Ordering::Relaxed);
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        let script = self.scripts.get(number).or(self.scripts.last()).cloned().unwrap_or_default();
        let run = Run { steps: script.into(), counts: self.counts.clone() };
        Box::pin(async move {
            let mut deltas = play(run);
            let first = deltas.next().await.transpose()?;
            let deltas = stream::iter(first.map(Ok)).chain(deltas).boxed();
            Ok(Completion { model: call.model, headers: HeaderMap::new(), deltas })
        })
    }

    fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, _request: &Request) -> Result<()> {
        self.refusal.clone().map_or(Ok(()), Err)
    }
}

/// One call's way through the script; dropped before its end, it counts as canceled.
struct Run {
    steps: VecDeque<Step>,
    counts: Arc<Counts>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.counts.canceled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn play(run: Run) -> BoxStream<'static, Result<Delta>> {
    let next = |mut run: Run| async move {
        loop {
            match run.steps.front().cloned()? {
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::Hang => std::future::pending().await,
                Step::Give(delta) => {
                    run.steps.pop_front();
                    run.counts.given.fetch_add(1, Ordering::Relaxed);
                    return Some((Ok(delta), run));
                }
                Step::Fail(error) => {
                    run.steps.clear();
                    return Some((Err(error), run));
                }
            }
            run.steps.pop_front();
        }
    };
    stream::unfold(run, next).boxed()
}
