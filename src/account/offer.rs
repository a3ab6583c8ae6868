//! What a request is paid from, and the offer to ask the next, dearer model.
//!
//! Promises: an offer taken is reserved at its expected cost, and what the request really cost takes
//! its place when the tab is settled, so that a burst sees its own spending. `execute` asks for
//! offers through the Meter; the tab settles.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::attempt::{Ending, Leg};
use super::pacers::{Pacer, Pacers};
use super::tab::Tab;
use crate::confidence::gap::Pacing;
use crate::request::{ModelId, TenantId, Usage};

/// The budget of one request.
#[derive(Debug)]
pub(super) struct Budget {
    pacers: Arc<Pacers>,
    pacer: Arc<Pacer>,
    reserved_usd: f64,
}

impl Budget {
    /// Puts what was spent in the place of what was reserved; an unknown cost is as expected.
    pub(super) fn settle(self, legs: &[Leg], cost_usd: Option<f64>) {
        for leg in legs.iter().filter(|leg| !leg.model.is_local() && matches!(leg.ending, Ending::Complete)) {
            self.pacers.saw_output(&leg.model, leg.usage(0).0.completion_tokens);
        }
        self.pacers.settle(&self.pacer, self.reserved_usd, cost_usd.unwrap_or(self.reserved_usd));
    }

    /// Waits until a crash would forget nothing of what was spent.
    pub(super) fn covered(&self) -> BoxFuture<'static, ()> {
        let (pacers, pacer) = (Arc::clone(&self.pacers), Arc::clone(&self.pacer));
        Box::pin(async move { pacers.covered(&pacer).await })
    }
}

/// The offer to ask a model, at what that is expected to cost.
#[derive(Debug)]
pub struct Offer {
    tab: Arc<Tab>,
    pacers: Arc<Pacers>,
    pacer: Arc<Pacer>,
    cost_usd: f64,
}

impl Offer {
    pub(super) fn open_budget(tab: &Tab, pacers: &Arc<Pacers>, pacing: &Pacing) {
        let mut state = tab.state();
        let anonymous = TenantId::anonymous();
        let tenant = state.asker.as_ref().map_or(&anonymous, |(_, tenant)| tenant);
        let pacer = pacers.of(pacing, tenant);
        state.budget = Some(Budget { pacers: Arc::clone(pacers), pacer, reserved_usd: 0.0 });
    }

    pub(super) fn of(tab: &Arc<Tab>, model: &ModelId) -> Option<Offer> {
        let state = tab.state();
        let Budget { pacers, pacer, .. } = state.budget.as_ref()?;
        let usage = Usage {
            prompt_tokens: state.prompt_estimate,
            cached_tokens: 0,
            completion_tokens: pacers.usual_output(model).round() as u64,
        };
        let cost_usd = tab.prices.of(model).map_or(0.0, |price| price.cost_usd(&usage));
        Some(Offer { tab: Arc::clone(tab), pacers: Arc::clone(pacers), pacer: Arc::clone(pacer), cost_usd })
    }

    /// What an answer must gain to be worth it now: λ · the expected cost.
    pub fn price(&self) -> f64 {
        self.pacer.pace().lambda(self.pacers.now()) * self.cost_usd
    }

    /// Notes what the model's answer is expected to gain.
    pub fn weigh(&self, gap: f64) {
        self.pacer.pace().weigh(gap, self.cost_usd);
    }

    /// Takes the offer: its expected cost is reserved from now on, and counts as spent after a crash.
    /// Dropping the future takes nothing back.
    pub async fn take(self) {
        self.pacers.reserve(&self.pacer, self.cost_usd);
        if let Some(budget) = &mut self.tab.state().budget {
            budget.reserved_usd += self.cost_usd;
        }
        self.pacers.covered(&self.pacer).await;
    }
}
