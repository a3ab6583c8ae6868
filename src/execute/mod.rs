//! Runs a plan: fallback between targets, the cascade with its gate and hold-back.
//!
//! Promises: nothing of an answer is shown before it is certain whose it is; there is one answer,
//! ending with one `End` or one error; dropping the future of [`run`], or the completion's stream,
//! cancels all work it began. Knows no kind of backend. Called by `gateway` once per request.

mod audit;
mod canary;
mod cascade;
mod direct;
mod evidence;
mod pins;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use http::HeaderMap;

pub use audit::{Auditor, Store};
pub use canary::{Canary, Terms};

use crate::account::{Attempt, Meter, Pacers, Reason};
use crate::backend::{Backend, Call, Completion};
use crate::error::{Error, Kind, Origin, Result, Retry};
use crate::plan::Plan;
use crate::request::{Delta, ModelId, Request};

/// What plans are run on: every backend by the full name of its model, and who audits.
#[derive(Debug, Clone, Default)]
pub struct Backends {
    /// Listed models.
    pub models: BTreeMap<ModelId, Arc<dyn Backend>>,
    /// Upstreams that pass any name on, by upstream name.
    pub wildcards: BTreeMap<String, Arc<dyn Backend>>,
    /// Candidates on trial, by the model that each would replace.
    pub canaries: BTreeMap<ModelId, Arc<Canary>>,
    /// Where answers kept under a certificate are audited.
    pub auditor: Auditor,
    /// What is remembered from request to request, and from configuration to configuration.
    pub lasting: Arc<Lasting>,
}

/// What outlives a request and a reload.
#[derive(Debug, Default)]
pub struct Lasting {
    /// What was spent of every budget that is held at a rate.
    pub pacers: Arc<Pacers>,
    pins: pins::Pins,
}

impl Backends {
    /// The backend of a model: listed under its name, or an upstream that passes any name on.
    pub fn of(&self, model: &ModelId) -> Option<&Arc<dyn Backend>> {
        self.models.get(model).or_else(|| self.wildcards.get(model.split()?.0))
    }
}

/// Runs the plan; resolves when the first delta may be shown to the client, or nothing can be.
///
/// Errors: of a direct plan the last target's, of a cascade the last stage's; where every target
/// is passed over, the first refusal; of a refusing plan its own code. Cancel-safe:
/// dropping the future drops every attempt.
pub async fn run(plan: Plan, request: Arc<Request>, backends: &Backends, meter: Meter) -> Result<Completion> {
    let plan = if backends.canaries.is_empty() { plan } else { canary::assign(plan, &request, backends) };
    let asking = Asking { request, backends, meter };
    match plan {
        Plan::Direct { targets } => direct::run(&targets, &asking).await,
        // Boxed: most requests need none of it.
        Plan::Cascade { stages, on_failure, pin } => {
            let session = pin.and_then(|pin| pins::Session::of(pin, &asking));
            Box::pin(cascade::run(&stages, on_failure, session.as_ref(), &asking)).await
        }
        Plan::Reject { status, message, code } => {
            let kind = match status.as_u16() {
                401 => Kind::Unauthenticated,
                404 => Kind::NotFound,
                429 => Kind::RateLimited,
                503 => Kind::Unavailable,
                500..=599 => Kind::Internal,
                _ => Kind::Forbidden,
            };
            Err(Error::new(kind, Origin::Gateway, &*message).status(status).code(code))
        }
    }
}

/// One request on its way through its plan.
struct Asking<'a> {
    request: Arc<Request>,
    backends: &'a Backends,
    meter: Meter,
}

/// An answer that has begun, noted on the tab.
struct Begun {
    attempt: Attempt,
    model: ModelId,
    headers: HeaderMap,
    deltas: BoxStream<'static, Result<Delta>>,
}

impl Begun {
    /// Gives the answer to the client.
    fn serve(self) -> Completion {
        self.attempt.served();
        self.completion()
    }

    /// The answer without its attempt.
    fn completion(self) -> Completion {
        Completion { model: self.model, headers: self.headers, deltas: self.deltas }
    }
}

impl Asking<'_> {
    /// The model's backend if it can serve such a request at all; else why not, noted.
    fn able(&self, model: &ModelId, stage: usize) -> Result<&Arc<dyn Backend>> {
        self.able_to(model, &self.request).inspect_err(|_| self.meter.skipped(model, stage, Reason::Cannot))
    }

    /// The model's backend if it can serve this request; else why not.
    fn able_to(&self, model: &ModelId, request: &Request) -> Result<&Arc<dyn Backend>> {
        let unknown = || Error::internal(format!("the plan names {model}, which no backend runs"));
        let backend = self.backends.of(model).ok_or_else(unknown)?;
        backend.check(request)?;
        Ok(backend)
    }

    /// Asks a model, and has what comes noted.
    async fn begin(&self, backend: &Arc<dyn Backend>, model: &ModelId, stage: usize) -> Result<Begun> {
        let attempt = self.meter.attempt(model, stage);
        let call = Call { request: self.request.clone(), model: model.clone(), trace: attempt.trace() };
        let completion = attempt.begins(backend.start(call)).await?;
        let deltas = attempt.follow(completion.deltas);
        Ok(Begun { attempt, model: completion.model, headers: completion.headers, deltas })
    }
}

/// Whether another target may answer what failed like this. A prompt that is too long for one
/// model may fit the next.
fn may_go_on(error: &Error) -> bool {
    error.detail().retry != Retry::Never || Reason::of(error) == Reason::Context
}
