//! A candidate beside the model it would replace: who is answered by it, and how the two compare.
//!
//! **Model.** A request that is drawn, or whose tenant is named, has the model's place in its plan taken
//! by the candidate, a model of its own name (`local/NAME@canary`) without any certificate. Where no
//! later stage stands behind it, the current model does: in a direct plan always, in a cascade behind the
//! last stage, which stays without a gate, so that what the candidate says there is kept. A candidate
//! that fails before its first delta costs its client nothing but time. Of the requests that the current model answers a share is
//! asked again of both, one after the other, greedily and off the client's path: the same question under
//! the same load, so that what they say, how sure they are and how fast can be compared.
//!
//! **Promises.** No client waits for a comparison or sees anything of it. When the trial is lost, no
//! further request is drawn from that moment, and `control` is told once. **Concurrency.** One tracked
//! task per comparison, one at a time; what is drawn meanwhile is not compared. The trial is behind a
//! lock that is held for an observation.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::Backends;
use crate::backend::{Backend, Call, Completion, Status};
use crate::confidence::trial::{Bounds, CanaryStatus, Test, Trial};
use crate::confidence::{Accept, Feature, Form, Running, Uncertified};
use crate::error::{Error, Kind, Result, Retry};
use crate::plan::{Gate, Plan, Stage};
use crate::request::{Ask, Delta, ModelId, Part, Request, TenantId};

/// What follows the model's name in a candidate's.
const SUFFIX: &str = "@canary";

/// How long both answers of a comparison may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The longest answers that are compared, bytes.
const LONGEST: usize = 64 * 1024;

/// On what terms a candidate is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The share of requests that it answers, 0 … 1.
    pub share: f64,
    /// Tenants whose every request it answers.
    pub tenants: Vec<TenantId>,
    /// The share of the current model's requests on which both are compared, 0 … 1.
    pub shadow: f64,
    /// It counts as slower when a token takes this many times as long.
    pub slower: f64,
    /// What it may do and is still fit.
    pub bounds: Bounds,
}

impl Terms {
    /// What is wrong with the terms, in one sentence.
    pub fn check(&self) -> std::result::Result<(), String> {
        for (name, share) in [("share", self.share), ("shadow", self.shadow)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} = {share}: want 0 to 1"));
            }
        }
        if !(self.slower >= 1.0 && self.slower.is_finite()) {
            return Err(format!("slower = {}: want 1 or more", self.slower));
        }
        Trial::check(&self.bounds).map(|_| ())
    }
}

/// One candidate on trial.
#[derive(Debug)]
pub struct Canary {
    model: ModelId,
    candidate: ModelId,
    terms: Terms,
    trial: Mutex<Trial>,
    counts: [Count; 2],
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    lost: mpsc::Sender<ModelId>,
}

#[derive(Debug, Default)]
struct Count {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Which of the two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arm {
    Current = 0,
    Candidate = 1,
}

impl Canary {
    /// A trial that begins; `lost` is told the model when the trial is lost. An error text names the
    /// term that is none.
    pub fn open(
        model: &ModelId,
        terms: Terms,
        tasks: TaskTracker,
        lost: mpsc::Sender<ModelId>,
    ) -> std::result::Result<Arc<Canary>, String> {
        terms.check()?;
        let trial = Mutex::new(Trial::check(&terms.bounds)?);
        let (model, candidate) = (model.clone(), Canary::name(model));
        let room = Arc::new(Semaphore::new(1));
        Ok(Arc::new(Canary { model, candidate, terms, trial, counts: Default::default(), tasks, room, lost }))
    }

    /// The name under which a model's candidate answers.
    pub fn name(model: &ModelId) -> ModelId {
        ModelId::new(format!("{model}{SUFFIX}"))
    }

    /// Whether a candidate answers under this name.
    pub fn is_name(model: &ModelId) -> bool {
        model.is_local() && model.as_str().ends_with(SUFFIX)
    }

    /// The terms of the trial.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How it stands now.
    pub fn status(&self) -> CanaryStatus {
        let trial = self.trial.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |arm: Arm| &self.counts[arm as usize];
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CanaryStatus {
            model: self.model.as_str().to_owned(),
            share: self.terms.share,
            tenants: self.terms.tenants.iter().map(|tenant| tenant.as_str().to_owned()).collect(),
            answered: read(&count(Arm::Candidate).answered),
            failed: read(&count(Arm::Candidate).failed),
            current_answered: read(&count(Arm::Current).answered),
            current_failed: read(&count(Arm::Current).failed),
            tests: trial.standings(),
            lost: trial.lost(),
        }
    }

