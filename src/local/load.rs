//! Builds a running engine from an order: weights (shared where they are loaded already), context,
//! test prompt. Called by `resident` through [`Loader`].

#[cfg(feature = "local")]
pub(super) use super::model::Model as Shared;
#[cfg(feature = "local")]
pub(super) use super::threads::ThreadBudget as Budget;
#[cfg(feature = "local")]
pub(super) use with_engine::loader;
#[cfg(not(feature = "local"))]
pub(super) use without_engine::{Budget, Shared, loader};

use std::path::Path;

use super::gguf::Header;

/// How many parameters a file's tensors hold; `None` where it cannot be read.
pub fn parameters(file: &Path) -> Option<u64> {
    Header::read(file).ok().map(|header| header.parameters())
}

#[cfg(not(feature = "local"))]
mod without_engine {
    use std::sync::Arc;

    use futures::future::{BoxFuture, FutureExt};

    use super::super::resident::{Loader, Order};
    use crate::backend::Backend;

    /// There is nothing to compute with.
    #[derive(Debug, Clone)]
    pub(in crate::local) struct Budget;

    /// There are no weights.
    #[derive(Debug)]
    pub(in crate::local) struct Shared;

    impl Budget {
        /// No threads.
        pub(in crate::local) fn new(_threads: usize) -> Self {
            Budget
        }

        /// Nothing computes.
        pub(in crate::local) fn close(&self) {}
    }

    #[derive(Debug)]
    struct Nothing;

    /// There is nothing to load with.
    pub(in crate::local) fn loader(_budget: Budget, _threads: usize) -> Arc<dyn Loader> {
        Arc::new(Nothing)
    }

    impl Loader for Nothing {
        fn load(&self, order: Order) -> BoxFuture<'static, Result<Arc<dyn Backend>, String>> {
            let refusal = format!("{}: this build has no engine (feature `local`)", order.config.file.display());
            futures::future::ready(Err(refusal)).boxed()
        }
    }
}

#[cfg(feature = "local")]
mod with_engine {
    use std::sync::{Arc, PoisonError};

    use futures::future::{BoxFuture, FutureExt};

    use super::super::embed::Embedder;
    use super::super::engine::{Lease, Rules};
    use super::super::generate::Generator;
    use super::super::host::ModelConfig;
    use super::super::model::{Model, Scaled};
    use super::super::resident::{Loader, Order};
    use super::super::shelf::{Weights, stamped_adapter};
    use super::super::survey::{Purpose, Survey};
    use super::super::tally::Tally;
    use super::super::threads::ThreadBudget;
    use super::super::trial;
    use crate::backend::Backend;

    /// What of a load's progress is the weights.
    const WEIGHTS: f32 = 0.9;

    #[derive(Debug)]
    struct LlamaLoader {
        budget: ThreadBudget,
        threads: usize,
    }

    /// Loads with llama.cpp; all engines compute within this budget of so many threads.
    pub(in crate::local) fn loader(budget: ThreadBudget, threads: usize) -> Arc<dyn Loader> {
        Arc::new(LlamaLoader { budget, threads })
    }

    impl Loader for LlamaLoader {
        fn load(&self, order: Order) -> BoxFuture<'static, Result<Arc<dyn Backend>, String>> {
            let (budget, threads) = (self.budget.clone(), self.threads);
            let (survey, file) = (Arc::clone(&order.survey), order.config.file.clone());
            async move {
                // Off the async threads: it takes seconds.
                let loaded = tokio::task::spawn_blocking(move || build(order, budget, threads)).await;
                let engine = loaded.unwrap_or_else(|_| Err("loading it failed unexpectedly".to_owned()))?;
                trial::run(&engine, &survey).await.map_err(|why| format!("{}: {why}", file.display()))?;
                Ok(engine)
            }
            .boxed()
        }
    }

    fn build(order: Order, budget: ThreadBudget, threads: usize) -> Result<Arc<dyn Backend>, String> {
        let Order { config, survey, seat, tally } = order;
        let weights = seat.weights().ok_or("its seat has no weights")?;
        let model = shared(weights, &config, &tally)?;
        let rules = rules(&model, &config, &survey, threads);
        let adapter = stamped_adapter(&config).zip(config.adapter.as_ref());
        let adapter = adapter.map(|(adapter, named)| Scaled { adapter, scale: named.scale });
        let lease = Lease { rules, budget, adapter, tally, seat };
        Ok(match survey.purpose {
            Purpose::Generate => Arc::new(Generator::start(model, lease, config.queue)?),
            Purpose::Embed => Arc::new(Embedder::start(model, lease, config.queue)?),
        })
    }

    /// The weights that somebody has loaded, or else loaded now; another load of them waits meanwhile.
    fn shared(weights: &Weights, config: &ModelConfig, tally: &Arc<Tally>) -> Result<Arc<Model>, String> {
        let mut shared = weights.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*shared {
            return Ok(Arc::clone(model));
        }
        let (told, model, mut quarters) = (Arc::clone(tally), config.id.clone(), 0);
        let progress = move |share: f32| {
            told.progress(share * WEIGHTS);
            if (share * 4.0) as u32 > quarters {
                quarters = (share * 4.0) as u32;
                tracing::info!(model = model.as_str(), percent = quarters * 25, "weights are being loaded");
            }
        };
        let model = Arc::new(Model::load(&config.file, &weights.adapters, progress)?);
        *shared = Some(Arc::clone(&model));
        Ok(model)
    }

    fn rules(model: &Model, config: &ModelConfig, survey: &Survey, threads: usize) -> Rules {
        Rules {
            context: survey.context.get() as usize,
            slots: config.slots as usize,
            batch: survey.batch as usize,
            threads: threads_for(model.llama.n_params(), threads),
            idle_timeout: config.idle_timeout,
            copies: model.copies(),
        }
    }

    /// Threads of one decode: small models gain nothing from many.
    fn threads_for(parameters: u64, budget: usize) -> usize {
        let useful = match parameters {
            0..300_000_000 => 4,
            300_000_000..2_000_000_000 => 8,
            _ => 32,
        };
        budget.clamp(1, useful)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn small_models_take_few_threads_and_none_more_than_there_are() {
            assert_eq!(threads_for(135_000_000, 16), 4);
            assert_eq!(threads_for(500_000_000, 16), 8);
            assert_eq!(threads_for(500_000_000, 1), 1);
            assert_eq!(threads_for(8_000_000_000, 0), 1);
        }
    }
}