    /// Both backends as plans are run on them: the current model's, compared on a share of its requests,
    /// and the candidate's, watched.
    pub fn watch(
        self: &Arc<Self>,
        current: &Arc<dyn Backend>,
        candidate: &Arc<dyn Backend>,
    ) -> [(ModelId, Arc<dyn Backend>); 2] {
        let watched = |arm: Arm| {
            let (canary, current, candidate) = (Arc::clone(self), Arc::clone(current), Arc::clone(candidate));
            Arc::new(Watched { canary, arm, current, candidate }) as Arc<dyn Backend>
        };
        [(self.model.clone(), watched(Arm::Current)), (self.candidate.clone(), watched(Arm::Candidate))]
    }

    /// Whether the candidate is to answer the request.
    fn draws(&self, request: &Request) -> bool {
        let named = self.terms.tenants.contains(&request.tenant);
        (named || rand::random::<f64>() < self.terms.share) && self.lost().is_none()
    }

    fn lost(&self) -> Option<Test> {
        self.trial.lock().unwrap_or_else(PoisonError::into_inner).lost()
    }

    fn note(&self, test: Test, loss: bool) {
        let mut trial = self.trial.lock().unwrap_or_else(PoisonError::into_inner);
        let before = trial.lost();
        trial.note(test, loss);
        let after = trial.lost();
        drop(trial);
        if let (None, Some(test)) = (before, after) {
            tracing::warn!(model = %self.model, test = test.name(), "a canary is given up: it failed its trial");
            // A full channel holds news of this kind already, and control looks at every canary then.
            let _ = self.lost.try_send(self.model.clone());
        }
    }

    /// Counts how a request ended; what is the client's fault, or his who asks too much at once, is no
    /// failure of the model.
    fn ended(&self, arm: Arm, error: Option<&Error>) {
        let failed = error.is_some();
        if error.is_some_and(|error| !is_failure(error.kind())) {
            return;
        }
        let count = &self.counts[arm as usize];
        let counted = if failed { &count.failed } else { &count.answered };
        counted.fetch_add(1, Ordering::Relaxed);
        if arm == Arm::Candidate {
            self.note(Test::Failures, failed);
        }
    }
}

fn is_failure(kind: Kind) -> bool {
    matches!(kind, Kind::Internal | Kind::Unavailable | Kind::Timeout)
}

/// Puts candidates into the places of a plan that they are drawn for.
pub(super) fn assign(plan: Plan, request: &Request, backends: &Backends) -> Plan {
    let drawn = |model: &ModelId| {
        let canary = backends.canaries.get(model).filter(|canary| canary.draws(request))?;
        Some(canary.candidate.clone())
    };
    match plan {
        Plan::Direct { targets } => {
            let behind = |model: ModelId| drawn(&model).into_iter().chain([model]);
            Plan::Direct { targets: targets.into_iter().flat_map(behind).collect() }
        }
        Plan::Cascade { mut stages, on_failure, pin } => {
            let last = stages.last().cloned();
            for stage in &mut stages {
                if let Some(candidate) = drawn(&stage.model) {
                    replace(stage, candidate);
                }
            }
            let behind = last.filter(|last| stages.last().is_some_and(|stage| stage.model != last.model));
            stages.extend(behind);
            Plan::Cascade { stages, on_failure, pin }
        }
        Plan::Reject { .. } => plan,
    }
}

/// Nothing that was certified speaks of the candidate.
fn replace(stage: &mut Stage, candidate: ModelId) {
    stage.model = candidate;
    let Some(Gate { accept, .. }) = &mut stage.gate else { return };
    if let Accept::Promise { otherwise, .. } = &**accept {
        *accept = Arc::new(Accept::Promise { granted: Err(Uncertified::Canary), otherwise: otherwise.clone() });
    }
}

/// One of the two as a backend.
#[derive(Debug)]
struct Watched {
    canary: Arc<Canary>,
    arm: Arm,
    current: Arc<dyn Backend>,
    candidate: Arc<dyn Backend>,
}

impl Watched {
    fn inner(&self) -> &Arc<dyn Backend> {
        match self.arm {
            Arm::Current => &self.current,
            Arm::Candidate => &self.candidate,
        }
    }

    /// Counts a call that failed; what a candidate fails, another may still do.
    fn failed(&self, error: Error) -> Error {
        self.canary.ended(self.arm, Some(&error));
        if self.arm == Arm::Candidate && is_failure(error.kind()) { error.retry(Retry::Elsewhere) } else { error }
    }

    /// Has the request asked of both, if it is drawn and none is compared now.
    fn compare(&self, request: &Arc<Request>) {
        let canary = &self.canary;
        if self.arm == Arm::Candidate || rand::random::<f64>() >= canary.terms.shadow || canary.lost().is_some() {
            return;
        }
        let (Some(asked), Ok(permit)) = (greedily(request), Arc::clone(&canary.room).try_acquire_owned()) else {
            return;
        };
        let pair = [
            (canary.model.clone(), Arc::clone(&self.current)),
            (canary.candidate.clone(), Arc::clone(&self.candidate)),
        ];
        let canary = Arc::clone(canary);
        self.canary.tasks.spawn(async move {
            let _one_at_a_time = permit;
            if let Ok(Some((ours, theirs))) = timeout(PATIENCE, both(&pair, &asked)).await {
                canary.note_pair(&ours, &theirs);
            }
        });
    }
}

impl Canary {
    fn note_pair(&self, current: &Said, candidate: &Said) {
        let form = Form::Auto;
        if form.read(&current.text).is_some() {
            self.note(Test::Disagreement, form.agree(&current.text, &candidate.text) != Some(true));
        }
        if let (Some(ours), Some(theirs)) = (current.seconds_per_token, candidate.seconds_per_token) {
            self.note(Test::Slower, theirs > ours * self.terms.slower);
        }
        if let (Some(ours), Some(theirs)) = (current.mean_logprob, candidate.mean_logprob) {
            self.note(Test::LessSure, theirs < ours);
        }
    }
}

impl Backend for Watched {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        Box::pin(async move {
            let request = Arc::clone(&call.request);
            let started = self.inner().start(call).await;
            let Completion { model, headers, deltas } = started.map_err(|error| self.failed(error))?;
            self.compare(&request);
            let counted = Counted { deltas, canary: Arc::clone(&self.canary), arm: self.arm, over: false };
            Ok(Completion { model, headers, deltas: counted.boxed() })
        })
    }

    fn status(&self) -> Status {
        self.inner().status()
    }

    fn check(&self, request: &Request) -> Result<()> {
        self.inner().check(request)
    }
}

/// An answer of which the end is counted; one that its client left counts for nothing.
struct Counted {
    deltas: BoxStream<'static, Result<Delta>>,
    canary: Arc<Canary>,
    arm: Arm,
    over: bool,
}

impl Stream for Counted {
    type Item = Result<Delta>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.deltas.poll_next_unpin(context);
        let ended = match &polled {
            Poll::Ready(Some(Ok(Delta { part: Part::End(_), .. }))) => Some(None),
            Poll::Ready(Some(Err(error))) => Some(Some(error)),
            _ => None,
        };
        if let Some(error) = ended.filter(|_| !self.over) {
            self.canary.ended(self.arm, error);
            self.over = true;
        }
        polled
    }
}

/// The request as both are asked it: one answer, the most probable one. `None`: it makes none that can be
/// compared.
fn greedily(request: &Request) -> Option<Arc<Request>> {
    let mut asked = request.clone();
    let Ask::Chat(chat) = &mut asked.ask else { return None };
    chat.sampling.temperature = Some(0.0);
    chat.sampling.n = 1;
    asked.stream = true;
    asked.authorization = None;
    Some(Arc::new(asked))
}

/// An answer as far as two are compared.
#[derive(Debug, Default)]
struct Said {
    text: String,
    mean_logprob: Option<f64>,
    seconds_per_token: Option<f64>,
}

/// What both say, one after the other; `None` where one of them says nothing whole.
async fn both(pair: &[(ModelId, Arc<dyn Backend>); 2], request: &Arc<Request>) -> Option<(Said, Said)> {
    let [(model, backend), (candidate, other)] = pair;
    let current = ask(backend, model, request).await?;
    Some((current, ask(other, candidate, request).await?))
}

async fn ask(backend: &Arc<dyn Backend>, model: &ModelId, request: &Arc<Request>) -> Option<Said> {
    let call = Call { request: Arc::clone(request), model: model.clone(), trace: None };
    let mut deltas = backend.start(call).await.ok()?.deltas;
    let (mut said, mut running, mut begun) = (Said::default(), Running::default(), None);
    while let Some(delta) = deltas.next().await {
        match delta.ok()?.part {
            Part::Text { text, tokens } => {
                begun.get_or_insert_with(Instant::now);
                said.text.push_str(&text);
                tokens.iter().for_each(|token| running.push(token));
            }
            Part::End(_) => {
                said.mean_logprob = running.value(Feature::MeanLogprob).filter(|mean| mean.is_finite());
                let gaps = running.tokens().saturating_sub(1);
                let time = begun.map_or(Duration::ZERO, |begun: Instant| begun.elapsed());
                said.seconds_per_token = (gaps > 0).then(|| time.as_secs_f64() / gaps as f64);
                return Some(said);
            }
            _ => {}
        }
        if said.text.len() > LONGEST {
            return None;
        }
    }
    None
}
